// Package ignition has Debian's Ignition carry out what Bedplate joins.
package ignition

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bedplate/bedplate/ignition"
)

// program is where Debian's package has the binary of its dracut module.
const program = "/usr/lib/dracut/modules.d/30ignition/ignition"

const butane = `variant: fcos
version: 1.4.0
passwd:
  users:
  - {name: operator, gecos: made by Ignition}
storage:
  directories:
  - {path: /srv/data, mode: 0750}
  files:
  - path: /etc/proof
    mode: 0640
    contents: {inline: "configured by Butane\n"}
systemd:
  units:
  - name: proof.service
    enabled: true
    contents: |
      [Service]
      ExecStart=/bin/true
      [Install]
      WantedBy=multi-user.target
`

// root makes the least of a root file system that Ignition works in.
func root(t *testing.T) string {
	t.Helper()
	// Not t.TempDir: Ignition writes keys as their user, who couldn't get in there.
	dir, err := os.MkdirTemp("", "ignition-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\n", "etc/group": "root:x:0:\n", "etc/shadow": "root:*:19000:0:99999:7:::\n", "etc/gshadow": "root:*::\n",
		// Debian's build fails without a policy to label by.
		"etc/selinux/config": "SELINUX=disabled\nSELINUXTYPE=targeted\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestJoined runs every stage of Ignition 2.14 on a joined configuration.
func TestJoined(t *testing.T) {
	if os.Getenv("BEDPLATE_E2E") == "" {
		t.Skip("SKIPPED: set BEDPLATE_E2E=1, as root, to run Debian's Ignition")
	}
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("%v: install Debian's package ignition", err)
	}
	config, err := ignition.Join(butane, ignition.Additions{
		Hostname: "node-1", SSHKeys: []string{"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHAk2MKyNHBZ3uoYqV/n3Uq477nQEZGzk/BL7D5OVAD0 op"},
		PhoneHomeURL: "http://192.0.2.1/phone-home/K", InstanceID: "i-1",
		Files: []ignition.File{{Path: "/etc/systemd/network/10-a.network", Content: []byte("[Match]\nName=a\n")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	work, dir := t.TempDir(), root(t)
	// There is no policy to label by here either.
	for name, content := range map[string]string{"setfiles": "#!/bin/sh\nexit 0\n", "config.ign": string(config)} {
		if err := os.WriteFile(filepath.Join(work, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("ignition-validate", filepath.Join(work, "config.ign")).CombinedOutput(); err != nil {
		t.Fatalf("ignition-validate: %v\n%s", err, out)
	}
	for _, stage := range []string{"fetch-offline", "kargs", "mount", "files", "umount"} {
		cmd := exec.CommandContext(t.Context(), program, "--platform=file", "--stage="+stage, "--root="+dir, "--log-to-stdout",
			"--config-cache="+filepath.Join(work, "cache"), "--state-file="+filepath.Join(work, "state"))
		cmd.Env = append(os.Environ(), "PATH="+work+":"+os.Getenv("PATH"), "IGNITION_CONFIG_FILE="+filepath.Join(work, "config.ign"), "IGNITION_SYSTEM_CONFIG_DIR="+filepath.Join(work, "system"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("stage %s: %v\n%s", stage, err, out)
		}
	}
	for name, want := range map[string]string{
		"etc/hostname": "node-1\n", "etc/proof": "configured by Butane\n", "etc/systemd/network/10-a.network": "[Match]\nName=a\n",
		"etc/systemd/system/bedplate-phone-home.service": "ExecStart=/bin/sh /etc/bedplate/phone-home", "etc/systemd/system/proof.service": "ExecStart=/bin/true",
		"etc/systemd/system-preset/20-ignition.preset": "enable bedplate-phone-home.service", "etc/passwd": "operator:x:",
		"home/core/.ssh/authorized_keys.d/ignition": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHAk2MKyNHBZ3uoYqV", "etc/bedplate/phone-home": "http://192.0.2.1/phone-home/K",
	} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !strings.Contains(string(b), want) {
			t.Errorf("%s: %v, %q; want %q in it", name, err, b, want)
		}
	}
	for name, want := range map[string]os.FileMode{"etc/proof": 0o640, "srv/data": os.ModeDir | 0o750, "etc/bedplate/phone-home": 0o700} {
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Mode() != want {
			t.Errorf("%s: %v, %v; want %v", name, st, err, want)
		}
	}
}
