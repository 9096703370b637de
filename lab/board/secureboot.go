package board

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// SecureBooter is a Machine whose firmware has Secure Boot. What the board
// changes of it comes with the Setup of the next boot.
type SecureBooter interface {
	// SecureBoot returns its state from the next boot on, without what the
	// board has changed since the last one.
	SecureBoot() (SecureBoot, error)
}

// SecureBoot is its state.
type SecureBoot struct {
	// Enforced: only signed programs boot.
	Enforced bool
	// SetupMode: there is no platform key, and anybody may enrol keys.
	SetupMode bool
	// Databases are PK, KEK, db and dbx.
	Databases map[string][]Key
}

// Key is an entry of a database: a certificate in DER, or a SHA-256 in hexadecimal.
type Key struct {
	Certificate []byte
	Hash        string
}

// KeyReset is what is done to keys, in Redfish's words (SecureBoot.ResetKeysType).
type KeyReset string

// What can be done to keys.
const (
	ResetAllKeysToDefault KeyReset = "ResetAllKeysToDefault"
	DeleteAllKeys         KeyReset = "DeleteAllKeys"
	DeletePK              KeyReset = "DeletePK"
)

// KeyResets are all there are.
var KeyResets = []KeyReset{ResetAllKeysToDefault, DeleteAllKeys, DeletePK}

// SecureBootChange waits for the next boot. The zero value is none.
type SecureBootChange struct {
	Enable   *bool          `json:"enable,omitempty"`
	Resets   []DatabaseKeys `json:"resets,omitempty"`
	Enrolled []EnrolledKey  `json:"enrolled,omitempty"`
}

// DatabaseKeys is a reset of one database; "" is all.
type DatabaseKeys struct {
	Kind     KeyReset `json:"kind"`
	Database string   `json:"database,omitempty"`
}

// EnrolledKey is a certificate to be added.
type EnrolledKey struct {
	Database    string `json:"database"`
	Certificate []byte `json:"certificate"`
}

// Empty reports whether nothing waits.
func (c SecureBootChange) Empty() bool {
	return c.Enable == nil && len(c.Resets) == 0 && len(c.Enrolled) == 0
}

// Bounds of what waits.
const (
	maxEnrolled    = 16
	maxCertificate = 16 << 10
)

// ErrNoSecureBoot is of firmware that has none.
var ErrNoSecureBoot = errors.New("the firmware has no Secure Boot")

// HasSecureBoot reports whether the firmware has Secure Boot.
func (b *Board) HasSecureBoot() bool { return b.machine.Hardware().SecureBoot }

// SecureBoot returns its state, and what waits for the next boot.
func (b *Board) SecureBoot() (SecureBoot, error) {
	m, ok := b.machine.(SecureBooter)
	if !ok {
		return SecureBoot{}, ErrNoSecureBoot
	}
	return m.SecureBoot()
}

// PendingSecureBoot is what waits for the next boot.
func (b *Board) PendingSecureBoot() SecureBootChange {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.saved.SecureBoot
}

// EnableSecureBoot has Secure Boot enforced, or not, from the next boot on.
func (b *Board) EnableSecureBoot(ctx context.Context, on bool) error {
	return b.changeSecureBoot(ctx, func(c *SecureBootChange) error { c.Enable = &on; return nil })
}

// ResetKeys resets one database of keys, or with "" all, at the next boot.
func (b *Board) ResetKeys(ctx context.Context, database string, kind KeyReset) error {
	return b.changeSecureBoot(ctx, func(c *SecureBootChange) error {
		if !slices.Contains(KeyResets, kind) || database != "" && kind == DeletePK {
			return fmt.Errorf("%w: ResetKeysType %q", ErrInvalid, kind)
		}
		if database == "" { // whatever was to be done before is undone by it
			c.Resets, c.Enrolled = nil, nil
		}
		c.Resets = append(c.Resets, DatabaseKeys{Kind: kind, Database: database})
		if len(c.Resets) > maxEnrolled {
			return fmt.Errorf("%w: too many changes wait for the next boot", ErrInvalid)
		}
		return nil
	})
}

// Enrol adds a certificate to a database at the next boot.
func (b *Board) Enrol(ctx context.Context, database string, certificate []byte) error {
	return b.changeSecureBoot(ctx, func(c *SecureBootChange) error {
		if len(c.Enrolled) >= maxEnrolled || len(certificate) > maxCertificate {
			return fmt.Errorf("%w: want at most %d certificates of %d bytes a boot", ErrInvalid, maxEnrolled, maxCertificate)
		}
		c.Enrolled = append(c.Enrolled, EnrolledKey{Database: database, Certificate: certificate})
		return nil
	})
}

func (b *Board) changeSecureBoot(ctx context.Context, change func(*SecureBootChange) error) error {
	if _, err := b.SecureBoot(); err != nil {
		return err
	}
	b.order.Lock()
	defer b.order.Unlock()
	b.mu.Lock()
	next := b.saved.SecureBoot
	next.Resets, next.Enrolled = slices.Clone(next.Resets), slices.Clone(next.Enrolled)
	err := change(&next)
	if err == nil {
		b.saved.SecureBoot = next
		b.marks.settings++
		err = b.saveLocked()
	}
	b.mu.Unlock()
	if err != nil {
		return err
	}
	if err := b.applyNext(ctx); err != nil {
		return err
	}
	b.publish(Event{Kind: SettingChange})
	return nil
}
