package container

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/bedplate/bedplate/agent/step"
)

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == InitName {
		fmt.Fprintln(os.Stderr, Init())
		os.Exit(127)
	}
	os.Exit(m.Run())
}

// transcript is a step.Reporter that keeps everything.
type transcript struct {
	mu    sync.Mutex
	lines []string
	said  chan string
}

func (r *transcript) Log(stream, line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, stream+": "+line)
	if r.said != nil {
		select {
		case r.said <- line:
		default:
		}
	}
}

func (r *transcript) Progress(int64, int64, string, string) {}

func (r *transcript) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.lines, "\n")
}

// layer makes a compressed layer of entries.
func layer(t testing.TB, headers ...tar.Header) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, h := range headers {
		content := h.PAXRecords["content"]
		h.PAXRecords = nil
		h.Size = int64(len(content))
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return static.NewLayer(b.Bytes(), types.OCILayer)
}

func file(name, content string) tar.Header {
	return tar.Header{Name: name, PAXRecords: map[string]string{"content": content}}
}

func image(t testing.TB, config v1.Config, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), layers...)
	if err == nil {
		img, err = mutate.Config(img, config)
	}
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// registry serves one image as registry.example/tools/probe:1 behind an index.
type registry struct {
	*httptest.Server
	cut      int // cuts the first so many answers for layers in their middle
	mu       sync.Mutex
	requests []string
	replace  map[string][]byte // by path: something else than what is right
}

func serve(t testing.TB, img v1.Image) *registry {
	t.Helper()
	r := &registry{replace: map[string][]byte{}}
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: empty.Image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "s390x"}}},
		mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}}})
	content := map[string][]byte{}
	put := func(path string, b []byte, err error) {
		if err != nil {
			t.Fatal(err)
		}
		content["/v2/tools/probe/"+path] = b
	}
	b, err := index.RawManifest()
	put("manifests/1", b, err)
	put("manifests/"+digestOf(b), b, err)
	b, err = img.RawManifest()
	put("manifests/"+digestOf(b), b, err)
	b, err = img.RawConfigFile()
	put("blobs/"+digestOf(b), b, err)
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		rc, err := l.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(rc)
		put("blobs/"+digestOf(b), b, err)
	}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.requests = append(r.requests, req.URL.String()+" "+req.Header.Get("Range"))
		b, ok := content[req.URL.Path]
		if other, is := r.replace[req.URL.Path]; is {
			b = other
		}
		if !ok || req.URL.Query().Get("ns") != "registry.example" {
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no such thing"}]}`)
			return
		}
		if r.cut > 0 && strings.Contains(req.URL.Path, "/blobs/") && len(b) > 1000 {
			r.cut--
			w.Header().Set("Content-Length", fmt.Sprint(len(b)))
			_, _ = w.Write(b[:len(b)/2])
			panic(http.ErrAbortHandler)
		}
		http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(b))
	}))
	t.Cleanup(r.Close)
	return r
}

