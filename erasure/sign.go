package erasure

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/bedplate/bedplate/trust"
)

// algorithm is the only one there is (RFC 8032).
const algorithm = "ed25519"

// context keeps these signatures apart from all others.
const context = "bedplate erasure record v1\n"

// Signer signs records; *trust.Signer is one.
type Signer interface {
	// Sign returns the Ed25519 signature of the message.
	Sign(message []byte) []byte
	// Chain returns the certificate of the key and the CA's, DER.
	Chain() [][]byte
}

// document is a record with its signature.
type document struct {
	Record    json.RawMessage `json:"record"`
	Signature signature       `json:"signature"`
}

type signature struct {
	Algorithm    string            `json:"algorithm"`
	Value        string            `json:"value"`
	Certificates []string          `json:"certificates"`
	Sums         map[string]string `json:"sums"`
}

// Sign returns the document of a record, in canonical form and ended by a line
// end. The same record signed by the same key is the same document.
func Sign(r *Record, s Signer) ([]byte, error) {
	plain, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encoding erasure record: %w", err)
	}
	v, err := parse(plain)
	if err != nil {
		return nil, fmt.Errorf("encoding erasure record: %w", err)
	}
	body := appendCanonical(nil, v)
	sig := signature{Algorithm: algorithm, Value: base64.StdEncoding.EncodeToString(s.Sign(append([]byte(context), body...))), Sums: sums(v)}
	for _, der := range s.Chain() {
		sig.Certificates = append(sig.Certificates, base64.StdEncoding.EncodeToString(der))
	}
	whole, err := json.Marshal(document{Record: body, Signature: sig})
	if err != nil {
		return nil, fmt.Errorf("encoding erasure record: %w", err)
	}
	if v, err = parse(whole); err != nil {
		return nil, fmt.Errorf("encoding erasure record: %w", err)
	}
	return append(appendCanonical(nil, v), '\n'), nil
}

// Trust is what a document is held against. One of CADigest and KeyDigest is
// needed.
type Trust struct {
	// CADigest is `sha256:` and the digest of the CA's certificate.
	CADigest string
	// KeyDigest is `sha256:` and the digest of the signing key.
	KeyDigest string
	// Machine is the name, UUID or serial number of the machine that the record
	// must be of; empty: any.
	Machine string
}

// What can be wrong with a document.
var (
	// ErrFormat: it isn't an erasure record, or one of another version.
	ErrFormat = errors.New("not an erasure record")
	// ErrTampered: it was changed after it was signed.
	ErrTampered = errors.New("it was changed after it was signed")
	// ErrUnknownKey: nobody who is trusted has signed it.
	ErrUnknownKey = trust.ErrSigner
	// ErrExpired: it was made outside its certificate's dates.
	ErrExpired = trust.ErrExpired
	// ErrMachine: it is of another machine.
	ErrMachine = errors.New("it is of another machine")
	// ErrNotErased: the record is sound, and says that the machine is not erased.
	ErrNotErased = errors.New("the machine is not erased")
)

// Verify reads a document and returns its record, and everything that is wrong:
// an error that wraps one or more of the above. The record is nil only where
// there is none. Only with a nil error does it prove anything.
func Verify(doc []byte, t Trust) (*Record, error) {
	d, v, err := open(doc)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	r := &Record{}
	dec := json.NewDecoder(bytes.NewReader(d.Record))
	if err := dec.Decode(r); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if r.Schema != Schema {
		return nil, fmt.Errorf("%w: its schema is %q; this program knows %s", ErrFormat, r.Schema, Schema)
	}
	errs := []error{d.verify(v, r, t)}
	if t.Machine != "" && !r.Machine.is(t.Machine) {
		errs = append(errs, fmt.Errorf("%w: %s (UUID %s, serial number %s), not %s", ErrMachine, r.Machine.Name, r.Machine.UUID, r.Machine.Serial, t.Machine))
	}
	for _, p := range r.wrong() {
		errs = append(errs, fmt.Errorf("%w: %s", ErrNotErased, p))
	}
	return r, errors.Join(errs...)
}

