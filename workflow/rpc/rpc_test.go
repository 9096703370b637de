package rpc

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/bedplate/bedplate/discovery"
	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
	"github.com/bedplate/bedplate/store/bolt"
	"github.com/bedplate/bedplate/trust"
	"github.com/bedplate/bedplate/workflow"
)

// TestMain fails if a goroutine of this package outlives the tests.
func TestMain(m *testing.M) {
	code := m.Run()
	for range 100_000 {
		buf := make([]byte, 1<<20)
		all := string(buf[:runtime.Stack(buf, true)])
		if !strings.Contains(all, "bedplate/workflow/rpc.(") {
			os.Exit(code)
		}
		runtime.Gosched()
	}
	fmt.Fprintln(os.Stderr, "a goroutine of package rpc is left")
	os.Exit(1)
}

// authority is a real CA as the service wants it.
type authority struct {
	ca     *trust.CA
	tokens *trust.BootTokens
	now    func() time.Time
}

func (a authority) VerifyToken(token string) (Claim, error) {
	if m, expired, ok := parseMedium(token); ok {
		return Claim{Machine: m, ID: "medium-of-" + string(m), Medium: true, Expired: expired}, nil
	}
	t, err := a.tokens.Verify(token, a.now())
	claim := Claim{Machine: t.Machine, MAC: t.MAC, ID: t.ID, Expires: t.Expires, Expired: errors.Is(err, trust.ErrExpiredToken)}
	if claim.Expired {
		err = nil
	}
	return claim, err
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
	agent, err := trust.PeerAgent(state)
	return agent.Machine, agent.BootID, err
}

