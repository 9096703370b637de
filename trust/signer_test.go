package trust

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestSigner(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	clock := func() time.Time { return now }
	dir := t.TempDir()
	ca, err := OpenCA(dir, rand.Reader, clock)
	if err != nil {
		t.Fatal(err)
	}
	s, err := OpenSigner(dir, ca)
	if err != nil {
		t.Fatal(err)
	}
	message := []byte("erased")
	check := func(chain [][]byte, pins SignerPins, made time.Time) error {
		key, err := VerifySigner(chain, pins, made)
		if err == nil && !ed25519.Verify(key, message, s.Sign(message)) {
			err = errors.New("the signature is wrong")
		}
		return err
	}
	otherDir := t.TempDir()
	other, err := OpenCA(otherDir, rand.Reader, clock)
	if err != nil {
		t.Fatal(err)
	}
	byCA, byKey := SignerPins{CADigest: ca.Digest()}, SignerPins{KeyDigest: s.KeyDigest()}
	for _, c := range []struct {
		name  string
		chain [][]byte
		pins  SignerPins
		made  time.Time
		want  error
	}{
		{"by the CA", s.Chain(), byCA, now, nil},
		{"by the key, without the CA", s.Chain()[:1], byKey, now, nil},
		{"years later", s.Chain(), byCA, now.AddDate(9, 0, 0), nil},
		{"another CA", s.Chain(), SignerPins{CADigest: other.Digest()}, now, ErrSigner},
		{"another key", s.Chain(), SignerPins{KeyDigest: other.Digest()}, now, ErrSigner},
		{"a CA that didn't sign it", [][]byte{s.Chain()[0], other.cert.Raw}, SignerPins{CADigest: other.Digest()}, now, ErrSigner},
		{"no certificate", nil, byCA, now, ErrSigner},
		{"noise", [][]byte{{1, 2}}, byCA, now, ErrSigner},
		{"the CA's own key", [][]byte{ca.cert.Raw, ca.cert.Raw}, byCA, now, ErrSigner},
		{"made before the certificate", s.Chain(), byCA, now.AddDate(-1, 0, 0), ErrExpired},
		{"made after the CA's end", s.Chain(), byCA, now.AddDate(11, 0, 0), ErrExpired},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := check(c.chain, c.pins, c.made); !errors.Is(err, c.want) {
				t.Errorf("error = %v, want %v", err, c.want)
			}
		})
	}
	t.Run("an agent's certificate signs no record", func(t *testing.T) {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		chain, err := ca.SignAgent(&AgentRequest{key: key.Public()}, Agent{Machine: "web-1", BootID: strings.Repeat("a", 32)})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := VerifySigner(chain, byCA, now); !errors.Is(err, ErrSigner) {
			t.Errorf("error = %v", err)
		}
	})
	t.Run("the key outlives the process", func(t *testing.T) {
		again, err := OpenSigner(dir, ca)
		if err != nil || again.KeyDigest() != s.KeyDigest() {
			t.Errorf("%v, %s, was %s", err, again.KeyDigest(), s.KeyDigest())
		}
	})
	t.Run("a damaged key is not replaced", func(t *testing.T) {
		if err := os.WriteFile(filepath.Join(dir, signerKeyFile), []byte("nonsense"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenSigner(dir, ca); !errors.Is(err, ErrDamaged) {
			t.Errorf("error = %v", err)
		}
	})
	t.Run("without a pin nothing is trusted", func(t *testing.T) {
		if _, err := VerifySigner(s.Chain(), SignerPins{}, now); err == nil {
			t.Error("no error")
		}
	})
}
