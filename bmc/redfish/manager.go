package redfish

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/stmcginnis/gofish/redfish"

	"github.com/bedplate/bedplate/bmc"
)

// manager is the BMC (Manager schema).
type manager struct {
	Model           string
	FirmwareVersion string
	Ethernet        link `json:"EthernetInterfaces"`
	NetworkProtocol link
	LogServices     link
	Actions         struct {
		Reset struct {
			action
			Allowed []redfish.ResetType `json:"ResetType@Redfish.AllowableValues"`
		} `json:"#Manager.Reset"`
	}
}

// firstManager reads the system's manager.
func (d *Driver) firstManager(ctx context.Context) (*manager, error) {
	paths, err := d.managers(ctx)
	if err != nil {
		return nil, err
	}
	var m manager
	if _, err := d.get(ctx, paths[0], &m); err != nil {
		return nil, err
	}
	return &m, nil
}

// ManagerInfo reads the BMC itself and which protocols it speaks.
func (d *Driver) ManagerInfo(ctx context.Context) (bmc.ManagerInfo, error) {
	m, err := d.firstManager(ctx)
	if err != nil {
		return bmc.ManagerInfo{}, err
	}
	info := bmc.ManagerInfo{Model: m.Model, FirmwareVersion: m.FirmwareVersion, Protocols: []string{"redfish"}}
	if m.NetworkProtocol.Path == "" {
		return info, nil
	}
	var protocols map[string]json.RawMessage
	if _, err := d.get(ctx, m.NetworkProtocol.Path, &protocols); err != nil {
		return info, nil //nolint:nilerr // the protocols are an extra
	}
	for name, raw := range protocols {
		var p struct{ ProtocolEnabled bool }
		if json.Unmarshal(raw, &p) == nil && p.ProtocolEnabled {
			info.Protocols = append(info.Protocols, strings.ToLower(name))
		}
	}
	slices.Sort(info.Protocols)
	return info, nil
}

// ResetManager restarts the BMC.
func (d *Driver) ResetManager(ctx context.Context) error {
	m, err := d.firstManager(ctx)
	if err != nil {
		return err
	}
	reset := m.Actions.Reset
	if reset.Target == "" {
		return d.lacks("manager reset")
	}
	allowed := reset.Allowed
	if len(allowed) == 0 && reset.Info != "" {
		if allowed, err = d.allowedResets(ctx, reset.Info); err != nil {
			return err
		}
	}
	word, ok := choose([]redfish.ResetType{redfish.GracefulRestartResetType, redfish.ForceRestartResetType}, allowed)
	if !ok {
		return d.lacks("manager reset")
	}
	_, err = d.post(ctx, reset.Target, map[string]any{"ResetType": word})
	return err
}
