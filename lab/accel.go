package lab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// accelerator returns kvm or tcg. KVM counts only if a guest was seen to run
// by it: there are machines where the device opens and no guest ever starts.
func accelerator(ctx context.Context, want string, log *slog.Logger) (string, error) {
	if want == "tcg" {
		return "tcg", nil
	}
	err := probe(ctx, "kvm")
	switch {
	case err == nil:
		return "kvm", nil
	case want == "kvm":
		return "", fmt.Errorf("KVM does not work here: %w", err)
	}
	log.Info("emulating processors, KVM does not work here", "err", err)
	return "tcg", nil
}

// probeDeadline is far more than the probe's three instructions need.
const probeDeadline = 5 * time.Second

// probeCode is what the probe's guest writes to the exit device; QEMU then
// ends with twice that and one (hw/misc/debugexit.c).
const probeCode = 0x2a

// probe runs a guest of three instructions and sees whether it did.
func probe(ctx context.Context, accel string) error {
	if accel == "kvm" {
		f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
		if err != nil {
			return err
		}
		_ = f.Close()
	}
	dir, err := os.MkdirTemp("", "bedplate-probe-")
	if err != nil {
		return fmt.Errorf("making the probe: %w", err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a left-over in the temporary folder is harmless
	rom := filepath.Join(dir, "rom")
	if err := os.WriteFile(rom, probeROM(), 0o644); err != nil {
		return fmt.Errorf("making the probe: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, probeDeadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, qemuProgram, "-accel", accel, "-cpu", cpuModel(accel, nil), "-machine", "pc", "-m", "16", "-nodefaults", "-display", "none",
		"-bios", rom, "-device", "isa-debug-exit,iobase=0xf4,iosize=0x01")
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("a guest of three instructions did not end in %s", probeDeadline)
	case errors.As(err, &exit) && exit.ExitCode() == probeCode<<1|1:
		return nil
	case err == nil:
		return errors.New("the guest ended without a word")
	}
	return fmt.Errorf("%w: %s", err, lastLines(out, 2))
}

// probeROM is a BIOS image whose first instruction, at F000:FFF0, is
// mov al, probeCode; out 0xf4, al; hlt.
func probeROM() []byte {
	rom := make([]byte, 64<<10)
	copy(rom[0xfff0:], []byte{0xb0, probeCode, 0xe6, 0xf4, 0xf4})
	return rom
}
