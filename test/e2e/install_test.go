package e2e

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/bedplate/bedplate/lab"
)

// TestInstall takes machines of each firmware from power-on with an empty disk
// to a login on the installed system.
func TestInstall(t *testing.T) {
	r := newRig(t, lab.Spec{Machines: []lab.MachineSpec{
		{Name: "bios", Firmware: lab.BIOS},
		{Name: "uefi", Firmware: lab.UEFI, Disks: []lab.DiskSpec{{Bus: "nvme"}}},
		{Name: "uefi-http", Firmware: lab.UEFIHTTP, Disks: []lab.DiskSpec{{Bus: "scsi"}}},
	}})
	r.importDebian()
	address := map[string]string{}
	for i, m := range r.lab.Machines() {
		address[m.Name()] = fmt.Sprintf("10.77.0.%d", 31+i)
		r.apply(r.machineYAML(m.Name(), address[m.Name()]+"/24") + r.instanceYAML(m.Name()))
	}
	console := r.machine("bios").Serial()
	// Two at a time are as many as two cores carry.
	pairs := [][]string{{"bios", "uefi-http"}}
	if all() {
		pairs = append(pairs, []string{"uefi"}) // TestLife installs one, too
	}
	for _, pair := range pairs {
		for _, name := range pair {
			r.powerOn(name)
		}
		for _, name := range pair {
			r.waitState(installTime, "instance", name, "active", "failed")
			r.proves(name, address[name])
			r.wantTimeline(name)
		}
		for _, name := range pair {
			if name == "bios" {
				continue // goes on below
			}
			if err := r.machine(name).PowerOff(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Run("the serial console has a login", func(t *testing.T) {
		if _, err := console.WaitFor(t.Context(), regexp.MustCompile(`host-bios login:`)); err != nil {
			t.Error(err)
		}
	})
	t.Run("a reset boots the disk and installs nothing", func(t *testing.T) {
		r := r.in(t)
		before := r.proves("bios", address["bios"])
		was, err := r.bootID(address["bios"])
		if err != nil {
			t.Fatal(err)
		}
		r.reset("bios", address["bios"], was)
		if after := r.proves("bios", address["bios"]); after != before {
			t.Errorf("the host key changed from %s to %s: the disk was written again", before, after)
		}
		if got := r.state("machine", "bios"); got != "active" {
			t.Errorf("after a reset the machine is %s", got)
		}
	})
	t.Run("a second workflow installs it anew", func(t *testing.T) {
		if !all() {
			t.Skip("SKIPPED: `make e2e-all` runs it; TestCrash and TestStorage install anew")
		}
		r := r.in(t)
		before := r.proves("bios", address["bios"])
		r.must("workflow", "run", "install-image", "--machine", "bios", "--name", "again", "-i", "image=debian")
		was, err := r.bootID(address["bios"])
		if err != nil {
			t.Fatal(err)
		}
		if err := r.machine("bios").Reset(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.waitState(installTime, "workflow", "again", "succeeded", "failed", "cancelled")
		r.waitState(installTime, "instance", "bios", "active", "failed")
		r.eventually(3*time.Minute, "the new system answers", func() error {
			if id, err := r.bootID(address["bios"]); err != nil || id == was {
				return errors.Join(err, errors.New("not yet"))
			}
			return nil
		})
		if after := r.proves("bios", address["bios"]); after == before {
			t.Error("the host key is the old one: nothing was installed")
		}
	})
	t.Run("deleting the instance wipes the disk and frees the machine", func(t *testing.T) {
		r := r.in(t)
		r.must("instance", "delete", "bios")
		if err := r.machine("bios").Reset(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.waitState(installTime, "machine", "bios", "available", "failed")
		if out, err := r.run("get", "instance", "bios"); err == nil {
			t.Errorf("the instance is still there:\n%s", out)
		}
	})
}

// reset presses the button and waits for the next boot.
func (r *rig) reset(name, address, was string) {
	r.t.Helper()
	if err := r.machine(name).Reset(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	r.eventually(installTime, name+" comes up again", func() error {
		id, err := r.bootID(address)
		if err == nil && id == was {
			err = errors.New("it has not gone down yet")
		}
		return err
	})
}

// wantTimeline checks that every phase of an installation is on the timeline.
func (r *rig) wantTimeline(name string) {
	r.t.Helper()
	out := r.must("machine", "timeline", name)
	r.t.Logf("timeline of %s:\n%s", name, out)
	for _, phase := range []string{"dhcp", "kernel and initramfs", "agent start", "step write", "operating system boot"} {
		if !strings.Contains(out, phase) {
			r.t.Errorf("the timeline of %s has no phase %q", name, phase)
		}
	}
}
