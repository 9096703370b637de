package storage

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const agentOS = "../../build/agentos"

// guestTime is how long the guest's tests may take under emulation.
const guestTime = 40 * time.Minute

func deadline() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), time.Minute)
}

// TestE2E carries out declarations in a virtual machine with the agent's own
// system, in which this test binary is process 1: with the kernel's RAID and
// device mapper, the very programs, six disks and a TPM.
func TestE2E(t *testing.T) {
	if os.Getenv("BEDPLATE_E2E") != "1" {
		t.Skip("SKIPPED: set BEDPLATE_E2E=1 to work on the disks of a virtual machine")
	}
	if os.Getenv("BEDPLATE_E2E_ALL") == "" {
		t.Skip("SKIPPED: `make e2e-all` runs it; TestStorage does the same from an Instance")
	}
	if _, err := os.Stat(agentOS + "/vmlinuz"); err != nil {
		t.Fatalf("%v: run `make agentos`", err)
	}
	dir := t.TempDir()
	args := []string{
		"-accel", "tcg", "-cpu", "max", "-m", "1536", "-smp", "2", "-nodefaults", "-nographic", "-no-reboot", "-serial", "stdio", "-monitor", "none",
		"-kernel", agentOS + "/vmlinuz", "-initrd", initramfs(t, dir), "-append", "console=ttyS0 quiet panic=-1", "-device", "virtio-rng-pci",
	}
	for i := range 6 {
		file := filepath.Join(dir, fmt.Sprintf("disk%d", i))
		f, err := os.Create(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(1 << 30); err != nil {
			t.Fatal(err)
		}
		f.Close()
		device := "virtio-blk-pci"
		if i == 2 {
			device = "nvme"
		}
		args = append(args, "-drive", fmt.Sprintf("if=none,id=d%d,file=%s,format=raw,cache=unsafe,discard=unmap", i, file),
			"-device", fmt.Sprintf("%s,drive=d%d,serial=D%d", device, i, i))
	}
	args = append(args, swtpm(t, dir)...)
	ctx, cancel := context.WithTimeout(t.Context(), guestTime)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", args...)
	cmd.Stdout = io.MultiWriter(&out, os.Stderr)
	cmd.Stderr = cmd.Stdout
	err := cmd.Run()
	if err != nil || !strings.Contains(out.String(), verdict+" 0") || !strings.Contains(out.String(), "--- PASS: TestGuest") {
		t.Errorf("the guest's tests failed: %v", err)
	}
}

// initramfs is the agent's, with this test binary as /init: the kernel unpacks
// archives one after the other.
func initramfs(t *testing.T, dir string) string {
	t.Helper()
	program := filepath.Join(dir, "init")
	cmd := exec.CommandContext(t.Context(), "go", "test", "-c", "-ldflags=-s -w", "-o", program, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building the guest's program: %v\n%s", err, out)
	}
	base, err := os.ReadFile(agentOS + "/initramfs.zst")
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	b.Write(base)
	pad(&b)
	cpio(&b, "init", 0o100755, content)
	cpio(&b, "TRAILER!!!", 0, nil)
	path := filepath.Join(dir, "initramfs")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func pad(b *bytes.Buffer) {
	for b.Len()%4 != 0 {
		b.WriteByte(0)
	}
}

// cpio appends a file in the format `newc`.
func cpio(b *bytes.Buffer, name string, mode int, content []byte) {
	fmt.Fprintf(b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", 0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0)
	b.WriteString(name + "\x00")
	pad(b)
	b.Write(content)
	pad(b)
}

// swtpm starts a TPM for the machine and returns QEMU's arguments.
func swtpm(t *testing.T, dir string) []string {
	t.Helper()
	socket := filepath.Join(dir, "swtpm.sock")
	cmd := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+dir, "--ctrl", "type=unixio,path="+socket)
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting swtpm (apt-get install swtpm): %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for range 100 {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	return []string{"-chardev", "socket,id=tpm,path=" + socket, "-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-tis,tpmdev=tpm0"}
}
