package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Conns opens the sockets that DHCP needs on one interface, port 68.
type Conns interface {
	// Raw sends from no address to all and hears replies to an address that
	// the machine doesn't have yet. It is closed as soon as there is a lease.
	Raw(iface string) (net.PacketConn, error)
	// Bound sends from the address the interface has.
	Bound(iface string) (net.PacketConn, error)
}

const (
	carrierPoll = 100 * time.Millisecond
	// firstWait is short because a first packet is often lost in a port that
	// has only just come up; RFC 2131 §4.1 says 4 s, for networks of its time.
	firstWait = time.Second
	maxWait   = 16 * time.Second
	// requestTries is how often a REQUEST is sent for one offer.
	requestTries = 3
	// complainAfter is when the console hears that nobody answers, and how
	// often it hears it again.
	complainAfter = 10 * time.Second
	maxMessage    = 4096
)

// client is the DHCP client of one link. Its run is one goroutine.
type client struct {
	link    Link
	cfg     Config
	carrier func() bool
	changed func(*Lease)
}

// run gets a lease, keeps it, and starts again when it is lost, until ctx is done.
func (c *client) run(ctx context.Context) {
	for ctx.Err() == nil {
		if !c.awaitCarrier(ctx) {
			return
		}
		lease, err := c.acquire(ctx)
		if err != nil {
			if ctx.Err() == nil {
				c.cfg.Say("%s (%s): %v", c.link.Name, c.link.MAC, err)
				sleep(ctx, c.jitter(firstWait))
			}
			continue
		}
		c.cfg.Say("%s (%s): address %s from DHCP server %s", c.link.Name, c.link.MAC, lease.Address, lease.Server)
		c.changed(lease)
		c.hold(ctx, lease)
		if ctx.Err() == nil { // an agent that ends leaves the machine its address
			c.changed(nil)
		}
	}
}

func (c *client) awaitCarrier(ctx context.Context) bool {
	for since, next := c.cfg.Now(), complainAfter; !c.carrier(); {
		if d := c.cfg.Now().Sub(since); d >= next {
			next = 4 * d
			c.cfg.Say("%s (%s): no carrier for %s: is a cable in, and is the switch port on?", c.link.Name, c.link.MAC, d.Round(time.Second))
		}
		if !sleep(ctx, carrierPoll) {
			return false
		}
	}
	return ctx.Err() == nil
}

// jitter moves d by up to a tenth either way, so that a rack that was switched
// on at once doesn't ask in step.
func (c *client) jitter(d time.Duration) time.Duration {
	return d*9/10 + d/5*time.Duration(c.cfg.Rand()%1024)/1024
}

func (c *client) xid() dhcpv4.TransactionID {
	r := c.cfg.Rand()
	return dhcpv4.TransactionID{byte(r >> 24), byte(r >> 16), byte(r >> 8), byte(r)}
}

var (
	errNak     = errors.New("the DHCP server refused the address (NAK)")
	errCarrier = errors.New("carrier lost")
)

// acquire is INIT to BOUND of RFC 2131 §4.4. It asks until it has a lease, the
// carrier is lost or ctx is done.
func (c *client) acquire(ctx context.Context) (*Lease, error) {
	conn, err := c.cfg.Conns.Raw(c.link.Name)
	if err != nil {
		return nil, fmt.Errorf("opening DHCP socket: %w", err)
	}
	defer conn.Close()
	stop := interrupt(ctx, conn)
	defer stop()
	begun := c.cfg.Now()
	complain := complainAfter
	for sent, wait := 1, firstWait; ; sent, wait = sent+1, min(2*wait, maxWait) {
		if !c.carrier() {
			return nil, errCarrier
		}
		xid, elapsed := c.xid(), c.cfg.Now().Sub(begun)
		msg, err := newRequest(dhcpv4.MessageTypeDiscover, c.link.MAC, xid, elapsed)
		if err != nil {
			return nil, fmt.Errorf("making DISCOVER: %w", err)
		}
		offer, err := c.exchange(ctx, conn, toAll, msg, c.jitter(wait), isOffer)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err == nil {
			lease, err := c.request(ctx, conn, offer, begun)
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				return lease, err
			}
			c.cfg.Say("%s: offered %s by DHCP server %s, which then did not answer", c.link.Name, offer.YourIPAddr, offer.ServerIdentifier())
		} else if !errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, err
		}
		if d := c.cfg.Now().Sub(begun); d >= complain {
			complain = 2 * d
			c.cfg.Say("%s (%s): no DHCP offer for %s, %d requests sent: is a DHCP server or relay on this network, and does it know this address?%s", c.link.Name, c.link.MAC, d.Round(time.Second), sent, c.cfg.Advice)
		}
	}
}

// request is SELECTING to BOUND.
func (c *client) request(ctx context.Context, conn net.PacketConn, offer *dhcpv4.DHCPv4, begun time.Time) (*Lease, error) {
	wait := firstWait
	for try := 1; ; try, wait = try+1, wait*2 {
		// §4.4.1: the xid and secs of the DISCOVER that the offer answers.
		msg, err := newRequest(dhcpv4.MessageTypeRequest, c.link.MAC, offer.TransactionID, c.cfg.Now().Sub(begun))
		if err != nil {
			return nil, fmt.Errorf("making REQUEST: %w", err)
		}
		msg.UpdateOption(dhcpv4.OptRequestedIPAddress(offer.YourIPAddr))
		msg.UpdateOption(dhcpv4.OptServerIdentifier(offer.ServerIdentifier()))
		lease, err := c.answer(ctx, conn, toAll, msg, c.jitter(wait))
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) || try == requestTries {
			return lease, err
		}
	}
}

