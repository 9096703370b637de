package storage

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"filippo.io/age/armor"

	"github.com/bedplate/bedplate/layout"
)

// modhex are letters that are in the same place on most keyboards, which is
// what systemd writes recovery keys in, for consoles without the right layout.
const modhex = "cbdefghijklnrtuv"

// recoveryLength is in bytes; a dash after every fourth.
const recoveryLength = 32

// recoveryKey makes a key that only its recipients can read, and notes it for
// the step's outputs.
func (r *runner) recoveryKey(n *layout.Node, to []string) (key, error) {
	recipients, err := parseRecipients(to)
	if err != nil {
		return key{}, fmt.Errorf("%s.%w", n.Path, err)
	}
	raw := make([]byte, recoveryLength)
	if _, err := io.ReadFull(r.Random, raw); err != nil {
		return key{}, fmt.Errorf("reading random bytes: %w", err)
	}
	var text strings.Builder
	for i, b := range raw {
		if i > 0 && i%4 == 0 {
			text.WriteByte('-')
		}
		text.WriteByte(modhex[b>>4])
		text.WriteByte(modhex[b&15])
	}
	sealed, err := encrypt(text.String()+"\n", recipients)
	if err != nil {
		return key{}, err
	}
	r.recovery = append(r.recovery, map[string]any{"name": n.Name, "key": sealed})
	return key{what: "recovery key", pass: []byte(text.String()), token: plainToken(recoveryToken)}, nil
}

func parseRecipients(to []string) ([]age.Recipient, error) {
	var out []age.Recipient
	for i, text := range to {
		var r age.Recipient
		var err error
		if strings.HasPrefix(text, "ssh-") {
			r, err = agessh.ParseRecipient(text)
		} else {
			r, err = age.ParseX25519Recipient(text)
		}
		if err != nil {
			return nil, fmt.Errorf("recovery_recipients[%d]: %w", i, err)
		}
		out = append(out, r)
	}
	return out, nil
}

// encrypt returns armoured text that `age --decrypt -i KEY` reads.
func encrypt(text string, to []age.Recipient) (string, error) {
	var out bytes.Buffer
	a := armor.NewWriter(&out)
	w, err := age.Encrypt(a, to...)
	if err != nil {
		return "", fmt.Errorf("encrypting the recovery key: %w", err)
	}
	if _, err := io.WriteString(w, text); err != nil {
		return "", fmt.Errorf("encrypting the recovery key: %w", err)
	}
	for _, c := range []io.Closer{w, a} {
		if err := c.Close(); err != nil {
			return "", fmt.Errorf("encrypting the recovery key: %w", err)
		}
	}
	return out.String(), nil
}
