package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/bedplate/bedplate/bmc/fleet"
	"github.com/bedplate/bedplate/bmc/scan"
	"github.com/bedplate/bedplate/dhcp/lease"
	"github.com/bedplate/bedplate/event"
	"github.com/bedplate/bedplate/lifecycle"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/resource/claim"
	"github.com/bedplate/bedplate/store"
)

// Scan implements api.BMCs.
func (v bmcViews) Scan(ctx context.Context, r *pb.ScanBMCsRequest, actor string, send func(*pb.ScanBMCsResponse) error) error {
	targets, err := scan.Parse(r.GetRanges())
	if err != nil {
		return err
	}
	done, total := uint32(0), uint32(len(targets))
	return scan.Run(ctx, targets, scan.Options{Rate: int(r.GetRate()), Now: v.e.cfg.Now},
		func(f scan.Found) error {
			return send(&pb.ScanBMCsResponse{Event: &pb.ScanBMCsResponse_Found{Found: v.e.takeIn(ctx, f, r, actor)}})
		},
		func() error {
			if done++; done%64 != 0 && done != total {
				return nil
			}
			return send(&pb.ScanBMCsResponse{Event: &pb.ScanBMCsResponse_Progress{Progress: &pb.ScanProgress{Done: done, Total: total}}})
		})
}

// takeIn makes a machine of a BMC that was found, if it is asked for and none has it.
func (e *Engine) takeIn(ctx context.Context, f scan.Found, r *pb.ScanBMCsRequest, actor string) *pb.FoundBMC {
	out := &pb.FoundBMC{
		Address: f.Address, Protocols: f.Protocols(), Vendor: f.Vendor, Product: f.Product, Uuid: f.UUID, CertificateDigest: f.Pin,
		Machine: e.fleet.Owner(f.Address, ""),
	}
	if out.Machine != "" || !r.GetApply() {
		return out
	}
	spec := &pb.MachineSpec{
		Bmc:  &pb.BMC{Address: f.Address, Username: r.GetUsername(), PasswordSecret: r.GetPasswordSecret()},
		Pool: r.GetPool(), Rack: r.GetRack(),
	}
	if !f.Redfish {
		spec.Bmc.Protocol = "ipmi"
	}
	name := "bmc-" + strings.NewReplacer(".", "-", ":", "-", "[", "", "]", "").Replace(f.Address)
	said := map[string]string{fleet.AnnotationBMCVendor: printable(f.Vendor), fleet.AnnotationBMCProduct: printable(f.Product)}
	m, err := e.addBMC(ctx, name, spec, said, "found by a scan: "+strings.TrimSpace(f.Vendor+" "+f.Product+" "+f.Protocols()), actor)
	if err != nil {
		out.Error = err.Error()
		return out
	}
	out.Machine, out.Created = m.Metadata.Name, true
	return out
}

// addBMC makes a machine that is known by its BMC only. Where there are rules
// they decide on it; where there are none, whoever has looked for BMCs has said
// already that they are wanted.
func (e *Engine) addBMC(ctx context.Context, name string, spec *pb.MachineSpec, annotations map[string]string, message, actor string) (*pb.Machine, error) {
	rules, _, err := resource.All[*pb.Rule](ctx, e.db)
	if err != nil {
		return nil, err
	}
	maps.DeleteFunc(annotations, func(_, value string) bool { return value == "" })
	if len(rules) > 0 {
		annotations[lifecycle.AnnotationDiscovered] = lifecycle.FoundByBMC
	}
	m := &pb.Machine{Metadata: &pb.Metadata{Name: name, Annotations: annotations}, Spec: spec}
	if err := resource.Validate(m); err != nil {
		return nil, err
	}
	return claim.Create(ctx, e.db, m, e.events.Op(event.Entry{Kind: "Machine", Name: name, Reason: "BMCFound", Message: message, Actor: actor}))
}

// bmcLeaseBuffer is how many leases may wait to be looked at. One that is
// dropped comes again when it is renewed.
const bmcLeaseBuffer = 1024

