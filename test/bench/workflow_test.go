// Package bench measures the whole server as its users meet it: real TLS on
// the loopback, the real agent, the real store with its fsync.
package bench

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bedplate/bedplate/agent"
	"github.com/bedplate/bedplate/agent/step"
	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store/bolt"
	"github.com/bedplate/bedplate/trust"
	"github.com/bedplate/bedplate/workflow"
	"github.com/bedplate/bedplate/workflow/rpc"
)

// authority is the CA as the agents' service wants it.
type authority struct {
	ca     *trust.CA
	tokens *trust.BootTokens
}

func (a authority) VerifyToken(token string) (rpc.Claim, error) {
	t, err := a.tokens.Verify(token, time.Now())
	return rpc.Claim{Machine: t.Machine, MAC: t.MAC, ID: t.ID, Expires: t.Expires}, err
}

func (a authority) KeyDigest(request []byte) (string, error) {
	r, err := trust.ParseAgentRequest(request)
	if err != nil {
		return "", err
	}
	return r.KeyDigest, nil
}

func (a authority) Sign(request []byte, m machine.Name, bootID string) ([][]byte, error) {
	r, err := trust.ParseAgentRequest(request)
	if err != nil {
		return nil, err
	}
	return a.ca.SignAgent(r, trust.Agent{Machine: m, BootID: bootID})
}

func (a authority) Peer(state tls.ConnectionState) (machine.Name, string, error) {
	who, err := trust.PeerAgent(state)
	return who.Machine, who.BootID, err
}

// fleet is a server and agents that are connected to it.
type fleet struct {
	b         testing.TB
	db        *resource.DB
	c         *workflow.Controller
	trust     authority
	server    *rpc.Server
	ctx       context.Context
	wg        sync.WaitGroup
	connected chan string
}

// Discover implements rpc.Machines; every machine is known.
func (f *fleet) Discover(context.Context, rpc.Identity) (machine.Name, error) {
	return "", errors.New("nobody is discovered here")
}

// Inventory implements rpc.Machines; it is the last thing that an agent sends at first.
func (f *fleet) Inventory(_ context.Context, m machine.Name, _ *pb.Inventory) error {
	f.connected <- string(m)
	return nil
}

// Renamed implements rpc.Machines; no machine gets another name.
func (f *fleet) Renamed(_ context.Context, m machine.Name) (machine.Name, bool, error) {
	return m, false, nil
}

// Secret implements workflow.Secrets.
func (f *fleet) Secret(context.Context, string) (map[string]string, error) {
	return map[string]string{"password": "hunter2"}, nil
}

func newFleet(b testing.TB, machines int) *fleet {
	b.Helper()
	st, err := bolt.Open(filepath.Join(b.TempDir(), "store"), bolt.Options{})
	if err != nil {
		b.Fatal(err)
	}
	var uid atomic.Int64
	f := &fleet{b: b, connected: make(chan string, machines)}
	f.db = &resource.DB{Store: st, Now: time.Now, NewUID: func() string { return fmt.Sprint("uid-", uid.Add(1)) }}
	ctx, cancel := context.WithCancel(context.Background())
	f.ctx = ctx
	b.Cleanup(func() {
		cancel()
		f.wg.Wait()
		if err := st.Close(); err != nil {
			b.Error(err)
		}
	})
	f.serve()
	steps := make([]*pb.Step, 10)
	for i := range steps {
		steps[i] = &pb.Step{Id: fmt.Sprint("s", i), Uses: "noop"}
	}
	if _, err := resource.Create(ctx, f.db, &pb.Template{Metadata: &pb.Metadata{Name: "empty"}, Spec: &pb.TemplateSpec{Steps: steps}}); err != nil {
		b.Fatal(err)
	}
	for i := range machines {
		f.boot(i)
	}
	for range machines {
		<-f.connected
	}
	return f
}

