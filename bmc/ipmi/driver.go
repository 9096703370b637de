package ipmi

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/bougou/go-ipmi/pkg/client"
	"github.com/bougou/go-ipmi/pkg/types"

	"github.com/bedplate/bedplate/bmc"
)

// Name is the driver's name in errors.
const Name = "ipmi"

// Port is IPMI's port over LAN, RMCP's primary one.
const Port = 623

// The limits of names and passwords (IPMI 2.0 §22.28, §22.30).
const (
	MaxName     = 16
	MaxPassword = 20
)

// One datagram is waited for this long and sent so often again, with the same
// sequence number: a BMC may take 6 s for an answer, and one that is gone costs
// that much. (ipmitool 1.8.19 has 1 s and 4.)
const (
	datagramTimeout = 1500 * time.Millisecond
	datagramRetries = 3
)

// Driver is an IPMI session. It is a bmc.Driver.
type Driver struct {
	bmc.Lacking
	c      *client.Client
	secret []string
	// lost is set once the BMC was told to restart: it forgets the session.
	lost  bool
	close sync.Once
}

var _ bmc.Driver = (*Driver)(nil)

// Dial opens a session as an administrator.
func Dial(ctx context.Context, t bmc.Target) (*Driver, error) {
	host, port, err := address(t)
	if err != nil {
		return nil, err
	}
	if len(t.Username) > MaxName || len(t.Password) > MaxPassword {
		return nil, fmt.Errorf("%s: user name or password is longer than IPMI allows (%d and %d bytes)", Name, MaxName, MaxPassword)
	}
	c, err := client.NewClient(host, int(port), t.Username, t.Password)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", Name, err)
	}
	c.WithTimeout(datagramTimeout).WithRetry(datagramRetries).WithCipherSuiteID(cipherSuites(t)...)
	d := &Driver{Lacking: bmc.Lacking{Driver: Name}, c: c, secret: []string{t.Password}}
	if err := d.do(ctx, "logging in", c.Connect); err != nil {
		d.abandon()
		return nil, err
	}
	return d, nil
}

// address returns where IPMI is: the port that the address names if IPMI is what
// the target is for.
func address(t bmc.Target) (host string, port uint16, err error) {
	def := t.IPMIPort
	if def == 0 {
		def = Port
	}
	host, port, err = t.HostPort(def)
	if err != nil {
		return "", 0, err
	}
	if t.Protocol != bmc.ProtocolIPMI {
		port = def // the address' port is Redfish's
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]" // the library puts ":port" behind as it is
	}
	return host, port, nil
}

func cipherSuites(t bmc.Target) []types.CipherSuiteID {
	if t.CipherSuite != 0 {
		return []types.CipherSuiteID{types.CipherSuiteID(t.CipherSuite)}
	}
	return []types.CipherSuiteID{types.CipherSuiteID17, types.CipherSuiteID3}
}

// do makes one or more requests and says what went wrong in the words of
// package bmc. A panic of the library's parsers is an error of the BMC.
func (d *Driver) do(ctx context.Context, what string, fn func(context.Context) error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%s: %s: BMC sent what can't be parsed: %v", Name, what, r)
		}
	}()
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	start := deadline(ctx)
	if err := fn(ctx); err != nil {
		return fmt.Errorf("%s: %s: %w", Name, what, d.fault(ctx, start, err))
	}
	return nil
}

// Close ends the session, unless it went with the BMC's reset.
func (d *Driver) Close(ctx context.Context) (err error) {
	if d.lost {
		d.abandon()
	}
	d.close.Do(func() { err = d.do(ctx, "logging out", d.c.Close) })
	return err
}

// abandon frees what the client holds without a word to the BMC.
func (d *Driver) abandon() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	d.close.Do(func() { _ = d.c.Close(ctx) })
}

// get makes one request that has an answer.
func get[T any](ctx context.Context, d *Driver, what string, fn func(context.Context) (T, error)) (answer T, err error) {
	err = d.do(ctx, what, func(ctx context.Context) error {
		answer, err = fn(ctx)
		return err
	})
	return answer, err
}

// isTimeout reports whether nothing was heard.
func isTimeout(err error) bool {
	ne, ok := asType[net.Error](err)
	return ok && ne.Timeout()
}
