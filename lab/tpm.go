package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// Names of a TPM's files in a machine's folder.
const (
	tpmDir    = "tpm"
	tpmSocket = "tpm.sock"
	tpmLog    = "tpm.log"
)

func tpmArgs() []string {
	return []string{
		"-chardev", "socket,id=tpmchar,path=" + tpmSocket, "-tpmdev", "emulator,id=tpm0,chardev=tpmchar", "-device", "tpm-crb,tpmdev=tpm0",
	}
}

// setupDeadline bounds the making of a TPM's keys.
const setupDeadline = time.Minute

// startTPM starts the TPM of a machine that has one. It ends when QEMU hangs up.
func (m *Machine) startTPM(ctx context.Context) error {
	if !m.spec.TPM {
		return nil
	}
	if err := makeTPM(ctx, m.dir); err != nil {
		return err
	}
	socket := filepath.Join(m.dir, tpmSocket)
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	cmd := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+tpmDir, "--ctrl", "type=unixio,path="+tpmSocket,
		"--terminate", "--log", "file="+tpmLog+",level=1")
	cmd.Dir = m.dir
	if err := m.namespace.Start(cmd); err != nil {
		return fmt.Errorf("starting the TPM (apt-get install swtpm swtpm-tools): %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // ends when QEMU hangs up, or with the namespace
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := os.Stat(socket); err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case err := <-ended:
			return fmt.Errorf("the TPM ended at once (see %s): %w", filepath.Join(m.dir, tpmLog), err)
		case <-ctx.Done():
			_ = cmd.Process.Kill()
			return fmt.Errorf("waiting for the TPM: %w", ctx.Err())
		}
	}
}

// makeTPM makes a TPM as delivered, with the certificates of its maker, unless there is one.
func makeTPM(ctx context.Context, dir string) error {
	state := filepath.Join(dir, tpmDir)
	if _, err := os.Stat(filepath.Join(state, "tpm2-00.permall")); err == nil {
		return nil
	}
	if err := os.MkdirAll(state, 0o700); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, setupDeadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, "swtpm_setup", "--tpm2", "--tpmstate", state, "--create-ek-cert", "--create-platform-cert", "--lock-nvram", "--overwrite")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("making a TPM (apt-get install swtpm swtpm-tools): %w: %s", err, out)
	}
	return nil
}
