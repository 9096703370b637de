package e2e

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bedplate/bedplate/lab"
)

// storageImage is the Debian image with what mounts RAID, LVM and encrypted
// devices at boot.
const storageImage = "../../build/images/debian-storage.raw.zst"

// stored is the instance of TestStorage; the verbs are size of a volume and
// level of the RAID.
const stored = `
apiVersion: bedplate/v1
kind: Secret
metadata: {name: vault}
spec: {data: {passphrase: open sesame}}
---
apiVersion: bedplate/v1
kind: Instance
metadata: {name: store}
spec:
  machine: store
  image: debian-storage
  hostname: host-store
  ssh_keys: [%q]
  user_data: |
    #cloud-config
    write_files:
    - path: /etc/proof
      content: "configured for store\n"
  storage:
    root_disk: disk.serial.endsWith("D0")
    root_size: 2GiB
    disks:
    - {name: d1, hint: disk.type == "nvme", wipe: keep}
    - {name: d2, hint: disk.type == "nvme", wipe: keep}
    - {name: scratch, serial: STORE-D3}
    partitions:
    - {name: logs, disk: root, size: 256MiB}
    - {name: swap, disk: scratch, size: 128MiB}
    - {name: tmp, disk: scratch}
    raid:
    - {name: data, level: %s, devices: [d1, d2]}
    volume_groups:
    - {name: vg, devices: [data]}
    logical_volumes:
    - {name: srv, volume_group: vg, size: %s}
    - {name: secret, volume_group: vg, size: 30%%}
    encryption:
    - {name: vault, device: vg/secret, tpm: required, key_secret: vault}
    filesystems:
    - {device: vg/srv, type: xfs, path: /srv, options: [noatime]}
    - {device: vault, type: ext4, label: secret, path: /var/lib/secret}
    - {device: logs, type: ext4, path: /var/log/app}
    - {device: tmp, type: ext4, path: /scratch}
    - {device: swap, type: swap}
`

