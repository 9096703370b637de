package e2e

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bedplate/bedplate/lab"
)

// lifeRack is three machines that the server knows by their BMC's address
// alone: one with BIOS, one with UEFI, and one on a network where nobody gives
// out addresses. Their disks are on the three kinds of bus.
func lifeRack() lab.Spec {
	return lab.Spec{
		Name:     "life",
		Networks: []lab.Network{{Name: "br0", Address: "10.77.0.1/24"}, {Name: "br1", Address: "10.78.0.1/24"}},
		Machines: []lab.MachineSpec{
			{Name: "bios", Firmware: lab.BIOS, Memory: 1536 << 20, Disks: []lab.DiskSpec{{Bus: "virtio", Size: 1 << 30}}},
			{Name: "uefi", Firmware: lab.UEFI, Memory: 1536 << 20, Disks: []lab.DiskSpec{{Bus: "nvme", Size: 1 << 30}}},
			{Name: "media", Firmware: lab.UEFI, Memory: 1536 << 20, Network: "br1", Disks: []lab.DiskSpec{{Bus: "scsi", Size: 1 << 30}}},
		},
	}
}

// lifeTime is how long a machine may take for one part of its life while two
// others boot beside it on two emulated cores.
const lifeTime = 15 * time.Minute

// bmcYAML describes a machine by its BMC's address, and nothing else.
func (r *rig) bmcYAML(name, more string) string {
	r.t.Helper()
	b := r.machine(name).BMC()
	if b == nil {
		r.t.Fatalf("machine %s has no BMC", name)
	}
	user, _ := b.Login()
	return fmt.Sprintf(`
apiVersion: bedplate/v1
kind: Machine
metadata: {name: %s}
spec:
  bmc: {address: %s, username: %s, password_secret: factory, rotate_password: true}
%s---
`, name, strings.TrimPrefix(b.Redfish(), "https://"), user, more)
}

// passwordList is the Secret with every BMC's first password, by serial number
// as it is on the machines' tags.
func (r *rig) passwordList(names ...string) string {
	var b strings.Builder
	b.WriteString("apiVersion: bedplate/v1\nkind: Secret\nmetadata: {name: factory}\nspec:\n  data:\n")
	for _, name := range names {
		_, password := r.machine(name).BMC().Login()
		fmt.Fprintf(&b, "    %s: %q\n", name, password)
	}
	b.WriteString("---\n")
	return b.String()
}

// zeros reads every sector of a machine's disk from outside.
func (r *rig) zeros(name string) {
	r.t.Helper()
	f, err := os.Open(r.machine(name).Disk(0))
	if err != nil {
		r.t.Fatal(err)
	}
	defer f.Close()
	buf, none := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); ; {
		n, err := f.ReadAt(buf, off)
		if !bytes.Equal(buf[:n], none[:n]) {
			r.t.Fatalf("the disk of %s still has content within the MiB at offset %d", name, off)
		}
		off += int64(n)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			r.t.Fatal(err)
		}
	}
}

// together runs a part of the test for every machine, side by side.
func (r *rig) together(names []string, do func(r *rig, name string)) {
	r.t.Helper()
	var wg sync.WaitGroup
	for _, name := range names {
		wg.Go(func() { do(r, name) })
	}
	wg.Wait()
	if r.t.Failed() {
		r.t.FailNow()
	}
}

// TestLife takes machines from a BMC address to active and back, and again,
// with no hand on anything but the server's API.
func TestLife(t *testing.T) {
	r := newRig(t, lifeRack())
	r.importDebian()
	names := []string{"bios", "uefi", "media"}
	address := map[string]string{"bios": "", "uefi": "", "media": "10.78.0.31"}

	began := time.Now()
	r.apply(`
apiVersion: bedplate/v1
kind: Pool
metadata: {name: default}
spec:
  idle: warm
  boot_timeout: 6m
  tests: {tests: [cpu, memory, disk], duration: 5s}
  erase: {verify: full}
---
` + r.passwordList(names...) + r.bmcYAML("bios", "") + r.bmcYAML("uefi", "") +
		r.bmcYAML("media", "  boot_method: virtual-media\n  interfaces: [{address: 10.78.0.31/24, gateway: 10.78.0.1}]\n"))
	r.together(names, func(r *rig, name string) {
		r.waitState(lifeTime, "machine", name, "available", "failed", "quarantined")
	})
	t.Logf("from three BMC addresses to three available machines: %s", time.Since(began).Round(time.Second))
	r.together(names, func(r *rig, name string) { r.known(name) })

	for round := range 2 {
		if round == 1 && !all() {
			names = []string{"uefi"} // the other two are the same work; e2e-all does it
		}
		began := time.Now()
		for _, name := range names {
			r.apply(r.instanceYAML(name))
		}
		r.together(names, func(r *rig, name string) {
			r.waitState(lifeTime, "instance", name, "active", "failed")
			if address[name] == "" {
				address[name] = r.addressOf(name)
			}
			r.proves(name, address[name])
			r.waitState(time.Minute, "machine", name, "active", "failed")
			if name == "media" {
				r.hasGiven(address[name])
			}
		})
		t.Logf("round %d: available to login: %s", round+1, time.Since(began).Round(time.Second))
		if round == 1 {
			break
		}
		began = time.Now()
		for _, name := range names {
			r.must("instance", "delete", name)
		}
		r.together(names, func(r *rig, name string) {
			r.waitState(lifeTime, "machine", name, "available", "failed", "quarantined")
			r.zeros(name)
			r.erasureIsOnRecord(name)
		})
		t.Logf("active to wiped, verified and available: %s", time.Since(began).Round(time.Second))
	}
	for name := range address {
		timeline := r.must("machine", "timeline", name)
		t.Logf("%s:\n%s", name, timeline)
		// They waited in the agent, and went over to the installed system from there.
		if !strings.Contains(timeline, "  kexec ") {
			t.Errorf("machine %s went through its firmware", name)
		}
	}
}

