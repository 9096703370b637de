package storage

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"
	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"

	"github.com/bedplate/bedplate/agent/disk"
	"github.com/bedplate/bedplate/agent/file"
	"github.com/bedplate/bedplate/agent/inventory"
	"github.com/bedplate/bedplate/agent/step"
	"github.com/bedplate/bedplate/agent/tpm"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/workflow/expression"
)

func guestOnly(t *testing.T) {
	t.Helper()
	if os.Getpid() != 1 {
		t.Skip("runs in the virtual machine of TestE2E")
	}
}

// talker logs what a step has to say.
type talker struct{ t *testing.T }

func (r talker) Log(stream, line string)             { r.t.Logf("%s: %s", stream, line) }
func (talker) Progress(int64, int64, string, string) {}

// world is a machine with everything real.
type world struct {
	t     *testing.T
	files *file.Service
	disks *disk.Service
	// runs counts programs; from failAt on (0: never) none runs any more.
	runs, failAt int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	guestOnly(t)
	log := slog.New(slog.DiscardHandler)
	files, err := file.New(file.Config{LoadModule: modules.Load, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, files: files}
	w.disks, err = disk.New(disk.Config{Disks: w.list, Match: match, Random: rand.Reader, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) list(ctx context.Context) ([]*pb.Disk, error) {
	return inventory.New(inventory.Config{Root: "/", Devices: inventory.Linux{Dev: "/dev"}, Now: time.Now}).Disks(ctx)
}

func match(hint string, d *pb.Disk) (bool, error) {
	return expression.EvalDiskHint(context.Background(), hint, d)
}

var errCrash = errors.New("the machine has lost power")

func (w *world) service() *Service {
	w.t.Helper()
	mounted := func(v *file.Volume, err error) (Files, error) {
		if err != nil {
			return nil, err
		}
		return v, nil
	}
	s, err := New(Config{
		Disks: w.list, Match: match, LoadModule: modules.Load, OpenTPM: tpm.Open, Random: rand.Reader,
		MountImage: func(ctx context.Context, disk string, images map[string]any) (Files, error) {
			return mounted(w.files.MountImage(ctx, disk, images))
		},
		MountDevice: func(ctx context.Context, device string) (Files, error) {
			return mounted(w.files.MountDevice(ctx, device))
		},
		Run: func(ctx context.Context, c Command) error {
			if w.runs++; w.failAt > 0 && w.runs >= w.failAt {
				return errCrash
			}
			w.t.Logf("+ %s", strings.Join(c.Args, " "))
			return run(ctx, c)
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// apply runs the action.
func (w *world) apply(phase, layout string, keys map[string]any) (map[string]any, error) {
	w.t.Helper()
	var v any
	if err := yaml.Unmarshal([]byte(layout), &v); err != nil {
		w.t.Fatal(err)
	}
	with := map[string]any{"layout": v, "phase": phase, "root_disk": `disk.serial == "D0"`, "keys": keys}
	began := time.Now()
	res, err := w.service().apply(w.t.Context(), step.Request{With: with}, talker{w.t})
	w.t.Logf("phase %s took %s: %v", phase, time.Since(began).Round(time.Millisecond), err)
	return res.Outputs, err
}

func (w *world) must(phase, layout string, keys map[string]any) map[string]any {
	w.t.Helper()
	out, err := w.apply(phase, layout, keys)
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

func (w *world) step(name string, with map[string]any) map[string]any {
	w.t.Helper()
	res, err := w.disks.Steps()[name].Execute(w.t.Context(), step.Request{With: with}, talker{w.t})
	if err != nil {
		w.t.Fatal(err)
	}
	return res.Outputs
}

// serial returns the path of a disk.
func (w *world) serial(s string) string {
	w.t.Helper()
	disks, err := w.list(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	i := slices.IndexFunc(disks, func(d *pb.Disk) bool { return d.GetSerial() == s })
	if i < 0 {
		w.t.Fatalf("no disk %s among %v", s, disks)
	}
	return disks[i].GetPath()
}

// image writes what passes for an image to the first disk.
func (w *world) image() {
	w.t.Helper()
	path := w.serial("D0")
	w.step("disk.wipe", map[string]any{"disk": path, "method": "signatures"})
	out := w.step("disk.partition", map[string]any{"disk": path, "partitions": []any{
		map[string]any{"name": "esp", "type": "esp", "size": "16MiB"}, map[string]any{"name": "root", "size": "200MiB"}}})
	node := out["partitions"].([]any)[1].(string)
	w.step("disk.format", map[string]any{"device": node, "type": "ext4"})
	v, err := w.files.MountImage(w.t.Context(), path, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := errors.Join(v.WriteFile("/etc/fstab", 0o644, []byte("UUID=0 / ext4 defaults 0 1\nUUID=1 /srv nfs defaults 0 0\n")), v.Close()); err != nil {
		w.t.Fatal(err)
	}
}

// inside reads a file of the image.
func (w *world) inside(name string) string {
	w.t.Helper()
	v, err := w.files.MountImage(w.t.Context(), w.serial("D0"), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	defer v.Close()
	b, err := v.ReadFile(name, 1<<20)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(b)
}

// on mounts a device and works in it.
func (w *world) on(device string, f func(dir string) error) {
	w.t.Helper()
	kind, err := filesystem(device)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, m := range []string{"xfs", "ext4"} {
		if err := modules.Load(m); err != nil {
			w.t.Fatal(err)
		}
	}
	dir := w.t.TempDir()
	if err := unix.Mount(device, dir, kind.Type, 0, ""); err != nil {
		w.t.Fatalf("mounting %s (%s): %v", device, kind.Type, err)
	}
	if err := errors.Join(f(dir), unix.Unmount(dir, 0)); err != nil {
		w.t.Fatal(err)
	}
}

// remove takes everything off all data disks.
func (w *world) remove() {
	w.t.Helper()
	w.must("check", "disks: [{name: x1, serial: D1}, {name: x2, serial: D2}, {name: x3, serial: D3}, {name: x4, serial: D4}, {name: x5, serial: D5}]", nil)
	for i := 1; i < 6; i++ {
		w.step("disk.wipe", map[string]any{"disk": w.serial(fmt.Sprintf("D%d", i)), "method": "auto"})
	}
}

// digests are those of the beginning of each disk.
func (w *world) digests() map[string]string {
	w.t.Helper()
	out := map[string]string{}
	for i := range 6 {
		d, err := disk.OpenRead(w.serial(fmt.Sprintf("D%d", i)))
		if err != nil {
			w.t.Fatal(err)
		}
		h := sha256.New()
		if err := d.DropCache(); err != nil {
			w.t.Fatal(err)
		}
		if _, err := io.Copy(h, io.NewSectionReader(d, 0, 64<<20)); err != nil {
			w.t.Fatal(err)
		}
		out[d.Path()] = fmt.Sprintf("%x", h.Sum(nil)[:8])
		d.Close()
	}
	return out
}

const everything = `
root_size: 300MiB
disks:
- {name: a, serial: D1, wipe: keep}
- {name: b, hint: disk.type == "nvme", wipe: keep}
- {name: c, serial: D3}
partitions:
- {name: logs, disk: root, size: 64MiB}
- {name: swap, disk: a, size: 64MiB}
- {name: a2, disk: a}
raid: [{name: data, level: raid1, devices: [a2, b]}]
encryption:
- {name: vault, device: vg/pg, key_secret: k, recovery_recipients: [RECIPIENT]}
- {name: plain, device: c, key_file: true, tpm: none}
volume_groups: [{name: vg, devices: [data]}]
logical_volumes:
- {name: t, volume_group: vg, type: thin, pool: pool, size: 1GB}
- {name: rest, volume_group: vg}
- {name: pool, volume_group: vg, type: thin-pool, size: 64MiB}
- {name: pg, volume_group: vg, size: 25%}
filesystems:
- {device: swap, type: swap}
- {device: vault, type: ext4, label: pg, path: /var/lib/pg}
- {device: vg/rest, type: xfs, path: /srv, options: [noatime]}
- {device: vg/t, type: ext4, path: /thin}
- {device: plain, type: ext4, path: /plain}
- {device: logs, type: ext4, path: /var/log}
`

func TestGuest(t *testing.T) {
	w := newWorld(t)
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	layout := strings.Replace(everything, "RECIPIENT", identity.Recipient().String(), 1)
	keys := map[string]any{"k": "open sesame\n"}
	blank := w.digests()
	w.must("check", layout, keys)
	if diff := cmp.Diff(blank, w.digests()); diff != "" {
		t.Errorf("check has written to a disk (-before +after):\n%s", diff)
	}
	w.image()
	made := w.must("apply", layout, keys)
	t.Run("the installed system is told what to open and mount", func(t *testing.T) {
		in := *w
		in.t = t
		got := regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{8}(:[0-9a-f]{8}){3}`).ReplaceAllString(in.inside("/etc/fstab")+in.inside("/etc/crypttab")+in.inside("/etc/mdadm/mdadm.conf"), "ID")
		want := `UUID=0 / ext4 defaults 0 1
# replaced: UUID=1 /srv nfs defaults 0 0
# bedplate storage: begin
UUID=ID none swap sw,nofail 0 0
UUID=ID /var/lib/pg ext4 defaults,nofail 0 2
UUID=ID /srv xfs defaults,noatime,nofail 0 0
UUID=ID /thin ext4 defaults,nofail 0 2
UUID=ID /plain ext4 defaults,nofail 0 2
UUID=ID /var/log ext4 defaults,nofail 0 2
# bedplate storage: end
# bedplate storage: begin
plain UUID=ID /etc/cryptsetup-keys.d/plain.key luks,nofail
vault UUID=ID none luks,tpm2-device=auto,nofail
# bedplate storage: end
# bedplate storage: begin
ARRAY /dev/md/data metadata=1.2 UUID=ID name=any:data
# bedplate storage: end
`
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if got := len(in.inside("/etc/cryptsetup-keys.d/plain.key")); got != fileKeyLength {
			t.Errorf("the key file has %d bytes, want %d", got, fileKeyLength)
		}
	})
	t.Run("the recovery key is for its recipient, and opens the container", func(t *testing.T) {
		list := made["recovery"].([]any)
		if len(list) != 1 {
			t.Fatalf("recovery is %v, want one key", list)
		}
		r, err := age.Decrypt(armor.NewReader(strings.NewReader(list[0].(map[string]any)["key"].(string))), identity)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil || !regexp.MustCompile(`^([cbdefghijklnrtuv]{8}-){7}[cbdefghijklnrtuv]{8}\n$`).Match(b) {
			t.Fatalf("recovery key %q, %v", b, err)
		}
		in := *w
		in.t = t
		in.must("make", layout, keys)
		if err := run(t.Context(), Command{Args: []string{"cryptsetup", "open", "--test-passphrase", "--key-file", "-", "/dev/vg/pg"}, Stdin: bytes.TrimSpace(b), Line: func(_, s string) { t.Log(s) }}); err != nil {
			t.Errorf("opening with the recovery key: %v", err)
		}
	})
	w.image()
	open := w.must("make", layout, keys)["devices"].(map[string]any)
	w.on(open["vault"].(string), func(dir string) error { return os.WriteFile(filepath.Join(dir, "precious"), []byte("data"), 0o600) })
	w.on(open["plain"].(string), func(dir string) error { return os.WriteFile(filepath.Join(dir, "scratch"), nil, 0o600) })
	t.Run("what is to be kept survives a reinstallation, the rest is new", func(t *testing.T) {
		in := *w
		in.t = t
		in.image()
		in.must("check", layout, keys)
		in.must("apply", layout, keys)
		in.image() // or the next would find its own partitions behind it
		open := in.must("make", layout, keys)["devices"].(map[string]any)
		in.on(open["vault"].(string), func(dir string) error {
			b, err := os.ReadFile(filepath.Join(dir, "precious"))
			if string(b) != "data" {
				t.Errorf("the kept file reads %q", b)
			}
			return err
		})
		in.on(open["plain"].(string), func(dir string) error {
			if _, err := os.Stat(filepath.Join(dir, "scratch")); err == nil {
				t.Error("the file on the disk that isn't kept is still there")
			}
			return nil
		})
	})
	t.Run("the TPM opens what is kept when there is no passphrase", func(t *testing.T) {
		in := *w
		in.t = t
		without := strings.Replace(layout, "key_secret: k, ", "", 1)
		in.must("check", without, nil)
	})
	t.Run("a declaration that isn't what is there touches nothing", func(t *testing.T) {
		in := *w
		in.t = t
		in.must("check", layout, keys)
		before := in.digests()
		for name, c := range map[string][3]string{
			"another level":      {"level: raid1", "level: raid0", `raid[0]: assemble raid0 data of a2, b, which is kept: raid0 "data" of 2 devices is declared, but a2 (/dev/vdb2) is a member of raid1 "data" of 2 devices`},
			"another group":      {"{name: vg, devices", "{name: vg2, devices", `volume_groups[0]: activate volume group vg2 of data, which is kept: volume group "vg2" is declared, but data (/dev/md/data) belongs to "vg"`},
			"another volume":     {"{name: rest,", "{name: most,", `volume_groups[0]: activate volume group vg of data, which is kept: logical_volumes[1]: volume "most" is declared in group "vg", which is kept, but that has`},
			"another passphrase": {"", "", "encryption[0]: open encrypted vault on vg/pg, which is kept"},
			"another label":      {"label: pg", "label: pq", `filesystems[1]: keep ext4 "pq" on vault, mounted at /var/lib/pg: ext4 "pq" is declared, but vault (/dev/mapper/vault) holds ext4 "pg"`},
			"another type":       {"{device: vg/rest, type: xfs", "{device: vg/rest, type: ext4", `filesystems[2]: keep ext4 on vg/rest, mounted at /srv: ext4 is declared, but vg/rest (/dev/vg/rest) holds xfs`},
		} {
			t.Run(name, func(t *testing.T) {
				in := in
				in.t = t
				wrong, with := strings.Replace(layout, c[0], c[1], 1), keys
				if name == "another group" {
					wrong = strings.ReplaceAll(strings.ReplaceAll(wrong, "volume_group: vg", "volume_group: vg2"), "device: vg/", "device: vg2/")
				}
				if name == "another volume" {
					wrong = strings.Replace(wrong, "vg/rest", "vg/most", 1)
				}
				if name == "another passphrase" {
					with = map[string]any{"k": "open barley"}
				}
				if _, err := in.apply("check", wrong, with); err == nil || !strings.Contains(err.Error(), c[2]) {
					t.Errorf("error is %v\nwant %s", err, c[2])
				}
			})
		}
		if diff := cmp.Diff(before, in.digests()); diff != "" {
			t.Errorf("a disk has changed (-before +after):\n%s", diff)
		}
	})
	w.remove()
}

// TestGuest_Crash ends the world at each program that runs, one after the
// other: the next try must get further, and the last one to the end.
func TestGuest_Crash(t *testing.T) {
	w := newWorld(t)
	w.image()
	const layout = `
disks: [{name: a, serial: D1, wipe: keep}, {name: b, serial: D2, wipe: keep}]
raid: [{name: data, level: raid1, devices: [a, b]}]
encryption: [{name: vault, device: data, tpm: required}]
volume_groups: [{name: vg, devices: [vault]}]
logical_volumes: [{name: srv, volume_group: vg}]
filesystems: [{device: vg/srv, type: ext4, path: /srv}]
`
	crashes := 0
	for {
		w.failAt, w.runs = crashes+1, 0
		_, err := w.apply("apply", layout, nil)
		if err == nil {
			break
		}
		if !errors.Is(err, errCrash) {
			t.Fatalf("after %d crashes: %v", crashes, err)
		}
		if crashes++; crashes > 200 {
			t.Fatal("it never gets to its end")
		}
	}
	t.Logf("%d crashes", crashes)
	if crashes < 10 {
		t.Errorf("only %d programs were run", crashes)
	}
	w.failAt = 0
	w.image()
	out := w.must("check", layout, nil)
	if diff := cmp.Diff([]any{"a", "b"}, out["kept"]); diff != "" {
		t.Errorf("kept (-want +got):\n%s", diff)
	}
	w.remove()
}

// TestGuest_Levels makes an array of each level, and takes them up again.
func TestGuest_Levels(t *testing.T) {
	w := newWorld(t)
	w.image()
	var b strings.Builder
	b.WriteString("disks:\n")
	for i := 1; i < 6; i++ {
		fmt.Fprintf(&b, "- {name: d%d, serial: D%d, wipe: keep}\n", i, i)
	}
	b.WriteString("partitions:\n")
	members := map[string][]string{}
	levels := []string{"raid0", "raid1", "raid5", "raid6", "raid10"}
	for _, level := range levels {
		for i := 1; i < 6; i++ {
			fmt.Fprintf(&b, "- {name: %s-%d, disk: d%d, size: 80MiB}\n", level, i, i)
			members[level] = append(members[level], fmt.Sprintf("%s-%d", level, i))
		}
	}
	b.WriteString("raid:\n")
	for _, level := range levels {
		m := members[level]
		if level == "raid0" {
			fmt.Fprintf(&b, "- {name: m%s, level: %s, devices: [%s]}\n", level, level, strings.Join(m, ", "))
			continue
		}
		fmt.Fprintf(&b, "- {name: m%s, level: %s, devices: [%s], spares: [%s]}\n", level, level, strings.Join(m[:4], ", "), m[4])
	}
	b.WriteString("filesystems:\n")
	for _, level := range levels {
		fmt.Fprintf(&b, "- {device: m%s, type: ext4, path: /%s}\n", level, level)
	}
	w.must("apply", b.String(), nil)
	out := w.must("make", b.String(), nil)
	devices := out["devices"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(devices)) {
		if !strings.HasPrefix(name, "mraid") {
			continue
		}
		d, err := disk.OpenRead(devices[name].(string))
		if err != nil {
			t.Fatal(err)
		}
		level := strings.TrimPrefix(name, "m")
		want := map[string]int64{"raid0": 5 * 64, "raid1": 64, "raid5": 3 * 64, "raid6": 2 * 64, "raid10": 2 * 64}[level] << 20
		if d.Size() != want {
			t.Errorf("%s has %d bytes, planned were %d", level, d.Size(), want)
		}
		d.Close()
	}
	w.remove()
}