func (f *fleet) serve() {
	f.b.Helper()
	dir := f.b.TempDir()
	ca, err := trust.OpenCA(dir, rand.Reader, time.Now)
	if err != nil {
		f.b.Fatal(err)
	}
	key, err := trust.OpenKey(dir, rand.Reader)
	if err != nil {
		f.b.Fatal(err)
	}
	cert, err := ca.NewServerCertificate([]string{"localhost"}, []netip.Addr{netip.MustParseAddr("127.0.0.1")})
	if err != nil {
		f.b.Fatal(err)
	}
	f.trust = authority{ca, key.BootTokens(rand.Reader, time.Hour)}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	if f.c, err = workflow.New(workflow.Config{DB: f.db, Secrets: f, Now: time.Now, Logger: log}); err != nil {
		f.b.Fatal(err)
	}
	f.server, err = rpc.New(rpc.Config{Address: "127.0.0.1:0", TLS: cert.AgentTLS(), DB: f.db, Controller: f.c, Trust: f.trust, Machines: f, Now: time.Now, Logger: log})
	if err != nil {
		f.b.Fatal(err)
	}
	if err := f.server.Listen(); err != nil {
		f.b.Fatal(err)
	}
	for _, run := range []func(context.Context) error{f.c.Run, f.server.Run} {
		f.wg.Go(func() {
			if err := run(f.ctx); err != nil {
				f.b.Error(err)
			}
		})
	}
}

func name(i int) string { return fmt.Sprintf("m%d", i) }

// boot adds a machine and starts its agent.
func (f *fleet) boot(i int) {
	f.b.Helper()
	if _, err := resource.Create(f.ctx, f.db, &pb.Machine{Metadata: &pb.Metadata{Name: name(i)}, Status: &pb.MachineStatus{}}); err != nil {
		f.b.Fatal(err)
	}
	noop := step.Func(func(context.Context, step.Request, step.Reporter) (step.Result, error) { return step.Result{}, nil })
	f.start(f.ctx, i, fmt.Sprintf("%032x", i), step.Set{"noop": noop})
}

// start starts one boot's agent.
func (f *fleet) start(ctx context.Context, i int, bootID string, actions step.Set) {
	f.b.Helper()
	token, err := f.trust.tokens.Mint(machine.Name(name(i)), machine.MAC{1}, time.Now())
	if err != nil {
		f.b.Fatal(err)
	}
	a, err := agent.New(agent.Config{
		Dial:  agent.Dialer{Server: f.server.Addr().String(), CA: f.trust.ca.Digest(), Now: time.Now}.Dial,
		Token: token, BootID: bootID, Version: "bench",
		MACs: func() []string { return nil }, Executors: actions,
		Collect: func(context.Context) *pb.Inventory { return &pb.Inventory{} },
		Address: func() string { return "" }, Uptime: func() time.Duration { return 0 },
		Now: time.Now, Rand: rand.Reader, Jitter: func() float64 { return 0.5 },
		Say: func(string, ...any) {}, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		f.b.Fatal(err)
	}
	f.wg.Go(func() {
		if err := a.Run(ctx); err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, agent.ErrFenced) {
			f.b.Error(err)
		}
	})
}

// round takes every machine through the template, from the creation of the
// workflow to its success on record.
func (f *fleet) round(machines, n int) {
	var wg sync.WaitGroup
	for i := range machines {
		wg.Go(func() {
			wf := &pb.Workflow{
				Metadata: &pb.Metadata{Name: fmt.Sprintf("w%d-%d", i, n)},
				Spec:     &pb.WorkflowSpec{Template: "empty", Machine: name(i)},
			}
			if _, err := f.c.Create(f.ctx, wf); err != nil {
				f.b.Error(err)
				return
			}
			var last pb.WorkflowState
			err := f.c.Follow(f.ctx, wf.Metadata.Name, workflow.FollowOptions{}, func(r *pb.FollowWorkflowResponse) error {
				if w := r.GetWorkflow(); w != nil {
					last = w.GetStatus().GetState()
				}
				return nil
			})
			if err != nil || last != pb.WorkflowState_SUCCEEDED {
				f.b.Errorf("workflow of %s ended %v: %v", name(i), last, err)
			}
		})
	}
	wg.Wait()
}

// BenchmarkWorkflow is what the engine adds to the steps: so many machines,
// each through ten steps that do nothing, all at once.
func BenchmarkWorkflow(b *testing.B) {
	for _, machines := range []int{1, 200} {
		b.Run(fmt.Sprintf("machines=%d/steps=10", machines), func(b *testing.B) {
			f := newFleet(b, machines)
			n := 0
			for b.Loop() {
				n++
				f.round(machines, n)
			}
			b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/round")
		})
	}
}
