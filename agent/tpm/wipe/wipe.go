// Package wipe holds the action tpm.clear. It clears the machine's TPM by
// TPM2_Clear (TPM 2.0 Library Part 3 §24.6), which takes away everything that an
// owner has put there: storage and endorsement primary seeds' objects, owner,
// endorsement and lockout passwords, and the owner's NV indices. The
// manufacturer's own NV indices, such as endorsement key certificates, stay.
//
// TPM2_Clear needs the lockout or the platform hierarchy. Without a lockout
// password the first will do; the second is closed by most firmware before it
// boots anything. Where neither works, the firmware itself is asked to clear at
// the next boot, by the TCG Physical Presence Interface 1.3 (operation 5),
// which the kernel has in sysfs.
//
// A Service must be used by one goroutine at a time.
package wipe

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"

	"github.com/bedplate/bedplate/agent/disk/input"
	"github.com/bedplate/bedplate/agent/step"
)

// Config is what a Service needs; the zero value is the running system.
type Config struct {
	// Sys is where sysfs is; empty: /sys.
	Sys string
	// Open opens the TPM; nil: /dev/tpmrm0.
	Open func() (transport.TPMCloser, error)
}

// Service carries out tpm.clear.
type Service struct{ Config }

// New returns a Service.
func New(c Config) *Service {
	if c.Sys == "" {
		c.Sys = "/sys"
	}
	if c.Open == nil {
		c.Open = func() (transport.TPMCloser, error) { return linuxtpm.Open("/dev/tpmrm0") }
	}
	return &Service{c}
}

// Steps returns the action by name.
func (s *Service) Steps() step.Set { return step.Set{"tpm.clear": step.Func(s.clear)} }

// Ways to clear a TPM.
const (
	byLockout  = "lockout"
	byPlatform = "platform"
	byFirmware = "ppi"
	nothing    = "none"
)

// outcome is what was done.
type outcome struct {
	version          int64
	method           string
	cleared, pending bool
}

func (o outcome) outputs() map[string]any {
	return map[string]any{"present": o.version > 0, "version": o.version, "method": o.method, "cleared": o.cleared, "pending": o.pending}
}

func (s *Service) clear(_ context.Context, req step.Request, rep step.Reporter) (step.Result, error) {
	if err := input.Of(req.With).Err(); err != nil {
		return step.Result{}, err
	}
	out, err := s.do(func(line string) { rep.Log(step.Agent, line) })
	return step.Result{Outputs: out.outputs()}, err
}

func (s *Service) dir() string { return filepath.Join(s.Sys, "class/tpm/tpm0") }

func (s *Service) do(say func(string)) (outcome, error) {
	_, err := os.Stat(s.dir())
	if errors.Is(err, fs.ErrNotExist) {
		say("this machine has no TPM, or its firmware hides it: nothing to do")
		return outcome{method: nothing}, nil
	}
	if err != nil {
		return outcome{method: nothing}, fmt.Errorf("looking for a TPM: %w", err)
	}
	if read(s.dir(), "tpm_version_major") == "1" {
		return s.clearOld(say)
	}
	out := outcome{version: 2, method: nothing}
	t, err := s.Open()
	if err != nil {
		return out, fmt.Errorf("opening the TPM: %w", err)
	}
	defer t.Close() // Nothing hangs on it.
	method, err := clear2(t)
	switch {
	case err == nil:
		out.method = method
	default:
		say(fmt.Sprintf("the TPM refuses to be cleared: %v", err))
		if ask := s.askFirmware(); ask != nil {
			return out, fmt.Errorf("%w; %w", err, ask)
		}
		say("the firmware clears the TPM at the next boot")
		out.method, out.pending = byFirmware, true
		return out, nil
	}
	if err := checkClear(t); err != nil {
		return out, err
	}
	out.cleared = true
	say("the TPM is cleared, by the " + method + " hierarchy")
	return out, nil
}

// clear2 clears a TPM 2.0, and returns the hierarchy that let it.
func clear2(t transport.TPM) (string, error) {
	var errs []error
	for _, h := range []struct {
		name   string
		handle tpm2.TPMHandle
	}{{byLockout, tpm2.TPMRHLockout}, {byPlatform, tpm2.TPMRHPlatform}} {
		_, err := tpm2.Clear{AuthHandle: tpm2.AuthHandle{Handle: h.handle, Auth: tpm2.PasswordAuth(nil)}}.Execute(t)
		if err == nil {
			return h.name, nil
		}
		errs = append(errs, fmt.Errorf("%s hierarchy: %w", h.name, err))
	}
	return "", errors.Join(errs...)
}

