package engine

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/bedplate/bedplate/images/iso"
	"github.com/bedplate/bedplate/ipxe"
	"github.com/bedplate/bedplate/ipxe/script"
	"github.com/bedplate/bedplate/machine"
	"github.com/bedplate/bedplate/machine/medium"
	"github.com/bedplate/bedplate/media"
	"github.com/bedplate/bedplate/network"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

// MediaURL returns the URL of the boot medium that the machine's BMC is to
// insert. It is the same for as long as the medium on record is good and says
// what it should, so an insertion can be tried again. Who has it can enrol as
// that machine: it belongs in no resource and no log.
func (e *Engine) MediaURL(ctx context.Context, name string) (string, error) {
	m, err := resource.Get[*pb.Machine](ctx, e.db, name)
	if err != nil {
		return "", err
	}
	base, err := e.mediaBase(ctx, m)
	if err != nil {
		return "", err
	}
	path, err := e.media.Insert(ctx, machine.Name(name))
	if err != nil {
		return "", err
	}
	return base + path, nil
}

// MediaEjected takes back what was inserted by MediaURL: from then on nothing is
// served under its URL, and nobody enrols with it.
func (e *Engine) MediaEjected(ctx context.Context, name string) error {
	return e.media.Eject(ctx, machine.Name(name))
}

// mediaBase returns the base of URLs for a machine's BMC.
func (e *Engine) mediaBase(ctx context.Context, m *pb.Machine) (string, error) {
	if bmc, ok := bmcAddress(ctx, m.GetSpec().GetBmc().GetAddress()); ok {
		if base := httpBase(e.usable(e.networks.serverAddress(bmc)), e.cfg.httpPort()); base != "" {
			return base, nil
		}
	}
	server, err := e.mediumServer(ctx, m)
	return httpBase(server, e.cfg.httpPort()), err
}

// resolveTimeout bounds the look-up of a BMC's name.
const resolveTimeout = 5 * time.Second

