package redfish

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/stmcginnis/gofish/common"

	"github.com/bedplate/bedplate/bmc"
)

// bios is the Bios schema, and its settings.
type bios struct {
	Attributes map[string]json.RawMessage
	Settings   struct {
		SettingsObject      link
		SupportedApplyTimes []common.ApplyTime
	} `json:"@Redfish.Settings"`
	Actions struct {
		Reset action `json:"#Bios.ResetBios"`
	}
}

// readBIOS reads the settings in force and those of the next reset.
func (d *Driver) readBIOS(ctx context.Context) (path string, current, pending *bios, err error) {
	s, err := d.system(ctx)
	if err != nil {
		return "", nil, nil, err
	}
	if s.Bios.Path == "" {
		return "", nil, nil, d.lacks("BIOS settings")
	}
	current, pending = &bios{}, &bios{}
	if _, err := d.get(ctx, s.Bios.Path, current); err != nil {
		return "", nil, nil, err
	}
	path = current.Settings.SettingsObject.Path
	if path == "" || path == s.Bios.Path {
		return s.Bios.Path, current, pending, nil
	}
	_, err = d.get(ctx, path, pending)
	if errors.Is(err, bmc.ErrNotFound) {
		err = nil // some services have it only while something is pending
	}
	return path, current, pending, err
}

// BIOSSettings reads the attributes. Pending are those that the settings have
// otherwise than they are: many services have all of them there.
func (d *Driver) BIOSSettings(ctx context.Context) (bmc.BIOSSettings, error) {
	_, current, pending, err := d.readBIOS(ctx)
	if err != nil {
		return bmc.BIOSSettings{}, err
	}
	out := bmc.BIOSSettings{Current: map[string]string{}, Pending: map[string]string{}}
	for name, raw := range current.Attributes {
		out.Current[name] = attributeText(raw)
	}
	for name, raw := range pending.Attributes {
		if text := attributeText(raw); text != out.Current[name] {
			out.Pending[name] = text
		}
	}
	return out, nil
}

// attributeText returns an attribute as text; null is empty.
func attributeText(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	if text := string(bytes.TrimSpace(raw)); text != "null" {
		return text
	}
	return ""
}

// RequestBIOS writes those of the settings that aren't so already.
func (d *Driver) RequestBIOS(ctx context.Context, settings map[string]string) error {
	path, current, pending, err := d.readBIOS(ctx)
	if err != nil {
		return err
	}
	attributes := map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		raw, ok := current.Attributes[name]
		if !ok {
			return fmt.Errorf("firmware has no setting %q%s", name, similar(name, current.Attributes))
		}
		now := raw
		if p, ok := pending.Attributes[name]; ok {
			now = p
		}
		if attributeText(now) == settings[name] {
			continue
		}
		value, err := attributeValue(settings[name], raw)
		if err != nil {
			return fmt.Errorf("setting %q: %w", name, err)
		}
		attributes[name] = value
	}
	if len(attributes) == 0 {
		return nil
	}
	body := map[string]any{"Attributes": attributes}
	if slices.Contains(current.Settings.SupportedApplyTimes, common.OnResetApplyTime) {
		body["@Redfish.SettingsApplyTime"] = map[string]any{"ApplyTime": common.OnResetApplyTime}
	}
	return d.patch(ctx, path, body)
}

// attributeValue returns text as the type that the attribute has.
func attributeValue(text string, now json.RawMessage) (any, error) {
	now = bytes.TrimSpace(now)
	switch {
	case bytes.Equal(now, []byte("true")), bytes.Equal(now, []byte("false")):
		v, err := strconv.ParseBool(text)
		if err != nil {
			return nil, fmt.Errorf("want true or false, not %q", text)
		}
		return v, nil
	case len(now) > 0 && (now[0] == '-' || now[0] >= '0' && now[0] <= '9'):
		if _, err := strconv.ParseFloat(text, 64); err != nil {
			return nil, fmt.Errorf("want a number, not %q", text)
		}
		return json.Number(text), nil
	}
	return text, nil
}

// similar names settings that differ from name in case or by a part only.
func similar(name string, attributes map[string]json.RawMessage) string {
	low := strings.ToLower(name)
	var names []string
	for _, other := range slices.Sorted(maps.Keys(attributes)) {
		o := strings.ToLower(other)
		if len(names) < 3 && len(low) > 2 && len(o) > 2 && (strings.Contains(o, low) || strings.Contains(low, o)) {
			names = append(names, other)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return " (did you mean " + strings.Join(names, ", ") + "?)"
}

// ResetBIOS sends Bios.ResetBios.
func (d *Driver) ResetBIOS(ctx context.Context) error {
	_, current, _, err := d.readBIOS(ctx)
	if err != nil {
		return err
	}
	if current.Actions.Reset.Target == "" {
		return d.lacks("BIOS reset")
	}
	_, err = d.post(ctx, current.Actions.Reset.Target, map[string]any{})
	return err
}
