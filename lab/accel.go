package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// accelerator returns kvm or tcg. KVM counts only if a guest was seen to run
// by it: there are machines where the device opens and no guest ever starts.
func accelerator(ctx context.Context, want string, log *slog.Logger) (string, error) {
	if want == "tcg" {
		return "tcg", nil
	}
	err := probe(ctx, "kvm")
	if err == nil {
		err = probeFirmware(ctx, "kvm")
	}
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

// firmwareDeadline is far more than OVMF needs to its first word where KVM works: a second or two.
const firmwareDeadline = 15 * time.Second

// probeFirmware sees whether UEFI firmware comes to say something on its serial
// port. It goes through all modes of a processor on the way, where KVM fails on
// some machines that run simpler code (kvm-pvm: "KVM internal error", emulation
// failure in OVMF's SEC phase). Without OVMF there is nothing to see: nil.
func probeFirmware(ctx context.Context, accel string) error {
	if _, err := os.Stat(ovmfCode); err != nil {
		return nil //nolint:nilerr // only BIOS machines can be had then
	}
	ctx, cancel := context.WithTimeout(ctx, firmwareDeadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, qemuProgram, "-accel", accel, "-cpu", cpuModel(accel, nil), "-machine", "q35", "-m", "256", "-nodefaults", "-display", "none",
		"-drive", "if=pflash,format=raw,unit=0,readonly=on,file="+ovmfCode, "-drive", "if=pflash,format=raw,unit=1,snapshot=on,file="+ovmfVars, "-serial", "stdio")
	cmd.WaitDelay = time.Second
	said, complaint := &waitFor{seen: cancel}, &waitFor{word: "internal error", seen: cancel}
	cmd.Stdout, cmd.Stderr = said, complaint
	err := cmd.Run() // It is killed, or could not start.
	switch {
	case complaint.found:
		first, _, _ := strings.Cut(string(complaint.text), "\n")
		return fmt.Errorf("UEFI firmware does not run: %s", first)
	case said.found:
		return nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("UEFI firmware said nothing in %s", firmwareDeadline)
	}
	return fmt.Errorf("UEFI firmware does not run: %w: %s", err, strings.TrimSpace(string(complaint.text)))
}

// waitFor keeps the beginning of what is written to it, and calls seen once the
// word is in that. An empty word is in any text.
type waitFor struct {
	word  string
	seen  func()
	text  []byte
	found bool
}

func (w *waitFor) Write(p []byte) (int, error) {
	w.text = append(w.text, p[:min(len(p), 4096-len(w.text))]...)
	if !w.found && bytes.Contains(w.text, []byte(w.word)) {
		w.found = true
		w.seen()
	}
	return len(p), nil
}

// probeROM is a BIOS image whose first instruction, at F000:FFF0, is
// mov al, probeCode; out 0xf4, al; hlt.
func probeROM() []byte {
	rom := make([]byte, 64<<10)
	copy(rom[0xfff0:], []byte{0xb0, probeCode, 0xe6, 0xf4, 0xf4})
	return rom
}