// bmcAddress returns the address of a BMC that is given by address or name, with
// or without a port or scheme.
func bmcAddress(ctx context.Context, text string) (netip.Addr, bool) {
	if _, rest, ok := strings.Cut(text, "://"); ok {
		text = rest
	}
	text, _, _ = strings.Cut(text, "/")
	if host, _, err := net.SplitHostPort(text); err == nil {
		text = host
	}
	text = strings.Trim(text, "[]")
	if text == "" {
		return netip.Addr{}, false
	}
	if a, err := netip.ParseAddr(text); err == nil {
		return a.Unmap(), true
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", text)
	if err != nil || len(found) == 0 {
		return netip.Addr{}, false
	}
	return found[0].Unmap(), true
}

// usable drops addresses that nobody else reaches this server by.
func (e *Engine) usable(a netip.Addr) netip.Addr {
	if !a.IsValid() || a.IsUnspecified() || a.IsLoopback() || a.IsLinkLocalUnicast() {
		return netip.Addr{}
	}
	return a
}

// elsewhere is an address on no network of anybody's (RFC 5737): the route to
// it is the default one.
var elsewhere = netip.MustParseAddr("192.0.2.1")

// mediumServer returns the address by which the agent of a machine will reach
// this server: from the machine's own addresses, or else by the way to its BMC,
// or what serves everybody.
func (e *Engine) mediumServer(ctx context.Context, m *pb.Machine) (netip.Addr, error) {
	v := machineValue(m)
	for _, nic := range v.Interfaces {
		if !nic.Address.IsValid() {
			continue
		}
		if a := e.usable(e.networks.serverAddress(nic.Address.Addr())); a.IsValid() {
			return a, nil
		}
	}
	if bmc, ok := bmcAddress(ctx, m.GetSpec().GetBmc().GetAddress()); ok {
		if a := e.usable(e.networks.serverAddress(bmc)); a.IsValid() {
			return a, nil
		}
	}
	if a := e.usable(e.cfg.BindAddress); a.IsValid() {
		return a, nil
	}
	for _, name := range e.cfg.Names {
		if a, err := netip.ParseAddr(name); err == nil && e.usable(a).IsValid() {
			return a, nil
		}
	}
	if a := e.usable(e.networks.serverAddress(elsewhere)); a.IsValid() {
		return a, nil
	}
	return netip.Addr{}, fmt.Errorf("no address is known by which machine/%s reaches this server: set server_address of its Network, or give one with --name", v.Name)
}

// describeMedium says what a machine's boot medium is to hold.
func (e *Engine) describeMedium(ctx context.Context, name machine.Name) (media.Description, error) {
	m, err := resource.Get[*pb.Machine](ctx, e.db, string(name))
	if err != nil {
		return media.Description{}, err
	}
	server, err := e.mediumServer(ctx, m)
	if err != nil {
		return media.Description{}, err
	}
	v := machineValue(m)
	nics := e.mediumInterfaces(v)
	if err := reachable(v, nics, server); err != nil {
		return media.Description{}, err
	}
	args := append([]string{"quiet"}, ipxe.ConsoleArgs(v.Console)...)
	grub, err := script.Medium{
		Machine: string(name), Kernel: iso.KernelPath, Initrds: iso.InitrdPaths(), Args: append(args, v.KernelArgs...), Console: orText(v.Console, ipxe.DefaultConsole),
	}.GRUB()
	if err != nil {
		return media.Description{}, fmt.Errorf("making the boot medium of machine/%s: %w: alter it in the machine's kernel_args", name, err)
	}
	return media.Description{UID: m.GetMetadata().GetUid(), Script: grub, Config: medium.Config{
		Machine: name, Server: hostPort(server, e.cfg.agentPort()), HTTP: httpBase(server, e.cfg.httpPort()), CA: e.ca.Digest(), Interfaces: nics,
	}}, nil
}

// mediumInterfaces are the machine's interfaces with what its networks add.
func (e *Engine) mediumInterfaces(m machine.Machine) []medium.Interface {
	var all []medium.Interface
	for _, nic := range m.Interfaces {
		// One at a time: each has a gateway of its own, as the agent uses any that leads to the server.
		one := network.FromInterfaces(machine.Machine{Interfaces: []machine.Interface{nic}})
		one.Fill(e.networks.site)
		i := medium.Interface{MAC: nic.MAC.String(), VLAN: nic.VLAN}
		if l := one.Links[len(one.Links)-1]; nic.Address.IsValid() {
			i.Address, i.Gateway, i.Nameservers, i.Search, i.MTU = nic.Address, l.Gateway4, l.Nameservers, l.Search, l.MTU
			for _, r := range l.Routes {
				i.Routes = append(i.Routes, medium.Route{To: r.To, Via: r.Via})
			}
		}
		all = append(all, i)
	}
	return all
}

// reachable refuses a medium whose addresses lead nowhere near the server.
func reachable(m machine.Machine, nics []medium.Interface, server netip.Addr) error {
	static := false
	for _, i := range nics {
		if !i.Address.IsValid() {
			continue
		}
		static = true
		if i.Address.Contains(server) || i.Gateway.IsValid() || len(i.Routes) > 0 {
			return nil
		}
	}
	if !static {
		return nil
	}
	return fmt.Errorf("machine/%s can't reach the server at %s from the addresses it is given: set spec.interfaces[].gateway, or the gateway of a Network that the address is in", m.Name, server)
}

// agentMedia is what the agents' service needs to know of boot media.
type agentMedia struct{ e *Engine }

// Enrolment implements rpc.Media.
func (a agentMedia) Enrolment(ctx context.Context, name machine.Name, uid, id string) ([]store.Compare, error) {
	return a.e.media.Enrolment(ctx, name, uid, id)
}

// Reserved implements rpc.Media. An address that a machine merely had is not
// enough: behind a translator many have the same.
func (a agentMedia) Reserved(addr netip.Addr) (machine.Name, bool) {
	m, ok := a.e.index.ByAddress(addr)
	for _, i := range m.Interfaces {
		if ok && i.Address.IsValid() && i.Address.Addr() == addr.Unmap() {
			return m.Name, true
		}
	}
	return "", false
}

// bootMedia is what the API offers of boot media.
type bootMedia struct{ e *Engine }

// Copy implements api.BootMedia.
func (b bootMedia) Copy(ctx context.Context, name string, validity time.Duration, actor string) (io.ReadCloser, int64, time.Time, error) {
	m, expires, err := b.e.media.Copy(ctx, machine.Name(name), validity, actor)
	if err != nil {
		return nil, 0, time.Time{}, err
	}
	return m, m.Size(), expires, nil
}

// Revoke implements api.BootMedia.
func (b bootMedia) Revoke(ctx context.Context, name, actor string) error {
	return b.e.media.Revoke(ctx, machine.Name(name), actor)
}
