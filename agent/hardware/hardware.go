// Package hardware holds the actions test.cpu, test.memory, test.disk and
// test.network, which find out whether a machine's parts do what they should
// and how fast.
//
// Processors and memory are tested by a process of their own (Worker): a part
// that is broken can kill the process that uses it, and must not kill the agent.
// That process has the lowest priority and is the first that the kernel ends
// when memory runs out. Every test is bounded in time and memory and stops soon
// after its context is done.
//
// What comes out is measured, not judged: rows of test, subject, measure, value
// and unit, with names and units that stay the same, so that runs of different
// machines and days can be compared. A row is not ok only if something is
// certainly broken: a wrong result, a bit that was not kept, a sector that can't
// be read. Nothing that a disk holds is ever changed.
//
// A Service may be used by several goroutines at once.
package hardware

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"time"

	"github.com/bedplate/bedplate/agent/inventory"
	"github.com/bedplate/bedplate/agent/step"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// Devices is what a disk itself is asked.
type Devices interface {
	// Health returns what a disk says of itself; bus is that of its inventory.
	Health(ctx context.Context, disk, bus string) (*pb.SMART, error)
	// StartSelfTest has a disk begin its short self-test;
	// inventory.ErrNoSelfTest if it has none.
	StartSelfTest(ctx context.Context, disk, bus string) error
	// SelfTest returns how far it is.
	SelfTest(ctx context.Context, disk, bus string) (inventory.SelfTest, error)
	// StopSelfTest ends it early.
	StopSelfTest(ctx context.Context, disk, bus string) error
}

// Identity is who this machine is to others: its certificate of this boot, and
// the digest of the CA that signs everyone's.
type Identity struct {
	Machine     string
	Certificate *tls.Certificate
	CA          string
}

// Config is what a Service needs.
type Config struct {
	// Disks returns the machine's disks, as the inventory has them.
	Disks func(context.Context) ([]*pb.Disk, error)
	// Devices asks disks for their health. Nil: none has any.
	Devices Devices
	// Identity is who this machine is; false before it has enrolled. Nil: it
	// never is, and other machines can't be measured against.
	Identity func() (Identity, bool)
	// Program is what is started as a Worker; empty: /proc/self/exe.
	Program string
	// Root is what /sys, /proc and /dev/kmsg are below; empty: /.
	Root string
	// Random makes seeds and keys.
	Random io.Reader
	Now    func() time.Time
	Log    *slog.Logger
}

// Service carries out the actions.
type Service struct{ Config }

// New checks the configuration.
func New(c Config) (*Service, error) {
	if c.Disks == nil || c.Random == nil || c.Now == nil {
		return nil, errors.New("hardware: Disks, Random and Now are needed")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Program == "" {
		c.Program = "/proc/self/exe"
	}
	if c.Root == "" {
		c.Root = "/"
	}
	return &Service{c}, nil
}

// Steps returns the actions by name.
func (s *Service) Steps() step.Set {
	return step.Set{
		"test.cpu":     step.Func(s.cpu),
		"test.memory":  step.Func(s.memory),
		"test.disk":    step.Func(s.disk),
		"test.network": step.Func(s.network),
	}
}