// known checks what the server has learnt of a machine that it was given the
// BMC's address of.
func (r *rig) known(name string) {
	o := r.object("machine", name)
	spec := r.machine(name).Spec()
	for what, pair := range map[string][2]string{
		"UUID":            {field(o, "spec", "uuid"), spec.UUID},
		"serial number":   {field(o, "spec", "serial"), spec.Serial},
		"BMC's power":     {field(o, "status", "bmc", "power"), "on"},
		"tests' time set": {fmt.Sprint(field(o, "status", "test_time") != ""), "true"},
		"new password":    {fmt.Sprint(field(o, "status", "bmc", "password_time") != ""), "true"},
		"pinned":          {field(o, "status", "bmc", "certificate_digest"), pinOf(r.machine(name).BMC())},
	} {
		if !strings.EqualFold(pair[0], pair[1]) {
			r.t.Errorf("machine %s: its %s is %q, want %q", name, what, pair[0], pair[1])
		}
	}
}

// pinOf is what is kept of a BMC's certificate on first contact: the digest of
// its key, which outlives a renewal.
func pinOf(b *lab.BMC) string {
	return fmt.Sprintf("sha256:%x", sha256.Sum256(b.Certificate().RawSubjectPublicKeyInfo))
}

// hasGiven checks that an installed system has its machine's address from
// its configuration, and not from a DHCP server.
func (r *rig) hasGiven(address string) {
	r.t.Helper()
	out, err := r.ssh(address, "ip -4 -o addr show scope global")
	if err != nil {
		r.t.Errorf("%v\n%s", err, out)
		return
	}
	if strings.Contains(out, "dynamic") || !strings.Contains(out, "nic0") || !strings.Contains(out, address+"/24") {
		r.t.Errorf("the installed system's address: %s", out)
	}
}

// addressOf is the address that an active instance reported in from.
func (r *rig) addressOf(instance string) string {
	list, _ := r.object("instance", instance)["status"].(map[string]any)["addresses"].([]any)
	if len(list) == 0 {
		r.t.Fatalf("instance %s has no address", instance)
	}
	return fmt.Sprint(list[0])
}

// erasureIsOnRecord checks the newest erasure record of a machine as an
// auditor would: offline, with nothing but the file and the CA's digest.
func (r *rig) erasureIsOnRecord(name string) {
	erasure := field(r.object("machine", name), "status", "erasure")
	if erasure == "" {
		r.t.Errorf("machine %s was released without a record of its erasure", name)
		return
	}
	document := r.must("machine", "erasure", "get", erasure)
	path := filepath.Join(r.t.TempDir(), name+".json")
	if err := os.WriteFile(path, []byte(document), 0o600); err != nil {
		r.t.Error(err)
		return
	}
	// No server, no configuration.
	cmd := exec.Command(bedplate, "machine", "erasure", "verify", path, "--ca", filepath.Join(r.dir, "data", "ca.crt"))
	if out, err := cmd.CombinedOutput(); err != nil {
		r.t.Errorf("the erasure record of %s: %v\n%s", name, err, out)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(document, name, "other", 1)), 0o600); err != nil {
		r.t.Error(err)
		return
	}
	if out, err := exec.Command(bedplate, "machine", "erasure", "verify", path, "--ca", filepath.Join(r.dir, "data", "ca.crt")).CombinedOutput(); err == nil {
		r.t.Errorf("an altered record is taken for good:\n%s", out)
	}
}
