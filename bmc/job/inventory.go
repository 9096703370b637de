package job

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bedplate/bedplate/bmc"
	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/resource/claim"
	"github.com/bedplate/bedplate/store"
)

// annotationDiscovered marks a machine that made itself known and that nobody
// has accepted yet; package lifecycle gives and takes it.
const annotationDiscovered = "bedplate/discovered"

// storeAttempts bounds how often a machine is read again after somebody else was faster.
const storeAttempts = 32

// found is what a BMC has told of its machine.
type found struct {
	identity  bmc.Identity
	inventory *pb.Inventory
	manager   bmc.ManagerInfo
	driver    string
}

// inventory reads the hardware out of band, and fills in what nobody has said
// of the machine: the machine is recognised by it when it boots.
func (c *Controller) inventory(ctx context.Context, m *pb.Machine) (string, error) {
	f, err := c.ask(ctx, m)
	if err != nil {
		return "", err
	}
	for range storeAttempts {
		text, err := c.storeInventory(ctx, m.Metadata.Name, f)
		if !errors.Is(err, store.ErrConflict) {
			return text, err
		}
	}
	return "", fmt.Errorf("storing the inventory of machine %s: %w", m.Metadata.Name, store.ErrConflict)
}

// ask reads everything from the BMC.
func (c *Controller) ask(ctx context.Context, m *pb.Machine) (found, error) {
	var f found
	err := c.do(ctx, m, func(ctx context.Context, b *bmc.Client) (err error) {
		f.driver = b.Name()
		// One that has no inventory at all, as Intel AMT, is asked for its power:
		// the session is proven.
		f.identity, err = b.Identity(ctx)
		if errors.Is(err, bmc.ErrUnsupported) {
			f.inventory = &pb.Inventory{}
			_, err = b.PowerState(ctx)
			return err
		}
		if err != nil {
			return fmt.Errorf("asking the BMC who the machine is: %w", err)
		}
		if f.inventory, err = b.Inventory(ctx); err != nil {
			return fmt.Errorf("reading the inventory: %w", err)
		}
		if f.manager, err = b.ManagerInfo(ctx); errors.Is(err, bmc.ErrUnsupported) {
			err = nil
		}
		return err
	})
	return f, err
}

// storeInventory makes one attempt; store.ErrConflict asks for another one.
func (c *Controller) storeInventory(ctx context.Context, name string, f found) (string, error) {
	before, err := resource.Get[*pb.Machine](ctx, c.cfg.DB, name)
	if err != nil {
		return "", permanent(err)
	}
	if err := sameMachine(before, f.identity); err != nil {
		return "", permanent(err)
	}
	after := proto.Clone(before).(*pb.Machine)
	c.noteStatus(after, f)
	filled := fillIdentity(after, f.identity)
	notes := []string{describeHardware(f)}
	change, err := claim.Plan(ctx, c.cfg.DB, before, after)
	var taken *resource.FieldErrors
	var twin *pb.Machine
	if errors.As(err, &taken) {
		twin, change, err = c.adopt(ctx, before, after)
	}
	if err != nil {
		return "", err
	}
	resource.Stamp(c.cfg.DB, after)
	ops := append(change.Ops, resource.Put(after))
	if twin != nil {
		text := fmt.Sprintf("machine %s, which was discovered on the network, is this one: it was merged into it", twin.Metadata.Name)
		notes = append(notes, text)
		ops = append(ops, c.cfg.Event("Machine", name, "Merged", text, false))
	}
	if len(filled) > 0 {
		notes = append(notes, "its BMC gave its "+strings.Join(filled, ", "))
	}
	_, err = c.cfg.DB.Store.Txn(ctx, append(change.Compares, resource.Unchanged(before)), ops)
	return strings.Join(notes, "; "), err
}

// noteStatus puts what the BMC has told into the machine's status.
func (c *Controller) noteStatus(m *pb.Machine, f found) {
	if m.Status == nil {
		m.Status = &pb.MachineStatus{}
	}
	if m.Status.Bmc == nil {
		m.Status.Bmc = &pb.BMCStatus{}
	}
	inv := f.inventory
	if inv != nil && inv.CollectTime == nil {
		inv.CollectTime = timestamppb.New(c.cfg.Now())
	}
	m.Status.BmcInventory = inv
	s := m.Status.Bmc
	if p := PowerProto(f.identity.Power); p != pb.PowerState_POWER_STATE_UNSPECIFIED {
		s.Power = p
	}
	s.Protocol = f.driver
	for _, set := range []struct {
		field *string
		value string
	}{{&s.Vendor, f.identity.Manufacturer}, {&s.Model, f.manager.Model}, {&s.FirmwareVersion, f.manager.FirmwareVersion}} {
		if set.value != "" {
			*set.field = set.value
		}
	}
}

