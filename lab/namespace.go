package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Namespace is a network namespace. It has a thread of its own that never
// leaves it; programs started from there die with it.
type Namespace struct {
	file   *os.File
	links  *netlink.Handle
	work   chan func()
	quit   chan struct{} // closed to end the thread
	done   chan struct{} // closed when it has ended
	finish sync.Once

	mu    sync.Mutex
	veths int
}

var errClosed = errors.New("the namespace is gone")

// newNamespace makes a namespace with its loopback up.
func newNamespace() (*Namespace, error) {
	n := &Namespace{work: make(chan func()), quit: make(chan struct{}), done: make(chan struct{})}
	made := make(chan error)
	go n.keep(made) // ends in close, which waits for it
	if err := <-made; err != nil {
		return nil, err
	}
	return n, nil
}

// keep is the namespace's thread. It is never unlocked, so Go ends the thread
// with the goroutine, and no other goroutine ever runs in the namespace by accident.
func (n *Namespace) keep(made chan<- error) {
	defer close(n.done)
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		made <- hintPrivileges(fmt.Errorf("making a network namespace: %w", err))
		return
	}
	if err := n.open(); err != nil {
		made <- err
		return
	}
	close(made)
	for {
		select {
		case f := <-n.work:
			f()
		case <-n.quit:
			return
		}
	}
}

func (n *Namespace) open() error {
	var err error
	if n.file, err = os.Open("/proc/thread-self/ns/net"); err != nil {
		return fmt.Errorf("opening the network namespace: %w", err)
	}
	if n.links, err = netlink.NewHandle(); err != nil {
		return fmt.Errorf("opening netlink: %w", err)
	}
	lo, err := n.links.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("finding loopback: %w", err)
	}
	return n.links.LinkSetUp(lo)
}

// on runs f on the namespace's thread.
func (n *Namespace) on(f func() error) error {
	result := make(chan error, 1)
	select {
	case n.work <- func() { result <- f() }:
		return <-result
	case <-n.done:
		return errClosed
	}
}

// close gives the namespace up. Programs started in it are killed by the kernel.
func (n *Namespace) close() error {
	n.finish.Do(func() {
		close(n.quit)
		<-n.done
		n.links.Close()
	})
	return n.file.Close()
}

// Path is a file for setns(2) and nsenter --net, valid while this process lives.
func (n *Namespace) Path() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd())
}

// Start starts a program inside. It is killed when the lab goes down or this
// process ends; the caller waits for it with cmd.Wait.
func (n *Namespace) Start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	return n.on(cmd.Start)
}

// Run runs a program inside to its end.
func (n *Namespace) Run(cmd *exec.Cmd) error {
	if err := n.Start(cmd); err != nil {
		return err
	}
	return cmd.Wait()
}

// Dial connects from inside, to an SSH server in a machine for one. The
// address must be numeric. It is fit for net.Dialer-like fields.
func (n *Namespace) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	var conn net.Conn
	err := n.Do(func() error {
		var err error
		var d net.Dialer
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Do runs f on a fresh thread inside the namespace. Sockets that it makes stay
// there; goroutines that it starts do not.
func (n *Namespace) Do(f func() error) error {
	result := make(chan error, 1)
	go func() { // ends with f; the thread is not unlocked and ends too
		runtime.LockOSThread()
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("entering the network namespace: %w", err)
			return
		}
		result <- f()
	}()
	return <-result
}

// EnterPath moves the calling thread, which must be locked, into the namespace
// behind a path from Namespace.Path.
func EnterPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("opening the lab's namespace (is it up?): %w", err)
	}
	defer f.Close() //nolint:errcheck // read only
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		return hintPrivileges(fmt.Errorf("entering the lab's namespace: %w", err))
	}
	return nil
}

// addBridge makes a bridge that forwards at once: no spanning tree, no
// snooping that would keep solicitations from the advertiser.
func (n *Namespace) addBridge(name string, address netip.Prefix) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	b := address.Addr().As4()
	// Fixed, or it would be the lowest of its ports' and change with them.
	attrs.HardwareAddr = net.HardwareAddr{0x52, 0x54, b[0], b[1], b[2], b[3]}
	snooping := false
	bridge := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}
	if err := n.links.LinkAdd(bridge); err != nil {
		return fmt.Errorf("making bridge %s: %w", name, err)
	}
	return n.configure(bridge, address)
}

// configure gives a link its address and brings it up.
func (n *Namespace) configure(link netlink.Link, address netip.Prefix) error {
	name := link.Attrs().Name
	if err := n.links.AddrAdd(link, &netlink.Addr{IPNet: ipNet(address)}); err != nil {
		return fmt.Errorf("giving %s the address %s: %w", name, address, err)
	}
	if err := n.links.LinkSetUp(link); err != nil {
		return fmt.Errorf("bringing %s up: %w", name, err)
	}
	return nil
}