// noteBMCLease has a lease looked at; it never blocks.
func (e *Engine) noteBMCLease(l lease.Lease) {
	select {
	case e.bmcLeases <- l:
	default:
	}
}

// discoverBMCs makes machines of the BMCs that get an address on networks of
// BMCs, and follows those whose address changes.
func (e *Engine) discoverBMCs(ctx context.Context) error {
	for {
		select {
		case l := <-e.bmcLeases:
			if err := e.bmcLease(ctx, l); err != nil && ctx.Err() == nil {
				e.log.Warn("taking in a BMC", "mac", l.MAC, "ip", l.Address, "err", err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func (e *Engine) bmcLease(ctx context.Context, l lease.Lease) error {
	n, err := resource.Get[*pb.Network](ctx, e.db, l.Network)
	if errors.Is(err, store.ErrNotFound) || err == nil && !n.GetSpec().GetBmc() {
		return nil
	}
	if err != nil {
		return err
	}
	if _, known := e.index.ByMAC(l.MAC); known {
		return nil // an interface of a machine, not a BMC
	}
	if owner := e.fleet.Owner(l.Address.String(), l.MAC.String()); owner != "" {
		return e.followBMC(ctx, owner, l)
	}
	spec := &pb.MachineSpec{Bmc: &pb.BMC{
		Address: l.Address.String(), Username: n.GetSpec().GetBmcUsername(), PasswordSecret: n.GetSpec().GetBmcPasswordSecret(),
	}}
	name := "bmc-" + strings.ReplaceAll(l.MAC.String(), ":", "")
	message := fmt.Sprintf("it got address %s on network %s", l.Address, l.Network)
	if h := printable(l.Hostname); h != "" {
		message += ", and calls itself " + h
	}
	_, err = e.addBMC(ctx, name, spec, map[string]string{fleet.AnnotationBMCMAC: l.MAC.String()}, message, "")
	if errors.Is(err, resource.ErrExists) {
		return e.followBMC(ctx, name, l)
	}
	return err
}

// printable is a name that a client gave itself, as it may be shown.
func printable(s string) string {
	for _, r := range s {
		if r < 0x20 || r > 0x7e {
			return ""
		}
	}
	return s[:min(len(s), 64)]
}

// followAttempts bounds how often a machine is read again after somebody else was faster.
const followAttempts = 16

// followBMC keeps the address and the MAC address of a BMC that is known: the
// next renewal, which would bring them again, is hours away.
func (e *Engine) followBMC(ctx context.Context, name string, l lease.Lease) (err error) {
	for range followAttempts {
		if err = e.followOnce(ctx, name, l); !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return err
}

func (e *Engine) followOnce(ctx context.Context, name string, l lease.Lease) error {
	before, err := resource.Get[*pb.Machine](ctx, e.db, name)
	if err != nil {
		return err
	}
	after := proto.Clone(before).(*pb.Machine)
	if after.Metadata.Annotations == nil {
		after.Metadata.Annotations = map[string]string{}
	}
	mac := after.Metadata.Annotations[fleet.AnnotationBMCMAC]
	if mac == "" {
		after.Metadata.Annotations[fleet.AnnotationBMCMAC] = l.MAC.String()
	}
	if _, err := netip.ParseAddr(after.GetSpec().GetBmc().GetAddress()); err == nil && mac == l.MAC.String() {
		after.Spec.Bmc.Address = l.Address.String()
	}
	if proto.Equal(before, after) {
		return nil
	}
	change, err := claim.Plan(ctx, e.db, before, after)
	if err != nil {
		return err
	}
	resource.Stamp(e.db, after)
	ops := append(change.Ops, resource.Put(after))
	if before.GetSpec().GetBmc().GetAddress() != after.GetSpec().GetBmc().GetAddress() {
		ops = append(ops, e.events.Op(event.Entry{Kind: "Machine", Name: name, Reason: "BMCMoved", Message: "its BMC has address " + l.Address.String() + " now"}))
	}
	_, err = e.store.Txn(ctx, append(change.Compares, resource.Unchanged(before)), ops)
	return err
}
