package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log/slog"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bedplate/bedplate/agent/command"
	"github.com/bedplate/bedplate/agent/step"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// fakeServer is an AgentService that keeps what it is told and does as a test
// says.
type fakeServer struct {
	pb.UnimplementedAgentServiceServer

	mu       sync.Mutex
	events   []*pb.StepEvent // as applied: each sequence number once
	received int             // as they came, repeated ones too
	hellos   []*pb.Hello
	reports  []*pb.Inventory
	progress []*pb.ConnectRequest_StepProgress
	enrols   int
	applied  uint64
	changed  chan struct{} // closed and made anew at each change

	plan     *pb.Plan // pushed to whoever connects
	push     chan *pb.ConnectResponse
	mute     bool // doesn't acknowledge
	cut      int  // ends the stream after so many batches, then 0
	enrolErr error
	connErr  error
	stamp    time.Time
}

func newFakeServer(p *pb.Plan) *fakeServer {
	return &fakeServer{plan: p, changed: make(chan struct{}), push: make(chan *pb.ConnectResponse, 16), stamp: time.Now()}
}

func (s *fakeServer) note(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *fakeServer) set(f func(*fakeServer)) { s.note(func() { f(s) }) }

func (s *fakeServer) Enroll(_ context.Context, r *pb.EnrollRequest) (*pb.EnrollResponse, error) {
	var err error
	s.note(func() { s.enrols++; err = s.enrolErr })
	if err != nil {
		return nil, err
	}
	csr, err := x509.ParseCertificateRequest(r.GetCertificateRequest())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "m1"}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, t, t, csr.PublicKey, key)
	if err != nil {
		return nil, err
	}
	return &pb.EnrollResponse{Certificates: [][]byte{der}, Machine: "m1", ServerTime: timestamppb.New(s.stamp)}, nil
}

func (s *fakeServer) Connect(st grpc.BidiStreamingServer[pb.ConnectRequest, pb.ConnectResponse]) error {
	first, err := st.Recv()
	if err != nil {
		return err
	}
	var p *pb.Plan
	s.note(func() { s.hellos = append(s.hellos, first.GetHello()); p = s.plan; err = s.connErr })
	if err != nil {
		return err
	}
	welcome := &pb.Welcome{ServerTime: timestamppb.New(s.stamp), HeartbeatInterval: durationpb.New(time.Second)}
	if err := st.Send(&pb.ConnectResponse{Message: &pb.ConnectResponse_Welcome{Welcome: welcome}}); err != nil {
		return err
	}
	if p != nil {
		if err := st.Send(&pb.ConnectResponse{Message: &pb.ConnectResponse_Plan{Plan: p}}); err != nil {
			return err
		}
	}
	requests := make(chan *pb.ConnectRequest)
	go func() {
		defer close(requests)
		for {
			m, err := st.Recv()
			if err != nil {
				return
			}
			select {
			case requests <- m:
			case <-st.Context().Done():
				return
			}
		}
	}()
	for {
		select {
		case <-st.Context().Done():
			return st.Context().Err()
		case m := <-s.push:
			if m == nil {
				return status.Error(codes.Unavailable, "the test ends the stream")
			}
			if err := st.Send(m); err != nil {
				return err
			}
		case m, ok := <-requests:
			if !ok {
				return nil
			}
			ack, end := s.take(m)
			if end {
				return status.Error(codes.Unavailable, "the test cuts the stream")
			}
			if ack != nil {
				if err := st.Send(&pb.ConnectResponse{Message: &pb.ConnectResponse_Ack{Ack: ack}}); err != nil {
					return err
				}
			}
		}
	}
}

