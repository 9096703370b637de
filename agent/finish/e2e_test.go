package finish

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bedplate/bedplate/agent/disk/partition"
	"github.com/bedplate/bedplate/agent/efi"
	"github.com/bedplate/bedplate/agent/file"
	"github.com/bedplate/bedplate/agent/step"
)

const mib = 1 << 20

// layout is a partition of a disk that a test makes.
type layout struct {
	label string
	kind  partition.GUID
	size  int64
	// mkfs makes its file system in a file of used bytes, size of them when 0.
	mkfs []string
	used int64
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// makeDisk makes a disk in a file.
func makeDisk(t testing.TB, parts ...layout) string {
	t.Helper()
	total := int64(2 * mib)
	for _, p := range parts {
		total += p.size
	}
	path := filepath.Join(t.TempDir(), "disk")
	out, err := os.Create(path)
	must(t, err)
	must(t, out.Truncate(total))
	g, err := partition.NewGPT(partition.RandomGUID([16]byte{1}), 512, uint64(total/512))
	must(t, err)
	at := int64(mib)
	for i, p := range parts {
		id := [16]byte{2, byte(i)}
		must(t, g.Set(partition.Partition{Number: i + 1, Type: p.kind, ID: partition.RandomGUID(id), Label: p.label, Start: uint64(at / 512), Blocks: uint64(p.size / 512)}))
		if len(p.mkfs) > 0 {
			fs := filepath.Join(t.TempDir(), "fs")
			must(t, os.WriteFile(fs, nil, 0o600))
			must(t, os.Truncate(fs, max(p.used, 0)+boolSize(p.used == 0, p.size)))
			if b, err := exec.Command(p.mkfs[0], append(p.mkfs[1:], fs)...).CombinedOutput(); err != nil {
				t.Fatalf("%s: %v\n%s", p.mkfs[0], err, b)
			}
			in, err := os.Open(fs)
			must(t, err)
			_, err = io.Copy(io.NewOffsetWriter(out, at), in)
			must(t, errors.Join(err, in.Close()))
		}
		at += p.size
	}
	head := make([]byte, 34*512)
	partition.PutProtective(head, uint64(total/512))
	h, e := g.Primary()
	copy(head[512:], h)
	copy(head[1024:], e)
	_, err = out.WriteAt(head, 0)
	must(t, errors.Join(err, out.Close()))
	return path
}

func boolSize(yes bool, n int64) int64 {
	if yes {
		return n
	}
	return 0
}

type log struct{ lines []string }

func (l *log) Log(_, line string)                    { l.lines = append(l.lines, line) }
func (l *log) Progress(int64, int64, string, string) {}

// rig is a service on a server that has an instance's configuration.
type rig struct {
	*Service
	server *httptest.Server
	asked  []string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	if os.Getenv("BEDPLATE_E2E") != "1" {
		t.Skip("SKIPPED: set BEDPLATE_E2E=1, as root, to mount file systems on loop devices")
	}
	r := &rig{}
	r.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.asked = append(r.asked, q.URL.Path)
		_, _ = io.WriteString(w, "content of "+q.URL.Path)
	}))
	t.Cleanup(r.server.Close)
	files, err := file.New(file.Config{LoadModule: func(string) error { return nil }, Folder: t.TempDir()})
	must(t, err)
	entries, err := efi.New(efi.Config{Architecture: "amd64", Variables: filepath.Join(t.TempDir(), "none"), Mount: func(ctx context.Context, disk, part string) (efi.Files, error) {
		return files.Mount(ctx, disk, part, true)
	}})
	must(t, err)
	r.Service, err = New(Config{
		Files: files, Loader: entries.Loader, Fallback: entries.Fallback(), BootEntry: entries.Steps()["efi.boot-entry"],
		Make: step.Func(func(context.Context, step.Request, step.Reporter) (step.Result, error) {
			return step.Result{}, errors.New("a file has no nodes for its partitions")
		}),
	})
	must(t, err)
	return r
}

