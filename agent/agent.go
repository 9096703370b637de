// Package agent is what runs on a machine during a workflow: it enrols with
// the server, keeps one stream to it, carries out the plan that it is given,
// and reports every change, log line and progress.
//
// Delivery: events carry sequence numbers and are kept until the server has
// acknowledged them; after a reconnect they are sent again, in order. State
// changes are never lost; log lines are, the oldest first and with a line that
// says so, when the server is away and 8 MiB of them wait.
//
// Trust: the server's certificate must be signed by the CA whose digest came
// with the boot script. At the first contact the certificate's dates are not
// checked, for the machine's clock may be years off; the answer, from a peer
// that has proved to hold a key of that CA, sets the clock, and from then on
// dates count. What that leaves open: a server key that leaked and whose
// certificate has run out could still enrol a machine at its first contact.
//
// Fencing: when the server says that a newer boot of this machine has taken
// over, everything stops and Run returns ErrFenced.
//
// The package doesn't know what the actions do (package step), nor that it is
// process 1 (package system). An Agent's Run owns every goroutine it starts.
package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bedplate/bedplate/agent/step"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// Config is what an Agent is made of. Every field without "may be nil" must be set.
type Config struct {
	// Dial opens a connection to the server's agent port, with the agent's
	// certificate or, to enrol, with nil. See Dialer.
	Dial func(certificate *tls.Certificate) (*grpc.ClientConn, error)
	// Token is the one-time token of this boot.
	Token string
	// BootID is random, 16 bytes in hexadecimal.
	BootID  string
	Version string
	// MACs, UUID and Serial are the machine as it sees itself.
	MACs         func() []string
	UUID, Serial string

	// Executors are the actions. The inventory action is added by New.
	Executors step.Set
	// HTTP is for the executors; may be nil.
	HTTP *http.Client

	// Collect reads the hardware. Neighbours adds what takes longer (LLDP) to
	// an inventory and reports whether there was anything; it may be nil.
	Collect    func(context.Context) *pb.Inventory
	Neighbours func(context.Context, *pb.Inventory) (bool, error)
	// Ready is closed when the network is there; enrolment waits for it, but
	// not for ever. May be nil.
	Ready <-chan struct{}
	// Address is the machine's address as people would look for it.
	Address func() string
	Uptime  func() time.Duration
	// Enrolled is told who this machine is and the certificate that says so, at
	// each enrolment; may be nil.
	Enrolled func(machine string, certificate *tls.Certificate)
	// SetClock is called when the server's clock is more than 2 s off; may be nil.
	SetClock func(time.Time) error

	Now func() time.Time
	// Rand is for keys; crypto/rand.Reader outside tests.
	Rand io.Reader
	// Jitter returns numbers in [0, 1).
	Jitter func() float64
	// Say tells people at the console, one line.
	Say func(format string, args ...any)
	Log *slog.Logger
}

// Reasons for which Run ends by itself. In each case only another boot helps,
// with the fresh script that it brings.
var (
	// ErrFenced: a newer boot of the same machine has enrolled.
	ErrFenced = errors.New("another boot of this machine has taken over")
	// ErrToken: the server refuses the token of this boot; most often it has
	// run out while the server was away.
	ErrToken = errors.New("the server refuses this boot's token")
	// ErrIdentity: the certificate has run out and can't be had again.
	ErrIdentity = errors.New("this boot's certificate has run out")
	// ErrServer: what answers is not the server that the machine booted from,
	// and has not been for minutes.
	ErrServer = errors.New("the server that answers is not the one that this machine was booted by")
)

// Agent is one boot's agent. Make it with New.
type Agent struct {
	cfg    Config
	outbox *outbox
	runner *runner
	facts  *facts
}

