package board

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// stateFile is the board's memory, in its folder.
const stateFile = "bmc.json"

// saved is what outlives the loss of power.
type saved struct {
	Accounts []Account         `json:"accounts"`
	Override Override          `json:"override"`
	Settings map[string]string `json:"settings,omitempty"`
	Pending  map[string]string `json:"pending,omitempty"`
	Media    map[Drive]Medium  `json:"media,omitempty"`
	Log      []Entry           `json:"log,omitempty"`
	NextLog  int               `json:"nextLog"`
	Erased   time.Time         `json:"erased,omitzero"`
	Firmware map[string]string `json:"firmware,omitempty"`
	// Staged versions wait for a reset.
	Staged map[string]string `json:"staged,omitempty"`
	// SecureBoot is what waits for a boot.
	SecureBoot SecureBootChange `json:"secureBoot,omitzero"`
	Asset      string           `json:"asset,omitempty"`
	LED        string           `json:"led,omitempty"`
}

func (b *Board) load() error {
	b.saved = saved{Accounts: []Account{b.factory}, NextLog: 1}
	if b.dir == "" {
		return nil
	}
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return fmt.Errorf("making the BMC's folder: %w", err)
	}
	file := filepath.Join(b.dir, stateFile)
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the BMC's settings: %w", err)
	}
	if err := json.Unmarshal(text, &b.saved); err != nil {
		return fmt.Errorf("reading the BMC's settings (remove %s to make it new): %w", file, err)
	}
	for drive, m := range b.saved.Media {
		if _, err := os.Stat(m.File); err != nil {
			delete(b.saved.Media, drive)
		}
	}
	return nil
}

func (b *Board) saveLocked() error {
	if b.dir == "" {
		return nil
	}
	text, err := json.MarshalIndent(b.saved, "", "  ")
	if err != nil {
		return fmt.Errorf("saving the BMC's settings: %w", err)
	}
	temp := filepath.Join(b.dir, "."+stateFile)
	if err := os.WriteFile(temp, append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("saving the BMC's settings: %w", err)
	}
	if err := os.Rename(temp, filepath.Join(b.dir, stateFile)); err != nil {
		return fmt.Errorf("saving the BMC's settings: %w", err)
	}
	return nil
}

// insecure is for servers of images and receivers of events.
func insecure() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true} //nolint:gosec // as boards do; they have no roots to check by
}

// Label is what a person may set on the chassis.
type Label struct {
	AssetTag string
	// LED is Off, Lit or Blinking.
	LED string
}

// maxLabel bounds the asset tag.
const maxLabel = 64

// Label returns what was set on the chassis.
func (b *Board) Label() Label {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := Label{AssetTag: b.saved.Asset, LED: b.saved.LED}
	if l.AssetTag == "" {
		l.AssetTag = b.machine.Hardware().AssetTag
	}
	if l.LED == "" {
		l.LED = "Off"
	}
	return l
}

// SetLabel sets what a person may set on the chassis.
func (b *Board) SetLabel(l Label) error {
	if len(l.AssetTag) > maxLabel {
		return fmt.Errorf("%w: AssetTag: want at most %d characters", ErrInvalid, maxLabel)
	}
	if l.LED != "Off" && l.LED != "Lit" && l.LED != "Blinking" {
		return fmt.Errorf("%w: IndicatorLED %q", ErrInvalid, l.LED)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.saved.Asset, b.saved.LED = l.AssetTag, l.LED
	return b.saveLocked()
}