// run runs the action twice: the second time must change nothing, and succeed.
func (r *rig) run(t *testing.T, disk string, finish map[string]any, with map[string]any) map[string]any {
	t.Helper()
	if with == nil {
		with = map[string]any{}
	}
	with["image"], with["disk"] = "i", disk
	var first map[string]any
	for range 2 {
		l := &log{}
		res, err := r.Steps()["image.finish"].Execute(t.Context(), step.Request{
			With: with, HTTP: r.server.Client(), Images: map[string]any{"i": map[string]any{"finish": finish}},
			Server: map[string]string{"ignition_url": r.server.URL + "/ignition/k/config.ign", "metadata_url": r.server.URL + "/nocloud/k/"},
		}, l)
		if err != nil {
			t.Fatalf("%v\n%s", err, strings.Join(l.lines, "\n"))
		}
		if first == nil {
			first = res.Outputs
		}
	}
	return first
}

// has checks files of a partition; "" is a file that must not be there.
func (r *rig) has(t *testing.T, disk, part string, want map[string]string) {
	t.Helper()
	v, err := r.Files.Mount(t.Context(), disk, part, true)
	must(t, err)
	defer func() { must(t, v.Close()) }()
	for name, content := range want {
		b, err := v.ReadFile(name, mib)
		if content == "-" {
			if v.Exists(name) {
				t.Errorf("%s is still there", name)
			}
			continue
		}
		if err != nil || string(b) != content {
			t.Errorf("%s is %q, %v; want %q", name, b, err, content)
		}
	}
}

// put writes files into a partition.
func (r *rig) put(t *testing.T, disk, part string, files map[string]string) {
	t.Helper()
	v, err := r.Files.Mount(t.Context(), disk, part, false)
	must(t, err)
	for name, content := range files {
		must(t, v.WriteFile(name, 0o644, []byte(content)))
	}
	must(t, v.Close())
}

// mayResizeExt4 reports whether this process has CAP_SYS_RESOURCE, as
// fs/ext4/resize.c wants; containers often lack it.
func mayResizeExt4(t *testing.T) bool {
	var hdr = unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	must(t, unix.Capget(&hdr, &data[0]))
	return data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}

func TestE2E_Grow(t *testing.T) {
	r := newRig(t)
	for name, mkfs := range map[string][]string{
		"ext4": {"mkfs.ext4", "-q", "-F"}, "xfs": {"mkfs.xfs", "-q", "-f"}, "btrfs": {"mkfs.btrfs", "-q", "-f"},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "ext4" && !mayResizeExt4(t) {
				t.Skip("SKIPPED: ext4 grows only for who has CAP_SYS_RESOURCE; the machines of test/e2e do it")
			}
			disk := makeDisk(t, layout{label: "root", kind: partition.TypeLinux, size: 700 * mib, mkfs: mkfs, used: 320 * mib})
			out := r.run(t, disk, map[string]any{"grow": true}, nil)
			if out["grown"] != true {
				t.Errorf("outputs %v", out)
			}
			if out := r.run(t, disk, map[string]any{"grow": true}, map[string]any{"grow": false}); out["grown"] != false {
				t.Errorf("told not to: %v", out)
			}
		})
	}
}

