package redfish

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/stmcginnis/gofish/redfish"

	"github.com/bedplate/bedplate/bmc"
)

// Name is the driver's name in errors.
const Name = "redfish"

// Driver is a session with a Redfish service. It is a bmc.Driver.
type Driver struct {
	bmc.Lacking
	*client
	root serviceRoot
	// systemID is what Target.System asks for.
	systemID string
	// Found when first asked for, and kept: they don't change within a session.
	systemPath   string
	managerPaths []string
	chassisPaths []string
	stream       *string
}

var _ bmc.Driver = (*Driver)(nil)

// link is a reference to another resource.
type link struct {
	Path string `json:"@odata.id"`
}

// action is something that a resource can be told to do.
type action struct {
	Target string `json:"target"`
	// Info is where allowed values are, if not beside the action.
	Info string `json:"@Redfish.ActionInfo"`
}

// status is a resource's state and health.
type status struct {
	State        string
	Health       string
	HealthRollup string
	Conditions   []struct{ Message, Severity string }
}

// serviceRoot is where everything starts (ServiceRoot schema).
type serviceRoot struct {
	RedfishVersion string
	Vendor         string
	Product        string
	UUID           string
	Systems        link
	Managers       link
	Chassis        link
	UpdateService  link
	AccountService link
	Tasks          link
	EventService   link
	Links          struct{ Sessions link }

	ProtocolFeaturesSupported struct {
		ExpandQuery struct {
			NoLinks   bool
			ExpandAll bool
			Levels    bool
		}
	}
}

// Dial logs in to the target's Redfish service. The error is
// bmc.ErrUnsupported where something answers that is no Redfish service.
func Dial(ctx context.Context, t bmc.Target, now func() time.Time) (*Driver, error) {
	transport, err := newTransport(t, now)
	if err != nil {
		return nil, err
	}
	d := &Driver{Lacking: bmc.Lacking{Driver: Name}, client: newClient(transport), systemID: t.System}
	if err := d.open(ctx); err != nil {
		transport.base.CloseIdleConnections()
		return nil, fmt.Errorf("%s: %w", Name, err)
	}
	return d, nil
}

// open reads the service root, which needs no login (DSP0266 §13.3.1), and logs in.
func (d *Driver) open(ctx context.Context) error {
	a, err := d.do(ctx, http.MethodGet, rootPath, nil, nil)
	if err != nil {
		return err
	}
	e := a.asError(d.t.redactor())
	switch {
	case a.ok():
		if err := decode(a.body, &d.root); err != nil || d.root.Systems.Path == "" && d.root.RedfishVersion == "" {
			return fmt.Errorf("%s is no Redfish service root: %w", rootPath, bmc.ErrUnsupported)
		}
	case a.status == http.StatusUnauthorized:
		// Some services want a login even here; what follows tells.
	case errors.Is(e, bmc.ErrBusy), errors.Is(e, bmc.ErrFailing):
		return e
	default:
		return fmt.Errorf("no Redfish service at %s (%v): %w", rootPath, e, bmc.ErrUnsupported)
	}
	if p := d.root.Links.Sessions.Path; p != "" {
		d.t.sessions = p
	}
	if err := d.t.login(ctx, ""); err != nil {
		return err
	}
	return d.proveLogin(ctx)
}

// proveLogin asks something that needs a login: basic authentication has not
// been tried yet, and a root that was closed can be read now.
func (d *Driver) proveLogin(ctx context.Context) error {
	if _, basic := d.t.credentials(); !basic && d.root.Systems.Path != "" {
		return nil
	}
	if d.root.Systems.Path == "" {
		if _, err := d.get(ctx, rootPath, &d.root); err != nil {
			return err
		}
	}
	_, err := d.members(ctx, d.root.Systems.Path)
	return err
}

const rootPath = "/redfish/v1/"

// Pin returns the pin of the certificate that the BMC has shown.
func (d *Driver) Pin() bmc.Pin { return d.t.seen.Pin() }

// Close ends the session.
func (d *Driver) Close(ctx context.Context) error { return d.t.logout(ctx) }

// Vendor returns who made the service, as it says itself, in lower case.
func (d *Driver) Vendor() string { return strings.ToLower(d.root.Vendor) }

// Transport returns the session, for another client to send its requests with.
func (d *Driver) Transport() *Transport { return d.t }

// Origin returns scheme, host and port of the service.
func (d *Driver) Origin() string { return d.t.origin.String() }

// lacks returns the error for what the service hasn't got.
func (d *Driver) lacks(what string) error { return bmc.Unsupported(Name, what) }

