package engine

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"github.com/bedplate/bedplate/dhcp/lease"
	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/trust"
)

// freePorts returns TCP ports that nobody listens on right now.
func freePorts(t *testing.T, n int) []uint16 {
	t.Helper()
	var ports []uint16
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports = append(ports, netip.MustParseAddrPort(l.Addr().String()).Port())
	}
	return ports
}

// server is an engine that runs on loopback, and a client with its first admin token.
type server struct {
	t      *testing.T
	e      *Engine
	cfg    Config
	secret string
	stop   func()
	conn   *grpc.ClientConn
}

func testConfig(t *testing.T, dir string) Config {
	t.Helper()
	p := freePorts(t, 4)
	ipxe := t.TempDir()
	if err := os.WriteFile(filepath.Join(ipxe, "undionly.kpxe"), []byte("boot file"), 0o600); err != nil {
		t.Fatal(err)
	}
	return Config{
		DataDir: dir, BindAddress: netip.MustParseAddr("127.0.0.1"), HTTPPort: p[0], APIPort: p[1], AgentPort: p[2], TFTPPort: p[3],
		IPXEDirs: []string{ipxe}, Version: "test", Logger: slog.New(slog.DiscardHandler), Now: time.Now, Rand: rand.Reader,
	}
}

func start(t *testing.T, cfg Config) *server {
	t.Helper()
	e, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, e: e, cfg: cfg}
	if s.secret, _, err = e.Bootstrap(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := e.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	stopped := false
	s.stop = func() {
		if stopped {
			return
		}
		stopped = true
		if s.conn != nil {
			s.conn.Close()
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("running the server: %v", err)
		}
	}
	t.Cleanup(s.stop)
	tlsConfig, err := trust.PinnedClientTLS(e.CA().Digest(), "127.0.0.1", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	s.conn, err = grpc.NewClient(fmt.Sprintf("127.0.0.1:%d", cfg.APIPort), grpc.WithTransportCredentials(credentials.NewTLS(tlsConfig)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *server) ctx() context.Context {
	return metadata.AppendToOutgoingContext(s.t.Context(), "authorization", "Bearer "+s.secret)
}

func (s *server) get(path string) (int, string) {
	s.t.Helper()
	resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d%s", s.cfg.HTTPPort, path))
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func (s *server) eventually(what string, ok func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			s.t.Fatalf("never: %s", what)
		}
		<-time.After(10 * time.Millisecond)
	}
}

func TestEngine(t *testing.T) {
	s := start(t, testConfig(t, t.TempDir()))
	machines := pb.NewMachineServiceClient(s.conn)

	t.Run("a new machine is enrolled and its script boots the agent", func(t *testing.T) {
		_, err := machines.CreateMachine(s.ctx(), &pb.CreateMachineRequest{Machine: &pb.Machine{
			Metadata: &pb.Metadata{Name: "web-1"}, Spec: &pb.MachineSpec{Interfaces: []*pb.Interface{{Mac: "52:54:00:77:00:01"}}},
		}})
		if err != nil {
			t.Fatal(err)
		}
		s.eventually("enrolled", func() bool {
			m, err := machines.GetMachine(s.ctx(), &pb.GetMachineRequest{Name: "web-1"})
			return err == nil && m.GetStatus().GetState() == pb.MachineState_ENROLLED
		})
		s.eventually("its script boots the agent", func() bool {
			code, script := s.get("/ipxe/script?mac=52-54-00-77-00-01&platform=pcbios")
			return code == http.StatusOK && strings.Contains(script, "bedplate.token=")
		})
	})
	t.Run("the built-in templates are there", func(t *testing.T) {
		list, err := pb.NewTemplateServiceClient(s.conn).ListTemplates(s.ctx(), &pb.ListTemplatesRequest{})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, tpl := range list.Templates {
			names = append(names, tpl.Metadata.Name)
		}
		for _, want := range []string{"inspect", "install-image", "release", "return-to-disk", "test"} {
			if !slices.Contains(names, want) {
				t.Errorf("got templates %q, want %s among them", names, want)
			}
		}
	})
	t.Run("explain says what is being waited for", func(t *testing.T) {
		r, err := machines.ExplainMachine(s.ctx(), &pb.ExplainMachineRequest{Name: "web-1"})
		if err != nil {
			t.Fatal(err)
		}
		if r.WaitingFor == "" || len(r.Advice) == 0 {
			t.Errorf("got %v", r)
		}
	})
	t.Run("health is ok, readiness names what is missing", func(t *testing.T) {
		if code, body := s.get("/healthz"); code != http.StatusOK {
			t.Errorf("healthz: %d %s", code, body)
		}
		if code, body := s.get("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "vmlinuz") {
			t.Errorf("readyz without the agent's system: %d %s", code, body)
		}
	})
	t.Run("metrics carry the service's name and no MAC address", func(t *testing.T) {
		_, body := s.get("/metrics")
		for _, want := range []string{"bedplate_api_", "bedplate_dhcp_", "bedplate_tftp_"} {
			if !strings.Contains(body, want) {
				t.Errorf("no metric %s", want)
			}
		}
		if strings.Contains(body, "52:54") {
			t.Error("a metric holds a MAC address")
		}
	})
	t.Run("an image is uploaded and served", func(t *testing.T) {
		up, err := pb.NewImageServiceClient(s.conn).CreateImage(s.ctx(), &pb.CreateImageRequest{Image: &pb.Image{Metadata: &pb.Metadata{Name: "tiny"}, Spec: &pb.ImageSpec{}}})
		if err != nil {
			t.Fatal(err)
		}
		stream, err := pb.NewImageServiceClient(s.conn).UploadImage(s.ctx())
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range []*pb.UploadImageRequest{
			{Part: &pb.UploadImageRequest_Header{Header: &pb.UploadImageHeader{Name: up.Metadata.Name}}},
			{Part: &pb.UploadImageRequest_Data{Data: []byte("disk image")}},
		} {
			if err := stream.Send(m); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := stream.CloseAndRecv(); err != nil {
			t.Fatal(err)
		}
		s.eventually("the content is served", func() bool {
			code, body := s.get("/images/tiny")
			return code == http.StatusOK && body == "disk image"
		})
	})
}

func TestEngine_Restart(t *testing.T) {
	dir := t.TempDir()
	s := start(t, testConfig(t, dir))
	if _, err := pb.NewMachineServiceClient(s.conn).CreateMachine(s.ctx(), &pb.CreateMachineRequest{Machine: &pb.Machine{
		Metadata: &pb.Metadata{Name: "web-1"}, Spec: &pb.MachineSpec{Interfaces: []*pb.Interface{{Mac: "52:54:00:77:00:01"}}},
	}}); err != nil {
		t.Fatal(err)
	}
	s.stop()
	again := start(t, testConfig(t, dir))
	if again.secret != "" {
		t.Error("the second start made another admin token")
	}
	again.secret = s.secret
	if _, err := pb.NewMachineServiceClient(again.conn).GetMachine(again.ctx(), &pb.GetMachineRequest{Name: "web-1"}); err != nil {
		t.Errorf("after a restart: %v", err)
	}
}

func TestEngine_LeasesOutliveARestart(t *testing.T) {
	cfg := testConfig(t, t.TempDir())
	e, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	mac, addr := machine.MAC{0x52, 0x54, 0, 0x77, 0, 1}, netip.MustParseAddr("10.77.0.100")
	l := lease.Lease{Network: "rack", Address: addr, Client: lease.ClientOf(mac, 1, nil, nil), MAC: mac, Expires: time.Now().Add(time.Hour)}
	if err := (leases{e.store}).Put(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if got, ok := again.index.HolderOf(addr); !ok || got != mac {
		t.Errorf("after a restart %s is held by %s, %v", addr, got, ok)
	}
}

func TestEngine_PortTaken(t *testing.T) {
	cfg := testConfig(t, t.TempDir())
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", cfg.HTTPPort))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	e, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if err := e.Listen(); err == nil || !strings.Contains(err.Error(), "--http-port") {
		t.Errorf("got %v, want the flag that helps", err)
	}
}

func TestEngine_TwoInOneProcess(t *testing.T) {
	a, b := start(t, testConfig(t, t.TempDir())), start(t, testConfig(t, t.TempDir()))
	for _, s := range []*server{a, b} {
		if _, err := pb.NewSystemServiceClient(s.conn).GetServerInfo(s.ctx(), &pb.GetServerInfoRequest{}); err != nil {
			t.Error(err)
		}
	}
	if _, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", a.cfg.APIPort), &tls.Config{}); err == nil {
		t.Error("a certificate of our own CA was accepted by a client that doesn't know it")
	}
}
