package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/bedplate/bedplate/lab"
)

const (
	liveInitramfs = "../../build/images/debian-live.initramfs.zst"
	liveKernel    = "../../build/images/debian-live.vmlinuz"
)

const liveManifest = `
apiVersion: bedplate/v1
kind: Image
metadata: {name: debian-live}
spec:
  os: debian
  live:
    kernel: debian-live-kernel
    initramfs: [debian-live-initramfs]
    kernel_arguments: ["ds=nocloud-net;s=${metadata_url}", "systemd.hostname=${hostname}"]
`

// TestLive boots Debian in memory on a machine, and looks whether it is what was
// declared, comes back after a reset, and leaves the disk alone.
func TestLive(t *testing.T) {
	if !all() {
		t.Skip("SKIPPED: `make e2e-all` does it")
	}
	for _, f := range []string{liveInitramfs, liveKernel} {
		if _, err := os.Stat(f); err != nil {
			t.Fatalf("%v: run `make live-image`", err)
		}
	}
	r := newRig(t, lab.Spec{Machines: []lab.MachineSpec{{Name: "live", Firmware: lab.UEFI, Memory: 2 << 30}}})
	const address = "10.77.0.52"
	r.must("image", "import", "debian-live-kernel", "--file", liveKernel, "--configuration", "none")
	r.must("image", "import", "debian-live-initramfs", "--file", liveInitramfs, "--configuration", "none")
	r.apply(r.machineYAML("live", address+"/24") + liveManifest + "---" +
		strings.Replace(r.instanceYAML("live"), "image: debian", "image: debian-live\n  kernel_arguments: [bedplate.proof=live]", 1))
	r.powerOn("live")
	r.waitState(installTime, "instance", "live", "active", "failed")
	r.proves("live", address)
	t.Run("it runs in memory, with the arguments that were declared", func(t *testing.T) {
		out, err := r.in(t).ssh(address, "findmnt -n -o FSTYPE /; grep -o bedplate.proof=live /proc/cmdline; lsblk -n -o FSTYPE /dev/vda | grep -c .")
		if got := strings.Join(strings.Fields(out), " "); !strings.HasSuffix(got, "bedplate.proof=live 0") || !(strings.HasPrefix(got, "tmpfs") || strings.HasPrefix(got, "rootfs")) {
			t.Errorf("inside: %q, %v", got, err)
		}
	})
	t.Run("a reset boots it again", func(t *testing.T) {
		r := r.in(t)
		was, err := r.bootID(address)
		if err != nil {
			t.Fatal(err)
		}
		r.reset("live", address, was)
		r.proves("live", address)
		if got := r.state("machine", "live"); got != "active" {
			t.Errorf("after a reset the machine is %s", got)
		}
	})
	t.Run("deleting the instance frees the machine", func(t *testing.T) {
		r := r.in(t)
		r.must("instance", "delete", "live")
		if err := r.machine("live").Reset(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.waitState(installTime, "machine", "live", "available", "failed")
		r.eventually(time.Minute, "the instance is gone", func() error {
			if out, err := r.run("get", "instance", "live"); err == nil {
				return fmt.Errorf("it is still there:\n%s", out)
			}
			return nil
		})
	})
}
