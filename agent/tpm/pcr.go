package tpm

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// maxPCR is the highest register of a PC's TPM (PC Client PTP §4.6).
const maxPCR = 23

// Digest is the value of a register in the SHA-256 bank.
type Digest [sha256.Size]byte

// Values are those of some registers, by number.
type Values map[uint]Digest

// PCRs returns the numbers, sorted.
func (v Values) PCRs() []uint { return slices.Sorted(maps.Keys(v)) }

// ReadPCRs returns what registers hold now.
func ReadPCRs(t transport.TPM, pcrs []uint) (Values, error) {
	out := Values{}
	for _, n := range pcrs {
		if n > maxPCR {
			return nil, fmt.Errorf("reading PCR %d of the TPM: there are 0 to %d", n, maxPCR)
		}
		got, err := tpm2.PCRRead{PCRSelectionIn: selection([]uint{n})}.Execute(t)
		if err != nil {
			return nil, fmt.Errorf("reading PCR %d of the TPM: %w", n, err)
		}
		if len(got.PCRValues.Digests) != 1 || len(got.PCRValues.Digests[0].Buffer) != sha256.Size {
			return nil, fmt.Errorf("reading PCR %d of the TPM: its SHA-256 bank is switched off; switch it on in the firmware's setup", n)
		}
		out[n] = Digest(got.PCRValues.Digests[0].Buffer)
	}
	return out, nil
}

// selection is that of registers of the SHA-256 bank, always three bytes long.
func selection(pcrs []uint) tpm2.TPMLPCRSelection {
	var bits [3]byte
	for _, n := range pcrs {
		bits[n/8] |= 1 << (n % 8)
	}
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: bits[:]}}}
}

// policy is the digest of a policy that wants the registers to have these
// values: TPM2_PolicyPCR (TPM 2.0 part 3 §23.7) on a fresh session; without
// registers that session's own digest, which is zeros.
func (v Values) policy() []byte {
	digest := make([]byte, sha256.Size)
	if len(v) == 0 {
		return digest
	}
	values := sha256.New()
	for _, n := range v.PCRs() {
		d := v[n]
		values.Write(d[:])
	}
	h := sha256.New()
	h.Write(digest)
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(tpm2.TPMCCPolicyPCR)))
	h.Write(tpm2.Marshal(selection(v.PCRs())))
	h.Write(values.Sum(nil))
	return h.Sum(nil)
}
