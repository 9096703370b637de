// Package talos checks machine configurations of Talos Linux, and joins them with
// what Bedplate has to tell the machine.
//
// A person gives a machine configuration, as `talosctl gen config` makes it, and
// patches: strategic merges (YAML of the same form) or JSON patches (RFC 6902).
// All are read, applied and validated by Talos' own library,
// siderolabs/talos/pkg/machinery, for the mode metal with installation off: what
// Bedplate writes to a disk is installed already. Bedplate's own patches come
// first, so a person's win.
//
// All functions are pure and may be used by any number of goroutines.
package talos

import (
	"errors"
	"fmt"
	"strings"

	"github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/config/configloader"
	"github.com/siderolabs/talos/pkg/machinery/config/configpatcher"
	"github.com/siderolabs/talos/pkg/machinery/config/encoder"
)

// MaxSize bounds a configuration or a patch, in bytes.
const MaxSize = 256 << 10

// PatchError says which patch of a list is not right.
type PatchError struct {
	// Index counts from 0.
	Index int
	Err   error
}

// Error implements error.
func (e *PatchError) Error() string { return fmt.Sprintf("patch %d: %v", e.Index, e.Err) }

// Unwrap returns the library's error.
func (e *PatchError) Unwrap() error { return e.Err }

// Additions is what Bedplate has to tell a machine.
type Additions struct {
	// Hostname becomes the node's name; empty: Talos' choice.
	Hostname string
	// Patches are strategic merges, such as the machine's network.
	Patches [][]byte
}

// Check says what is wrong with a configuration or its patches: a *PatchError
// for a patch alone, any other error for the configuration or for the whole.
func Check(text string, patches []string) error {
	_, err := Join(text, patches, Additions{})
	return err
}

// Join returns the machine's configuration: text, with what is added, and then
// the person's patches, applied.
func Join(text string, patches []string, add Additions) ([]byte, error) {
	if strings.TrimSpace(text) == "" {
		return nil, errors.New("there is no machine configuration: give what `talosctl gen config` made")
	}
	if len(text) > MaxSize {
		return nil, fmt.Errorf("%d bytes; at most %d", len(text), MaxSize)
	}
	base, err := configloader.NewFromBytes([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("reading the machine configuration: %w", line(err))
	}
	if base.RawV1Alpha1() == nil {
		return nil, errors.New("no machine configuration: it has no document with `version: v1alpha1`, `machine` and `cluster`")
	}
	all, err := add.patches(base)
	if err != nil {
		return nil, fmt.Errorf("reading what is added: %w", err)
	}
	for i, p := range patches {
		loaded, err := load(p)
		if err != nil {
			return nil, &PatchError{i, line(err)}
		}
		all = append(all, loaded)
	}
	out, err := configpatcher.Apply(configpatcher.WithConfig(base), all)
	if err != nil {
		return nil, fmt.Errorf("applying patches: %w", line(err))
	}
	return validated(out)
}

func load(p string) (configpatcher.Patch, error) {
	if len(p) > MaxSize {
		return nil, fmt.Errorf("%d bytes; at most %d", len(p), MaxSize)
	}
	return configpatcher.LoadPatch([]byte(p))
}

// validated has Talos judge the whole.
func validated(out configpatcher.Output) ([]byte, error) {
	c, err := out.Config()
	if err != nil {
		return nil, fmt.Errorf("reading the patched configuration: %w", line(err))
	}
	if _, err := c.Validate(metal{}); err != nil {
		return nil, fmt.Errorf("the configuration is none for Talos: %w", line(err))
	}
	return c.EncodeBytes(encoder.WithComments(encoder.CommentsDisabled))
}

// metal is the mode that configurations are validated for.
type metal struct{}

func (metal) String() string { return "metal" }

// RequiresInstall is false, as for an installed disk: machine.install may be
// there, and needn't be.
func (metal) RequiresInstall() bool { return false }

// InContainer implements validation.RuntimeMode.
func (metal) InContainer() bool { return false }

// patches are what is added, as patches to base.
func (a Additions) patches(base config.Provider) ([]configpatcher.Patch, error) {
	var out []configpatcher.Patch
	texts := a.Patches
	if a.Hostname != "" {
		texts = append(texts[:len(texts):len(texts)], hostname(base, a.Hostname))
	}
	for _, text := range texts {
		p, err := configpatcher.LoadPatch(text)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// hostname says a host name the way the configuration does: since Talos 1.12 it
// has a document of its own, and must not be in both.
func hostname(base config.Provider, name string) []byte {
	for _, d := range base.Documents() {
		if d.Kind() == "HostnameConfig" {
			return fmt.Appendf(nil, "apiVersion: v1alpha1\nkind: HostnameConfig\nauto: \"off\"\nhostname: %s\n", name)
		}
	}
	return fmt.Appendf(nil, "machine:\n  network:\n    hostname: %s\n", name)
}

// line has an error on one line, as all of ours are.
func line(err error) error {
	text := strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\t' }), " ")
	return errors.New(strings.Join(strings.Fields(text), " "))
}
