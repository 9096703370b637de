// Package lookalike has configuration put on disks that are laid out as those of
// systems whose images can't be fetched by a test, and read back at the place
// where the system reads it, by the system's own library.
//
// Sources: Flatcar: partition table of coreos/ignition, tests/types/base.go, and
// flatcar/init, bin/flatcar-install (the file config.ign on the partition OEM).
// Fedora CoreOS: coreos/coreos-assembler, mantle/kola boot-mirror test (the four
// partitions), coreos-installer, src/install.rs (ignition/config.ign on boot).
// Talos: siderolabs/docs, "Disk layout" (EFI, BIOS, BOOT, META, STATE, EPHEMERAL),
// and pkg/machinery/constants (ConfigFilename config.yaml on STATE).
package lookalike

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	ignconfig "github.com/coreos/ignition/v2/config"
	"github.com/siderolabs/talos/pkg/machinery/config/configloader"
	"github.com/siderolabs/talos/pkg/machinery/config/encoder"
	"github.com/siderolabs/talos/pkg/machinery/config/generate"
	"github.com/siderolabs/talos/pkg/machinery/config/machine"

	"github.com/bedplate/bedplate/agent/disk/partition"
	"github.com/bedplate/bedplate/agent/efi"
	"github.com/bedplate/bedplate/agent/file"
	"github.com/bedplate/bedplate/agent/finish"
	"github.com/bedplate/bedplate/agent/step"
	"github.com/bedplate/bedplate/ignition"
	"github.com/bedplate/bedplate/talos"
)

const mib = 1 << 20

// part is a partition of a disk that a test makes.
type part struct {
	number      int
	label, kind string
	size        int64
	mkfs        []string
}

const (
	efiSystem = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
	biosBoot  = "21686148-6449-6e6f-744e-656564454649"
	flatcarSR = "5dfbf5f4-2848-4bac-aa5e-0d9a20b745a6"
	flatcarRS = "3884dd41-8582-4404-b9a8-e9b84f2df50e"
	reserved  = "c95dc21a-df0e-4340-8d7b-26cbfa9a03e0"
	linux     = "0fc63daf-8483-4772-8e79-3d69d8477de4"
)

var flatcar = []part{
	{1, "EFI-SYSTEM", efiSystem, 8 * mib, nil}, {2, "BIOS-BOOT", biosBoot, 2 * mib, nil},
	{3, "USR-A", flatcarSR, 8 * mib, nil}, {4, "USR-B", flatcarSR, 8 * mib, nil},
	{6, "OEM", linux, 128 * mib, []string{"mkfs.btrfs", "-q", "-f", "-L", "OEM"}}, {7, "OEM-CONFIG", reserved, 4 * mib, nil},
	{9, "ROOT", flatcarRS, 160 * mib, []string{"mkfs.ext4", "-q", "-F", "-L", "ROOT"}},
}

var coreos = []part{
	{1, "BIOS-BOOT", biosBoot, 1 * mib, nil}, {2, "EFI-SYSTEM", efiSystem, 8 * mib, nil},
	{3, "boot", linux, 64 * mib, []string{"mkfs.ext4", "-q", "-F", "-L", "boot"}},
	{4, "root", "4f68bce3-e8cd-4db1-96e7-fbcaf984b709", 320 * mib, []string{"mkfs.xfs", "-q", "-f", "-L", "root"}},
}

