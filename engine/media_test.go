package engine

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/bedplate/bedplate/images/agentos"
	"github.com/bedplate/bedplate/images/iso"
	"github.com/bedplate/bedplate/machine/medium"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/trust"
)

// Where the parts of the made-up image lie.
var (
	scriptAt  = iso.Region{Offset: 2048, Size: 8 << 10}
	archiveAt = iso.Region{Offset: 20 << 10, Size: 64 << 10}
)

// madeUpImage writes a boot medium with nothing in it.
func madeUpImage(t *testing.T, dir string) {
	t.Helper()
	content := make([]byte, 200<<10)
	sum := sha256.Sum256(content)
	digest := hex.EncodeToString(sum[:])
	part := iso.Region{Offset: 100 << 10, Size: 1}
	m := iso.Manifest{Inputs: digest, Image: agentos.File{Size: int64(len(content))}, Script: scriptAt, Archive: archiveAt, Kernel: part, Initramfs: part, System: [2]string{"k", "i"}}
	system := agentos.Manifest{Kernel: agentos.File{SHA256: "k"}, Initramfs: agentos.File{SHA256: "i"}}
	for name, v := range map[string]any{iso.ManifestFile: m, agentos.ManifestFile: system} {
		data, err := json.Marshal(v)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), data, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, iso.ImageFile), content, 0o644); err != nil {
		t.Fatal(err)
	}
}

// partsOf reads the machine's part of an image.
func partsOf(t *testing.T, image []byte) (script string, c medium.Config) {
	t.Helper()
	archive := image[archiveAt.Offset:archiveAt.End()]
	from, to := bytes.IndexByte(archive, '{'), bytes.LastIndexByte(archive, '}')
	c, err := medium.Parse(archive[from : to+1])
	if err != nil {
		t.Fatal(err)
	}
	return string(image[scriptAt.Offset:scriptAt.End()]), c
}

// onLoopback fetches a URL of a server whose address in it is not this host's.
func (s *server) onLoopback(url string) (int, []byte) {
	s.t.Helper()
	_, path, _ := strings.Cut(strings.TrimPrefix(url, "http://"), "/")
	resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/%s", s.cfg.HTTPPort, path))
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, body
}

// enrol is a boot of an agent with that token.
func (s *server) enrol(token, boot string) error {
	s.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		s.t.Fatal(err)
	}
	tlsConfig, err := trust.PinnedClientTLS(s.e.CA().Digest(), "127.0.0.1", time.Now)
	if err != nil {
		s.t.Fatal(err)
	}
	conn, err := grpc.NewClient(fmt.Sprintf("127.0.0.1:%d", s.cfg.AgentPort), grpc.WithTransportCredentials(credentials.NewTLS(tlsConfig)))
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	_, err = pb.NewAgentServiceClient(conn).Enroll(s.t.Context(), &pb.EnrollRequest{
		Token: token, CertificateRequest: csr, BootId: strings.Repeat(boot, 16), Macs: []string{"52:54:00:77:00:01"},
	})
	return err
}