// rig is a server with real TLS and a real store.
type rig struct {
	t      *testing.T
	db     *resource.DB
	c      *workflow.Controller
	server *Server
	trust  authority
	media  *fakeMedia
	stop   func()

	mu          sync.Mutex
	now         time.Time
	discovered  []Identity
	inventories chan string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	b, err := bolt.Open(filepath.Join(t.TempDir(), "store"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, now: time.Now(), inventories: make(chan string, 8)}
	r.media = &fakeMedia{r: r}
	uid := 0
	r.db = &resource.DB{Store: b, Now: r.clock, NewUID: func() string { uid++; return fmt.Sprint("uid", uid) }}
	dir := t.TempDir()
	ca, err := trust.OpenCA(dir, rand.Reader, r.clock)
	if err != nil {
		t.Fatal(err)
	}
	key, err := trust.OpenKey(dir, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.NewServerCertificate([]string{"localhost"}, []netip.Addr{netip.MustParseAddr("127.0.0.1")})
	if err != nil {
		t.Fatal(err)
	}
	r.trust = authority{ca, key.BootTokens(rand.Reader, time.Hour), r.clock}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	if r.c, err = workflow.New(workflow.Config{DB: r.db, Now: r.clock, Logger: log}); err != nil {
		t.Fatal(err)
	}
	r.server, err = New(Config{Address: "127.0.0.1:0", TLS: cert.AgentTLS(), DB: r.db, Controller: r.c, Trust: r.trust, Machines: r, Media: r.media, Now: r.clock, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.server.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	run := func(f func(context.Context) error) {
		wg.Go(func() {
			if err := f(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	run(r.c.Run)
	run(r.server.Run)
	r.stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

func (r *rig) clock() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}

func (r *rig) advance(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = r.now.Add(d)
}

func (r *rig) Discover(ctx context.Context, id Identity) (machine.Name, error) {
	r.mu.Lock()
	r.discovered = append(r.discovered, id)
	r.mu.Unlock()
	name := "m-" + strings.ReplaceAll(id.MAC.String(), ":", "")
	r.machine(name)
	return machine.Name(name), nil
}

func (r *rig) Renamed(ctx context.Context, former machine.Name) (machine.Name, bool, error) {
	return discovery.Renamed(ctx, r.db, former)
}

func (r *rig) Inventory(_ context.Context, m machine.Name, inv *pb.Inventory) error {
	r.inventories <- string(m) + " " + inv.GetKernel()
	return nil
}

func (r *rig) machine(name string) {
	_, err := resource.Create(context.Background(), r.db, &pb.Machine{Metadata: &pb.Metadata{Name: name}, Status: &pb.MachineStatus{}})
	if err != nil && !errors.Is(err, resource.ErrExists) {
		r.t.Error(err)
	}
}

func (r *rig) token(name machine.Name) string {
	r.t.Helper()
	token, err := r.trust.tokens.Mint(name, machine.MAC{0x52, 0x54, 0, 0, 0, 1}, r.clock())
	if err != nil {
		r.t.Fatal(err)
	}
	return token
}

// client is one boot of a machine.
type client struct {
	r    *rig
	boot string
	key  *ecdsa.PrivateKey
	csr  []byte
	cert *tls.Certificate
}

func (r *rig) client(boot string) *client {
	r.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		r.t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		r.t.Fatal(err)
	}
	return &client{r: r, boot: strings.Repeat(boot, 16), key: key, csr: csr}
}

func (c *client) dial() pb.AgentServiceClient {
	c.r.t.Helper()
	config := &tls.Config{RootCAs: c.r.trust.ca.Pool(), ServerName: "localhost"}
	if c.cert != nil {
		config.Certificates = []tls.Certificate{*c.cert}
	}
	conn, err := grpc.NewClient("passthrough:///"+c.r.server.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		c.r.t.Fatal(err)
	}
	c.r.t.Cleanup(func() { conn.Close() })
	return pb.NewAgentServiceClient(conn)
}

func (c *client) enrol(token string) (string, error) {
	reply, err := c.dial().Enroll(context.Background(), &pb.EnrollRequest{
		Token: token, CertificateRequest: c.csr, BootId: c.boot, Version: "test",
		Macs: []string{"52:54:00:00:00:01", "52:54:00:00:00:02", "junk"}, Uuid: "4C4C4544-0000-1000-8000-000000000001", Serial: " S1 ",
	})
	if err != nil {
		return "", err
	}
	c.cert = &tls.Certificate{Certificate: reply.Certificates, PrivateKey: c.key}
	return reply.Machine, nil
}

type clientStream = grpc.BidiStreamingClient[pb.ConnectRequest, pb.ConnectResponse]

// connect opens a stream and waits for Welcome.
func (c *client) connect(uid string, run uint32) (clientStream, error) {
	st, err := c.open(&pb.Hello{BootId: c.boot, WorkflowUid: uid, Run: run})
	if err != nil {
		return nil, err
	}
	m, err := st.Recv()
	if err != nil {
		return nil, err
	}
	if m.GetWelcome().GetHeartbeatInterval().AsDuration() != DefaultHeartbeat {
		return nil, fmt.Errorf("no welcome: %v", m)
	}
	return st, nil
}

func (c *client) open(h *pb.Hello) (clientStream, error) {
	ctx, cancel := context.WithCancel(context.Background())
	c.r.t.Cleanup(cancel)
	st, err := c.dial().Connect(ctx)
	if err != nil {
		return nil, err
	}
	err = st.Send(&pb.ConnectRequest{Message: &pb.ConnectRequest_Hello{Hello: h}})
	if errors.Is(err, io.EOF) { // the server has ended it already: Recv says why
		_, err = st.Recv()
	}
	return st, err
}

func wantCode(t *testing.T, err error, code codes.Code, text string) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(status.Convert(err).Message(), text) {
		t.Errorf("got %v, want %v: %s", err, code, text)
	}
}

func TestServer_Enroll(t *testing.T) {
	r := newRig(t)
	r.machine("m")
	t.Run("a token is good once, and again for the same key", func(t *testing.T) {
		token := r.token("m")
		c := r.client("a")
		for range 2 {
			if name, err := c.enrol(token); err != nil || name != "m" {
				t.Fatalf("%q, %v", name, err)
			}
		}
		_, err := r.client("b").enrol(token)
		wantCode(t, err, codes.Unauthenticated, "used already by another key")
		m, err := resource.Get[*pb.Machine](t.Context(), r.db, "m")
		if err != nil {
			t.Fatal(err)
		}
		if a := m.Status.Agent; a.BootId != c.boot || a.KeyDigest == "" || a.TokenId == "" || a.Version != "test" {
			t.Errorf("agent %v", a)
		}
		t.Run("also when the machine has booted again since", func(t *testing.T) {
			if _, err := r.client("c").enrol(r.token("m")); err != nil {
				t.Fatal(err)
			}
			_, err := r.client("d").enrol(token)
			wantCode(t, err, codes.Unauthenticated, "used already by another key")
		})
	})
	t.Run("of many keys with one token one gets in", func(t *testing.T) {
		token := r.token("m")
		results := make(chan error, 8)
		for i := range 8 {
			c := r.client(fmt.Sprintf("%x", i+1))
			go func() {
				_, err := c.enrol(token)
				results <- err
			}()
		}
		in := 0
		for range 8 {
			if err := <-results; err == nil {
				in++
			} else {
				wantCode(t, err, codes.Unauthenticated, "")
			}
		}
		if in != 1 {
			t.Errorf("%d got in", in)
		}
	})
	t.Run("a foreign token", func(t *testing.T) {
		_, err := r.client("e").enrol("bpb1.AAAA")
		wantCode(t, err, codes.Unauthenticated, "not this server's")
	})
	t.Run("a token that has expired is good only for the key that used it in time", func(t *testing.T) {
		token, unused := r.token("m"), r.token("m")
		c := r.client("f")
		if _, err := c.enrol(token); err != nil {
			t.Fatal(err)
		}
		r.advance(2 * time.Hour)
		if _, err := c.enrol(token); err != nil {
			t.Errorf("the same key: %v", err)
		}
		_, err := r.client("0").enrol(unused)
		wantCode(t, err, codes.Unauthenticated, "expired")
	})
	t.Run("used tokens are forgotten when they have expired", func(t *testing.T) {
		if _, err := r.client("9").enrol(r.token("m")); err != nil {
			t.Fatal(err)
		}
		page, err := r.db.Store.List(t.Context(), usedPrefix, "", 0)
		if err != nil || len(page.KVs) != 1 {
			t.Errorf("%d are kept, %v", len(page.KVs), err)
		}
	})
	t.Run("one boot with two keys", func(t *testing.T) {
		if _, err := r.client("7").enrol(r.token("m")); err != nil {
			t.Fatal(err)
		}
		_, err := r.client("7").enrol(r.token("m"))
		wantCode(t, err, codes.Unauthenticated, "another key")
	})
	t.Run("a machine that is gone", func(t *testing.T) {
		_, err := r.client("8").enrol(r.token("gone"))
		wantCode(t, err, codes.Unauthenticated, "machine gone is not known any more")
	})
	t.Run("bad requests", func(t *testing.T) {
		c := r.client("a")
		c.boot = "not hexadecimal!"
		_, err := c.enrol(r.token("m"))
		wantCode(t, err, codes.InvalidArgument, "boot_id")
		c = r.client("a")
		c.csr = []byte("junk")
		_, err = c.enrol(r.token("m"))
		wantCode(t, err, codes.InvalidArgument, "certificate request")
	})
	t.Run("a machine nobody has described is discovered", func(t *testing.T) {
		name, err := r.client("a").enrol(r.token(""))
		if err != nil || name != "m-525400000001" {
			t.Fatalf("%q, %v", name, err)
		}
		id := r.discovered[0]
		if len(id.Others) != 1 || id.Serial != "S1" || id.UUID != "4c4c4544-0000-1000-8000-000000000001" {
			t.Errorf("identity %+v", id)
		}
	})
}

func TestServer_Connect(t *testing.T) {
	r := newRig(t)
	r.machine("m")
	c := r.client("a")
	t.Run("without a certificate nobody gets in", func(t *testing.T) {
		_, err := c.connect("", 0)
		wantCode(t, err, codes.Unauthenticated, "enrol first")
	})
	if _, err := c.enrol(r.token("m")); err != nil {
		t.Fatal(err)
	}
	t.Run("a Hello for another boot is refused", func(t *testing.T) {
		st, err := c.open(&pb.Hello{BootId: strings.Repeat("b", 16)})
		if err == nil {
			_, err = st.Recv()
		}
		wantCode(t, err, codes.PermissionDenied, "another boot")
	})
	t.Run("the first message must be Hello", func(t *testing.T) {
		st, err := c.dial().Connect(t.Context())
		if err == nil {
			_ = st.Send(&pb.ConnectRequest{Message: &pb.ConnectRequest_Heartbeat{Heartbeat: &pb.Heartbeat{}}})
			_, err = st.Recv()
		}
		wantCode(t, err, codes.InvalidArgument, "Hello")
	})
	t.Run("a workflow made later is pushed, and its events are acknowledged", func(t *testing.T) {
		st, err := c.connect("", 0)
		if err != nil {
			t.Fatal(err)
		}
		wf := r.workflow("w", "m")
		m := recv(t, st)
		p := m.GetPlan()
		if p.GetWorkflowUid() != wf.Metadata.Uid || len(p.GetSteps()) != 2 {
			t.Fatalf("got %v, want the plan", m)
		}
		send(t, st, p, 1, change("a", pb.StepState_STEP_RUNNING), change("a", pb.StepState_STEP_SUCCEEDED))
		if got := recv(t, st).GetAck().GetSequence(); got != 2 {
			t.Errorf("ack %d", got)
		}
		if err := st.Send(&pb.ConnectRequest{Message: &pb.ConnectRequest_Inventory{Inventory: &pb.InventoryReport{Inventory: &pb.Inventory{Kernel: "6.12"}}}}); err != nil {
			t.Fatal(err)
		}
		if got := <-r.inventories; got != "m 6.12" {
			t.Errorf("inventory %q", got)
		}
		t.Run("an agent that comes back with it is told how far it is", func(t *testing.T) {
			again, err := c.connect(p.WorkflowUid, p.Run)
			if err != nil {
				t.Fatal(err)
			}
			if got := recv(t, again).GetAck().GetSequence(); got != 2 {
				t.Errorf("ack %d", got)
			}
			_, err = st.Recv()
			wantCode(t, err, codes.Canceled, "connected again")
			st = again
		})
		t.Run("a newer boot ends it", func(t *testing.T) {
			newer := r.client("b")
			if _, err := newer.enrol(r.token("m")); err != nil {
				t.Fatal(err)
			}
			_, err = st.Recv()
			wantCode(t, err, codes.Aborted, "newer boot")
			_, err = c.connect(p.WorkflowUid, p.Run)
			wantCode(t, err, codes.Aborted, "newer boot")
			fresh, err := newer.connect("", 0)
			if err != nil {
				t.Fatal(err)
			}
			p := recv(t, fresh).GetPlan()
			if p.GetSteps()[0].GetState() != pb.StepState_STEP_SUCCEEDED {
				t.Errorf("the plan has forgotten: %v", p.GetSteps())
			}
			send(t, fresh, p, 1, change("b", pb.StepState_STEP_RUNNING), change("b", pb.StepState_STEP_SUCCEEDED))
			if got := recv(t, fresh).GetAck().GetSequence(); got != 2 {
				t.Errorf("ack %d", got)
			}
			wf, err := resource.Get[*pb.Workflow](t.Context(), r.db, "w")
			if err != nil || wf.Status.State != pb.WorkflowState_SUCCEEDED {
				t.Errorf("workflow %v, %v", wf.GetStatus().GetState(), err)
			}
		})
	})
	t.Run("a certificate of another CA is no certificate", func(t *testing.T) {
		other := newRig(t)
		other.machine("m")
		stranger := other.client("c")
		if _, err := stranger.enrol(other.token("m")); err != nil {
			t.Fatal(err)
		}
		stranger.r = r
		if _, err := stranger.connect("", 0); err == nil {
			t.Error("it got in")
		}
	})
	t.Run("a machine that was deleted", func(t *testing.T) {
		r.machine("x")
		c := r.client("d")
		if _, err := c.enrol(r.token("x")); err != nil {
			t.Fatal(err)
		}
		if err := resource.Delete[*pb.Machine](t.Context(), r.db, "x", 0); err != nil && !errors.Is(err, store.ErrNotFound) {
			t.Fatal(err)
		}
		_, err := c.connect("", 0)
		wantCode(t, err, codes.Unauthenticated, "not known")
	})
}

func TestServer_Listen(t *testing.T) {
	r := newRig(t)
	other, err := New(Config{Address: r.server.Addr().String(), TLS: &tls.Config{}, DB: r.db, Controller: r.c, Trust: r.trust, Machines: r, Now: r.clock, Logger: r.server.cfg.Logger})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Listen(); err == nil || !strings.Contains(err.Error(), "another program has the port") {
		t.Errorf("got %v", err)
	}
}

// workflow makes a workflow of two empty steps.
func (r *rig) workflow(name, m string) *pb.Workflow {
	r.t.Helper()
	_, err := resource.Create(context.Background(), r.db, &pb.Template{Metadata: &pb.Metadata{Name: "t"}, Spec: &pb.TemplateSpec{Steps: []*pb.Step{{Id: "a", Uses: "noop"}, {Id: "b", Uses: "noop"}}}})
	if err != nil && !errors.Is(err, resource.ErrExists) {
		r.t.Fatal(err)
	}
	wf, err := r.c.Create(context.Background(), &pb.Workflow{Metadata: &pb.Metadata{Name: name}, Spec: &pb.WorkflowSpec{Template: "t", Machine: m}})
	if err != nil {
		r.t.Fatal(err)
	}
	return wf
}

func recv(t *testing.T, st clientStream) *pb.ConnectResponse {
	t.Helper()
	m, err := st.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func change(step string, state pb.StepState) *pb.StepChange {
	return &pb.StepChange{Step: step, State: state, Attempt: 1}
}

func send(t *testing.T, st clientStream, p *pb.Plan, first uint64, changes ...*pb.StepChange) {
	t.Helper()
	e := &pb.StepEvents{WorkflowUid: p.WorkflowUid, Run: p.Run}
	for i, c := range changes {
		e.Events = append(e.Events, &pb.StepEvent{Sequence: first + uint64(i), Event: &pb.StepEvent_Change{Change: c}})
	}
	if err := st.Send(&pb.ConnectRequest{Message: &pb.ConnectRequest_Events{Events: e}}); err != nil {
		t.Fatal(err)
	}
}
