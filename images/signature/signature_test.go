package signature

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"strings"
	"testing"
	"time"

	"aead.dev/minisign"
	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

var now = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

// gpgKey makes a key that is good for a day from made; 0 days: for ever.
func gpgKey(t testing.TB, made time.Time, days uint32) *openpgp.Entity {
	t.Helper()
	e, err := openpgp.NewEntity("Test", "", "test@example", &packet.Config{
		Algorithm: packet.PubKeyAlgoEdDSA, KeyLifetimeSecs: days * 86400, Time: func() time.Time { return made },
	})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func public(t testing.TB, entities ...*openpgp.Entity) []byte {
	t.Helper()
	var out bytes.Buffer
	for _, e := range entities {
		w, err := armor.Encode(&out, openpgp.PublicKeyType, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(e.Serialize(w), w.Close()); err != nil {
			t.Fatal(err)
		}
		out.WriteString("\n")
	}
	return out.Bytes()
}

func sign(t testing.TB, e *openpgp.Entity, content string, at time.Time) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := openpgp.DetachSign(&out, e, strings.NewReader(content), &packet.Config{Time: func() time.Time { return at }}); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func fingerprint(e *openpgp.Entity) string {
	return strings.ToUpper(hex.EncodeToString(e.PrimaryKey.Fingerprint))
}

func TestDetached_GPG(t *testing.T) {
	theirs, other, old := gpgKey(t, now.AddDate(-1, 0, 0), 0), gpgKey(t, now.AddDate(-1, 0, 0), 0), gpgKey(t, now.AddDate(-1, 0, 0), 30)
	signed := sign(t, theirs, "disk", now.AddDate(0, -1, 0))
	pin := []string{fingerprint(theirs)}
	for _, tc := range []struct {
		name    string
		trust   Trust
		content string
		sig     []byte
		want    error
	}{
		{"a good one", Trust{Keys: public(t, theirs), Fingerprints: pin}, "disk", signed, nil},
		{"one of several keys", Trust{Keys: public(t, other, theirs), Fingerprints: pin}, "disk", signed, nil},
		{"other content", Trust{Keys: public(t, theirs), Fingerprints: pin}, "disc", signed, ErrSignature},
		{"another key's", Trust{Keys: public(t, theirs), Fingerprints: pin}, "disk", sign(t, other, "disk", now), ErrSignature},
		{"a key file that was exchanged with the signature", Trust{Keys: public(t, other), Fingerprints: pin}, "disk", sign(t, other, "disk", now), ErrKey},
		{"a key slipped in beside the pinned one", Trust{Keys: public(t, theirs, other), Fingerprints: pin}, "disk", sign(t, other, "disk", now), ErrSignature},
		{"an expired key's", Trust{Keys: public(t, old), Fingerprints: []string{fingerprint(old)}}, "disk", sign(t, old, "disk", now.AddDate(-1, 0, 1)), ErrExpired},
		{"half a signature", Trust{Keys: public(t, theirs), Fingerprints: pin}, "disk", signed[:len(signed)/2], ErrSignature},
		{"an HTML page in its place", Trust{Keys: public(t, theirs), Fingerprints: pin}, "disk", []byte("<html>"), ErrSignature},
		{"no signature", Trust{Keys: public(t, theirs), Fingerprints: pin}, "disk", nil, ErrSignature},
		{"a page in the key's place", Trust{Keys: []byte("<html>"), Fingerprints: pin}, "disk", signed, ErrKey},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.trust.Kind, tc.trust.Now = "gpg", now
			by, err := Detached(tc.trust, strings.NewReader(tc.content), tc.sig)
			if !errors.Is(err, tc.want) || tc.want != nil && err == nil {
				t.Fatalf("error %v, want %v", err, tc.want)
			}
			if err == nil && by != pin[0] {
				t.Errorf("signed by %s, want %s", by, pin[0])
			}
		})
	}
}

func TestCleartext(t *testing.T) {
	key := gpgKey(t, now.AddDate(-1, 0, 0), 0)
	var out bytes.Buffer
	w, err := clearsign.Encode(&out, key.PrivateKey, &packet.Config{Time: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("abc  disk.img\n")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	trust := Trust{Keys: public(t, key), Fingerprints: []string{fingerprint(key)}, Now: now}
	text, by, err := Cleartext(trust, append([]byte("evil  disk.img\n"), out.Bytes()...))
	if err != nil || string(bytes.TrimSpace(text)) != "abc  disk.img" || by != fingerprint(key) {
		t.Errorf("got %q by %s, %v: only what was signed counts", text, by, err)
	}
	if _, _, err := Cleartext(trust, bytes.Replace(out.Bytes(), []byte("abc"), []byte("abd"), 1)); !errors.Is(err, ErrSignature) {
		t.Errorf("changed text: %v", err)
	}
	if _, _, err := Cleartext(trust, []byte("abc  disk.img\n")); !errors.Is(err, ErrSignature) {
		t.Errorf("unsigned text: %v", err)
	}
}

func TestDetached_Minisign(t *testing.T) {
	pub, priv, err := minisign.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := pub.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	r := minisign.NewReader(strings.NewReader("disk"))
	if _, err := (&bytes.Buffer{}).ReadFrom(r); err != nil {
		t.Fatal(err)
	}
	sig := r.Sign(priv)
	trust := Trust{Kind: "minisign", Keys: key, Now: now}
	by, err := Detached(trust, strings.NewReader("disk"), sig)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Detached(trust, strings.NewReader("disc"), sig); !errors.Is(err, ErrSignature) {
		t.Errorf("other content: %v", err)
	}
	trust.Fingerprints = []string{strings.ToLower(by)}
	if _, err := Detached(trust, strings.NewReader("disk"), sig); err != nil {
		t.Errorf("pinned by its own fingerprint: %v", err)
	}
	trust.Fingerprints = []string{strings.Repeat("0", 64)}
	if _, err := Detached(trust, strings.NewReader("disk"), sig); !errors.Is(err, ErrKey) {
		t.Errorf("pinned by another fingerprint: %v", err)
	}
}

func TestDetached_Cosign(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("disk"))
	raw, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	sig := []byte(base64.StdEncoding.EncodeToString(raw) + "\n")
	trust := Trust{Kind: "cosign", Keys: pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), Now: now}
	if _, err := Detached(trust, strings.NewReader("disk"), sig); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, content string
		sig           []byte
	}{{"other content", "disc", sig}, {"no base64", "disk", []byte("<html>")}, {"nothing", "disk", nil}} {
		if _, err := Detached(trust, strings.NewReader(tc.content), tc.sig); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

func FuzzDetached(f *testing.F) {
	key := gpgKey(f, now.AddDate(-1, 0, 0), 0)
	other := public(f, gpgKey(f, now.AddDate(-1, 0, 0), 0))
	good := sign(f, key, "disk", now)
	for _, kind := range []string{"gpg", "minisign", "cosign"} {
		f.Add(kind, public(f, key), good)
	}
	f.Fuzz(func(t *testing.T, kind string, keys, sig []byte) {
		// A pinned key that isn't in the file can't have signed anything.
		if by, err := Detached(Trust{Kind: kind, Keys: append(keys, other...), Fingerprints: []string{strings.Repeat("0", 40)}, Now: now}, strings.NewReader("disk"), sig); err == nil {
			t.Errorf("signed by %s, which isn't trusted", by)
		}
	})
}