// checkClear asks the TPM whether passwords or persistent objects are left
// (Part 2 §8.6 TPMA_PERMANENT: bits 0 to 2 are the owner's, endorsement and
// lockout passwords).
func checkClear(t transport.TPM) error {
	const passwords = 7
	props, err := tpm2.GetCapability{Capability: tpm2.TPMCapTPMProperties, Property: uint32(tpm2.TPMPTPermanent), PropertyCount: 1}.Execute(t)
	if err != nil {
		return fmt.Errorf("asking the TPM whether it is clear: %w", err)
	}
	list, err := props.CapabilityData.Data.TPMProperties()
	if err != nil || len(list.TPMProperty) == 0 || list.TPMProperty[0].Property != tpm2.TPMPTPermanent {
		return fmt.Errorf("asking the TPM whether it is clear: it doesn't say: %w", errors.Join(err, errAnswer))
	}
	if left := list.TPMProperty[0].Value & passwords; left != 0 {
		return fmt.Errorf("the TPM says that it is cleared and still has passwords (%#x): %w", left, errAnswer)
	}
	const firstPersistent, firstPlatform = 0x81000000, 0x81800000
	handles, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: firstPersistent, PropertyCount: 64}.Execute(t)
	if err != nil {
		return fmt.Errorf("asking the TPM for persistent objects: %w", err)
	}
	objects, err := handles.CapabilityData.Data.Handles()
	if err != nil {
		return fmt.Errorf("asking the TPM for persistent objects: %w", err)
	}
	for _, h := range objects.Handle {
		if h >= firstPersistent && h < firstPlatform { // Above are those of the platform's maker.
			return fmt.Errorf("the TPM says that it is cleared and still has object %#x: %w", uint32(h), errAnswer)
		}
	}
	return nil
}

var errAnswer = errors.New("its answer can't be trusted")

// clearOld deals with a TPM 1.2, which only firmware clears. One without an
// owner holds nothing.
func (s *Service) clearOld(say func(string)) (outcome, error) {
	out := outcome{version: 1, method: nothing}
	if read(s.dir(), "owned") == "0" || read(s.dir(), "device/owned") == "0" {
		say("the TPM (1.2) has no owner: nothing to do")
		out.cleared = true
		return out, nil
	}
	if err := s.askFirmware(); err != nil {
		return out, fmt.Errorf("a TPM 1.2 is cleared by firmware alone: %w", err)
	}
	say("the firmware clears the TPM (1.2) at the next boot")
	out.method, out.pending = byFirmware, true
	return out, nil
}

// Operation 5 of the Physical Presence Interface is Clear; what the firmware
// says of it is 4 where nobody has to press a key.
const (
	ppiClear     = "5"
	ppiUnasked   = "4"
	ppiForgotten = "0 "
)

// askFirmware requests a clear at the next boot.
func (s *Service) askFirmware() error {
	dir := filepath.Join(s.dir(), "ppi")
	operations := read(dir, "tcg_operations")
	if operations == "" {
		return errors.New("the firmware has no Physical Presence Interface to ask for it: clear the TPM in its setup")
	}
	answer := ""
	for line := range strings.Lines(operations) {
		number, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		if number == ppiClear {
			answer = rest
		}
	}
	if status, _, _ := strings.Cut(answer, ":"); strings.TrimSpace(status) != ppiUnasked {
		if answer == "" {
			answer = "not listed"
		}
		return fmt.Errorf("the firmware doesn't clear the TPM without a person there (%s): clear it in its setup", answer)
	}
	if err := os.WriteFile(filepath.Join(dir, "request"), []byte(ppiClear), 0); err != nil {
		return fmt.Errorf("asking the firmware to clear the TPM: %w", err)
	}
	if got := read(dir, "request"); got != "" && got != ppiClear && !strings.HasPrefix(got, ppiClear+" ") && strings.HasPrefix(got, ppiForgotten) {
		return errors.New("asking the firmware to clear the TPM: it has forgotten the request at once")
	}
	return nil
}

// read returns a small file's text, "" if it can't be read.
func read(elem ...string) string {
	b, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