// Authentic reports whether all that an error of Verify finds wrong is what the
// record itself says: it is genuine, and of a machine that isn't erased.
func Authentic(err error) bool {
	if !errors.Is(err, ErrNotErased) {
		return false
	}
	for _, other := range []error{ErrFormat, ErrTampered, ErrUnknownKey, ErrExpired, ErrMachine} {
		if errors.Is(err, other) {
			return false
		}
	}
	return true
}

// open reads a document strictly: it has these two members, and no others.
func open(doc []byte) (document, any, error) {
	whole, err := parse(doc)
	if err != nil {
		return document{}, nil, err
	}
	top, ok := whole.(map[string]any)
	if !ok || len(top) != 2 || top["record"] == nil || top["signature"] == nil {
		return document{}, nil, errors.New("record and signature are expected, and nothing else")
	}
	var d document
	dec := json.NewDecoder(bytes.NewReader(appendCanonical(nil, whole)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		return d, nil, err
	}
	return d, top["record"], nil
}

// verify checks the signature.
func (d document) verify(v any, r *Record, t Trust) error {
	if t.CADigest == "" && t.KeyDigest == "" {
		return fmt.Errorf("%w: say which by the digest of the CA or of the key", ErrUnknownKey)
	}
	if d.Signature.Algorithm != algorithm {
		return fmt.Errorf("%w: the signature's algorithm is %q, not %s", ErrFormat, d.Signature.Algorithm, algorithm)
	}
	value, err := base64.StdEncoding.Strict().DecodeString(d.Signature.Value)
	if err != nil || len(value) != ed25519.SignatureSize {
		return fmt.Errorf("%w: the signature is not one of Ed25519", ErrTampered)
	}
	var chain [][]byte
	for _, text := range d.Signature.Certificates {
		der, err := base64.StdEncoding.Strict().DecodeString(text)
		if err != nil {
			return fmt.Errorf("%w: a certificate is not base64", ErrUnknownKey)
		}
		chain = append(chain, der)
	}
	key, err := trust.VerifySigner(chain, trust.SignerPins{CADigest: t.CADigest, KeyDigest: t.KeyDigest}, r.Time)
	if key == nil {
		return err
	}
	if !ed25519.Verify(key, append([]byte(context), appendCanonical(nil, v)...), value) {
		return errors.Join(err, d.tampered(v))
	}
	return err
}

// tampered says what was changed, as far as the sums tell.
func (d document) tampered(v any) error {
	const most = 8
	where := changed(d.Signature.Sums, "", v)
	if len(where) == 0 {
		return fmt.Errorf("%w: the signature, or more than its sums tell", ErrTampered)
	}
	more := ""
	if len(where) > most {
		where, more = where[:most], fmt.Sprintf(" and %d more", len(where)-most)
	}
	return fmt.Errorf("%w: %s%s", ErrTampered, strings.Join(where, ", "), more)
}

// is reports whether a person means this machine.
func (m Machine) is(word string) bool {
	return word == m.Name || m.UUID != "" && strings.EqualFold(word, m.UUID) || m.Serial != "" && word == m.Serial
}

// wrong returns every reason why the machine doesn't count as erased; the
// record's own verdict is one of them.
func (r *Record) wrong() []string {
	out := slices.Clone(r.Problems)
	for _, d := range r.Devices {
		for _, p := range d.problems() {
			if !slices.Contains(out, p) {
				out = append(out, p)
			}
		}
	}
	if len(out) == 0 && !r.OK {
		out = append(out, "the record says so, without a reason")
	}
	if len(out) == 0 && r.Level != r.level() {
		out = append(out, "its level is "+quote(r.Level)+", its devices' is "+quote(r.level()))
	}
	if len(out) == 0 && r.Time.Before(r.Workflow.Start.Add(-time.Minute)) {
		out = append(out, "the record is older than its workflow")
	}
	return out
}
