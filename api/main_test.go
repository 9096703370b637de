package api

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/bedplate/bedplate/event"
	"github.com/bedplate/bedplate/inspection/history"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
	"github.com/bedplate/bedplate/store/bolt"
	"github.com/bedplate/bedplate/trust"
)

// TestMain fails if anything of this package still runs after the tests.
func TestMain(m *testing.M) {
	code := m.Run()
	for try := 0; ; try++ {
		buf := make([]byte, 1<<20)
		var left []string
		for _, stack := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if strings.Contains(stack, "bedplate/api") && !strings.Contains(stack, "TestMain") {
				left = append(left, stack)
			}
		}
		if len(left) == 0 {
			break
		}
		if try == 100 {
			fmt.Fprintf(os.Stderr, "leaked goroutines:\n%s\n", strings.Join(left, "\n\n"))
			code = max(code, 1)
			break
		}
		<-time.After(20 * time.Millisecond)
	}
	os.Exit(code)
}

// rig is a running server with its clients.
type rig struct {
	t     testing.TB
	db    *resource.DB
	dir   string
	api   *Server
	admin string
	tls   func() credentials.TransportCredentials
	http  *http.Client
	url   string
	conn  *grpc.ClientConn
	stop  func()
	reg   *prometheus.Registry

	mu     sync.Mutex
	now    time.Time
	uids   int
	images *fakeImages
	flows  *fakeWorkflows
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

func newRig(t testing.TB) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	r.images = &fakeImages{content: map[string][]byte{}}
	st, err := bolt.Open(filepath.Join(r.dir, "store.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	r.db = &resource.DB{Store: st, Now: r.clock, NewUID: func() string {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.uids++
		return fmt.Sprintf("uid-%d", r.uids)
	}}
	r.flows = &fakeWorkflows{db: r.db}
	r.start()
	return r
}