func TestE2E_Files(t *testing.T) {
	r := newRig(t)
	disk := makeDisk(t,
		// ext4, as the kernels of many containers have no vfat; the machines of test/e2e have a real one.
		layout{label: "EFI-SYSTEM", kind: partition.TypeEFI, size: 64 * mib, mkfs: []string{"mkfs.ext4", "-q", "-F"}},
		layout{label: "OEM", kind: partition.TypeLinux, size: 128 * mib, mkfs: []string{"mkfs.btrfs", "-q", "-f", "-L", "OEM"}},
		layout{label: "ROOT", kind: partition.TypeLinux, size: 160 * mib, mkfs: []string{"mkfs.ext4", "-q", "-F"}},
	)
	r.put(t, disk, "1", map[string]string{"/EFI/debian/shimx64.efi": "shim", "/EFI/debian/grubx64.efi": "grub", "/EFI/debian/fbx64.efi": "fb"})
	r.put(t, disk, "3", map[string]string{
		"/etc/machine-id": "0123\n", "/var/lib/dbus/machine-id": "0123\n", "/etc/ssh/ssh_host_rsa_key": "k", "/etc/ssh/ssh_host_rsa_key.pub": "p",
		"/etc/ssh/sshd_config": "c", "/boot/grub/grub.cfg": "linux /k ro\n", "/boot/loader/entries/a.conf": "linux /k\noptions ro\n", "/etc/default/grub": "A=1\n",
	})
	out := r.run(t, disk, map[string]any{
		"reset_machine_id": true, "remove_ssh_host_keys": true,
		"files": []any{
			map[string]any{"partition": "OEM", "path": "/config.ign", "source": "ignition"},
			map[string]any{"partition": "root", "path": "/seed/user-data", "source": "user-data"},
			map[string]any{"partition": "OEM", "path": "/grub.cfg", "content": "set url=${ignition_url}\nset x=${x}\n"},
		},
		"kernel_arguments": []any{"ignition.config.url=${ignition_url}"},
		"boot_entry":       map[string]any{"fallback": true},
	}, map[string]any{"kernel_arguments": []any{"quiet"}})
	url := r.server.URL + "/ignition/k/config.ign"
	r.has(t, disk, "3", map[string]string{
		"/etc/machine-id": "", "/var/lib/dbus/machine-id": "-", "/etc/ssh/ssh_host_rsa_key": "-", "/etc/ssh/ssh_host_rsa_key.pub": "-",
		"/etc/ssh/sshd_config": "c", "/seed/user-data": "content of /nocloud/k/user-data",
		"/boot/grub/grub.cfg":         "linux /k ro ignition.config.url=" + url + " quiet\n",
		"/boot/loader/entries/a.conf": "linux /k\noptions ro ignition.config.url=" + url + " quiet\n",
		"/etc/default/grub":           "A=1\nGRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX ignition.config.url=" + url + " quiet\"\n",
	})
	r.has(t, disk, "OEM", map[string]string{"/config.ign": "content of /ignition/k/config.ign", "/grub.cfg": "set url=" + url + "\nset x=${x}\n"})
	r.has(t, disk, "1", map[string]string{"/EFI/BOOT/BOOTX64.EFI": "shim", "/EFI/BOOT/grubx64.efi": "grub", "/EFI/BOOT/fbx64.efi": "-"})
	if got := out["boot_files"].([]any); len(got) != 2 {
		t.Errorf("boot files %v", got)
	}
}

func TestE2E_Errors(t *testing.T) {
	r := newRig(t)
	disk := makeDisk(t, layout{label: "ROOT", kind: partition.TypeLinux, size: 64 * mib, mkfs: []string{"mkfs.ext4", "-q", "-F"}})
	for name, c := range map[string]struct {
		finish map[string]any
		want   string
	}{
		"a partition that there is not":        {map[string]any{"files": []any{map[string]any{"partition": "OEM", "path": "/a", "content": "x"}}}, `partition "OEM"`},
		"kernel arguments, and no boot loader": {map[string]any{"kernel_arguments": []any{"quiet"}}, "no configuration of GRUB"},
		"a URL that there is not":              {map[string]any{"kernel_arguments": []any{"talos.config=${talos_url}"}}, "there is no talos_url"},
		"no EFI system partition":              {map[string]any{"boot_entry": map[string]any{"fallback": true}}, "esp"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := r.Steps()["image.finish"].Execute(t.Context(), step.Request{
				With: map[string]any{"image": "i", "disk": disk}, Images: map[string]any{"i": map[string]any{"finish": c.finish}},
			}, &log{})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
