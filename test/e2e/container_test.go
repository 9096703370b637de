package e2e

import (
	"archive/tar"
	"bytes"
	"io"
	"log"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/bedplate/bedplate/lab"
)

// upstream is a registry that only the server can reach: machines are not told of it.
const upstream = serverAddress + ":5000"

// probe is what the container runs.
const probe = `package main

import (
	"fmt"
	"os"
)

func main() {
	host, _ := os.Hostname()
	fmt.Println("hello from", host, "as process", os.Getpid(), "with", os.Getenv("COLOUR"))
	for _, a := range os.Args[1:] {
		fmt.Fprintln(os.Stderr, "argument", a)
	}
	if len(os.Args) > 1 && os.Args[1] == "fail" {
		fmt.Fprintln(os.Stderr, "the last words")
		os.Exit(42)
	}
}
`

// TestContainer runs an image of an upstream registry on a machine, which gets
// it through the server's mirror.
func TestContainer(t *testing.T) {
	r := newRack(t, lab.Spec{Machines: []lab.MachineSpec{{Name: "m1"}}})
	r.serve(upstream, registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	r.start("--registry-insecure", upstream, "--registry-allow", upstream)
	r.apply(r.machineYAML("m1", "10.77.0.31/24"))
	r.powerOn("m1")
	digest := r.pushProbe("tools/probe:1")
	r.waitState(installTime, "machine", "m1", "available", "failed")

	t.Run("a container's lines and outputs are on record", func(t *testing.T) {
		r := r.in(t)
		r.apply(template("hello", `
  - {id: paint, uses: container, image: "`+upstream+`/tools/probe@`+digest+`"}
  - {id: hello, uses: container, image: "`+upstream+`/tools/probe:1", args: [one, "two words"], env: {COLOUR: "${{ steps.paint.outputs.exit_code == 0 ? 'blue' : 'red' }}"}}
`))
		r.must("workflow", "run", "hello", "--machine", "m1", "--name", "hello")
		r.waitState(installTime, "workflow", "hello", "succeeded", "failed")
		out := r.must("workflow", "logs", "hello", "--step", "hello")
		for _, want := range []string{"as process 1 with blue\n", "argument one\n", "argument two words\n"} {
			if !strings.Contains(out, want) {
				t.Errorf("the log lacks %q:\n%s", want, out)
			}
		}
		for _, s := range r.object("workflow", "hello")["status"].(map[string]any)["steps"].([]any) {
			if field(s, "id") == "hello" && (field(s, "outputs", "exit_code") != "0" || !strings.Contains(field(s, "outputs", "stdout"), "with blue")) {
				t.Errorf("outputs are %v", s.(map[string]any)["outputs"])
			}
		}
	})
	t.Run("an exit code that isn't 0 fails the step, with its last lines", func(t *testing.T) {
		r := r.in(t)
		r.apply(template("fails", `
  - {id: hello, uses: container, image: "`+upstream+`/tools/probe:1", args: [fail]}
`))
		r.must("workflow", "run", "fails", "--machine", "m1", "--name", "fails")
		r.waitState(installTime, "workflow", "fails", "failed", "succeeded")
		w := r.object("workflow", "fails")
		attempt := w["status"].(map[string]any)["steps"].([]any)[0].(map[string]any)["attempts"].([]any)[0]
		if got := field(attempt, "exit_code"); got != "42" {
			t.Errorf("exit code %q, want 42", got)
		}
		if got := field(attempt, "last_output"); !strings.Contains(got, "the last words") {
			t.Errorf("last output %q", got)
		}
		if got := field(w, "status", "cause"); !strings.Contains(got, "/probe: exit code 42") {
			t.Errorf("the cause doesn't name program and exit code: %s", got)
		}
	})
	t.Run("an image that the registry doesn't have is an error of the registry", func(t *testing.T) {
		r := r.in(t)
		r.apply(template("absent", `
  - {id: hello, uses: container, image: "`+upstream+`/tools/absent:1"}
`))
		r.must("workflow", "run", "absent", "--machine", "m1", "--name", "absent")
		r.waitState(installTime, "workflow", "absent", "failed", "succeeded")
		cause := field(r.object("workflow", "absent"), "status", "cause")
		for _, want := range []string{"pulling " + upstream + "/tools/absent:1", "NAME_UNKNOWN"} {
			if !strings.Contains(cause, want) {
				t.Errorf("the cause doesn't say %q: %s", want, cause)
			}
		}
	})
	t.Run("a registry that isn't allowed is refused", func(t *testing.T) {
		r := r.in(t)
		r.apply(template("foreign", `
  - {id: hello, uses: container, image: "registry.example/tools/probe:1"}
`))
		r.must("workflow", "run", "foreign", "--machine", "m1", "--name", "foreign")
		r.waitState(installTime, "workflow", "foreign", "failed", "succeeded")
		if cause := field(r.object("workflow", "foreign"), "status", "cause"); !strings.Contains(cause, "--registry-allow") {
			t.Errorf("the cause doesn't say what to do: %s", cause)
		}
	})
}

// pushProbe builds the probe, makes an image of it alone and pushes that to
// the upstream registry. It returns the image's digest.
func (r *rig) pushProbe(ref string) string {
	r.t.Helper()
	dir := r.t.TempDir()
	source, program := filepath.Join(dir, "probe.go"), filepath.Join(dir, "probe")
	if err := os.WriteFile(source, []byte(probe), 0o600); err != nil {
		r.t.Fatal(err)
	}
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, source)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		r.t.Fatalf("building the probe: %v\n%s", err, out)
	}
	content, err := os.ReadFile(program)
	if err != nil {
		r.t.Fatal(err)
	}
	img, err := imageOf("probe", content)
	if err != nil {
		r.t.Fatal(err)
	}
	to, err := name.ParseReference(upstream+"/"+ref, name.Insecure)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := remote.Write(to, img, remote.WithTransport(&http.Transport{DialContext: r.ns.Dial, DisableKeepAlives: true})); err != nil {
		r.t.Fatal(err)
	}
	digest, err := img.Digest()
	if err != nil {
		r.t.Fatal(err)
	}
	return digest.String()
}

// imageOf makes an image with one program in it, which it starts.
func imageOf(program string, content []byte) (v1.Image, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: program, Mode: 0o755, Size: int64(len(content))}); err != nil {
		return nil, err
	}
	if _, err := w.Write(content); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	return mutate.Config(img, v1.Config{Entrypoint: []string{"/" + program}})
}
