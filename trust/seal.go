package trust

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"filippo.io/age"
)

const (
	sealKeyFile = "secrets.key"
	sealLoss    = "every secret in the store then has to be given again"
	// maxSealed bounds what is opened; a value in the store is at most 1 MiB.
	maxSealed = 2 << 20
)

// ErrSealed means that sealed bytes can't be opened: another server's key made
// them, they were altered, or they belong to another secret.
var ErrSealed = errors.New("can't be decrypted with this server's key: restore secrets.key from a backup or give the secret again")

// Sealer encrypts what is secret in the store, with age (X25519,
// ChaCha20-Poly1305). age takes its randomness from the operating system.
type Sealer struct {
	identity *age.X25519Identity
}

// OpenSealer loads the key that is kept in dir, or makes one.
func OpenSealer(dir string) (*Sealer, error) {
	path := filepath.Join(dir, sealKeyFile)
	data, err := loadOrCreate(path, func() ([]byte, error) {
		identity, err := age.GenerateX25519Identity()
		if err != nil {
			return nil, fmt.Errorf("making secrets key: %w", err)
		}
		return []byte("# public key: " + identity.Recipient().String() + "\n" + identity.String() + "\n"), nil
	})
	if err != nil {
		return nil, fmt.Errorf("opening secrets key: %w", err)
	}
	identity, err := parseIdentity(string(data))
	if err != nil {
		return nil, damaged(path, err, sealLoss)
	}
	return &Sealer{identity: identity}, nil
}

// parseIdentity reads an age key file with one X25519 identity. Its errors
// don't quote the key.
func parseIdentity(text string) (*age.X25519Identity, error) {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		identity, err := age.ParseX25519Identity(line)
		if err != nil {
			return nil, errors.New("no age identity in it")
		}
		return identity, nil
	}
	return nil, errors.New("no age identity in it")
}

// Seal encrypts plain for this server's key and binds it to name: it opens
// under that name only, so that one secret can't be put in another's place.
func (s *Sealer) Seal(name string, plain []byte) ([]byte, error) {
	var out bytes.Buffer
	w, err := age.Encrypt(&out, s.identity.Recipient())
	if err != nil {
		return nil, fmt.Errorf("sealing %s: %w", name, err)
	}
	head := append(binary.BigEndian.AppendUint32(nil, uint32(len(name))), name...)
	for _, part := range [][]byte{head, plain} {
		if _, err := w.Write(part); err != nil {
			return nil, fmt.Errorf("sealing %s: %w", name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("sealing %s: %w", name, err)
	}
	return out.Bytes(), nil
}

// Open decrypts what Seal made under the same name; its errors wrap ErrSealed.
func (s *Sealer) Open(name string, sealed []byte) ([]byte, error) {
	if len(sealed) > maxSealed {
		return nil, fmt.Errorf("secret %s %w (too large)", name, ErrSealed)
	}
	r, err := age.Decrypt(bytes.NewReader(sealed), s.identity)
	if err != nil {
		return nil, fmt.Errorf("secret %s %w (%v)", name, ErrSealed, err)
	}
	plain, err := io.ReadAll(r) // no more than sealed
	if err != nil {
		return nil, fmt.Errorf("secret %s %w (%v)", name, ErrSealed, err)
	}
	head := append(binary.BigEndian.AppendUint32(nil, uint32(len(name))), name...)
	out, ok := bytes.CutPrefix(plain, head)
	if !ok {
		return nil, fmt.Errorf("secret %s %w (it was sealed under another name)", name, ErrSealed)
	}
	return out, nil
}

// SealValues seals a secret's values under the secret's name.
func (s *Sealer) SealValues(name string, values map[string]string) ([]byte, error) {
	plain, err := json.Marshal(values)
	if err != nil {
		return nil, fmt.Errorf("encoding secret %s: %w", name, err)
	}
	return s.Seal(name, plain)
}

// OpenValues returns the values that SealValues was given.
func (s *Sealer) OpenValues(name string, sealed []byte) (map[string]string, error) {
	plain, err := s.Open(name, sealed)
	if err != nil {
		return nil, err
	}
	var values map[string]string
	if err := json.Unmarshal(plain, &values); err != nil {
		return nil, fmt.Errorf("secret %s %w (its content is not a map)", name, ErrSealed)
	}
	return values, nil
}