// TestStorage takes a machine with four disks and a TPM from one Instance to a
// system with RAID, LVM, encryption and file systems mounted, and reinstalls it
// with the data kept.
func TestStorage(t *testing.T) {
	if !all() { // At the last run, beside five other machines, /var/lib/secret was not mounted within 3 min; the cause is not known.
		t.Skip("SKIPPED, it FAILED when it was last run: `make e2e-all` runs it")
	}
	if _, err := os.Stat(storageImage); err != nil {
		t.Fatalf("%v: run `make e2e`, which builds it", err)
	}
	r := newRig(t, lab.Spec{Machines: []lab.MachineSpec{{Name: "store", TPM: true, Memory: 1536 << 20, Disks: []lab.DiskSpec{
		{}, {Bus: "nvme", Size: 1 << 30}, {Bus: "nvme", Size: 1 << 30}, {Bus: "virtio", Size: 1 << 30},
	}}}})
	const address = "10.77.0.31"
	r.must("image", "import", "debian-storage", "--file", storageImage)
	r.apply(r.machineYAML("store", address+"/24"))
	declare := func(level, size string) string { return fmt.Sprintf(stored, r.authorized, level, size) }

	r.apply(declare("raid1", "900MiB"))
	r.powerOn("store")
	r.waitState(installTime, "instance", "store", "failed", "active")
	t.Run("a declaration that doesn't fit fails before any disk is touched", func(t *testing.T) {
		r := r.in(t)
		wantError(t, fmt.Errorf("%s", field(r.object("instance", "store"), "status", "cause")),
			`step "layout"`, "volume_groups[0]", "its volumes want 200 MiB more than the 1000 MiB that there are")
		for i := range 4 {
			if n := written(t, r.machine("store").Disk(i)); n > 0 {
				t.Errorf("%d bytes of disk %d were written", n, i)
			}
		}
	})
	r.apply(declare("raid1", "500MiB"))
	r.must("workflow", "retry", r.workflowOf("store"))
	r.waitState(time.Minute, "instance", "store", "provisioning", "active")
	r.waitState(installTime, "instance", "store", "active", "failed")
	first := r.proves("store", address)
	t.Run("the installed system has mounted everything", func(t *testing.T) { r.in(t).wantMounts(address) })
	if _, err := r.ssh(address, "sudo sh -c 'echo precious > /srv/kept; echo precious > /var/lib/secret/kept; echo gone > /scratch/gone; sync'"); err != nil {
		t.Fatal(err)
	}
	reinstall := func(r *rig, name string) {
		r.must("workflow", "run", "install-image", "--machine", "store", "--name", name, "-i", "image=debian-storage")
		if err := r.machine("store").Reset(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("a reinstallation with another declaration of what is kept fails, and says what is there", func(t *testing.T) {
		r := r.in(t)
		r.apply(declare("raid0", "500MiB"))
		reinstall(r, "wrong")
		r.waitState(installTime, "workflow", "wrong", "failed", "succeeded")
		wantError(t, fmt.Errorf("%s", field(r.object("workflow", "wrong"), "status", "cause")),
			"raid[0]", `raid0 "data" of 2 devices is declared`, `is a member of raid1 "data" of 2 devices`)
	})
	t.Run("a reinstallation keeps what is to be kept", func(t *testing.T) {
		r := r.in(t)
		r.apply(declare("raid1", "500MiB"))
		reinstall(r, "again")
		r.waitState(installTime, "workflow", "again", "succeeded", "failed", "cancelled")
		r.eventually(installTime, "the new system answers", func() error {
			key, err := r.ssh(address, "cut -d' ' -f2 /etc/ssh/ssh_host_ed25519_key.pub")
			if err == nil && key == first {
				err = fmt.Errorf("the host key is the old one")
			}
			return err
		})
		r.wantMounts(address)
		out, err := r.ssh(address, "cat /srv/kept; sudo cat /var/lib/secret/kept; ls -A /scratch")
		if err != nil || out != "precious\nprecious\nlost+found" {
			t.Errorf("what was kept: %q, %v", out, err)
		}
	})
}

// written returns how much of a sparse file was ever written.
func written(t *testing.T, path string) int64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// wantMounts looks at the file systems of the installed system from inside.
func (r *rig) wantMounts(address string) {
	r.t.Helper()
	var out string
	r.eventually(3*time.Minute, "everything is mounted", func() (err error) {
		out, err = r.ssh(address, `for p in /srv /var/lib/secret /var/log/app /scratch; do findmnt -no TARGET,SOURCE,FSTYPE $p || exit 1; done;
			tail -n +2 /proc/swaps | wc -l; sed -n 's/^\(md[^ ]*\) : active \(raid1\).*/\2/p' /proc/mdstat; findmnt -bno SIZE / | awk '{print ($1 > 1900000000)}'`)
		return err
	})
	var got []string
	for line := range strings.Lines(out) {
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	want := []string{"/srv /dev/mapper/vg-srv xfs", "/var/lib/secret /dev/mapper/vault ext4", "/var/log/app /dev/vda4 ext4", "/scratch /dev/vdb2 ext4", "1", "raid1", "1"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		status, _ := r.ssh(address, "sudo journalctl -b --no-pager | grep -iE 'crypt|tpm|md127|lvm|mount' | tail -n 40; cat /etc/fstab /etc/crypttab")
		r.t.Errorf("mounted are\n%s\nwant\n%s\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"), status)
	}
}

// TestStorage_SecureBoot binds a key to PCR 7, which shim extends each time
// that it runs: once for the agent, which came by network, and twice for the
// installed system, whose firmware asks the network first.
func TestStorage_SecureBoot(t *testing.T) {
	if !all() {
		t.Skip("SKIPPED: `make e2e-all` runs it")
	}
	r := newRig(t, lab.Spec{Machines: []lab.MachineSpec{{Name: "sb", Firmware: lab.UEFISecure, TPM: true, Disks: []lab.DiskSpec{{}, {Size: 512 << 20}}}}})
	const address = "10.77.0.31"
	r.must("image", "import", "debian-storage", "--file", storageImage)
	instance := strings.Replace(r.instanceYAML("sb"), "image: debian\n", `image: debian-storage
  storage:
    disks: [{name: d, serial: SB-D1}]
    encryption: [{name: vault, device: d, tpm: required}]
    filesystems: [{device: vault, type: ext4, path: /srv}]
`, 1)
	r.apply(strings.Replace(r.machineYAML("sb", address+"/24"), "{name: sb}", `{name: sb, labels: {bedplate/secure-boot: "true"}}`, 1) + instance)
	r.powerOn("sb")
	r.waitState(installTime, "instance", "sb", "active", "failed")
	r.proves("sb", address)
	var out string
	r.eventually(3*time.Minute, "the encrypted file system is mounted", func() (err error) {
		out, err = r.ssh(address, "findmnt -no SOURCE /srv || (sudo journalctl -b --no-pager -u 'systemd-cryptsetup*'; cat /etc/crypttab; false)")
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return err
	})
	log := r.must("workflow", "logs", r.workflowOf("sb"), "--step", "storage")
	if !strings.Contains(log, "bound to the TPM, PCRs [7]") {
		t.Errorf("the key isn't bound to PCR 7:\n%s", log)
	}
}