// system is the machine (ComputerSystem schema), as far as it is used.
type system struct {
	ID              string `json:"Id"`
	SystemType      redfish.SystemType
	Manufacturer    string
	Model           string
	SerialNumber    string
	SKU             string
	AssetTag        string
	UUID            string
	PowerState      redfish.PowerState
	BiosVersion     string
	Status          status
	Boot            boot
	MemorySummary   memorySummary
	TrustedModules  []trustedModule
	SerialConsole   serialConsole
	Bios            link
	SecureBoot      link
	VirtualMedia    link
	Processors      link
	Memory          link
	Storage         link
	SimpleStorage   link
	LogServices     link
	Ethernet        link   `json:"EthernetInterfaces"`
	PCIeDevices     []link `json:"PCIeDevices"`
	ProcessorStatus struct {
		Status status
		Count  int
		Model  string
	} `json:"ProcessorSummary"`
	Links struct {
		Chassis   []link
		ManagedBy []link
	}
	Settings struct{ SettingsObject link } `json:"@Redfish.Settings"`
	Actions  struct {
		Reset struct {
			action
			Allowed []redfish.ResetType `json:"ResetType@Redfish.AllowableValues"`
		} `json:"#ComputerSystem.Reset"`
	}
}

// system reads the machine.
func (d *Driver) system(ctx context.Context) (*system, error) {
	if d.systemPath == "" {
		if err := d.findSystem(ctx); err != nil {
			return nil, err
		}
	}
	var s system
	if _, err := d.get(ctx, d.systemPath, &s); err != nil {
		return nil, err
	}
	return &s, nil
}

// findSystem decides which of the service's systems is the machine.
func (d *Driver) findSystem(ctx context.Context) error {
	if d.root.Systems.Path == "" {
		return d.lacks("systems")
	}
	paths, err := d.members(ctx, d.root.Systems.Path)
	if err != nil {
		return err
	}
	if d.systemID != "" {
		i := slices.IndexFunc(paths, func(p string) bool { return lastElement(p) == d.systemID })
		if i < 0 {
			return fmt.Errorf("BMC has no system %q, but %s: %w", d.systemID, elements(paths), bmc.ErrNotFound)
		}
		d.systemPath = paths[i]
		return nil
	}
	if len(paths) == 0 {
		return fmt.Errorf("BMC has no system: %w", bmc.ErrNotFound)
	}
	d.systemPath = paths[0]
	for _, p := range paths {
		if len(paths) == 1 {
			break
		}
		// OpenBMC on POWER has a system "hypervisor" beside the machine's.
		var s system
		if _, err := d.get(ctx, p, &s); err == nil && s.SystemType == redfish.PhysicalSystemType {
			d.systemPath = p
			break
		}
	}
	return nil
}

// managers returns the paths of the managers of the machine: the system's own
// before the service's others.
func (d *Driver) managers(ctx context.Context) ([]string, error) {
	if d.managerPaths != nil {
		return d.managerPaths, nil
	}
	s, err := d.system(ctx)
	if err != nil {
		return nil, err
	}
	paths := pathsOf(s.Links.ManagedBy)
	if len(paths) == 0 && d.root.Managers.Path != "" {
		if paths, err = d.members(ctx, d.root.Managers.Path); err != nil {
			return nil, err
		}
	}
	if len(paths) == 0 {
		return nil, d.lacks("managers")
	}
	d.managerPaths = paths
	return paths, nil
}

// chassis returns the paths of the machine's chassis.
func (d *Driver) chassis(ctx context.Context) ([]string, error) {
	if d.chassisPaths != nil {
		return d.chassisPaths, nil
	}
	s, err := d.system(ctx)
	if err != nil {
		return nil, err
	}
	paths := pathsOf(s.Links.Chassis)
	if len(paths) == 0 && d.root.Chassis.Path != "" {
		if paths, err = d.members(ctx, d.root.Chassis.Path); err != nil {
			return nil, err
		}
	}
	if len(paths) == 0 {
		return nil, d.lacks("chassis")
	}
	d.chassisPaths = paths
	return paths, nil
}

func pathsOf(links []link) []string {
	var paths []string
	for _, l := range links {
		if l.Path != "" && len(paths) < maxMembers {
			paths = append(paths, l.Path)
		}
	}
	return paths
}

// lastElement returns the ID that a path ends in.
func lastElement(path string) string {
	path = strings.TrimSuffix(path, "/")
	return path[strings.LastIndex(path, "/")+1:]
}

// elements lists the IDs that paths end in.
func elements(paths []string) string {
	ids := make([]string, 0, len(paths))
	for _, p := range paths {
		ids = append(ids, lastElement(p))
	}
	return strings.Join(ids, ", ")
}
