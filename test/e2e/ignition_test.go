package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/bedplate/bedplate/lab"
)

const ignitionImage = "../../build/images/debian-ignition.raw.zst"

// ignitionManifest is an image that Ignition configures, where Fedora CoreOS has
// the configuration, and an instance of it in Butane.
const ignitionManifest = `
apiVersion: bedplate/v1
kind: Image
metadata: {name: debian-ignition}
spec:
  os: debian
  configuration: ignition
  finish:
    grow: true
    reset_machine_id: true
    remove_ssh_host_keys: true
    files:
    - {path: /boot/ignition/config.ign, source: ignition}
    kernel_arguments: [bedplate.proof=image]
    boot_entry: {label: Debian, fallback: true}
---
apiVersion: bedplate/v1
kind: Instance
metadata: {name: ign}
spec:
  machine: ign
  image: debian-ignition
  hostname: host-ign
  ssh_keys: [%[1]q]
  kernel_arguments: [bedplate.proof=instance]
  ignition: |
    variant: fcos
    version: 1.4.0
    passwd:
      users:
      - {name: core, shell: /bin/bash}
      - {name: operator, gecos: made by Ignition, shell: /bin/bash}
    storage:
      directories:
      - {path: /srv/data, mode: 0750}
      files:
      - path: /etc/proof
        mode: 0640
        contents: {inline: "configured by Butane\n"}
      - path: /etc/systemd/network/10-static.network
        contents:
          inline: |
            [Match]
            Type=ether
            [Network]
            DHCP=yes
            Address=192.0.2.7/24
    systemd:
      units:
      - name: proof.service
        enabled: true
        contents: |
          [Service]
          Type=oneshot
          RemainAfterExit=yes
          ExecStart=/bin/sh -c 'echo started >/run/proof'
          [Install]
          WantedBy=multi-user.target
`

// TestIgnition installs Debian with Debian's own Ignition in its initramfs, and
// looks from inside whether the system is what Butane and the image's data said.
func TestIgnition(t *testing.T) {
	if !all() {
		t.Skip("SKIPPED: `make e2e-all` does it")
	}
	if _, err := os.Stat(ignitionImage); err != nil {
		t.Fatalf("%v: run `make ignition-image`", err)
	}
	r := newRig(t, lab.Spec{Machines: []lab.MachineSpec{{Name: "ign", Firmware: lab.UEFI}}})
	const address = "10.77.0.51"
	r.apply(r.machineYAML("ign", address+"/24") + fmt.Sprintf(ignitionManifest, r.authorized))
	r.must("image", "import", "debian-ignition", "--file", ignitionImage)
	r.powerOn("ign")
	r.waitState(installTime, "instance", "ign", "active", "failed")
	inside := func(command string) string {
		t.Helper()
		var out string
		r.eventually(3*time.Minute, "SSH to ign", func() (err error) {
			out, err = r.sshAs("core", address, command)
			return err
		})
		return out
	}
	for what, c := range map[string]struct{ command, want string }{
		"host name":                        {"hostname", "host-ign"},
		"a file, its mode and owner":       {"stat -c '%a %U' /etc/proof", "640 root"},
		"a folder":                         {"stat -c '%a' /srv/data", "750"},
		"a user":                           {"getent passwd operator | cut -d: -f5,7", "made by Ignition:/bin/bash"},
		"a unit":                           {"cat /run/proof", "started"},
		"network":                          {"ip -4 -o addr show scope global | grep -o '192.0.2.7/24\\|10.77.0.51/24' | sort | tr '\\n' ' '", "10.77.0.51/24 192.0.2.7/24"},
		"kernel arguments":                 {"grep -o 'bedplate.proof=[a-z]*' /proc/cmdline | tr '\\n' ' '", "bedplate.proof=image bedplate.proof=instance"},
		"Ignition is done":                 {"ls /boot/ignition.firstboot /etc/.ignition-result.json 2>/dev/null", "/etc/.ignition-result.json"},
		"the configuration is root's":      {"stat -c '%a %U' /boot/ignition/config.ign", "600 root"},
		"the root fills its disk":          {"test $(df -k --output=size / | tail -1) -gt 1500000 && echo large", "large"},
		"the first boot was reported":      {"test -e /etc/bedplate/phoned-home; systemctl is-failed bedplate-phone-home.service", "inactive"},
		"the machine has an id of its own": {"test $(wc -c </etc/machine-id) = 33 && echo yes", "yes"},
	} {
		t.Run(what, func(t *testing.T) {
			out, err := r.in(t).sshAs("core", address, c.command+" ; true")
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.TrimSpace(out); got != c.want {
				t.Errorf("%s says %q, want %q", c.command, got, c.want)
			}
		})
	}
	t.Log(inside("uname -a; head -c 2000 /etc/.ignition-result.json"))
	if out := r.must("workflow", "describe", r.workflowOf("ign")); !strings.Contains(out, "finish") {
		t.Errorf("no step finish:\n%s", out)
	} else {
		t.Log(out)
	}
}
