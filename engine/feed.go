package engine

import (
	"context"
	"net/netip"
	"sync"

	"github.com/bedplate/bedplate/dhcp"
	"github.com/bedplate/bedplate/dhcp/lease"
	"github.com/bedplate/bedplate/machine"
	"github.com/bedplate/bedplate/machine/index"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
)

// feedMachines keeps the index of machines current.
func (e *Engine) feedMachines(ctx context.Context) error {
	return resource.Follow(ctx, e.db,
		func(m *pb.Machine) {
			e.declared.set(m)
			e.index.Set(machineValue(m))
			noteAgent(e.index, m)
		},
		func(name string) {
			e.declared.remove(machine.Name(name))
			e.index.Remove(machine.Name(name))
			if err := e.media.Revoke(ctx, machine.Name(name), ""); err != nil && ctx.Err() == nil {
				e.log.Warn("taking out a boot medium", "machine", name, "err", err)
			}
			if err := e.forgetTimeline(ctx, machine.Name(name)); err != nil && ctx.Err() == nil {
				e.log.Warn("forgetting a timeline", "machine", name, "err", err)
			}
		},
		e.synced("machines"))
}

// noteAgent maps the address that an enrolled agent has to its machine, for
// networks where another server gives out the addresses.
func noteAgent(x *index.Index, m *pb.Machine) {
	a, err := netip.ParseAddr(m.GetStatus().GetAgent().GetAddress())
	if err != nil || len(m.GetSpec().GetInterfaces()) == 0 {
		return
	}
	if _, known := x.HolderOf(a); known {
		return // DHCP knows better
	}
	if !mayHave(m, a) {
		return
	}
	if mac, err := machine.ParseMAC(m.Spec.Interfaces[0].GetMac()); err == nil {
		x.SetLease(a, mac)
	}
}

// mayHave keeps a machine that boots from a medium to the addresses that the
// medium gives it: whoever enrols with it from elsewhere, by a copy of the image,
// isn't given the metadata of the machine's instance for that.
func mayHave(m *pb.Machine, a netip.Addr) bool {
	if m.GetSpec().GetBootMethod() != bootMedium {
		return true
	}
	static := false
	for _, nic := range machineValue(m).Interfaces {
		static = static || nic.Address.IsValid()
		if nic.Address.IsValid() && nic.Address.Addr() == a.Unmap() {
			return true
		}
	}
	return !static
}

// loadLeases tells the index of the addresses that machines hold since before
// the server started.
func (e *Engine) loadLeases(ctx context.Context) error {
	held, err := leases{e.store}.Load(ctx)
	if err != nil {
		return err
	}
	now := e.cfg.Now()
	for _, l := range held {
		if !l.Expired(now) {
			e.leaseChanged(l, false)
		}
	}
	return nil
}

// leaseChanged keeps the index's addresses current; DHCP calls it.
func (e *Engine) leaseChanged(l lease.Lease, released bool) {
	if l.MAC.IsZero() {
		return
	}
	if released {
		e.index.RemoveLease(l.Address, l.MAC)
	} else {
		e.index.SetLease(l.Address, l.MAC)
		e.noteBMCLease(l)
	}
	if m, ok := e.index.ByMAC(l.MAC); ok {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.moved[m.Name] = true
	}
}

// feedNetworks gives DHCP every network as it is.
func (e *Engine) feedNetworks(ctx context.Context) error {
	known := map[string]dhcp.Network{}
	publish := func() {
		list := make([]dhcp.Network, 0, len(known))
		for _, n := range known {
			list = append(list, n)
		}
		e.networks.set(list)
		if err := e.dhcp.SetNetworks(list); err != nil {
			e.log.Error("serving networks", "err", err)
		}
	}
	ready := false
	done := e.synced("networks")
	return resource.Follow(ctx, e.db,
		func(n *pb.Network) {
			v, err := networkValue(n)
			if err != nil {
				e.log.Error("passing over a network", "err", err)
				delete(known, n.GetMetadata().GetName())
			} else {
				known[v.Name] = v
			}
			if ready {
				publish()
			}
		},
		func(name string) {
			delete(known, name)
			if ready {
				publish()
			}
		},
		func() {
			ready = true
			publish()
			done()
		})
}

// catalogue is what is known of images, by name, in memory.
type catalogue struct {
	mu     sync.RWMutex
	images map[string]*pb.Image
	// arrived is content that was stored for a name that the watch hasn't
	// brought yet: it is not to be pruned.
	arrived map[string]string
}

func newCatalogue() *catalogue {
	return &catalogue{images: map[string]*pb.Image{}, arrived: map[string]string{}}
}

// expect keeps content until the image of that name is seen to have it.
func (c *catalogue) expect(name, digest string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.arrived[name] = digest
}

func (c *catalogue) set(i *pb.Image) {
	c.mu.Lock()
	defer c.mu.Unlock()
	name := i.GetMetadata().GetName()
	c.images[name] = i
	if d := c.arrived[name]; d == i.GetStatus().GetDigest() || d == i.GetStatus().GetIndexDigest() {
		delete(c.arrived, name)
	}
}

func (c *catalogue) remove(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.images, name)
	delete(c.arrived, name)
}

func (c *catalogue) get(name string) (*pb.Image, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	i, ok := c.images[name]
	return i, ok
}

// digest returns the digest of the image's content in the store; images.Names.
func (c *catalogue) digest(name string) (string, bool) {
	i, ok := c.get(name)
	d := orText(i.GetStatus().GetIndexDigest(), i.GetStatus().GetDigest())
	return d, ok && d != ""
}

// holds reports whether an image has that content.
func (c *catalogue) holds(digest string) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, i := range c.images {
		if i.GetStatus().GetDigest() == digest || i.GetStatus().GetIndexDigest() == digest {
			return true
		}
	}
	for _, d := range c.arrived {
		if d == digest {
			return true
		}
	}
	return false
}

// feedImages keeps the catalogue current, and frees content that no image has any more.
func (e *Engine) feedImages(ctx context.Context) error {
	return resource.Follow(ctx, e.db, e.catalogue.set, e.catalogue.remove, e.synced("images"))
}