func (s *server) applyNetwork(n *pb.Network) {
	s.t.Helper()
	if _, err := pb.NewNetworkServiceClient(s.conn).CreateNetwork(s.ctx(), &pb.CreateNetworkRequest{Network: n}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *server) applyMachine(m *pb.Machine) {
	s.t.Helper()
	if _, err := pb.NewMachineServiceClient(s.conn).CreateMachine(s.ctx(), &pb.CreateMachineRequest{Machine: m}); err != nil {
		s.t.Fatal(err)
	}
}

func mediaServer(t *testing.T) *server {
	t.Helper()
	cfg := testConfig(t, t.TempDir())
	cfg.AgentOSDir = t.TempDir()
	madeUpImage(t, cfg.AgentOSDir)
	s := start(t, cfg)
	s.applyNetwork(&pb.Network{Metadata: &pb.Metadata{Name: "rack"}, Spec: &pb.NetworkSpec{
		Cidr: "10.9.0.0/24", DhcpMode: pb.DHCPMode_OFF, ServerAddress: "10.9.0.1", Gateway: "10.9.0.254", Nameservers: []string{"10.9.0.2"}, Domain: "rack.example", Mtu: 1400,
	}})
	s.applyMachine(&pb.Machine{Metadata: &pb.Metadata{Name: "web-1"}, Spec: &pb.MachineSpec{
		BootMethod: "virtual-media", Console: "ttyS1,57600n8", KernelArgs: []string{"intel_iommu=on"},
		Interfaces: []*pb.Interface{{Mac: "52:54:00:77:00:01", Address: "10.9.0.31/24", Vlan: 42}, {Mac: "52:54:00:77:00:02"}},
	}})
	s.eventually("the network is known", func() bool {
		_, ok := s.e.networks.of(netip.MustParseAddr("10.9.0.31"))
		return ok
	})
	return s
}

func TestEngine_MediaURL(t *testing.T) {
	s := mediaServer(t)
	url, err := s.e.MediaURL(t.Context(), "web-1")
	if err != nil {
		t.Fatal(err)
	}
	code, image := s.onLoopback(url)
	if code != http.StatusOK {
		t.Fatalf("status %d", code)
	}
	script, config := partsOf(t, image)
	t.Run("the URL is at the address by which the machine's network reaches the server", func(t *testing.T) {
		if want := fmt.Sprintf("http://10.9.0.1:%d/media/web-1/", s.cfg.HTTPPort); !strings.HasPrefix(url, want) {
			t.Errorf("%s, want %s…", url, want)
		}
	})
	t.Run("the medium has the machine's addresses, with what its network adds", func(t *testing.T) {
		want := medium.Config{
			Version: medium.Version, Machine: "web-1", CA: s.e.CA().Digest(),
			Server: fmt.Sprintf("10.9.0.1:%d", s.cfg.AgentPort), HTTP: fmt.Sprintf("http://10.9.0.1:%d", s.cfg.HTTPPort),
			Interfaces: []medium.Interface{
				{
					MAC: "52:54:00:77:00:01", Address: netip.MustParsePrefix("10.9.0.31/24"), Gateway: netip.MustParseAddr("10.9.0.254"), VLAN: 42, MTU: 1400,
					Nameservers: []netip.Addr{netip.MustParseAddr("10.9.0.2")}, Search: []string{"rack.example"},
				},
				{MAC: "52:54:00:77:00:02"},
			},
		}
		if diff := cmp.Diff(want, config, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.IgnoreFields(medium.Config{}, "Token")); diff != "" {
			t.Errorf("configuration (-want +got):\n%s", diff)
		}
	})
	t.Run("GRUB passes the machine's console and kernel arguments, and no secret", func(t *testing.T) {
		for _, want := range []string{"serial --unit=1 --speed=57600", "'console=ttyS1,57600n8' 'intel_iommu=on'", iso.KernelPath} {
			if !strings.Contains(script, want) {
				t.Errorf("no %q in\n%s", want, script)
			}
		}
		if strings.Contains(script, config.Token) {
			t.Error("the token is on the kernel's command line")
		}
	})
	t.Run("it enrols for every boot until it is ejected", func(t *testing.T) {
		for _, boot := range []string{"a", "b"} {
			if err := s.enrol(config.Token, boot); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.e.MediaEjected(t.Context(), "web-1"); err != nil {
			t.Fatal(err)
		}
		if err := s.enrol(config.Token, "c"); status.Code(err) != codes.Unauthenticated {
			t.Errorf("after ejecting: %v", err)
		}
		if code, _ := s.onLoopback(url); code != http.StatusNotFound {
			t.Errorf("after ejecting: status %d", code)
		}
	})
	t.Run("a machine that can't reach the server is told so before it boots", func(t *testing.T) {
		s.applyNetwork(&pb.Network{Metadata: &pb.Metadata{Name: "far"}, Spec: &pb.NetworkSpec{Cidr: "10.8.0.0/24", DhcpMode: pb.DHCPMode_OFF, ServerAddress: "10.9.0.1"}})
		s.applyMachine(&pb.Machine{Metadata: &pb.Metadata{Name: "web-2"}, Spec: &pb.MachineSpec{
			Interfaces: []*pb.Interface{{Mac: "52:54:00:77:00:03", Address: "10.8.0.31/24"}},
		}})
		s.eventually("it is refused", func() bool {
			_, err := s.e.MediaURL(t.Context(), "web-2")
			return err != nil && strings.Contains(err.Error(), "spec.interfaces[].gateway")
		})
	})
	t.Run("a machine that isn't has no medium", func(t *testing.T) {
		if _, err := s.e.MediaURL(t.Context(), "nobody"); err == nil {
			t.Error("no error")
		}
	})
}

func TestEngine_MakeMachineMedium(t *testing.T) {
	s := mediaServer(t)
	client := pb.NewMachineServiceClient(s.conn)
	stream, err := client.MakeMachineMedium(s.ctx(), &pb.MakeMachineMediumRequest{Name: "web-1"})
	if err != nil {
		t.Fatal(err)
	}
	first, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var image []byte
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		image = append(image, m.GetData()...)
	}
	if got := first.GetMedium(); got.GetSizeBytes() != int64(len(image)) || time.Until(got.GetExpireTime().AsTime()) < 23*time.Hour {
		t.Errorf("description %v of %d bytes", got, len(image))
	}
	_, config := partsOf(t, image)
	if err := s.enrol(config.Token, "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := client.RevokeMachineMedia(s.ctx(), &pb.RevokeMachineMediaRequest{Name: "web-1"}); err != nil {
		t.Fatal(err)
	}
	if err := s.enrol(config.Token, "b"); status.Code(err) != codes.Unauthenticated {
		t.Errorf("after it was revoked: %v", err)
	}
	t.Run("who made it is on record", func(t *testing.T) {
		events, err := pb.NewEventServiceClient(s.conn).ListEvents(s.ctx(), &pb.ListEventsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if all := events.String(); !strings.Contains(all, "MediumMade") || !strings.Contains(all, "MediumRevoked") || strings.Contains(all, config.Token) {
			t.Errorf("events: %s", all)
		}
	})
}

func TestEngine_NetworkConfig(t *testing.T) {
	s := mediaServer(t)
	for _, c := range []struct {
		name string
		spec *pb.MachineSpec
		want bool
	}{
		{"a machine that boots from a medium", &pb.MachineSpec{BootMethod: "virtual-media", Interfaces: []*pb.Interface{{Mac: "52:54:00:77:01:01", Address: "10.7.0.31/24"}}}, true},
		{"a machine in a network where DHCP is off", &pb.MachineSpec{Interfaces: []*pb.Interface{{Mac: "52:54:00:77:01:02", Address: "10.9.0.32/24"}}}, true},
		{"a machine that DHCP is not to answer", &pb.MachineSpec{Interfaces: []*pb.Interface{{Mac: "52:54:00:77:01:03", Address: "10.7.0.33/24", DisableDhcp: true}}}, true},
		{"a machine that DHCP gives its address", &pb.MachineSpec{Interfaces: []*pb.Interface{{Mac: "52:54:00:77:01:04", Address: "10.7.0.34/24"}}}, false},
		{"a machine that has no address, on a medium", &pb.MachineSpec{BootMethod: "virtual-media", Interfaces: []*pb.Interface{{Mac: "52:54:00:77:01:05"}}}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			n, err := s.e.systemNetwork(machineValue(&pb.Machine{Metadata: &pb.Metadata{Name: "m"}, Spec: c.spec}), "")
			if err != nil {
				t.Fatal(err)
			}
			got := string(n.cloudInit)
			if has := strings.Contains(got, c.spec.Interfaces[0].Address); (got != "") != c.want || c.want && !has {
				t.Errorf("configuration %q", got)
			}
		})
	}
}
