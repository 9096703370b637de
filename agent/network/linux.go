package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bedplate/bedplate/machine"
)

// Linux is the Kernel of the running system. Sys is where sysfs is (/sys).
type Linux struct{ Sys string }

// Links implements Kernel.
func (k Linux) Links() ([]Link, error) {
	class := filepath.Join(k.Sys, "class/net")
	entries, err := os.ReadDir(class)
	if err != nil {
		return nil, fmt.Errorf("listing network interfaces: %w", err)
	}
	var links []Link
	for _, e := range entries {
		dir := filepath.Join(class, e.Name())
		if _, err := os.Stat(filepath.Join(dir, "device")); err != nil {
			continue // lo, bridges and other links without hardware
		}
		if readFile(dir, "type") != "1" { // ARPHRD_ETHER
			continue
		}
		mac, err := machine.ParseMAC(readFile(dir, "address"))
		var index int
		if _, err2 := fmt.Sscan(readFile(dir, "ifindex"), &index); err != nil || err2 != nil {
			continue
		}
		links = append(links, Link{Name: e.Name(), Index: index, MAC: mac, Carrier: readFile(dir, "carrier") == "1"})
	}
	return links, nil
}

func readFile(dir, name string) string {
	b, _ := os.ReadFile(filepath.Join(dir, name)) // carrier of a link that is down cannot be read
	return strings.TrimSpace(string(b))
}

// Up implements Kernel.
func (k Linux) Up(link Link) error {
	l, err := netlink.LinkByIndex(link.Index)
	if err == nil {
		err = netlink.LinkSetUp(l)
	}
	if err != nil {
		return fmt.Errorf("bringing up %s: %w", link.Name, err)
	}
	return nil
}

// VLAN implements Kernel. The name has the parent's index and not its name,
// which may leave no room (IFNAMSIZ).
func (k Linux) VLAN(parent Link, id int) (Link, error) {
	name := fmt.Sprintf("vlan%d.%d", parent.Index, id)
	l, err := netlink.LinkByName(name)
	if err != nil {
		err = netlink.LinkAdd(&netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: name, ParentIndex: parent.Index}, VlanId: id})
		if err == nil {
			l, err = netlink.LinkByName(name)
		}
	}
	if err == nil {
		err = netlink.LinkSetUp(l)
	}
	if err != nil {
		return Link{}, fmt.Errorf("making VLAN %d on %s: %w", id, parent.Name, err)
	}
	return Link{Name: name, Index: l.Attrs().Index, MAC: parent.MAC, Carrier: parent.Carrier}, nil
}

// Configure implements Kernel.
func (k Linux) Configure(link Link, lease *Lease, metric int) error {
	l, err := netlink.LinkByIndex(link.Index)
	if err != nil {
		return fmt.Errorf("finding %s: %w", link.Name, err)
	}
	if lease != nil && lease.MTU > 0 && lease.MTU != l.Attrs().MTU {
		if err := netlink.LinkSetMTU(l, lease.MTU); err != nil {
			return fmt.Errorf("setting MTU %d on %s: %w", lease.MTU, link.Name, err)
		}
	}
	if err := setAddress(l, lease); err != nil {
		return err
	}
	return setRoutes(l, lease, metric)
}

// setAddress replaces the IPv4 (or static IPv6) addresses of the link. The
// route to its network is ours to make, with its metric (IFA_F_NOPREFIXROUTE).
func setAddress(l netlink.Link, lease *Lease) error {
	old, err := netlink.AddrList(l, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("listing addresses of %s: %w", l.Attrs().Name, err)
	}
	for _, a := range old {
		ip, _ := netip.AddrFromSlice(a.IP.To4())
		if lease != nil && ip == lease.Address.Addr() {
			if ones, _ := a.Mask.Size(); ones == lease.Address.Bits() {
				continue
			}
		}
		if err := netlink.AddrDel(l, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("removing address %s from %s: %w", a.IP, l.Attrs().Name, err)
		}
	}
	if lease == nil {
		return nil
	}
	addr := &netlink.Addr{IPNet: ipnet(lease.Address), Flags: unix.IFA_F_NOPREFIXROUTE}
	if err := netlink.AddrReplace(l, addr); err != nil {
		return fmt.Errorf("adding address %s to %s: %w", lease.Address, l.Attrs().Name, err)
	}
	return nil
}

