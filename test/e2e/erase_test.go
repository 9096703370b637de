package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bedplate/bedplate/lab"
)

// stacked puts an array, a volume group and a volume on two disks and leaves
// them active; then everything is erased under them.
const stacked = `
apiVersion: bedplate/v1
kind: Template
metadata: {name: stacked}
spec:
  steps:
  - id: make
    uses: storage.apply
    with:
      phase: make
      root_disk: disk.serial == "ERASE-D4"
      layout:
        disks:
        - {name: a, serial: ERASE-D0}
        - {name: b, serial: ERASE-D1}
        raid:
        - {name: data, level: raid1, devices: [a, b]}
        volume_groups:
        - {name: vg, devices: [data]}
        logical_volumes:
        - {name: srv, volume_group: vg, size: 32MiB}
  - id: erase
    uses: disk.erase
    with: {verify: full}
---
apiVersion: bedplate/v1
kind: Template
metadata: {name: slow}
spec:
  steps:
  - id: erase
    uses: disk.erase
    with: {method: overwrite, pattern: random, verify: full}
---
`

// eraseBuses are the disks of TestErase.
var eraseBuses = []string{"nvme", "nvme", "scsi", "virtio", "ahci"}

// TestErase fills the disks of a machine, each of another kind, has them erased,
// and reads every sector of their images from outside.
func TestErase(t *testing.T) {
	spec := lab.MachineSpec{Name: "erase", Firmware: lab.UEFI, TPM: true}
	for _, bus := range eraseBuses {
		spec.Disks = append(spec.Disks, lab.DiskSpec{Bus: bus, Size: 128 << 20})
	}
	r := newRig(t, lab.Spec{Machines: []lab.MachineSpec{spec}})
	r.apply(r.machineYAML("erase", "10.77.0.31/24") + stacked)
	t.Run("what holds disks is stopped, and every sector is zero", func(t *testing.T) {
		r := r.in(t)
		r.fillDisks("erase")
		r.must("workflow", "run", "stacked", "--machine", "erase", "--name", "stacked")
		r.powerOn("erase")
		r.waitState(installTime, "workflow", "stacked", "succeeded", "failed", "cancelled")
		if out := r.must("workflow", "logs", "stacked"); !strings.Contains(out, "stopped RAID array md") || !strings.Contains(out, "(vg-srv), which held md") {
			t.Errorf("the log says nothing of what was stopped:\n%s", out)
		}
		r.wantMethods(methodsOf(r.object("workflow", "stacked")))
		r.wantZeros("erase")
	})
	t.Run("a machine that restarts while it erases begins again", func(t *testing.T) {
		r := r.in(t)
		r.must("workflow", "run", "slow", "--machine", "erase", "--name", "slow")
		r.eventually(installTime, "the erase has begun", func() error {
			if got := r.attempts("slow")["erase"]; len(got) != 1 {
				return fmt.Errorf("attempts: %v", got)
			}
			return nil
		})
		if err := r.machine("erase").Reset(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.waitState(installTime, "workflow", "slow", "succeeded", "failed", "cancelled")
		if diff := cmp.Diff([]string{"failed", "succeeded"}, r.attempts("slow")["erase"]); diff != "" {
			t.Errorf("attempts (-want +got):\n%s", diff)
		}
	})
	if err := r.machine("erase").PowerOff(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.fillDisks("erase")
	r.must("machine", "retire", "erase")
	r.powerOn("erase")
	r.waitState(installTime, "machine", "erase", "retired", "failed")
	r.wantZeros("erase")
	t.Run("the record verifies without the server", func(t *testing.T) { r.in(t).wantRecord("erase") })
}

// pattern is what disks are full of before: each sector has another content.
func pattern(p []byte, off int64) {
	for i := 0; i < len(p); i += 512 {
		copy(p[i:], bytes.Repeat([]byte{byte(off >> 20), 0x5a}, 256))
		copy(p[i:], fmt.Sprintf("sector %d of somebody's data", (off+int64(i))/512))
	}
}

func (r *rig) fillDisks(name string) {
	r.t.Helper()
	for i := range eraseBuses {
		f, err := os.OpenFile(r.machine(name).Disk(i), os.O_WRONLY, 0)
		if err != nil {
			r.t.Fatal(err)
		}
		st, err := f.Stat()
		buf := make([]byte, 1<<20)
		for off := int64(0); err == nil && off < st.Size(); off += int64(len(buf)) {
			pattern(buf, off)
			_, err = f.WriteAt(buf, off)
		}
		if err := errors.Join(err, f.Close()); err != nil {
			r.t.Fatal(err)
		}
	}
}

// wantZeros reads every sector of every disk.
func (r *rig) wantZeros(name string) {
	r.t.Helper()
	zeros, buf := make([]byte, 1<<20), make([]byte, 1<<20)
	for i, bus := range eraseBuses {
		f, err := os.Open(r.machine(name).Disk(i))
		if err != nil {
			r.t.Fatal(err)
		}
		size := 0
		for {
			n, err := io.ReadFull(f, buf)
			if !bytes.Equal(buf[:n], zeros[:n]) {
				r.t.Errorf("disk %d (%s) still holds something in MiB %d: %.64q", i, bus, size>>20, buf[:n])
				break
			}
			size += n
			if err != nil {
				break
			}
		}
		f.Close()
		if size != 128<<20 && !r.t.Failed() {
			r.t.Errorf("only %d bytes of disk %d were read", size, i)
		}
	}
}

// methodsOf returns the methods of a workflow's disk.erase, by the disk's name.
func methodsOf(workflow map[string]any) map[string]string {
	out := map[string]string{}
	steps, _ := workflow["status"].(map[string]any)["steps"].([]any)
	for _, s := range steps {
		results, _ := s.(map[string]any)["outputs"].(map[string]any)["results"].([]any)
		for _, d := range results {
			out[field(d, "name")] = field(d, "method")
		}
	}
	return out
}

// wantMethods: QEMU 7.2 knows Format NVM and no Sanitize, UNMAP, TRIM and
// virtio's discard.
func (r *rig) wantMethods(got map[string]string) {
	r.t.Helper()
	want := map[string]string{"nvme0n1": "nvme-format-user", "nvme1n1": "nvme-format-user", "sda": "discard", "sdb": "discard", "vda": "discard"}
	if diff := cmp.Diff(want, got); diff != "" {
		r.t.Errorf("methods (-want +got):\n%s", diff)
	}
}

// wantRecord fetches the machine's record and verifies it with nothing but the
// digest of the CA.
func (r *rig) wantRecord(name string) {
	r.t.Helper()
	doc := r.must("machine", "erasure", "get", "--machine", name)
	path := filepath.Join(r.dir, "record.json")
	if err := os.WriteFile(path, []byte(doc), 0o600); err != nil {
		r.t.Fatal(err)
	}
	offline := func(args ...string) (string, error) {
		cmd := exec.Command(bedplate, append([]string{"machine", "erasure", "verify", path, "--ca", filepath.Join(r.dir, "data", "ca.crt")}, args...)...)
		cmd.Env = []string{"HOME=/nonexistent"}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := offline("--machine", name)
	if err != nil || !strings.Contains(out, "is erased and verified: 5 disks, level clear") {
		r.t.Errorf("%v\n%s", err, out)
	}
	r.t.Log(out)
	if out, err := offline("--machine", "another"); err == nil || !strings.Contains(out, "it is of another machine") {
		r.t.Errorf("%v\n%s", err, out)
	}
	var record struct {
		Record struct {
			Operator string
			Devices  []map[string]any
			TPM      map[string]any
			Firmware map[string]any
			Machine  map[string]any
		}
	}
	if err := json.Unmarshal([]byte(doc), &record); err != nil {
		r.t.Fatal(err)
	}
	got := map[string]string{}
	for _, d := range record.Record.Devices {
		got[field(d, "name")] = field(d, "method")
	}
	r.wantMethods(got)
	if record.Record.Operator == "system" || record.Record.Operator == "" {
		r.t.Errorf("operator = %q", record.Record.Operator)
	}
	if tpm := record.Record.TPM; tpm["cleared"] != true || tpm["method"] != "lockout" || record.Record.Firmware["kind"] != "uefi" || record.Record.Machine["serial"] == "" {
		r.t.Errorf("record = %+v", record.Record)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(doc, `"method":"discard"`, `"method":"overwrite"`, 1)), 0o600); err != nil {
		r.t.Fatal(err)
	}
	if out, err := offline(); err == nil || !strings.Contains(out, "it was changed after it was signed: /devices/") {
		r.t.Errorf("a changed record: %v\n%s", err, out)
	}
}
