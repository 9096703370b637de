package fleet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bedplate/bedplate/bmc"
	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/store"
)

// Answer asks the machine's BMC for what answer is about, and fills it in: one
// of the List…Response and Get…Response messages of the API's machine service.
func (f *Fleet) Answer(ctx context.Context, name string, answer proto.Message) error {
	m, err := f.Machine(name)
	if err != nil {
		return err
	}
	return f.Read(ctx, m, func(ctx context.Context, c *bmc.Client) error {
		switch a := answer.(type) {
		case *pb.ListMachineSensorsResponse:
			return readSensors(ctx, c, a)
		case *pb.ListMachineEventLogResponse:
			return readEventLog(ctx, c, a)
		case *pb.ListMachineFirmwareResponse:
			return readFirmware(ctx, c, a)
		case *pb.ListMachineBIOSResponse:
			return readBIOS(ctx, c, a)
		case *pb.GetMachineSecureBootResponse:
			return readSecureBoot(ctx, c, a)
		case *pb.ListMachineBMCUsersResponse:
			return readUsers(ctx, c, a)
		}
		return fmt.Errorf("%T is nothing that a BMC is asked for", answer)
	})
}

func readSensors(ctx context.Context, c *bmc.Client, a *pb.ListMachineSensorsResponse) error {
	all, err := c.Sensors(ctx)
	a.Sensors = nil
	for _, s := range all {
		a.Sensors = append(a.Sensors, &pb.Sensor{
			Name: s.Name, Kind: string(s.Kind), Value: s.Value, Unit: s.Unit, Present: s.Present, Health: healthText(s.Health),
		})
	}
	return err
}

func readEventLog(ctx context.Context, c *bmc.Client, a *pb.ListMachineEventLogResponse) error {
	all, err := c.EventLog(ctx, 0)
	a.Entries = nil
	for _, e := range all {
		entry := &pb.BMCLogEntry{Id: e.ID, Severity: healthText(e.Severity), Sensor: e.Sensor, Message: e.Message}
		if !e.Time.IsZero() {
			entry.Time = timestamppb.New(e.Time)
		}
		a.Entries = append(a.Entries, entry)
	}
	return err
}

func readFirmware(ctx context.Context, c *bmc.Client, a *pb.ListMachineFirmwareResponse) error {
	all, err := c.Firmware(ctx)
	a.Components = nil
	for _, f := range all {
		a.Components = append(a.Components, &pb.FirmwareComponent{Id: f.ID, Name: f.Name, Version: f.Version, Updatable: f.Updatable})
	}
	return err
}

func readBIOS(ctx context.Context, c *bmc.Client, a *pb.ListMachineBIOSResponse) error {
	all, err := c.BIOSSettings(ctx)
	a.Settings = nil
	names := maps.Clone(all.Current)
	if names == nil {
		names = map[string]string{}
	}
	maps.Copy(names, all.Pending)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		s := &pb.BIOSSetting{Name: name, Value: all.Current[name]}
		if p, ok := all.Pending[name]; ok && p != s.Value {
			s.Pending = p
		}
		a.Settings = append(a.Settings, s)
	}
	return err
}

func readSecureBoot(ctx context.Context, c *bmc.Client, a *pb.GetMachineSecureBootResponse) error {
	s, err := c.SecureBoot(ctx)
	a.Enabled, a.Active, a.Mode = s.Enabled, s.Active, string(s.Mode)
	return err
}

func readUsers(ctx context.Context, c *bmc.Client, a *pb.ListMachineBMCUsersResponse) error {
	all, err := c.Users(ctx)
	a.Users = nil
	for _, u := range all {
		a.Users = append(a.Users, &pb.BMCUser{Id: u.ID, Name: u.Name, Role: string(u.Role), Enabled: u.Enabled, Locked: u.Locked})
	}
	return err
}

