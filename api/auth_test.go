package api

import (
	"context"
	"crypto/rand"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/trust"
)

// TestRoles keeps the table and the API the same: a method that isn't in the
// table can't be called by anybody.
func TestRoles(t *testing.T) {
	s := newRig(t).api
	table := roles()
	for service, info := range s.grpc.GetServiceInfo() {
		for _, m := range info.Methods {
			name := "/" + service + "/" + m.Name
			role, ok := table[name]
			if !ok || role == pb.Role_ROLE_UNSPECIFIED {
				t.Errorf("%s is not in the table", name)
			}
			read := strings.HasPrefix(m.Name, "Get") || strings.HasPrefix(m.Name, "List") || strings.HasPrefix(m.Name, "Watch") ||
				strings.HasPrefix(m.Name, "Follow") || strings.HasPrefix(m.Name, "Explain") || strings.HasPrefix(m.Name, "Diff")
			if !read && role == pb.Role_VIEWER {
				t.Errorf("a viewer may call %s", name)
			}
			if (strings.Contains(service, "Token") || strings.Contains(service, "Secret")) && role != pb.Role_ADMIN {
				t.Errorf("%s may be called by the role %s", name, role)
			}
			delete(table, name)
		}
	}
	for name := range table {
		t.Errorf("%s is in the table only", name)
	}
}

func TestAccess(t *testing.T) {
	r := newRig(t)
	viewer, operator := r.token("eve", pb.Role_VIEWER), r.token("olga", pb.Role_OPERATOR)
	list := func(ctx context.Context) error {
		_, err := r.machines().ListMachines(ctx, &pb.ListMachinesRequest{})
		return err
	}
	t.Run("without a token", func(t *testing.T) {
		wantCode(t, list(t.Context()), codes.Unauthenticated, "no token", "BEDPLATE_TOKEN")
	})
	t.Run("with something else", func(t *testing.T) {
		wantCode(t, list(r.as("hunter2")), codes.Unauthenticated, "bpt_")
		ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Basic "+r.admin)
		wantCode(t, list(ctx), codes.Unauthenticated)
	})
	t.Run("with a foreign token", func(t *testing.T) {
		foreign, err := trust.NewAPIToken(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		wantCode(t, list(r.as(foreign.Secret)), codes.Unauthenticated, "another server's")
	})
	t.Run("a viewer reads and changes nothing", func(t *testing.T) {
		if err := list(r.as(viewer)); err != nil {
			t.Fatal(err)
		}
		_, err := r.machines().CreateMachine(r.as(viewer), &pb.CreateMachineRequest{Machine: testMachine("a", "52:54:00:77:00:01", "")})
		wantCode(t, err, codes.PermissionDenied, `token "eve" has the role viewer`, "needs operator")
		_, err = pb.NewSecretServiceClient(r.conn).ListSecrets(r.as(viewer), &pb.ListSecretsRequest{})
		wantCode(t, err, codes.PermissionDenied)
	})
	t.Run("an operator changes machines, not tokens", func(t *testing.T) {
		_, err := r.machines().CreateMachine(r.as(operator), &pb.CreateMachineRequest{Machine: testMachine("a", "52:54:00:77:00:01", "")})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"Created by olga"}, r.events("machine", "a")); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
		_, err = pb.NewTokenServiceClient(r.conn).ListTokens(r.as(operator), &pb.ListTokensRequest{})
		wantCode(t, err, codes.PermissionDenied)
	})
	t.Run("streams ask as well", func(t *testing.T) {
		stream, err := pb.NewTokenServiceClient(r.conn).WatchTokens(r.as(operator), &pb.WatchTokensRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		wantCode(t, err, codes.PermissionDenied)
	})
	t.Run("the server says who one is", func(t *testing.T) {
		out, err := pb.NewSystemServiceClient(r.conn).GetServerInfo(r.as(viewer), &pb.GetServerInfoRequest{})
		if err != nil || out.GetToken() != "eve" || out.GetRole() != pb.Role_VIEWER || out.GetVersion() != "test" {
			t.Errorf("info = %v, %v", out, err)
		}
	})
}

