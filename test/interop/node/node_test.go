// Package node holds what Bedplate writes of Kubernetes nodes against the
// programs that read it.
package node

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bedplate/bedplate/cluster/node"
)

func TestMain(m *testing.M) {
	if os.Getenv("BEDPLATE_E2E") == "" {
		fmt.Println("SKIP: this needs containerd: run `make e2e`")
		return
	}
	os.Exit(m.Run())
}

// TestContainerd has containerd say what it would run with.
func TestContainerd(t *testing.T) {
	d, err := node.Named("debian-12")
	if err != nil {
		t.Fatal(err)
	}
	p, err := node.Make(node.Settings{PauseImage: "registry.example/pause:3.10"}, d)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, f := range p.Files {
		path := filepath.Join(dir, f.Path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(f.Data), os.FileMode(f.Mode)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "containerd", "--config", filepath.Join(dir, "etc/containerd/config.toml"), "config", "dump").CombinedOutput()
	if err != nil {
		t.Fatalf("containerd config dump: %v\n%s", err, out)
	}
	for _, want := range []string{
		`sandbox_image = "registry.example/pause:3.10"`, "SystemdCgroup = true", `config_path = "/etc/containerd/certs.d"`,
		`bin_dir = "/opt/cni/bin"`, `conf_dir = "/etc/cni/net.d"`, `runtime_type = "io.containerd.runc.v2"`,
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%s is missing in\n%s", want, out)
		}
	}
}