// New returns an Agent; nothing happens before Run.
func New(cfg Config) (*Agent, error) {
	switch {
	case cfg.Dial == nil, cfg.Executors == nil, cfg.Collect == nil, cfg.Now == nil, cfg.Rand == nil, cfg.Jitter == nil,
		cfg.Say == nil, cfg.Log == nil, cfg.Address == nil, cfg.Uptime == nil, cfg.MACs == nil:
		return nil, errors.New("making the agent: a field of its configuration is missing")
	case cfg.Token == "" || cfg.BootID == "":
		return nil, errors.New("making the agent: no token or no boot id")
	}
	if cfg.HTTP == nil {
		cfg.HTTP = &http.Client{}
	}
	a := &Agent{outbox: newOutbox(cfg.Now), facts: newFacts()}
	cfg.Executors = maps.Clone(cfg.Executors)
	if cfg.Executors["inventory"] == nil {
		cfg.Executors["inventory"] = step.Func(a.inventory)
	}
	a.cfg = cfg
	a.runner = newRunner(cfg, a.outbox)
	return a, nil
}

// Run enrols, connects and serves until ctx is done, or until one of the
// errors above. It returns when everything that it started has stopped.
func (a *Agent) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { a.inspect(ctx) })
	a.awaitNetwork(ctx)
	id, err := a.enrol(ctx)
	if err != nil {
		return err
	}
	wg.Go(func() { a.runner.run(ctx) })
	return a.serve(ctx, id)
}

// readyLimit is how long the network is waited for before the server is
// tried all the same: a machine with only IPv6 has an address without a lease.
const readyLimit = 20 * time.Second

func (a *Agent) awaitNetwork(ctx context.Context) {
	if a.cfg.Ready == nil {
		return
	}
	timer := time.NewTimer(readyLimit)
	defer timer.Stop()
	select {
	case <-a.cfg.Ready:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// facts is the newest inventory and who waits for it.
type facts struct {
	mu      sync.Mutex
	now     *pb.Inventory
	changed chan struct{} // has one element while there is news to send
	collect chan struct{} // asks for another look
}

func newFacts() *facts {
	return &facts{changed: make(chan struct{}, 1), collect: make(chan struct{}, 1)}
}

func (f *facts) set(inv *pb.Inventory) {
	f.mu.Lock()
	f.now = inv
	f.mu.Unlock()
	signal(f.changed)
}

func (f *facts) get() *pb.Inventory {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// inspect reads the hardware at once and whenever asked, and lets a second
// report with the neighbours follow the first.
func (a *Agent) inspect(ctx context.Context) {
	for {
		inv := a.cfg.Collect(ctx)
		if ctx.Err() != nil {
			return
		}
		a.facts.set(inv)
		if a.cfg.Neighbours != nil {
			a.meetNeighbours(ctx, inv)
		}
		select {
		case <-ctx.Done():
			return
		case <-a.facts.collect:
		}
	}
}

func (a *Agent) meetNeighbours(ctx context.Context, inv *pb.Inventory) {
	full := cloneInventory(inv) // the first may be on its way to the server
	if _, err := a.cfg.Neighbours(ctx, full); err != nil {
		full.Warnings = append(full.Warnings, fmt.Sprintf("LLDP: %v", err))
	}
	if ctx.Err() == nil {
		// Also when nobody was heard: the server may wait to know that.
		full.NeighboursTime = timestamppb.New(a.cfg.Now())
		a.facts.set(full)
	}
}

// inventory is the action of that name: it reads the hardware again and lets
// the report go to the server.
func (a *Agent) inventory(ctx context.Context, _ step.Request, rep step.Reporter) (step.Result, error) {
	inv := a.cfg.Collect(ctx)
	if ctx.Err() != nil {
		return step.Result{}, ctx.Err()
	}
	if old := a.facts.get(); old != nil {
		keepNeighbours(old, inv)
	}
	a.facts.set(inv)
	warnings := []any{}
	for _, w := range inv.GetWarnings() {
		rep.Log(step.Agent, w)
		warnings = append(warnings, w)
	}
	return step.Result{Outputs: map[string]any{
		"disks": len(inv.GetDisks()), "nics": len(inv.GetNics()), "memory": inv.GetMemory().GetUsableBytes(), "warnings": warnings,
	}}, nil
}

// keepNeighbours copies what LLDP told, which takes half a minute to hear again.
func keepNeighbours(from, to *pb.Inventory) {
	to.NeighboursTime = from.GetNeighboursTime()
	for _, n := range to.GetNics() {
		for _, old := range from.GetNics() {
			if old.GetName() == n.GetName() && n.Lldp == nil && n.GetLink() {
				n.Lldp = old.Lldp
			}
		}
	}
}