var talosDisk = []part{
	{1, "EFI", efiSystem, 8 * mib, nil}, {2, "BIOS", biosBoot, 1 * mib, nil}, {3, "BOOT", linux, 64 * mib, []string{"mkfs.ext4", "-q", "-F", "-L", "BOOT"}},
	{4, "META", linux, 1 * mib, nil}, {5, "STATE", linux, 320 * mib, []string{"mkfs.xfs", "-q", "-f", "-L", "STATE"}}, {6, "EPHEMERAL", linux, 8 * mib, nil},
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// makeDisk makes a disk in a file.
func makeDisk(t testing.TB, parts []part) string {
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
		kind, err := partition.TypeNamed(p.kind)
		must(t, err)
		must(t, g.Set(partition.Partition{Number: p.number, Type: kind.GUID, ID: partition.RandomGUID([16]byte{2, byte(i)}), Label: p.label, Start: uint64(at / 512), Blocks: uint64(p.size / 512)}))
		if len(p.mkfs) > 0 {
			fs := filepath.Join(t.TempDir(), "fs")
			must(t, os.WriteFile(fs, nil, 0o600))
			must(t, os.Truncate(fs, p.size))
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

type log struct{ t *testing.T }

func (l log) Log(_, line string)                  { l.t.Log(line) }
func (log) Progress(int64, int64, string, string) {}

// service is the agent's.
func service(t *testing.T) (*finish.Service, *file.Service) {
	t.Helper()
	files, err := file.New(file.Config{LoadModule: func(string) error { return nil }, Folder: t.TempDir()})
	must(t, err)
	entries, err := efi.New(efi.Config{Architecture: "amd64", Variables: filepath.Join(t.TempDir(), "none"), Mount: func(ctx context.Context, disk, part string) (efi.Files, error) {
		return files.Mount(ctx, disk, part, true)
	}})
	must(t, err)
	s, err := finish.New(finish.Config{Files: files, Loader: entries.Loader, Fallback: entries.Fallback(), BootEntry: entries.Steps()["efi.boot-entry"], Make: entries.Steps()["efi.boot-entry"]})
	must(t, err)
	return s, files
}

// machineConfig is what `talosctl gen config` makes.
func machineConfig(t *testing.T) string {
	t.Helper()
	in, err := generate.NewInput("lab", "https://10.77.0.10:6443", "1.34.1", generate.WithInstallDisk("/dev/vda"))
	must(t, err)
	c, err := in.Config(machine.TypeControlPlane)
	must(t, err)
	b, err := c.EncodeBytes(encoder.WithComments(encoder.CommentsDisabled))
	must(t, err)
	return string(b)
}

func TestLookalikes(t *testing.T) {
	if os.Getenv("BEDPLATE_E2E") == "" {
		t.Skip("SKIPPED: set BEDPLATE_E2E=1, as root, to mount file systems on loop devices")
	}
	ign, err := ignition.Join("variant: flatcar\nversion: 1.0.0\nstorage:\n  files:\n  - {path: /etc/proof, contents: {inline: x}}\n", ignition.Additions{Hostname: "node-1", PhoneHomeURL: "http://192.0.2.1/"})
	must(t, err)
	tal, err := talos.Join(machineConfig(t), []string{"machine: {nodeLabels: {rack: r1}}"}, talos.Additions{Hostname: "node-1"})
	must(t, err)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write(map[string][]byte{"/ignition": ign, "/talos": tal}[r.URL.Path])
	}))
	defer server.Close()
	isIgnition := func(b []byte) error {
		c, rep, err := ignconfig.Parse(b)
		if err != nil || len(c.Storage.Files) != 3 {
			return fmt.Errorf("%w: %s: %d files", err, rep, len(c.Storage.Files))
		}
		return nil
	}
	isTalos := func(b []byte) error {
		c, err := configloader.NewFromBytes(b)
		if err == nil && (c.NetworkHostnameConfig().Hostname() != "node-1" || c.Machine().NodeLabels()["rack"] != "r1") {
			err = errors.New("it isn't what was joined")
		}
		return err
	}
	for name, c := range map[string]struct {
		disk            []part
		file            map[string]any
		where, path     string
		read            func([]byte) error
		firstBoot, part string
	}{
		"Flatcar":       {flatcar, map[string]any{"partition": "OEM", "path": "/config.ign", "source": "ignition"}, "6", "/config.ign", isIgnition, "", ""},
		"Fedora CoreOS": {coreos, map[string]any{"partition": "boot", "path": "/ignition/config.ign", "source": "ignition"}, "3", "/ignition/config.ign", isIgnition, "/ignition.firstboot", "3"},
		"Talos":         {talosDisk, map[string]any{"partition": "STATE", "path": "/config.yaml", "source": "talos"}, "5", "/config.yaml", isTalos, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			disk := makeDisk(t, c.disk)
			s, files := service(t)
			if c.firstBoot != "" { // The image has it; it has to outlive what is done.
				v, err := files.Mount(t.Context(), disk, c.part, false)
				must(t, err)
				must(t, errors.Join(v.WriteFile(c.firstBoot, 0o644, nil), v.Close()))
			}
			_, err := s.Steps()["image.finish"].Execute(t.Context(), step.Request{
				With: map[string]any{"image": "i", "disk": disk}, HTTP: server.Client(),
				Images: map[string]any{"i": map[string]any{"finish": map[string]any{"files": []any{c.file}}}},
				Server: map[string]string{"ignition_url": server.URL + "/ignition", "talos_url": server.URL + "/talos"},
			}, log{t})
			must(t, err)
			v, err := files.Mount(t.Context(), disk, c.where, true)
			must(t, err)
			defer func() { must(t, v.Close()) }()
			b, err := v.ReadFile(c.path, mib)
			must(t, err)
			if err := c.read(b); err != nil {
				t.Errorf("the system's library doesn't take %s: %v", c.path, err)
			}
			if c.firstBoot != "" && !v.Exists(c.firstBoot) {
				t.Errorf("%s is gone: the system would not know its first boot", c.firstBoot)
			}
		})
	}
}