// fillIdentity gives the machine what nobody has said of it, and returns the
// names of the fields.
func fillIdentity(m *pb.Machine, id bmc.Identity) []string {
	var filled []string
	if m.Spec.Uuid == "" && id.UUID != "" {
		m.Spec.Uuid = string(id.UUID)
		filled = append(filled, "UUID "+m.Spec.Uuid)
	}
	if m.Spec.Serial == "" && id.Serial != "" {
		m.Spec.Serial = id.Serial
		filled = append(filled, "serial number "+id.Serial)
	}
	named := namesPort(m.GetSpec())
	for _, mac := range id.MACs {
		if mac.IsZero() || mac[0]&1 != 0 || sharesMAC(m.Spec.Interfaces, []machine.MAC{mac}) {
			continue
		}
		nic := unnamed(m.Spec.Interfaces)
		if nic == nil && (named || len(m.Spec.Interfaces) == maxInterfaces) {
			continue // The person has said which ports count.
		}
		if nic == nil {
			nic = &pb.Interface{}
			m.Spec.Interfaces = append(m.Spec.Interfaces, nic)
		}
		nic.Mac = mac.String()
		filled = append(filled, "interface "+nic.Mac)
	}
	return filled
}

// namesPort reports whether a person has said of any port which one it is.
func namesPort(s *pb.MachineSpec) bool {
	return slices.ContainsFunc(s.GetInterfaces(), func(nic *pb.Interface) bool { return nic.GetMac() != "" })
}

// unnamed returns the first interface that has no MAC address yet.
func unnamed(nics []*pb.Interface) *pb.Interface {
	if i := slices.IndexFunc(nics, func(nic *pb.Interface) bool { return nic.GetMac() == "" }); i >= 0 {
		return nics[i]
	}
	return nil
}

// maxInterfaces is the bound of spec.interfaces in machine.proto.
const maxInterfaces = 64

// sameMachine returns an error if what the BMC says contradicts everything
// that a person has said of the machine: the address is another server's, as a
// rule, and what is asked of the BMC would happen to that.
func sameMachine(m *pb.Machine, id bmc.Identity) error {
	s := m.GetSpec()
	var wrong []string
	if s.GetUuid() != "" && id.UUID != "" {
		if s.GetUuid() == string(id.UUID) || s.GetUuid() == string(swapped(id.UUID)) {
			return nil
		}
		wrong = append(wrong, fmt.Sprintf("spec.uuid is %s, the BMC says %s", s.GetUuid(), id.UUID))
	}
	if s.GetSerial() != "" && id.Serial != "" {
		if strings.EqualFold(s.GetSerial(), id.Serial) {
			return nil
		}
		wrong = append(wrong, fmt.Sprintf("spec.serial is %s, the BMC says %s", s.GetSerial(), id.Serial))
	}
	if namesPort(s) && len(id.MACs) > 0 {
		if sharesMAC(s.GetInterfaces(), id.MACs) {
			return nil
		}
		wrong = append(wrong, fmt.Sprintf("the BMC knows none of spec.interfaces, but %s", id.MACs[0]))
	}
	if len(wrong) == 0 {
		return nil
	}
	return fmt.Errorf("the BMC at %s is another machine's: %s; put spec.bmc.address right", s.GetBmc().GetAddress(), strings.Join(wrong, ", "))
}

func sharesMAC(nics []*pb.Interface, macs []machine.MAC) bool {
	for _, nic := range nics {
		for _, mac := range macs {
			if have, err := machine.ParseMAC(nic.GetMac()); err == nil && have == mac {
				return true
			}
		}
	}
	return false
}

// swapped returns a UUID with its first three fields in the other byte order:
// BMCs and firmware don't agree on it (SMBIOS 3.x §7.2.1).
func swapped(u machine.UUID) machine.UUID {
	var b [16]byte
	if n, err := hex.Decode(b[:], []byte(strings.ReplaceAll(string(u), "-", ""))); err != nil || n != len(b) {
		return ""
	}
	return machine.UUIDFromWire(b)
}

