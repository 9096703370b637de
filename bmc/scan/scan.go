// Package scan looks for BMCs in address ranges, without logging in: it asks
// for the Redfish service root, which DSP0266 §9.2 lets anybody read, and sends
// an ASF presence ping (ASF 2.0 §3.2.4.2) and Get Channel Authentication
// Capabilities (IPMI 2.0 §22.13) to the IPMI port. No credentials go to anybody.
//
// What this package does not do: it makes no machines of what it finds. All
// functions may be called by any number of goroutines.
package scan

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// MaxAddresses bounds one scan.
	MaxAddresses = 1 << 16
	// DefaultRate is how many addresses are asked a second.
	DefaultRate = 200
	maxRate     = 2000
	// concurrency bounds the addresses that are asked at once.
	concurrency = 256
)

// Found is a BMC.
type Found struct {
	// Address is as it goes into spec.bmc.address: with a port where it was given.
	Address string
	Redfish bool
	IPMI    bool
	// What the Redfish service root says.
	Vendor, Product, UUID string
	// Pin is the pin of its certificate.
	Pin string
}

// Protocols names what it speaks, for people.
func (f Found) Protocols() string {
	var p []string
	if f.Redfish {
		p = append(p, "redfish")
	}
	if f.IPMI {
		p = append(p, "ipmi")
	}
	return strings.Join(p, ",")
}

// Target is one address to be asked.
type Target struct {
	Addr netip.Addr
	// Port of Redfish; 0: 443.
	Port uint16
}

func (t Target) String() string {
	if t.Port == 0 {
		return t.Addr.String()
	}
	return netip.AddrPortFrom(t.Addr, t.Port).String()
}

// Parse reads ranges such as 10.20.0.0/24, 10.20.0.10-10.20.0.20, single
// addresses, and addresses with a port. The first and last address of an IPv4
// network are left out.
func Parse(ranges []string) ([]Target, error) {
	var out []Target
	seen := map[Target]bool{}
	for _, text := range ranges {
		targets, err := parseRange(strings.TrimSpace(text), MaxAddresses-len(out))
		if err != nil {
			return nil, err
		}
		for _, t := range targets {
			if !seen[t] {
				seen[t] = true
				out = append(out, t)
			}
		}
	}
	if len(out) == 0 {
		return nil, errors.New("no addresses to scan: give ranges such as 10.20.0.0/24")
	}
	return out, nil
}

func parseRange(text string, room int) ([]Target, error) {
	if p, err := netip.ParsePrefix(text); err == nil {
		return inPrefix(p.Masked(), room)
	}
	if ap, err := netip.ParseAddrPort(text); err == nil && ap.Port() != 0 {
		return []Target{{ap.Addr().Unmap(), ap.Port()}}, nil
	}
	if a, err := netip.ParseAddr(text); err == nil {
		return []Target{{Addr: a.Unmap()}}, nil
	}
	if from, to, ok := strings.Cut(text, "-"); ok {
		a, errA := netip.ParseAddr(strings.TrimSpace(from))
		b, errB := netip.ParseAddr(strings.TrimSpace(to))
		if errA == nil && errB == nil && a.BitLen() == b.BitLen() && !b.Less(a) {
			return between(a, b, text, room)
		}
	}
	return nil, fmt.Errorf("%q: not an address range such as 10.20.0.0/24 or 10.20.0.10-10.20.0.20", text)
}

func inPrefix(p netip.Prefix, room int) ([]Target, error) {
	if p.Addr().BitLen()-p.Bits() > 16 {
		return nil, tooMany(p.String())
	}
	first := p.Addr()
	last := first
	for p.Contains(last.Next()) {
		last = last.Next()
	}
	if first.Is4() && p.Bits() < 31 {
		first, last = first.Next(), last.Prev()
	}
	return between(first, last, p.String(), room)
}

func between(a, b netip.Addr, text string, room int) ([]Target, error) {
	var out []Target
	for ; a.IsValid() && !b.Less(a); a = a.Next() {
		if len(out) >= room {
			return nil, tooMany(text)
		}
		out = append(out, Target{Addr: a})
	}
	return out, nil
}

func tooMany(text string) error {
	return fmt.Errorf("range %s: a scan has at most %d addresses: scan in parts", text, MaxAddresses)
}

// Options are how a scan goes about it.
type Options struct {
	// Rate is how many addresses are asked a second. 0: DefaultRate.
	Rate int
	// IPMIPort is 623 when 0; other values are for tests.
	IPMIPort uint16
	Now      func() time.Time
}

// Run asks every target, and calls found with each BMC and done after each
// address, from one goroutine. An error of theirs ends the scan and is returned.
func Run(ctx context.Context, targets []Target, opts Options, found func(Found) error, done func() error) error {
	if opts.Rate <= 0 {
		opts.Rate = DefaultRate
	}
	if opts.IPMIPort == 0 {
		opts.IPMIPort = ipmiPort
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		found Found
		ok    bool
	}
	answers := make(chan answer)
	var g sync.WaitGroup
	defer g.Wait()
	defer cancel()
	g.Go(func() {
		limit := rate.NewLimiter(rate.Limit(min(opts.Rate, maxRate)), 1)
		free := make(chan struct{}, concurrency)
		for _, t := range targets {
			if limit.Wait(ctx) != nil {
				return
			}
			select {
			case free <- struct{}{}:
			case <-ctx.Done():
				return
			}
			g.Go(func() {
				defer func() { <-free }()
				f, ok := probe(ctx, t, opts)
				select {
				case answers <- answer{f, ok}:
				case <-ctx.Done():
				}
			})
		}
	})
	for range targets {
		select {
		case a := <-answers:
			if a.ok {
				if err := found(a.found); err != nil {
					return err
				}
			}
			if err := done(); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// probe asks one address by both protocols side by side.
func probe(ctx context.Context, t Target, opts Options) (Found, bool) {
	f := Found{Address: t.String()}
	var g sync.WaitGroup
	var root serviceRoot
	g.Go(func() { root, f.Redfish = askRedfish(ctx, t) })
	var ipmi bool
	g.Go(func() { ipmi = askIPMI(ctx, netip.AddrPortFrom(t.Addr, opts.IPMIPort), opts.Now) })
	g.Wait()
	f.IPMI = ipmi
	f.Vendor, f.Product, f.UUID, f.Pin = root.Vendor, root.Product, root.UUID, root.pin
	return f, f.Redfish || f.IPMI
}

// dialer refuses to wait long: a host that is there answers soon.
var dialer = net.Dialer{Timeout: dialTimeout}