func TestPull(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 1<<14)
	img := image(t, v1.Config{Entrypoint: []string{"/bin/x"}}, layer(t, file("bin/x", big), file("random", randomText())))
	t.Run("a transfer that is cut goes on where it was", func(t *testing.T) {
		r := serve(t, img)
		r.cut = 1
		dir := t.TempDir()
		m, err := newMirror(strings.TrimPrefix(r.URL, "http://"), r.Client())
		if err != nil {
			t.Fatal(err)
		}
		config, err := pull(t.Context(), m, "registry.example/tools/probe:1", dir, &transcript{})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join(dir, "bin/x")); err != nil || string(got) != big {
			t.Errorf("content differs, %v", err)
		}
		if diff := cmp.Diff([]string{"/bin/x"}, config.Config.Entrypoint); diff != "" {
			t.Errorf("entrypoint (-want +got):\n%s", diff)
		}
		if last := r.requests[len(r.requests)-1]; !strings.Contains(last, "bytes=") {
			t.Errorf("the last request is %q, not for a range", last)
		}
	})

	bad := map[string]struct {
		image  string
		change func(t *testing.T, r *registry)
		want   string
	}{
		"an image that isn't there":     {"registry.example/tools/none:1", nil, "MANIFEST_UNKNOWN: no such thing"},
		"a registry that isn't known":   {"other.example/tools/probe:1", nil, "404"},
		"a name that can't be":          {"registry.example/Tools:::", nil, "reading the image's name"},
		"another digest than was asked": {"registry.example/tools/probe@sha256:" + strings.Repeat("0", 64), nil, "404"},
		"a layer with other content": {"registry.example/tools/probe:1", func(t *testing.T, r *registry) {
			layers, err := img.Layers()
			if err != nil {
				t.Fatal(err)
			}
			d, err := layers[0].Digest()
			if err != nil {
				t.Fatal(err)
			}
			rc, err := layers[0].Compressed()
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(rc)
			if err != nil {
				t.Fatal(err)
			}
			b[4] ^= 1 // the time in gzip's header: unpacks as before
			r.replace["/v2/tools/probe/blobs/"+d.String()] = b
		}, "content does not match its digest"},
	}
	for name, c := range bad {
		t.Run(name, func(t *testing.T) {
			r := serve(t, img)
			if c.change != nil {
				c.change(t, r)
			}
			m, err := newMirror(r.URL, r.Client())
			if err != nil {
				t.Fatal(err)
			}
			_, err = pull(t.Context(), m, c.image, t.TempDir(), &transcript{})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

// randomText is some text that does not compress to nothing.
func randomText() string {
	var b strings.Builder
	x := uint32(1)
	for range 8192 {
		x = x*1664525 + 1013904223
		fmt.Fprintf(&b, "%08x", x)
	}
	return b.String()
}

func TestExecutor(t *testing.T) {
	if os.Getenv("BEDPLATE_E2E") != "1" {
		t.Skip("SKIPPED: containers need root and namespaces; set BEDPLATE_E2E=1")
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	build := exec.Command("go", "build", "-o", program, "./testdata/program")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the program: %v\n%s", err, out)
	}
	binary, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	config := v1.Config{Entrypoint: []string{"program"}, Cmd: []string{"look"}, Env: []string{"PATH=/bin", "GREETING=image"}, WorkingDir: "/work", User: "ann"}
	img := image(t, config, layer(t, file("bin/program", string(binary)),
		file("etc/passwd", "root:x:0:0::/root:\nann:x:1001:1002::/home/ann:\n"), file("etc/gone", "x")), layer(t, file("etc/.wh.gone", "")))
	reg := serve(t, img)
	if err := os.WriteFile(filepath.Join(dir, "resolv.conf"), []byte("nameserver 10.0.0.1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	x := &Executor{Temp: dir, Cgroup: "/sys/fs/cgroup", MemoryLimit: 64 << 20, ResolvConf: filepath.Join(dir, "resolv.conf")}
	request := func(with map[string]any, args ...string) step.Request {
		return step.Request{Image: "registry.example/tools/probe:1", With: with, Args: args, Env: map[string]string{"GREETING": "step"}, HTTP: reg.Client(), Server: map[string]string{"registry": reg.Listener.Addr().String()}}
	}
	look := func(t *testing.T, with map[string]any) string {
		t.Helper()
		rep := &transcript{}
		result, err := x.Execute(t.Context(), request(with), rep)
		if err != nil {
			t.Fatalf("%v\n%s", err, rep.text())
		}
		if result.ExitCode == nil || *result.ExitCode != 0 {
			t.Errorf("exit code %v", result.ExitCode)
		}
		return result.Outputs["stdout"].(string)
	}
	contains := func(t *testing.T, text string, wants ...string) {
		t.Helper()
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("no %q in:\n%s", want, text)
			}
		}
	}

	t.Run("an ordinary one sees itself and little else", func(t *testing.T) {
		contains(t, look(t, nil), "pid 1 uid 1001 gid 1002", "dir /work greeting step home /home/ann", "in / bin dev etc proc sys work", "in /etc passwd resolv.conf",
			"in /dev fd full null ptmx pts random shm stderr stdin stdout tty urandom zero", "caps 0000000000000000 nnp 1", "sysctl: open", "sysfs: open", "mknod: permission denied")
	})
	t.Run("a privileged one sees every device", func(t *testing.T) {
		text := look(t, map[string]any{"privileged": true})
		contains(t, text, "kmsg", "nnp 0")
	})
	t.Run("a folder of the machine, read only", func(t *testing.T) {
		data := t.TempDir()
		if err := errors.Join(os.Chmod(data, 0o777), os.WriteFile(filepath.Join(data, "hello"), []byte("hello\n"), 0o644)); err != nil {
			t.Fatal(err)
		}
		mounts := func(ro bool) map[string]any {
			return map[string]any{"mounts": []any{map[string]any{"source": data, "target": "/data", "read_only": ro}}}
		}
		contains(t, look(t, mounts(true)), "data: hello open /data/new: read-only file system")
		contains(t, look(t, mounts(false)), "data: hello <nil>")
	})
	t.Run("no network", func(t *testing.T) {
		contains(t, look(t, map[string]any{"network": "none"}), "in /etc passwd\n")
	})
	t.Run("its exit code and last words are kept", func(t *testing.T) {
		rep := &transcript{}
		result, err := x.Execute(t.Context(), request(nil, "exit"), rep)
		if err == nil || err.Error() != "program: exit code 7" || result.ExitCode == nil || *result.ExitCode != 7 {
			t.Errorf("error %v, exit code %v", err, result.ExitCode)
		}
		contains(t, rep.text(), "stderr: about to fail")
	})
	t.Run("a program that isn't in the image", func(t *testing.T) {
		req := request(nil)
		req.Entrypoint = []string{"nothing"}
		_, err := x.Execute(t.Context(), req, &transcript{})
		if err == nil || !strings.Contains(err.Error(), "starting nothing: executable file not found") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("cancelled, it is killed", func(t *testing.T) {
		rep := &transcript{said: make(chan string, 100)}
		ctx, cancel := context.WithCancelCause(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := x.Execute(ctx, request(nil, "hang"), rep)
			ended <- err
		}()
		for line := ""; line != "hanging"; {
			select {
			case line = <-rep.said:
			case err := <-ended:
				t.Fatalf("it ended: %v\n%s", err, rep.text())
			}
		}
		why := errors.New("asked to")
		cancel(why)
		if err := <-ended; !errors.Is(err, why) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("too much memory is named as the cause", func(t *testing.T) {
		rep := &transcript{}
		g, err := x.group("test-probe")
		if err != nil {
			t.Skipf("SKIPPED: no memory limits on this machine: %v", err)
		}
		g.remove()
		_, err = x.Execute(t.Context(), request(nil, "eat"), rep)
		if err == nil || !strings.Contains(err.Error(), "it needed more memory than the 64 MiB") {
			t.Errorf("error %v\n%s", err, rep.text())
		}
	})
	if left, err := filepath.Glob(filepath.Join(dir, "container-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
