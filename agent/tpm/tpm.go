// Package tpm seals keys to the machine's TPM 2.0 so that systemd on the
// installed system can unseal them: with the primary key, the policy and the
// LUKS2 token of systemd-cryptenroll (systemd 252, src/shared/tpm2-util.c; later
// versions read the same). It also reads PCRs and the firmware's event log, and
// says what PCR 7 will hold on another way of booting the same machine.
//
// Secrets cross the bus to the TPM encrypted. Functions that take a
// transport.TPM may not be called at the same time with the same one.
package tpm

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
)

// Device is the kernel's resource manager of the TPM.
const Device = "/dev/tpmrm0"

// Open opens the machine's TPM. An error that wraps fs.ErrNotExist means that
// there is none that the kernel knows.
func Open() (transport.TPMCloser, error) {
	t, err := linuxtpm.Open(Device)
	if err != nil {
		return nil, fmt.Errorf("opening the TPM: %w", err)
	}
	return t, nil
}

// secretLength is that of the keys that systemd seals.
const secretLength = 32

// Sealed is a secret that only one TPM can open.
type Sealed struct {
	// Blob is the TPM2B_PRIVATE of the sealed object, then its TPM2B_PUBLIC.
	Blob []byte
	// PCRs must be, at unsealing, what the policy says; none: any will do.
	PCRs []uint
	// Policy is the digest of the policy.
	Policy []byte
	// Algorithm is that of the primary key: ecc or rsa.
	Algorithm string
}

// ErrPolicy says that the PCRs are not what they were to be: the machine was
// started in another way than the one that the secret was sealed for.
var ErrPolicy = errors.New("the TPM's registers are not those that the key was sealed for")

// Seal makes a secret and seals it to the values of PCRs of the SHA-256 bank.
func Seal(t transport.TPM, random io.Reader, values Values) (secret []byte, s Sealed, err error) {
	secret = make([]byte, secretLength)
	if _, err := io.ReadFull(random, secret); err != nil {
		return nil, s, fmt.Errorf("reading random bytes: %w", err)
	}
	p, err := makePrimary(t, "")
	if err != nil {
		return nil, s, err
	}
	defer p.flush(t, &err)
	s = Sealed{PCRs: values.PCRs(), Policy: values.policy(), Algorithm: p.algorithm}
	session := tpm2.HMAC(tpm2.TPMAlgSHA256, 16, tpm2.AESEncryption(128, tpm2.EncryptIn), tpm2.Salted(p.handle, p.public))
	made, err := tpm2.Create{
		ParentHandle: tpm2.AuthHandle{Handle: p.handle, Name: p.name, Auth: session},
		InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{
			Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: secret}),
		}},
		InPublic: tpm2.New2B(tpm2.TPMTPublic{
			Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256,
			ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true},
			AuthPolicy:       tpm2.TPM2BDigest{Buffer: s.Policy},
			Parameters:       tpm2.NewTPMUPublicParms(tpm2.TPMAlgKeyedHash, &tpm2.TPMSKeyedHashParms{}),
		}),
	}.Execute(t)
	if err != nil {
		return nil, s, fmt.Errorf("sealing a key to the TPM: %w", err)
	}
	s.Blob = slices.Concat(tpm2.Marshal(made.OutPrivate), tpm2.Marshal(made.OutPublic))
	return secret, s, nil
}

// Unseal returns the secret. ErrPolicy is wrapped when the PCRs are others.
func Unseal(t transport.TPM, s Sealed) (secret []byte, err error) {
	private, public, err := splitBlob(s.Blob)
	if err != nil {
		return nil, err
	}
	now, err := ReadPCRs(t, s.PCRs)
	if err != nil {
		return nil, err
	}
	if len(s.Policy) > 0 && !slices.Equal(now.policy(), s.Policy) {
		return nil, ErrPolicy
	}
	p, err := makePrimary(t, s.Algorithm)
	if err != nil {
		return nil, err
	}
	defer p.flush(t, &err)
	loaded, err := tpm2.Load{
		ParentHandle: tpm2.AuthHandle{Handle: p.handle, Name: p.name, Auth: tpm2.PasswordAuth(nil)},
		InPrivate:    private, InPublic: public,
	}.Execute(t)
	if err != nil {
		return nil, fmt.Errorf("loading the sealed key (it is another TPM's, or this one was cleared): %w", err)
	}
	defer flush(t, loaded.ObjectHandle, &err)
	policy := tpm2.Policy(tpm2.TPMAlgSHA256, 16, func(t transport.TPM, h tpm2.TPMISHPolicy, _ tpm2.TPM2BNonce) error {
		if len(s.PCRs) == 0 {
			return nil
		}
		_, err := tpm2.PolicyPCR{PolicySession: h, Pcrs: selection(s.PCRs)}.Execute(t)
		return err
	}, tpm2.AESEncryption(128, tpm2.EncryptOut), tpm2.Salted(p.handle, p.public))
	out, err := tpm2.Unseal{ItemHandle: tpm2.AuthHandle{Handle: loaded.ObjectHandle, Name: loaded.Name, Auth: policy}}.Execute(t)
	if errors.Is(err, tpm2.TPMRCPolicyFail) {
		return nil, ErrPolicy
	}
	if err != nil {
		return nil, fmt.Errorf("unsealing a key: %w", err)
	}
	return out.OutData.Buffer, nil
}