// answer sends a REQUEST and reads the ACK or NAK.
func (c *client) answer(ctx context.Context, conn net.PacketConn, to *net.UDPAddr, msg *dhcpv4.DHCPv4, wait time.Duration) (*Lease, error) {
	asked := c.cfg.Now() // §4.4.1: the lease counts from when it was asked for
	reply, err := c.exchange(ctx, conn, to, msg, wait, isAnswer)
	if err != nil {
		return nil, err
	}
	if reply.MessageType() == dhcpv4.MessageTypeNak {
		return nil, fmt.Errorf("%w: %s", errNak, reply.Message())
	}
	return parseLease(reply, asked)
}

// hold keeps a lease: RENEWING at T1 with its server, REBINDING at T2 with
// any, until it expires or is refused. A carrier that comes back is a reason
// to ask at once: the cable may be in another network now.
func (c *client) hold(ctx context.Context, lease *Lease) {
	next, carrier := lease.Renew, true
	for {
		now := c.cfg.Now()
		if !now.Before(lease.Expire) {
			c.cfg.Say("%s: the lease of %s has run out", c.link.Name, lease.Address)
			return
		}
		if now.Before(next) {
			if !sleep(ctx, min(next.Sub(now), time.Second)) {
				return
			}
			back := c.carrier()
			if back && !carrier {
				c.cfg.Log.Info("carrier is back", "iface", c.link.Name)
				next = c.cfg.Now()
			}
			carrier = back
			continue
		}
		fresh, err := c.renew(ctx, lease)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errNak):
			c.cfg.Say("%s: %v", c.link.Name, err)
			return
		case err != nil:
			c.cfg.Log.Warn("lease not renewed yet", "iface", c.link.Name, "err", err)
			next = retryTime(lease, c.cfg.Now())
		default:
			if !sameConfiguration(lease, fresh) {
				c.changed(fresh)
			}
			lease, next = fresh, fresh.Renew
		}
	}
}

// retryTime is §4.4.5: half of what remains to T2 or to the end, at least a
// minute, but more often in leases shorter than that.
func retryTime(l *Lease, now time.Time) time.Time {
	end := l.Rebind
	if !now.Before(l.Rebind) {
		end = l.Expire
	}
	left := end.Sub(now)
	wait := left / 2
	if left > 2*time.Minute {
		wait = max(wait, time.Minute)
	}
	return now.Add(max(wait, time.Second))
}

func sameConfiguration(a, b *Lease) bool {
	return a.Address == b.Address && a.MTU == b.MTU && equal(a.Routes, b.Routes) && equal(a.Nameservers, b.Nameservers) && equal(a.Search, b.Search)
}

func equal[T comparable](a, b []T) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func (c *client) renew(ctx context.Context, lease *Lease) (*Lease, error) {
	conn, err := c.cfg.Conns.Bound(c.link.Name)
	if err != nil {
		return nil, fmt.Errorf("opening DHCP socket: %w", err)
	}
	defer conn.Close()
	stop := interrupt(ctx, conn)
	defer stop()
	msg, err := newRequest(dhcpv4.MessageTypeRequest, c.link.MAC, c.xid(), 0)
	if err != nil {
		return nil, fmt.Errorf("making REQUEST: %w", err)
	}
	msg.ClientIPAddr = lease.Address.Addr().AsSlice()
	to := toAll
	if c.cfg.Now().Before(lease.Rebind) && lease.Server.IsValid() {
		to = net.UDPAddrFromAddrPort(netip.AddrPortFrom(lease.Server, dhcpv4.ServerPort))
	}
	return c.answer(ctx, conn, to, msg, 2*firstWait)
}

var toAll = &net.UDPAddr{IP: net.IPv4bcast, Port: dhcpv4.ServerPort}

func isOffer(m *dhcpv4.DHCPv4) bool {
	return m.MessageType() == dhcpv4.MessageTypeOffer && m.ServerIdentifier() != nil && !m.YourIPAddr.IsUnspecified()
}

func isAnswer(m *dhcpv4.DHCPv4) bool {
	return m.MessageType() == dhcpv4.MessageTypeAck || m.MessageType() == dhcpv4.MessageTypeNak
}

// exchange sends msg and waits for a reply to it that good accepts. When none
// comes the error is os.ErrDeadlineExceeded.
func (c *client) exchange(ctx context.Context, conn net.PacketConn, to net.Addr, msg *dhcpv4.DHCPv4, wait time.Duration, good func(*dhcpv4.DHCPv4) bool) (*dhcpv4.DHCPv4, error) {
	until := c.cfg.Now().Add(wait)
	if err := conn.SetReadDeadline(until); err != nil {
		return nil, fmt.Errorf("setting deadline: %w", err)
	}
	if ctx.Err() != nil { // the deadline above may have undone interrupt's
		return nil, ctx.Err()
	}
	if _, err := conn.WriteTo(msg.ToBytes(), to); err != nil {
		return nil, fmt.Errorf("sending %s: %w", msg.MessageType(), err)
	}
	buf := make([]byte, maxMessage)
	for {
		n, _, err := conn.ReadFrom(buf)
		if err != nil {
			return nil, err
		}
		reply, err := dhcpv4.FromBytes(buf[:n])
		if err != nil || reply.OpCode != dhcpv4.OpcodeBootReply || reply.TransactionID != msg.TransactionID || reply.ClientHWAddr.String() != msg.ClientHWAddr.String() || !good(reply) {
			if err != nil {
				c.cfg.Log.Debug("DHCP packet dropped", "iface", c.link.Name, "err", err)
			}
			continue
		}
		return reply, nil
	}
}

// interrupt ends a read on conn when ctx is done; call what it returns before
// closing conn.
func interrupt(ctx context.Context, conn net.PacketConn) (stop func() bool) {
	return context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
}
