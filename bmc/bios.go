package bmc

import (
	"context"
	"fmt"
	"strings"
)

// BIOSSettings are the settings of a machine's firmware, by the vendor's names,
// as text: numbers in decimal, booleans as true and false.
type BIOSSettings struct {
	Current map[string]string
	// Pending are those that change at the next reset.
	Pending map[string]string
}

// BIOS is the settings of a machine's firmware. Client.SetBIOS is what to call.
type BIOS interface {
	BIOSSettings(ctx context.Context) (BIOSSettings, error)
	// RequestBIOS asks for settings from the next reset on. A name that the
	// firmware doesn't have, or a value of another type than it has, is an error
	// and nothing is changed.
	RequestBIOS(ctx context.Context, settings map[string]string) error
	// ResetBIOS brings all settings to the factory's at the next reset.
	ResetBIOS(ctx context.Context) error
}

// SecureBootMode is whose keys are in force (UEFI 2.10 §32.3).
type SecureBootMode string

// The modes of Secure Boot.
const (
	SecureBootUnknown  SecureBootMode = ""
	SecureBootSetup    SecureBootMode = "setup"
	SecureBootUser     SecureBootMode = "user"
	SecureBootAudit    SecureBootMode = "audit"
	SecureBootDeployed SecureBootMode = "deployed"
)

// SecureBootState is whether a machine's firmware checks what it boots.
type SecureBootState struct {
	// Enabled is the setting, which takes effect at the next reset.
	Enabled bool
	// Active is what was in force at the last boot.
	Active bool
	Mode   SecureBootMode
}

// KeyReset is what is done to the keys of Secure Boot.
type KeyReset string

// The resets of keys.
const (
	// KeysDefault restores the vendor's keys in all databases.
	KeysDefault KeyReset = "default"
	// KeysDeleteAll deletes every key; the machine is in setup mode then.
	KeysDeleteAll KeyReset = "delete-all"
	// KeysDeletePK deletes the platform key alone; the machine is in setup mode then.
	KeysDeletePK KeyReset = "delete-pk"
)

// ParseKeyReset reads default, delete-all or delete-pk.
func ParseKeyReset(s string) (KeyReset, error) {
	switch k := KeyReset(strings.ToLower(s)); k {
	case KeysDefault, KeysDeleteAll, KeysDeletePK:
		return k, nil
	}
	return "", fmt.Errorf("%q is no reset of Secure Boot keys: use default, delete-all or delete-pk", s)
}

// SecureBoot is the state and keys of UEFI Secure Boot. Client.SetSecureBoot is
// what to call.
type SecureBoot interface {
	SecureBoot(ctx context.Context) (SecureBootState, error)
	// RequestSecureBoot sets it for the next reset.
	RequestSecureBoot(ctx context.Context, enabled bool) error
	ResetSecureBootKeys(ctx context.Context, reset KeyReset) error
}