func TestTokens(t *testing.T) {
	r := newRig(t)
	ctx := r.ctx()
	tokens := pb.NewTokenServiceClient(r.conn)
	t.Run("the digest is never shown", func(t *testing.T) {
		out, err := tokens.ListTokens(ctx, &pb.ListTokensRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, tok := range out.GetTokens() {
			if tok.GetStatus().GetDigest() != "" || !strings.HasPrefix(r.admin, tok.GetStatus().GetPrefix()) {
				t.Errorf("token = %v", tok)
			}
		}
	})
	t.Run("the last admin stays", func(t *testing.T) {
		_, err := tokens.DeleteToken(ctx, &pb.DeleteTokenRequest{Name: "admin"})
		wantCode(t, err, codes.FailedPrecondition, "last one")
		_, err = tokens.UpdateToken(ctx, &pb.UpdateTokenRequest{Token: &pb.Token{Metadata: &pb.Metadata{Name: "admin"}, Spec: &pb.TokenSpec{Role: pb.Role_VIEWER}}})
		wantCode(t, err, codes.FailedPrecondition, "last one")
	})
	t.Run("a role that is taken away is gone with the answer, a token as well", func(t *testing.T) {
		secret := r.token("bob", pb.Role_ADMIN)
		if _, err := tokens.ListTokens(r.as(secret), &pb.ListTokensRequest{}); err != nil {
			t.Fatal(err)
		}
		_, err := tokens.UpdateToken(ctx, &pb.UpdateTokenRequest{Token: &pb.Token{Metadata: &pb.Metadata{Name: "bob"}, Spec: &pb.TokenSpec{Role: pb.Role_VIEWER}}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = tokens.ListTokens(r.as(secret), &pb.ListTokensRequest{})
		wantCode(t, err, codes.PermissionDenied)
		if _, err := tokens.DeleteToken(ctx, &pb.DeleteTokenRequest{Name: "bob"}); err != nil {
			t.Fatal(err)
		}
		_, err = r.machines().ListMachines(r.as(secret), &pb.ListMachinesRequest{})
		wantCode(t, err, codes.Unauthenticated, "deleted")
	})
	t.Run("a stream ends with its token", func(t *testing.T) {
		secret := r.token("short", pb.Role_VIEWER)
		stream, err := r.machines().WatchMachines(r.as(secret), &pb.WatchMachinesRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil { // SYNCED
			t.Fatal(err)
		}
		if _, err := tokens.DeleteToken(ctx, &pb.DeleteTokenRequest{Name: "short"}); err != nil {
			t.Fatal(err)
		}
		r.createMachine(testMachine("web-1", "52:54:00:77:00:01", ""))
		_, err = stream.Recv()
		wantCode(t, err, codes.Unauthenticated)
	})
	t.Run("one that has expired says so", func(t *testing.T) {
		out, err := tokens.CreateToken(ctx, &pb.CreateTokenRequest{Token: &pb.Token{
			Metadata: &pb.Metadata{Name: "brief"},
			Spec:     &pb.TokenSpec{Role: pb.Role_VIEWER, ExpireTime: timestamppb.New(r.clock().Add(time.Hour))},
		}})
		if err != nil {
			t.Fatal(err)
		}
		r.advance(time.Hour)
		_, err = r.machines().ListMachines(r.as(out.GetSecret()), &pb.ListMachinesRequest{})
		wantCode(t, err, codes.Unauthenticated, `"brief" expired on 2026-03-01T13:00:00Z`)
		_, err = tokens.CreateToken(ctx, &pb.CreateTokenRequest{Token: &pb.Token{
			Metadata: &pb.Metadata{Name: "late"},
			Spec:     &pb.TokenSpec{Role: pb.Role_VIEWER, ExpireTime: timestamppb.New(r.clock())},
		}})
		wantField(t, err, "spec.expire_time", "in the past")
	})
	t.Run("an update makes none", func(t *testing.T) {
		_, err := tokens.UpdateToken(ctx, &pb.UpdateTokenRequest{AllowMissing: true, Token: &pb.Token{
			Metadata: &pb.Metadata{Name: "new"}, Spec: &pb.TokenSpec{Role: pb.Role_VIEWER},
		}})
		wantCode(t, err, codes.FailedPrecondition, "bedplate token create")
	})
	t.Run("a dry run shows none", func(t *testing.T) {
		out, err := tokens.CreateToken(ctx, &pb.CreateTokenRequest{DryRun: true, Token: &pb.Token{
			Metadata: &pb.Metadata{Name: "dry"}, Spec: &pb.TokenSpec{Role: pb.Role_VIEWER},
		}})
		if err != nil || out.GetSecret() != "" {
			t.Errorf("answer = %v, %v", out, err)
		}
	})
}

func TestBootstrap(t *testing.T) {
	r := newRig(t)
	t.Run("a second start makes no token, and the first one's works", func(t *testing.T) {
		r.stop()
		before := r.admin
		r.start()
		if r.admin != before {
			t.Errorf("a second admin token was made")
		}
		if _, err := r.machines().ListMachines(r.ctx(), &pb.ListMachinesRequest{}); err != nil {
			t.Error(err)
		}
	})
	t.Run("when all admins have expired another one is made", func(t *testing.T) {
		out, err := pb.NewTokenServiceClient(r.conn).UpdateToken(r.ctx(), &pb.UpdateTokenRequest{Token: &pb.Token{
			Metadata: &pb.Metadata{Name: "admin"},
			Spec:     &pb.TokenSpec{Role: pb.Role_ADMIN, ExpireTime: timestamppb.New(r.clock().Add(time.Hour))},
		}})
		if err != nil {
			t.Fatal(out, err)
		}
		r.advance(2 * time.Hour)
		r.stop()
		r.start()
		info, err := pb.NewSystemServiceClient(r.conn).GetServerInfo(r.ctx(), &pb.GetServerInfoRequest{})
		if err != nil || info.GetToken() != "admin-2" {
			t.Errorf("info = %v, %v", info, err)
		}
	})
}

func TestPenalty(t *testing.T) {
	r := newRig(t)
	var last error
	for range failureBurst + 1 {
		_, last = r.machines().ListMachines(r.as("wrong"), &pb.ListMachinesRequest{})
	}
	wantCode(t, last, codes.ResourceExhausted, "wait a minute")
	t.Run("a good token from the address is served", func(t *testing.T) {
		if _, err := r.machines().ListMachines(r.ctx(), &pb.ListMachinesRequest{}); err != nil {
			t.Error(err)
		}
	})
	t.Run("after a minute it is told the reason again", func(t *testing.T) {
		r.advance(time.Minute)
		_, err := r.machines().ListMachines(r.as("wrong"), &pb.ListMachinesRequest{})
		wantCode(t, err, codes.Unauthenticated)
	})
	t.Run("what is remembered is bounded", func(t *testing.T) {
		f := newFailureLimits()
		for addr, i := netip.MustParseAddr("10.0.0.0"), 0; i < 3*maxFailing; addr, i = addr.Next(), i+1 {
			f.allow(addr, r.clock())
		}
		if len(f.byAddr) > maxFailing {
			t.Errorf("%d addresses are remembered", len(f.byAddr))
		}
	})
}

func TestFailures(t *testing.T) {
	r := newRig(t)
	t.Run("a panic is an internal error, and the server goes on", func(t *testing.T) {
		r.createMachine(testMachine("panics", "52:54:00:77:00:01", ""))
		_, err := r.machines().ExplainMachine(r.ctx(), &pb.ExplainMachineRequest{Name: "panics"})
		wantCode(t, err, codes.Internal)
		if strings.Contains(err.Error(), "it does") {
			t.Errorf("the client is told %v", err)
		}
		if _, err := r.machines().GetMachineTimeline(r.ctx(), &pb.GetMachineTimelineRequest{Name: "panics"}); err != nil {
			t.Error(err)
		}
	})
	t.Run("views of an unknown machine are NOT_FOUND", func(t *testing.T) {
		_, err := r.machines().ExplainMachine(r.ctx(), &pb.ExplainMachineRequest{Name: "nope"})
		wantCode(t, err, codes.NotFound, "machine/nope")
	})
	t.Run("a message that is too large is refused", func(t *testing.T) {
		m := testMachine("large", "52:54:00:77:00:02", "")
		m.Metadata.Annotations = map[string]string{"a": strings.Repeat("x", maxMessageBytes)}
		_, err := r.machines().CreateMachine(r.ctx(), &pb.CreateMachineRequest{Machine: m})
		wantCode(t, err, codes.ResourceExhausted)
	})
	t.Run("a resource that is too large is refused", func(t *testing.T) {
		m := testMachine("large", "52:54:00:77:00:02", "")
		m.Metadata.Annotations = map[string]string{"a": strings.Repeat("x", 2<<20)}
		_, err := r.machines().CreateMachine(r.ctx(), &pb.CreateMachineRequest{Machine: m})
		wantCode(t, err, codes.InvalidArgument, "1 MiB")
	})
	t.Run("calls are counted by method and code", func(t *testing.T) {
		families, err := r.reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]float64{}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				key := f.GetName()
				for _, l := range m.GetLabel() {
					key += " " + l.GetValue()
				}
				got[key] = m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
		if got["bedplate_api_requests_total Internal "+pb.MachineService_ExplainMachine_FullMethodName] != 1 ||
			got["bedplate_api_request_duration_seconds "+pb.MachineService_ExplainMachine_FullMethodName] != 2 {
			t.Errorf("metrics = %v", got)
		}
	})
}

func TestListen(t *testing.T) {
	r := newRig(t)
	cfg := r.api.cfg
	cfg.Address, cfg.Registerer = r.api.Addr().String(), nil
	second, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = second.Close() }()
	err = second.Listen()
	if err == nil || !strings.Contains(err.Error(), "another program has the port") || !strings.Contains(err.Error(), "ss -ltnp") {
		t.Errorf("err = %v", err)
	}
}

func TestNew(t *testing.T) {
	full := newRig(t).api.cfg
	full.Registerer = nil
	for name, change := range map[string]func(*Config){
		"DB": func(c *Config) { c.DB = nil }, "TLS": func(c *Config) { c.TLS = nil }, "Logger": func(c *Config) { c.Logger = nil },
	} {
		cfg := full
		change(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("without %s: no error", name)
		}
	}
}

func TestStop(t *testing.T) {
	r := newRig(t)
	var streams []grpc.ServerStreamingClient[pb.WatchMachinesResponse]
	for i := range 3 {
		stream, err := r.machines().WatchMachines(r.ctx(), &pb.WatchMachinesRequest{Name: []string{"", "a", "b"}[i]})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		streams = append(streams, stream)
	}
	rest, err := r.get(r.admin, "/v1/machines:watch")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rest.Body.Close() }()
	began := time.Now()
	r.stop()
	if took := time.Since(began); took > stopTimeout/2 {
		t.Errorf("stopping took %s", took)
	}
	for _, s := range streams {
		if _, err := s.Recv(); status.Code(err) != codes.Unavailable {
			t.Errorf("stream ended with %v, want UNAVAILABLE", err)
		}
	}
	if _, err := r.machines().ListMachines(r.ctx(), &pb.ListMachinesRequest{}); err == nil {
		t.Error("the port still answers")
	}
}