// addAddress gives an interface one more address, for a host that is made of
// software only.
func (n *Namespace) addAddress(name, address string) error {
	link, err := n.links.LinkByName(name)
	if err != nil {
		return fmt.Errorf("finding %s: %w", name, err)
	}
	addr, err := netip.ParseAddr(address)
	if err != nil {
		return fmt.Errorf("giving %s one more address: %w", name, err)
	}
	if err := n.links.AddrAdd(link, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(addr, addr.BitLen()))}); err != nil {
		return fmt.Errorf("giving %s the address %s: %w", name, address, err)
	}
	return nil
}

// addTap makes a tap interface for a machine on a bridge.
func (n *Namespace) addTap(name, bridge string) error {
	master, err := n.links.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("finding bridge %s: %w", bridge, err)
	}
	return n.on(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		tap := &netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP}
		// Not through the handle: /dev/net/tun acts on the thread's namespace.
		if err := netlink.LinkAdd(tap); err != nil {
			return hintTun(fmt.Errorf("making tap interface %s: %w", name, err))
		}
		link, err := n.links.LinkByName(name)
		if err != nil {
			return fmt.Errorf("finding %s: %w", name, err)
		}
		if err := n.links.LinkSetMaster(link, master); err != nil {
			return fmt.Errorf("adding %s to %s: %w", name, bridge, err)
		}
		return n.links.LinkSetUp(link)
	})
}

// connect lays a cable from a bridge in parent to an interface in n.
func connect(parent *Namespace, bridge string, n *Namespace, ifname string, address netip.Prefix) error {
	master, err := parent.links.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("finding bridge %s: %w", bridge, err)
	}
	parent.mu.Lock()
	parent.veths++
	far := fmt.Sprintf("veth%d", parent.veths)
	parent.mu.Unlock()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = ifname
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: far, PeerNamespace: netlink.NsFd(parent.file.Fd())}
	if err := n.links.LinkAdd(veth); err != nil {
		return fmt.Errorf("making %s: %w", ifname, err)
	}
	peer, err := parent.links.LinkByName(far)
	if err != nil {
		return fmt.Errorf("finding %s: %w", far, err)
	}
	if err := errors.Join(parent.links.LinkSetMaster(peer, master), parent.links.LinkSetUp(peer)); err != nil {
		return fmt.Errorf("adding %s to %s: %w", far, bridge, err)
	}
	link, err := n.links.LinkByName(ifname)
	if err != nil {
		return fmt.Errorf("finding %s: %w", ifname, err)
	}
	return n.configure(link, address)
}

// forward makes n a router whose default route is by gateway.
func (n *Namespace) forward(gateway netip.Addr) error {
	if err := n.sysctl("net/ipv4/ip_forward", "1"); err != nil {
		return err
	}
	return n.addRoute(netip.PrefixFrom(netip.IPv4Unspecified(), 0), gateway)
}

func (n *Namespace) addRoute(to netip.Prefix, by netip.Addr) error {
	route := &netlink.Route{Dst: ipNet(to), Gw: net.IP(by.AsSlice())}
	if err := n.links.RouteAdd(route); err != nil {
		return fmt.Errorf("adding a route to %s by %s: %w", to, by, err)
	}
	return nil
}

// sysctl writes a setting of the namespace's.
func (n *Namespace) sysctl(name, value string) error {
	return n.on(func() error {
		if err := os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0); err != nil {
			return fmt.Errorf("setting %s: %w", name, err)
		}
		return nil
	})
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: net.IP(p.Addr().AsSlice()), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// Privileges returns nil if this process may build labs as it is.
func Privileges() error {
	n, err := newNamespace()
	if err != nil {
		return err
	}
	defer n.close() //nolint:errcheck // a trial
	if err := n.addBridge("br0", netip.MustParsePrefix("10.77.0.1/24")); err != nil {
		return hintPrivileges(err)
	}
	return n.addTap("tap0", "br0")
}

// Unprivileged returns how to start this program again as root of a user
// namespace, in which labs can be built without being root, or an error that
// says what the machine lacks for it.
func Unprivileged() (*syscall.SysProcAttr, error) {
	tun, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return nil, hintTun(fmt.Errorf("opening /dev/net/tun: %w", err))
	}
	_ = tun.Close()
	uid, gid := os.Geteuid(), os.Getegid()
	attr := func() *syscall.SysProcAttr {
		return &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: gid, Size: 1}},
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	trial := exec.CommandContext(ctx, "/bin/true")
	trial.SysProcAttr = attr()
	trial.SysProcAttr.Cloneflags |= syscall.CLONE_NEWNET
	if err := trial.Run(); err != nil {
		return nil, fmt.Errorf("this machine does not let ordinary users make user namespaces (%w): run the command as root, "+
			"or as root set sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces=1000 and, on Ubuntu, kernel.apparmor_restrict_unprivileged_userns=0", err)
	}
	return attr(), nil
}

func hintPrivileges(err error) error {
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w: run it as root, or through `bedplate lab up`, which makes itself a user namespace", err)
	}
	return err
}

func hintTun(err error) error {
	switch {
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w: run it as root, or as root do `chmod 0666 /dev/net/tun`", err)
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%w: the kernel has no tun driver; as root do `modprobe tun`", err)
	}
	return err
}
