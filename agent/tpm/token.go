package tpm

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
)

// TokenType is the type of the LUKS2 tokens that systemd reads.
const TokenType = "systemd-tpm2"

// token is the JSON of a LUKS2 token of systemd.
type token struct {
	Type       string   `json:"type"`
	Keyslots   []string `json:"keyslots"`
	Blob       string   `json:"tpm2-blob"`
	PCRs       []uint   `json:"tpm2-pcrs"`
	Bank       string   `json:"tpm2-pcr-bank"`
	Primary    string   `json:"tpm2-primary-alg"`
	PolicyHash string   `json:"tpm2-policy-hash"`
	PIN        bool     `json:"tpm2-pin"`
	// PublicKey is of policies that are signed, which Seal doesn't make.
	PublicKey string `json:"tpm2_pubkey,omitempty"`
	// SRK is of systemd 254 and later, which keep the primary key in the TPM.
	SRK string `json:"tpm2_srk,omitempty"`
}

// Token returns the LUKS2 token for the key slot that the secret opens.
func (s Sealed) Token(slot int) ([]byte, error) {
	b, err := json.Marshal(token{
		Type: TokenType, Keyslots: []string{strconv.Itoa(slot)}, Blob: base64.StdEncoding.EncodeToString(s.Blob),
		PCRs: append([]uint{}, s.PCRs...), Bank: "sha256", Primary: s.Algorithm, PolicyHash: hex.EncodeToString(s.Policy),
	})
	if err != nil {
		return nil, fmt.Errorf("writing a LUKS2 token: %w", err)
	}
	return b, nil
}

// Passphrase is what a secret opens a key slot as: systemd enrols its base64.
func Passphrase(secret []byte) []byte {
	return base64.StdEncoding.AppendEncode(nil, secret)
}

// ParseToken reads a LUKS2 token; ok is false for one that Unseal can't use.
func ParseToken(b []byte) (s Sealed, ok bool, err error) {
	var t token
	if err := json.Unmarshal(b, &t); err != nil {
		return s, false, fmt.Errorf("reading a LUKS2 token: %w", err)
	}
	if t.Type != TokenType || t.PIN || t.PublicKey != "" || t.SRK != "" || t.Bank != "sha256" {
		return s, false, nil
	}
	if slices.ContainsFunc(t.PCRs, func(n uint) bool { return n > maxPCR }) {
		return s, false, fmt.Errorf("reading a LUKS2 token: registers %v: there are 0 to %d", t.PCRs, maxPCR)
	}
	s.PCRs, s.Algorithm = t.PCRs, t.Primary
	if s.Algorithm == "" {
		s.Algorithm = "ecc"
	}
	if s.Blob, err = base64.StdEncoding.DecodeString(t.Blob); err != nil {
		return s, false, fmt.Errorf("reading a LUKS2 token: %w", err)
	}
	if s.Policy, err = hex.DecodeString(t.PolicyHash); err != nil {
		return s, false, fmt.Errorf("reading a LUKS2 token: %w", err)
	}
	return s, true, nil
}