// Status asks the machine's BMC how it is, and brings the machine's status up
// to date. That it can't be asked is part of the answer, not an error. retry
// closes its circuit first.
func (f *Fleet) Status(ctx context.Context, name string, retry bool) (*pb.GetMachineBMCResponse, error) {
	m, err := f.Machine(name)
	if err != nil {
		return nil, err
	}
	if retry {
		f.pool.Reset(machine.Name(name))
		f.forgive(ctx, name)
		if m, err = f.Machine(name); err != nil {
			return nil, err
		}
	}
	out := &pb.GetMachineBMCResponse{Machine: name, Address: m.GetSpec().GetBmc().GetAddress(), Username: m.GetSpec().GetBmc().GetUsername()}
	var now live
	asked := f.Read(ctx, m, func(ctx context.Context, c *bmc.Client) error { return now.read(ctx, c) })
	if asked != nil {
		out.Error = asked.Error()
	} else {
		out.Protocols = now.manager.Protocols
		if err := f.Record(ctx, name, now.apply); err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
	}
	if m, err = f.Machine(name); err != nil {
		return nil, err
	}
	out.Status = withBMC(m).Status.Bmc
	out.Status.ContactTime = f.contactTime(name, out.Status)
	out.OwnPassword = f.vault.find(m).Current != ""
	return out, nil
}

// live is what a BMC says of itself and its machine in a few requests.
type live struct {
	power    bmc.PowerState
	boot     string
	booted   bool // boot was read
	media    []bmc.Media
	mediaErr error
	health   bmc.HealthReport
	healthy  bool
	manager  bmc.ManagerInfo
}

// read asks for everything. Only the power has to be known.
func (l *live) read(ctx context.Context, c *bmc.Client) (err error) {
	if l.power, err = c.PowerState(ctx); err != nil {
		return err
	}
	for _, ask := range []func() error{
		func() error { o, err := c.BootOverride(ctx); l.boot, l.booted = o.String(), err == nil; return err },
		func() error { l.media, l.mediaErr = c.Media(ctx); return l.mediaErr },
		func() (err error) { l.health, err = c.Health(ctx); l.healthy = err == nil; return err },
		func() (err error) { l.manager, err = c.ManagerInfo(ctx); return err },
	} {
		if err := ask(); unwell(err) {
			return err
		}
	}
	return nil
}

// apply puts what was read into a status.
func (l *live) apply(s *pb.BMCStatus) {
	if p := powerProto(l.power); p != pb.PowerState_POWER_STATE_UNSPECIFIED {
		s.Power = p
	}
	if l.booted {
		if s.BootOverride = l.boot; s.BootOverride == (bmc.BootOverride{}).String() {
			s.BootOverride = ""
		}
	}
	if l.healthy {
		s.Health, s.HealthCauses = healthText(l.health.Overall), l.health.Problems
	}
	if l.manager.Model != "" {
		s.Model = l.manager.Model
	}
	if l.manager.FirmwareVersion != "" {
		s.FirmwareVersion = l.manager.FirmwareVersion
	}
	if l.mediaErr == nil && !slices.ContainsFunc(l.media, func(m bmc.Media) bool { return m.Inserted }) {
		s.Media = "" // it ejects itself, on some BMCs
	}
}

// Trust pins the certificate that the machine's BMC shows now, in place of the
// one that was pinned before. With want it must be that one. The SSH host key
// is pinned anew as well, at the next console.
func (f *Fleet) Trust(ctx context.Context, r *pb.TrustMachineBMCRequest) (*pb.GetMachineBMCResponse, error) {
	name := r.GetName()
	m, err := f.Machine(name)
	if err != nil {
		return nil, err
	}
	if given := m.GetSpec().GetBmc().GetCertificateDigest(); given != "" && given != r.GetCertificateDigest() {
		return nil, fmt.Errorf("machine/%s: spec.bmc.certificate_digest says which certificate is wanted: change it there", name)
	}
	if r.GetResetPassword() {
		if err := f.ForgetPassword(ctx, name); err != nil {
			return nil, err
		}
	}
	f.mu.Lock()
	if had := f.members[name]; had != nil {
		had.pin, had.hostKey = "", ""
	}
	f.mu.Unlock()
	if err := f.Record(ctx, name, func(s *pb.BMCStatus) {
		s.CertificateDigest, s.SshHostKey = r.GetCertificateDigest(), ""
	}); err != nil {
		return nil, err
	}
	f.pool.Forget(ctx, machine.Name(name))
	return f.Status(ctx, name, true)
}