// adopt resolves that after claims what another machine has: if that machine
// is only one that was discovered, after takes over what is known of it.
func (c *Controller) adopt(ctx context.Context, before, after *pb.Machine) (*pb.Machine, claim.Change, error) {
	twin, err := c.twin(ctx, after)
	if err != nil {
		return nil, claim.Change{}, err
	}
	if len(before.GetSpec().GetInterfaces()) == 0 {
		after.Spec.Interfaces = joined(twin.GetSpec().GetInterfaces(), after.Spec.Interfaces)
	}
	if s := twin.GetStatus(); after.Status.Inventory == nil && s.GetInventory() != nil {
		after.Status.Inventory, after.Status.InspectTime = s.GetInventory(), s.GetInspectTime()
	}
	// Its agent, if one is connected, goes on under this name: see resource.AnnotationFormerName.
	if after.GetMetadata().GetAnnotations()[resource.AnnotationFormerName] == "" && after.Status.Agent == nil {
		if after.Metadata.Annotations == nil {
			after.Metadata.Annotations = map[string]string{}
		}
		after.Metadata.Annotations[resource.AnnotationFormerName] = twin.Metadata.Name
		after.Status.Agent = twin.GetStatus().GetAgent()
	}
	if len(after.Status.Addresses) == 0 {
		after.Status.Addresses = twin.GetStatus().GetAddresses()
	}
	if a := twin.GetStatus().GetAgent(); a != nil && after.Status.Agent == nil {
		// The agent of that boot goes on as this machine's.
		after.Status.Agent = a
		if after.Metadata.Annotations == nil {
			after.Metadata.Annotations = map[string]string{}
		}
		after.Metadata.Annotations[resource.AnnotationFormerName] = twin.GetMetadata().GetName()
	}
	change, err := claim.Merge(ctx, c.cfg.DB, before, after, twin)
	return twin, change, err
}

// joined returns a's interfaces, and b's that aren't among them.
func joined(a, b []*pb.Interface) []*pb.Interface {
	out := append([]*pb.Interface{}, a...)
	for _, nic := range b {
		mac, err := machine.ParseMAC(nic.GetMac())
		if err != nil || !sharesMAC(a, []machine.MAC{mac}) && len(out) < maxInterfaces {
			out = append(out, nic)
		}
	}
	return out
}

// twin returns the machine that has what m claims. It is an error if there are
// several, or if it is more than a discovered one.
func (c *Controller) twin(ctx context.Context, m *pb.Machine) (*pb.Machine, error) {
	all, _, err := resource.All[*pb.Machine](ctx, c.cfg.DB)
	if err != nil {
		return nil, err
	}
	wanted := map[string]bool{}
	for _, cl := range resource.Claims(m) {
		wanted[cl.Value] = true
	}
	var twin *pb.Machine
	for _, other := range all {
		if other.Metadata.Name == m.Metadata.Name {
			continue
		}
		for _, cl := range resource.Claims(other) {
			switch {
			case !wanted[cl.Value] || twin == other:
			case !merelyDiscovered(other):
				return nil, permanent(fmt.Errorf("its BMC says %s, which is machine/%s's: two machines describe one server; delete one of them, or put spec.bmc.address right", cl.Value, other.Metadata.Name))
			case twin != nil:
				return nil, permanent(fmt.Errorf("its BMC's answers fit the discovered machines %s and %s: delete the one that is wrong", twin.Metadata.Name, other.Metadata.Name))
			default:
				twin = other
			}
		}
	}
	if twin == nil {
		return nil, store.ErrConflict // it has just gone
	}
	return twin, nil
}

// merelyDiscovered reports whether nobody has described or used the machine yet.
func merelyDiscovered(m *pb.Machine) bool {
	s := m.GetStatus()
	return m.GetMetadata().GetAnnotations()[annotationDiscovered] != "" && m.GetSpec().GetBmc().GetAddress() == "" &&
		s.GetInstance() == "" && s.GetWorkflow() == "" && s.GetJob() == "" &&
		(s.GetState() == pb.MachineState_DISCOVERED || s.GetState() == pb.MachineState_MACHINE_STATE_UNSPECIFIED)
}

// describeHardware is the inventory in one line.
func describeHardware(f found) string {
	inv := f.inventory
	parts := []string{strings.TrimSpace(orText(inv.GetSystem().GetManufacturer(), f.identity.Manufacturer) + " " + orText(inv.GetSystem().GetProduct(), f.identity.Product))}
	if serial := orText(inv.GetSystem().GetSerial(), f.identity.Serial); serial != "" {
		parts = append(parts, "serial "+serial)
	}
	for _, n := range []struct {
		count int
		what  string
	}{{len(inv.GetProcessors()), "processors"}, {len(inv.GetDisks()), "disks"}, {len(inv.GetNics()), "NICs"}} {
		if n.count > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n.count, n.what))
		}
	}
	if b := inv.GetMemory().GetInstalledBytes(); b > 0 {
		parts = append(parts, fmt.Sprintf("%d GiB memory", b>>30))
	}
	if n := len(inv.GetWarnings()); n > 0 {
		parts = append(parts, fmt.Sprintf("%d things could not be read", n))
	}
	return strings.Trim(strings.Join(parts, ", "), ", ")
}

func orText(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
