package storage

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/go-tpm/tpm2/transport"

	"github.com/bedplate/bedplate/agent/tpm"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// secureBootRegister is where firmware and shim measure keys and verdicts of
// Secure Boot.
const secureBootRegister = 7

// secureBootVariable is the global variable SecureBoot (UEFI §3.3), after the
// four bytes of attributes that efivarfs puts in front.
const secureBootVariable = "firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"

// enforced reports whether Secure Boot is on.
func (s *Service) enforced() bool {
	b, err := os.ReadFile(filepath.Join(s.Sys, secureBootVariable))
	return err == nil && len(b) == 5 && b[4] == 1
}

// registers are the values of PCRs to which keys are bound, one set for each
// way in which the installed system may be started.
//
// Without Secure Boot PCR 7 says only that it is off, and differs between a
// system that iPXE started, such as the agent, and one that shim did: a key
// bound to it would protect nothing, and not open.
func (r *runner) registers(t transport.TPM, e *pb.StorageEncryption) ([]tpm.Values, error) {
	var pcrs []uint
	for _, n := range e.GetPcrs() {
		pcrs = append(pcrs, uint(n))
	}
	if len(pcrs) == 0 && r.enforced() {
		pcrs = []uint{secureBootRegister}
	}
	if len(pcrs) == 0 {
		r.say("%s: Secure Boot is off, so the key is bound to this TPM and to no PCR", e.GetName())
		return []tpm.Values{nil}, nil
	}
	now, err := tpm.ReadPCRs(t, pcrs)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(pcrs, secureBootRegister) {
		return []tpm.Values{now}, nil
	}
	var out []tpm.Values
	for _, d := range tpm.Predict(r.eventLog(), now[secureBootRegister]) {
		values := tpm.Values{}
		for n, v := range now {
			values[n] = v
		}
		values[secureBootRegister] = d
		out = append(out, values)
	}
	return out, nil
}

// maxLog bounds the firmware's event log; those of servers have some 100 KiB.
const maxLog = 8 << 20

// eventLog reads the firmware's event log; without one there is nothing to predict from.
func (r *runner) eventLog() []tpm.Event {
	f, err := os.Open(filepath.Join(r.Sys, "kernel/security/tpm0/binary_bios_measurements"))
	if err != nil {
		return nil
	}
	defer f.Close() // Only read.
	b, err := io.ReadAll(io.LimitReader(f, maxLog))
	if err != nil {
		return nil
	}
	events, err := tpm.ParseLog(b)
	if err != nil {
		r.say("what PCR 7 will be on another way of booting can't be told: %v", err)
	}
	return events
}

// say logs a line of our own.
func (r *runner) say(format string, args ...any) {
	r.rep.Log("agent", fmt.Sprintf(format, args...))
}
