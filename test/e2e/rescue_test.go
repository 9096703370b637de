package e2e

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bedplate/bedplate/lab"
)

// TestRescue gets into the agent's system with OpenSSH's client, and at the
// serial port, and finds nothing there afterwards.
func TestRescue(t *testing.T) {
	r := newRig(t, lab.Spec{Machines: []lab.MachineSpec{{Name: "m1", Disks: []lab.DiskSpec{{Size: 64 << 20}}}}})
	r.apply(r.machineYAML("m1", "10.77.0.31/24"))
	console := r.machine("m1").Serial()
	r.powerOn("m1")
	r.waitState(installTime, "machine", "m1", "available", "failed")
	key := r.keyFile()
	t.Run("without rescue nothing listens", func(t *testing.T) {
		r := r.in(t)
		if out, err := r.openSSH(key, "10.77.0.31", "true"); err == nil || !strings.Contains(out, "refused") {
			t.Errorf("%v: %s", err, out)
		}
	})
	r.must("workflow", "run", "rescue", "--machine", "m1", "--name", "help", "-i", `authorized_keys=["`+r.authorized+`"]`, "-i", "console=true")
	r.eventually(2*time.Minute, "somebody gets in", func() error {
		out, err := r.openSSH(key, "10.77.0.31", "true")
		if err != nil {
			return errors.New(out)
		}
		return nil
	})
	t.Run("the host key is the one that the log names", func(t *testing.T) {
		r := r.in(t)
		log := r.must("workflow", "logs", "help")
		m := regexp.MustCompile(`host key (SHA256:\S+)`).FindStringSubmatch(log)
		if m == nil {
			t.Fatalf("no host key in the log:\n%s", log)
		}
		known, err := os.ReadFile(filepath.Join(r.dir, "known_hosts"))
		if err != nil {
			t.Fatal(err)
		}
		_, _, public, _, _, err := ssh.ParseKnownHosts(known)
		if err != nil || ssh.FingerprintSHA256(public) != m[1] {
			t.Errorf("%v: the client saw %s", err, known)
		}
	})
	t.Run("a disk can be repaired", func(t *testing.T) {
		r := r.in(t)
		out, err := r.openSSH(key, "10.77.0.31", "mkfs.ext4 -q /dev/vda && mkdir -p /mnt/d && mount /dev/vda /mnt/d && echo repaired >/mnt/d/proof && umount /mnt/d && id -u && uname -n")
		if err != nil || !strings.HasPrefix(out, "0\n") {
			t.Errorf("%v: %s", err, out)
		}
	})
	t.Run("the serial port has a shell", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := r.machine("m1").Type(ctx, "\necho $((41+1))-on-the-console\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := console.WaitFor(ctx, regexp.MustCompile(`42-on-the-console`)); err != nil {
			t.Error(err)
		}
	})
	t.Run("who came and what they did is in the log", func(t *testing.T) {
		r := r.in(t)
		r.eventually(time.Minute, "the log has it", func() error {
			log := r.must("workflow", "logs", "help")
			for _, want := range []string{"by key " + ssh.FingerprintSHA256(r.key.PublicKey()), "command: mkfs.ext4 -q /dev/vda", "exit status 0"} {
				if !strings.Contains(log, want) {
					return errors.New(want + " is missing:\n" + log)
				}
			}
			return nil
		})
	})
	t.Run("cancelled, it ends with all it started", func(t *testing.T) {
		r := r.in(t)
		session := exec.Command("ssh", append(r.sshArgs(key, "10.77.0.31"), "sleep 1000")...)
		if err := r.ns.Start(session); err != nil {
			t.Fatal(err)
		}
		r.must("workflow", "cancel", "help")
		r.waitState(time.Minute, "workflow", "help", "cancelled", "succeeded", "failed")
		if err := session.Wait(); err == nil {
			t.Error("a session goes on")
		}
		if out, err := r.openSSH(key, "10.77.0.31", "true"); err == nil || !strings.Contains(out, "refused") {
			t.Errorf("it listens still: %v: %s", err, out)
		}
	})
}

// keyFile writes a key for OpenSSH and makes it the rig's.
func (r *rig) keyFile() string {
	r.t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		r.t.Fatal(err)
	}
	if r.key, err = ssh.NewSignerFromKey(private); err != nil {
		r.t.Fatal(err)
	}
	r.authorized = strings.TrimSpace(string(ssh.MarshalAuthorizedKey(r.key.PublicKey())))
	block, err := ssh.MarshalPrivateKey(private, "e2e")
	if err != nil {
		r.t.Fatal(err)
	}
	path := filepath.Join(r.dir, "id_ed25519")
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		r.t.Fatal(err)
	}
	return path
}

func (r *rig) sshArgs(key, address string) []string {
	return []string{"-F", "none", "-i", key, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no",
		"-o", "UserKnownHostsFile=" + filepath.Join(r.dir, "known_hosts"), "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=10", "root@" + address}
}

// openSSH runs a command on a machine with OpenSSH's client.
func (r *rig) openSSH(key, address, command string) (string, error) {
	cmd := exec.Command("ssh", append(r.sshArgs(key, address), command)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := r.ns.Run(cmd)
	return out.String(), err
}