// setRoutes replaces the routes over the link.
func setRoutes(l netlink.Link, lease *Lease, metric int) error {
	old, err := netlink.RouteList(l, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("listing routes of %s: %w", l.Attrs().Name, err)
	}
	for _, r := range old {
		if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("removing route %s: %w", r.Dst, err)
		}
	}
	if lease == nil {
		return nil
	}
	routes := append([]Route{{To: lease.Address.Masked()}}, lease.Routes...)
	for _, r := range routes {
		nr := netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipnet(r.To), Priority: metric, Src: lease.Address.Addr().AsSlice(), Scope: netlink.SCOPE_LINK}
		if r.Via.IsValid() {
			nr.Gw, nr.Scope = r.Via.AsSlice(), netlink.SCOPE_UNIVERSE
			if !lease.Address.Contains(r.Via) { // a /32 lease with its router outside
				nr.Flags = int(netlink.FLAG_ONLINK)
			}
		}
		if err := netlink.RouteReplace(&nr); err != nil {
			return fmt.Errorf("adding route to %s over %s: %w", r.To, l.Attrs().Name, err)
		}
	}
	return nil
}

func ipnet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// LinuxConns is the Conns of the running system.
type LinuxConns struct{}

// Raw implements Conns.
func (LinuxConns) Raw(iface string) (net.PacketConn, error) {
	return nclient4.NewRawUDPConn(iface, dhcpv4.ClientPort)
}

// Bound implements Conns.
func (LinuxConns) Bound(iface string) (net.PacketConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return control(c, func(fd int) error {
			return errors.Join(
				unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
				unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1),
				unix.BindToDevice(fd, iface),
			)
		})
	}}
	return lc.ListenPacket(context.Background(), "udp4", fmt.Sprintf(":%d", dhcpv4.ClientPort))
}

func control(c syscall.RawConn, set func(fd int) error) error {
	var err error
	if cerr := c.Control(func(fd uintptr) { err = set(int(fd)) }); cerr != nil {
		return cerr
	}
	return err
}

// Probe returns a Config.Probe that opens a TCP connection to server
// (HOST:PORT) over the interface and closes it.
func Probe(server string) func(ctx context.Context, iface string) error {
	return func(ctx context.Context, iface string) error {
		d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
			return control(c, func(fd int) error { return unix.BindToDevice(fd, iface) })
		}}
		conn, err := d.DialContext(ctx, "tcp", server)
		if err != nil {
			return err
		}
		return conn.Close()
	}
}

// WriteResolver returns a Config.Resolver that writes file (/etc/resolv.conf).
func WriteResolver(file string) func([]netip.Addr, []string) error {
	return func(nameservers []netip.Addr, search []string) error {
		var b strings.Builder
		for _, n := range nameservers[:min(3, len(nameservers))] { // resolv.conf(5): MAXNS
			fmt.Fprintf(&b, "nameserver %s\n", n)
		}
		if len(search) > 0 {
			fmt.Fprintf(&b, "search %s\n", strings.Join(search, " "))
		}
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return fmt.Errorf("making folder: %w", err)
		}
		temp := file + ".new"
		if err := os.WriteFile(temp, []byte(b.String()), 0o644); err != nil {
			return fmt.Errorf("writing name servers: %w", err)
		}
		if err := os.Rename(temp, file); err != nil {
			return fmt.Errorf("writing name servers: %w", err)
		}
		return nil
	}
}