func (s *fakeServer) take(m *pb.ConnectRequest) (ack *pb.Ack, end bool) {
	s.note(func() {
		switch m := m.GetMessage().(type) {
		case *pb.ConnectRequest_Inventory:
			s.reports = append(s.reports, m.Inventory.GetInventory())
		case *pb.ConnectRequest_Progress:
			s.progress = append(s.progress, m.Progress)
		case *pb.ConnectRequest_Events:
			for _, ev := range m.Events.GetEvents() {
				s.received++
				if ev.GetSequence() > s.applied {
					s.applied = ev.GetSequence()
					s.events = append(s.events, ev)
				}
			}
			if s.cut > 0 {
				if s.cut--; s.cut == 0 {
					end = true
				}
			}
			if !s.mute {
				ack = &pb.Ack{WorkflowUid: m.Events.GetWorkflowUid(), Run: m.Events.GetRun(), Sequence: s.applied}
			}
		}
	})
	return ack, end
}

// await waits until ok is true of the server, which it may read.
func (s *fakeServer) await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	timeout := time.NewTimer(10 * time.Second)
	defer timeout.Stop()
	for {
		s.mu.Lock()
		done, changed := ok(), s.changed
		s.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-timeout.C:
			s.mu.Lock()
			defer s.mu.Unlock()
			t.Fatalf("timed out waiting until %s; events: %v", what, s.events)
		}
	}
}

// states returns "step state" of every change, in order; for use in await.
func (s *fakeServer) states() []string {
	var all []string
	for _, ev := range s.events {
		if c := ev.GetChange(); c != nil {
			text := c.GetStep() + " " + c.GetState().String()
			if c.GetLeaving() {
				text += " leaving " + c.GetNextBoot()
			}
			all = append(all, text)
		}
	}
	return all
}

func (s *fakeServer) has(state string) bool {
	for _, one := range s.states() {
		if one == state {
			return true
		}
	}
	return false
}

// rig is an agent and its server in one process.
type rig struct {
	server *fakeServer
	agent  *Agent
	cancel context.CancelFunc
	ended  chan struct{}
	err    error
}

func testConfig(t testing.TB, dial func() (net.Conn, error)) Config {
	return Config{
		Dial: func(*tls.Certificate) (*grpc.ClientConn, error) {
			return grpc.NewClient("passthrough:///test", grpc.WithTransportCredentials(insecure.NewCredentials()),
				grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return dial() }))
		},
		Token: "token", BootID: "0123456789abcdef", Version: "test",
		MACs:      func() []string { return []string{"52:54:00:77:00:01"} },
		Executors: step.Set{"noop": step.Func(command.Noop)},
		Collect:   func(context.Context) *pb.Inventory { return &pb.Inventory{Nics: []*pb.NIC{{Name: "eth0"}}} },
		Address:   func() string { return "10.0.0.2" }, Uptime: func() time.Duration { return time.Second },
		Now: time.Now, Rand: rand.Reader, Jitter: func() float64 { return 0 },
		Say: t.Logf, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
}

// start runs an agent against a server until the test ends.
func start(t testing.TB, s *fakeServer, change func(*Config)) *rig {
	t.Helper()
	listener := bufconn.Listen(1 << 20)
	g := grpc.NewServer()
	pb.RegisterAgentServiceServer(g, s)
	served := make(chan struct{})
	go func() { defer close(served); _ = g.Serve(listener) }()
	cfg := testConfig(t, listener.Dial)
	if change != nil {
		change(&cfg)
	}
	a, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &rig{server: s, agent: a, cancel: cancel, ended: make(chan struct{})}
	go func() { defer close(r.ended); r.err = a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case <-r.ended:
		case <-time.After(10 * time.Second):
			t.Error("the agent did not stop")
		}
		g.Stop()
		<-served
	})
	return r
}

// stop ends the agent as a power cut would, but for what runs in this process.
func (r *rig) stop() {
	r.cancel()
	<-r.ended
}

func makePlan(steps ...*pb.Step) *pb.Plan {
	return &pb.Plan{Workflow: "install-m1", WorkflowUid: "u1", Run: 1, Template: &pb.TemplateSpec{Steps: steps}}
}