// start runs a server on the rig's store and connects to it.
func (r *rig) start() {
	t := r.t
	t.Helper()
	r.reg = prometheus.NewRegistry()
	keys := filepath.Join(r.dir, "keys")
	ca, err := trust.OpenCA(keys, rand.Reader, r.clock)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.NewServerCertificate(nil, []netip.Addr{netip.MustParseAddr("127.0.0.1")})
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := trust.OpenSealer(keys)
	if err != nil {
		t.Fatal(err)
	}
	r.api, err = New(Config{
		Address: "127.0.0.1:0", TLS: cert.TLS(), Version: "test", DB: r.db, Events: event.New(r.db, rand.Reader, 0),
		Sealer: sealer, Rand: rand.Reader, Templates: checkFunc(checkTemplate), Workflows: r.flows,
		Machines: fakeViews{}, History: history.New(r.db), Images: r.images, BMCs: fakeBMCs{}, Consoles: fakeConsoles{}, Logger: slog.New(slog.DiscardHandler), Registerer: r.reg,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.api.Listen(); err != nil {
		t.Fatal(err)
	}
	secret, created, err := r.api.Bootstrap(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if created {
		r.admin = secret
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.api.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(r.stop)
	r.connect(ca)
}

func (r *rig) connect(ca *trust.CA) {
	t := r.t
	r.tls = func() credentials.TransportCredentials {
		config, err := trust.PinnedClientTLS(ca.Digest(), "127.0.0.1", r.clock)
		if err != nil {
			t.Fatal(err)
		}
		return credentials.NewTLS(config)
	}
	config, err := trust.PinnedClientTLS(ca.Digest(), "127.0.0.1", r.clock)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	r.http = &http.Client{Transport: transport, Timeout: 20 * time.Second}
	r.url = "https://" + r.api.Addr().String()
	r.conn, err = grpc.NewClient(r.api.Addr().String(), grpc.WithTransportCredentials(r.tls()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.conn.Close() })
}

// as returns a context that calls with the token.
func (r *rig) as(token string) context.Context {
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	r.t.Cleanup(cancel)
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

func (r *rig) ctx() context.Context { return r.as(r.admin) }

// token makes a token of that role.
func (r *rig) token(name string, role pb.Role) string {
	r.t.Helper()
	out, err := pb.NewTokenServiceClient(r.conn).CreateToken(r.ctx(), &pb.CreateTokenRequest{
		Token: &pb.Token{Metadata: &pb.Metadata{Name: name}, Spec: &pb.TokenSpec{Role: role}},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return out.GetSecret()
}

func (r *rig) machines() pb.MachineServiceClient   { return pb.NewMachineServiceClient(r.conn) }
func (r *rig) workflows() pb.WorkflowServiceClient { return pb.NewWorkflowServiceClient(r.conn) }

func (r *rig) createMachine(m *pb.Machine) *pb.Machine {
	r.t.Helper()
	out, err := r.machines().CreateMachine(r.ctx(), &pb.CreateMachineRequest{Machine: m})
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

func (r *rig) createTemplate(name string) {
	r.t.Helper()
	_, err := pb.NewTemplateServiceClient(r.conn).CreateTemplate(r.ctx(), &pb.CreateTemplateRequest{Template: &pb.Template{
		Metadata: &pb.Metadata{Name: name},
		Spec: &pb.TemplateSpec{
			Inputs: map[string]*pb.Input{"image": {Type: "string", Required: true}},
			Steps:  []*pb.Step{{Uses: "inventory"}},
		},
	}})
	if err != nil {
		r.t.Fatal(err)
	}
}

// events returns the log about one resource, newest first, as short lines.
func (r *rig) events(kind, name string) []string {
	r.t.Helper()
	out, err := pb.NewEventServiceClient(r.conn).ListEvents(r.ctx(), &pb.ListEventsRequest{SubjectKind: kind, SubjectName: name})
	if err != nil {
		r.t.Fatal(err)
	}
	var lines []string
	for _, e := range out.GetEvents() {
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("%s by %s %s", e.GetReason(), e.GetActor(), e.GetMessage())))
	}
	return lines
}

// machine returns a machine with one interface.
func testMachine(name, mac, address string) *pb.Machine {
	return &pb.Machine{
		Metadata: &pb.Metadata{Name: name},
		Spec:     &pb.MachineSpec{Interfaces: []*pb.Interface{{Mac: mac, Address: address}}},
	}
}

// wantCode checks the status code of an error, and that its message has all parts.
func wantCode(t *testing.T, err error, code codes.Code, parts ...string) {
	t.Helper()
	if got := status.Code(err); got != code {
		t.Fatalf("code = %v (%v), want %v", got, err, code)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error = %v, want it to contain %q", err, p)
		}
	}
}

// violations returns the fields that an error names, with what is wrong.
func violations(err error) map[string]string {
	out := map[string]string{}
	for _, d := range status.Convert(err).Details() {
		if bad, ok := d.(*errdetails.BadRequest); ok {
			for _, v := range bad.GetFieldViolations() {
				out[v.GetField()] = v.GetDescription()
			}
		}
	}
	return out
}

// wantField checks that an error is about exactly one field.
func wantField(t *testing.T, err error, field string, parts ...string) {
	t.Helper()
	wantCode(t, err, codes.InvalidArgument, parts...)
	var fields []string
	for f := range violations(err) {
		fields = append(fields, f)
	}
	if diff := cmp.Diff([]string{field}, fields); diff != "" {
		t.Errorf("fields (-want +got):\n%s\n%v", diff, err)
	}
}

type checkFunc func(*pb.TemplateSpec) error

func (f checkFunc) CheckTemplate(s *pb.TemplateSpec) error { return f(s) }

// checkTemplate knows two actions only.
func checkTemplate(s *pb.TemplateSpec) error {
	for i, step := range s.GetSteps() {
		if u := step.GetUses(); u != "inventory" && u != "command" {
			return &resource.FieldErrors{Kind: "Template", Errors: []resource.FieldError{
				{Path: fmt.Sprintf("spec.steps[%d].uses", i), Message: fmt.Sprintf("there is no action %q", u)},
			}}
		}
	}
	return nil
}

// fakeWorkflows behaves like the workflow service with a machine that is never there.
type fakeWorkflows struct{ db *resource.DB }

func (f *fakeWorkflows) NewWorkflow(_ context.Context, wf *pb.Workflow, template *pb.Template, _ *pb.Machine) error {
	for name, in := range template.GetSpec().GetInputs() {
		if in.GetRequired() && wf.GetSpec().GetInputs()[name] == nil {
			return &resource.FieldErrors{Kind: "Workflow", Errors: []resource.FieldError{{Path: "spec.inputs." + name, Message: "missing"}}}
		}
	}
	wf.Spec.Instance, wf.Spec.Inputs["disk"] = "made-by-server", structpb.NewStringValue("default")
	wf.Status = &pb.WorkflowStatus{State: pb.WorkflowState_WAITING_FOR_MACHINE, Template: template.GetSpec(), Steps: []*pb.StepStatus{{Id: "a"}}}
	return nil
}

func (f *fakeWorkflows) set(ctx context.Context, name string, state pb.WorkflowState, cause string) (*pb.Workflow, error) {
	return resource.Update(ctx, f.db, name, func(wf *pb.Workflow) error {
		if ended(wf) && state == pb.WorkflowState_CANCELLED {
			return errors.New("workflow/" + name + " has ended already")
		}
		wf.Status.State, wf.Status.Cause = state, cause
		return nil
	})
}

// WithProgress says that the first step is halfway through.
func (f *fakeWorkflows) WithProgress(wf *pb.Workflow) *pb.Workflow {
	wf = proto.Clone(wf).(*pb.Workflow)
	if steps := wf.GetStatus().GetSteps(); len(steps) > 0 {
		steps[0].Progress = &pb.Progress{Done: 1, Total: 2}
	}
	return wf
}

func (f *fakeWorkflows) Cancel(ctx context.Context, name, reason, actor string) (*pb.Workflow, error) {
	return f.set(ctx, name, pb.WorkflowState_CANCELLED, reason+" by "+actor)
}

func (f *fakeWorkflows) Retry(ctx context.Context, name, from, _ string) (*pb.Workflow, error) {
	return f.set(ctx, name, pb.WorkflowState_RUNNING, from)
}

func (f *fakeWorkflows) Approve(ctx context.Context, name, step string, reject bool, actor string) (*pb.Workflow, error) {
	return f.set(ctx, name, pb.WorkflowState_RUNNING, fmt.Sprint(step, reject, actor))
}

func (f *fakeWorkflows) Follow(ctx context.Context, r *pb.FollowWorkflowRequest, send func(*pb.FollowWorkflowResponse) error) error {
	for _, text := range []string{"one", "two"} {
		err := send(&pb.FollowWorkflowResponse{Event: &pb.FollowWorkflowResponse_Log{Log: &pb.LogLine{Step: "a", Text: text}}})
		if err != nil {
			return err
		}
	}
	if r.GetNoFollow() {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

// fakeViews knows nothing but that it was asked.
type fakeViews struct{}

func (fakeViews) Retry(_ context.Context, name string, _ ...store.Op) (*pb.Machine, error) {
	return &pb.Machine{Metadata: &pb.Metadata{Name: name}}, nil
}

func (fakeViews) Explain(_ context.Context, name string) (*pb.ExplainMachineResponse, error) {
	if name == "panics" {
		panic("it does")
	}
	return &pb.ExplainMachineResponse{Summary: name + " waits"}, nil
}

func (fakeViews) Timeline(context.Context, string) ([]*pb.Phase, error) {
	return []*pb.Phase{{Name: "firmware"}}, nil
}

func (fakeViews) Follow(ctx context.Context, _ string, send func(*pb.FollowMachineResponse) error) error {
	if err := send(&pb.FollowMachineResponse{Event: &pb.FollowMachineResponse_Phase{Phase: &pb.Phase{Name: "dhcp"}}}); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

// fakeImages keeps images in memory, and their digest is their length.
type fakeImages struct {
	mu      sync.Mutex
	content map[string][]byte
}

func (f *fakeImages) Put(_ context.Context, image *pb.Image, size int64, digest string, content io.Reader) (*pb.ImageStatus, error) {
	data, err := io.ReadAll(content)
	if err != nil {
		return nil, err
	}
	got := fakeDigest(data)
	if size != 0 && size != int64(len(data)) {
		return nil, fmt.Errorf("content has %d bytes, %d were announced: the file was cut short", len(data), size)
	}
	if digest != "" && digest != got {
		return nil, fmt.Errorf("content has the digest %s, not %s", got, digest)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.content[image.GetMetadata().GetName()] = data
	return &pb.ImageStatus{Digest: got, SizeBytes: int64(len(data))}, nil
}

// Fetch takes the reference for the content.
func (f *fakeImages) Fetch(ctx context.Context, image *pb.Image, r *pb.ImportImageRequest, report func(*pb.ImportImageResponse) error) (*pb.ImageStatus, string, error) {
	if err := report(&pb.ImportImageResponse{ReceivedBytes: 1, TotalBytes: int64(len(r.GetOci()))}); err != nil {
		return nil, "", err
	}
	s, err := f.Put(ctx, image, 0, image.GetSpec().GetDigest(), strings.NewReader(r.GetOci()))
	return s, r.GetOci() + "@sha256:12", err
}

// Verify finds content damaged that begins with "damaged".
func (f *fakeImages) Verify(_ context.Context, image *pb.Image, report func(done, total int) error) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := report(1, 1); err != nil {
		return "", err
	}
	if bytes.HasPrefix(f.content[image.GetMetadata().GetName()], []byte("damaged")) {
		return "1 of 1 chunks is damaged", nil
	}
	return "", nil
}

func (f *fakeImages) Prune(_ context.Context, all bool) (*pb.PruneImagesResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := &pb.PruneImagesResponse{KeptBytes: 5, UsedBytes: int64(len(f.content))}
	if all {
		r.FreedBytes, r.KeptBytes = r.KeptBytes, 0
	}
	return r, nil
}

func (f *fakeImages) Remove(_ context.Context, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.content, name)
	return nil
}

func (f *fakeImages) has(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ok := f.content[name]
	return ok
}

func fakeDigest(data []byte) string {
	b := make([]byte, 32)
	b[31] = byte(len(data))
	return "sha256:" + hex.EncodeToString(b)
}

func stringInput(s string) map[string]*structpb.Value {
	return map[string]*structpb.Value{"image": structpb.NewStringValue(s)}
}
