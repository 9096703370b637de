package redfish

import (
	"context"
	"fmt"

	"github.com/stmcginnis/gofish/redfish"

	"github.com/bedplate/bedplate/bmc"
)

// secureBootResource is the SecureBoot schema.
type secureBootResource struct {
	Enable      bool                              `json:"SecureBootEnable"`
	CurrentBoot redfish.SecureBootCurrentBootType `json:"SecureBootCurrentBoot"`
	Mode        redfish.SecureBootModeType        `json:"SecureBootMode"`
	Settings    struct{ SettingsObject link }     `json:"@Redfish.Settings"`
	Actions     struct {
		ResetKeys struct {
			action
			Allowed []redfish.ResetKeysType `json:"ResetKeysType@Redfish.AllowableValues"`
		} `json:"#SecureBoot.ResetKeys"`
	}
}

func (d *Driver) readSecureBoot(ctx context.Context) (path string, sb *secureBootResource, err error) {
	s, err := d.system(ctx)
	if err != nil {
		return "", nil, err
	}
	if s.SecureBoot.Path == "" {
		return "", nil, d.lacks("Secure Boot")
	}
	sb = &secureBootResource{}
	_, err = d.get(ctx, s.SecureBoot.Path, sb)
	return s.SecureBoot.Path, sb, err
}

// SecureBoot reads state and mode.
func (d *Driver) SecureBoot(ctx context.Context) (bmc.SecureBootState, error) {
	_, sb, err := d.readSecureBoot(ctx)
	if err != nil {
		return bmc.SecureBootState{}, err
	}
	state := bmc.SecureBootState{Enabled: sb.Enable, Active: sb.CurrentBoot == redfish.EnabledSecureBootCurrentBootType}
	if path := sb.Settings.SettingsObject.Path; path != "" {
		var next struct {
			Enable *bool `json:"SecureBootEnable"`
		}
		if _, err := d.get(ctx, path, &next); err == nil && next.Enable != nil {
			state.Enabled = *next.Enable
		}
	}
	switch sb.Mode {
	case redfish.SetupModeSecureBootModeType:
		state.Mode = bmc.SecureBootSetup
	case redfish.UserModeSecureBootModeType:
		state.Mode = bmc.SecureBootUser
	case redfish.AuditModeSecureBootModeType:
		state.Mode = bmc.SecureBootAudit
	case redfish.DeployedModeSecureBootModeType:
		state.Mode = bmc.SecureBootDeployed
	}
	return state, nil
}

// RequestSecureBoot writes the setting, where it is to be written.
func (d *Driver) RequestSecureBoot(ctx context.Context, enabled bool) error {
	path, sb, err := d.readSecureBoot(ctx)
	if err != nil {
		return err
	}
	if p := sb.Settings.SettingsObject.Path; p != "" {
		path = p
	}
	return d.patch(ctx, path, map[string]any{"SecureBootEnable": enabled})
}

// keyResets are the schema's words.
var keyResets = map[bmc.KeyReset]redfish.ResetKeysType{
	bmc.KeysDefault:   redfish.ResetAllKeysToDefaultResetKeysType,
	bmc.KeysDeleteAll: redfish.DeleteAllKeysResetKeysType,
	bmc.KeysDeletePK:  redfish.DeletePKResetKeysType,
}

// ResetSecureBootKeys sends SecureBoot.ResetKeys.
func (d *Driver) ResetSecureBootKeys(ctx context.Context, reset bmc.KeyReset) error {
	_, sb, err := d.readSecureBoot(ctx)
	if err != nil {
		return err
	}
	keys := sb.Actions.ResetKeys
	word, ok := choose([]redfish.ResetKeysType{keyResets[reset]}, keys.Allowed)
	if keys.Target == "" || !ok {
		return d.lacks(fmt.Sprintf("Secure Boot keys: %s (the BMC allows %v)", reset, keys.Allowed))
	}
	_, err = d.post(ctx, keys.Target, map[string]any{"ResetKeysType": word})
	return err
}