// splitBlob takes apart what Seal put together. A TPM2B has its length in
// front, in two bytes.
func splitBlob(blob []byte) (private tpm2.TPM2BPrivate, public tpm2.TPM2BPublic, err error) {
	if len(blob) < 2 {
		return private, public, errors.New("reading a sealed key: it is cut off")
	}
	n := 2 + (int(blob[0])<<8 | int(blob[1]))
	if n > len(blob) {
		return private, public, errors.New("reading a sealed key: it is cut off")
	}
	pr, err := tpm2.Unmarshal[tpm2.TPM2BPrivate](blob[:n])
	if err != nil {
		return private, public, fmt.Errorf("reading the private part of a sealed key: %w", err)
	}
	pu, err := tpm2.Unmarshal[tpm2.TPM2BPublic](blob[n:])
	if err != nil {
		return private, public, fmt.Errorf("reading the public part of a sealed key: %w", err)
	}
	return *pr, *pu, nil
}

// primary is the key that everything is sealed under. The TPM derives the same
// one from its owner seed each time, until it is cleared.
type primary struct {
	handle    tpm2.TPMHandle
	name      tpm2.TPM2BName
	public    tpm2.TPMTPublic
	algorithm string
}

// makePrimary makes systemd's primary key: a storage key like the TCG's, but
// subject to dictionary attack protection and with an empty `unique`. Without
// an algorithm it is ecc, and rsa where the TPM can't.
func makePrimary(t transport.TPM, algorithm string) (p primary, err error) {
	if algorithm == "" {
		if p, err = makePrimary(t, "ecc"); err == nil {
			return p, nil
		}
		return makePrimary(t, "rsa")
	}
	template, ok := templates()[algorithm]
	if !ok {
		return p, fmt.Errorf("a primary key of algorithm %q is not known: ecc and rsa are", algorithm)
	}
	made, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(template)}.Execute(t)
	if err != nil {
		return p, fmt.Errorf("making the TPM's primary key (does the owner hierarchy have a password?): %w", err)
	}
	p = primary{handle: made.ObjectHandle, name: made.Name, algorithm: algorithm}
	public, err := made.OutPublic.Contents()
	if err != nil {
		p.flush(t, &err)
		return p, fmt.Errorf("reading the TPM's primary key: %w", err)
	}
	p.public = *public
	return p, nil
}

func templates() map[string]tpm2.TPMTPublic {
	attributes := tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, Restricted: true, Decrypt: true}
	aes := tpm2.TPMTSymDefObject{
		Algorithm: tpm2.TPMAlgAES, KeyBits: tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(128)),
		Mode: tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
	}
	return map[string]tpm2.TPMTPublic{
		"ecc": {
			Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: attributes,
			Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{Symmetric: aes, CurveID: tpm2.TPMECCNistP256}),
			Unique:     tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{}),
		},
		"rsa": {
			Type: tpm2.TPMAlgRSA, NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: attributes,
			Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{Symmetric: aes, KeyBits: 2048}),
			Unique:     tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{}),
		},
	}
}

func (p primary) flush(t transport.TPM, err *error) { flush(t, p.handle, err) }

// flush frees one of the TPM's few slots.
func flush(t transport.TPM, h tpm2.TPMHandle, err *error) {
	if _, ferr := (tpm2.FlushContext{FlushHandle: h}).Execute(t); ferr != nil && *err == nil {
		*err = fmt.Errorf("freeing a handle of the TPM: %w", ferr)
	}
}
