// Package catalog is what Bedplate knows of operating systems: one file for
// each in data, which a person can read and change. An entry says where its
// releases are and who signs them, what is in them, how configuration reaches
// the system, and how it starts and is upgraded. The package reads files and
// makes URLs; it opens no connection (images/source does). A Catalog doesn't
// change and may be used by any number of goroutines.
package catalog

import (
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

//go:embed data/*.yaml
var files embed.FS

// maxEntry bounds the file of one entry.
const maxEntry = 64 << 10

// Entry is one operating system.
type Entry struct {
	Name        string `yaml:"name"`
	Title       string `yaml:"title"`
	Description string `yaml:"description"`
	Homepage    string `yaml:"homepage"`
	// Sources are the pages that the entry's facts are from.
	Sources []string `yaml:"sources"`
	// Kind is disk, live (kernel, initramfs and perhaps a root file system) or iso.
	Kind string `yaml:"kind"`
	// Architectures that it is published for, ours to the publisher's word.
	Architectures map[string]string `yaml:"architectures"`
	// Firmware that it boots by: bios, uefi.
	Firmware []string `yaml:"firmware"`
	// Channels that a version can be looked up in; the first is the default.
	Channels []string `yaml:"channels"`
	// Numbers of channels that are code names (trixie: "13").
	Numbers  map[string]string `yaml:"numbers"`
	Versions Versions          `yaml:"versions"`
	// Files of one release. Without any, the user brings them.
	Files []File `yaml:"files"`
	// Keys that sign releases.
	Keys []Key `yaml:"keys"`
	// Configuration is how it is configured, as Image.spec.configuration has it.
	Configuration string `yaml:"configuration"`
	// RootPartition as Image.spec.root_partition has it.
	RootPartition   uint32   `yaml:"root_partition"`
	KernelArguments []string `yaml:"kernel_arguments"`
	// Finish is what is put right on the disk, as Image.spec.finish has it.
	Finish map[string]any `yaml:"finish"`
	// Console is where its kernel writes to without further arguments.
	Console string `yaml:"console"`
	// User is the one that gets the SSH keys; empty: none.
	User string `yaml:"user"`
	// FirstBoot says how one knows that the first boot is done.
	FirstBoot string `yaml:"first_boot"`
	// Upgrade says how the system is brought to the next version.
	Upgrade string `yaml:"upgrade"`
	Notes   string `yaml:"notes"`

	text []byte
}

// Versions says where the versions of a channel are looked up.
type Versions struct {
	// Kind is pattern, coreos-stream, simplestreams or github; empty: they can't be.
	Kind string `yaml:"kind"`
	// URL of the index, with {channel} and {arch}.
	URL string `yaml:"url"`
	// Pattern finds versions in the index: its first group is one (pattern).
	Pattern string `yaml:"pattern"`
	// Product is the simplestreams product, with {channel} and {arch}.
	Product string `yaml:"product"`
}

// File is one file of a release. Texts may have {channel}, {version}, {arch}, {major} (of the channel) and {number};
// Checksums and Signature also {file}, the file's name.
type File struct {
	// Role is disk, kernel, initramfs, rootfs or iso.
	Role string `yaml:"role"`
	URL  string `yaml:"url"`
	// Checksums is the URL of a list that has the file's digest; empty: none is published.
	Checksums string `yaml:"checksums"`
	// Signature is absent where the publisher signs nothing that we can check.
	Signature *Signature `yaml:"signature"`
	// Format as Image.spec.format has it; empty: told from the content.
	Format string `yaml:"format"`
}

// Signature says what is signed, and how.
type Signature struct {
	// Kind is gpg, minisign or cosign (with a key).
	Kind string `yaml:"kind"`
	// Of is file or checksums.
	Of string `yaml:"of"`
	// URL of the detached signature; empty: it is in the signed list itself (gpg --clearsign).
	URL string `yaml:"url"`
}

// Key signs releases.
type Key struct {
	// Fingerprint of the primary key in upper case (gpg), or the SHA-256 of the key file's
	// public key (minisign, cosign).
	Fingerprint string `yaml:"fingerprint"`
	// URL that it is fetched from; what comes must have the fingerprint.
	URL string `yaml:"url"`
	// Of names the key in words.
	Of string `yaml:"of"`
}

// Text returns the entry's file.
func (e *Entry) Text() string { return string(e.text) }

// FinishJSON returns Finish as JSON.
func (e *Entry) FinishJSON() ([]byte, error) {
	text, err := json.Marshal(e.Finish)
	if err != nil {
		return nil, fmt.Errorf("reading finish of the entry %s: %w", e.Name, err)
	}
	return text, nil
}

// Signed reports whether every file's origin can be checked.
func (e *Entry) Signed() bool {
	return len(e.Files) > 0 && !slices.ContainsFunc(e.Files, func(f File) bool { return f.Signature == nil })
}

// Fingerprints returns those of the entry's keys.
func (e *Entry) Fingerprints() []string {
	var all []string
	for _, k := range e.Keys {
		all = append(all, k.Fingerprint)
	}
	return all
}

// Catalog holds entries by name.
type Catalog struct{ entries []*Entry }

// Builtin returns the catalogue that comes with the program.
func Builtin() (*Catalog, error) { return load(&Catalog{}, files, "data") }

// Open returns the built-in catalogue with the entries (*.yaml) of a folder
// added; one of the same name takes the built-in one's place. dir may be empty.
func Open(dir string) (*Catalog, error) {
	c, err := Builtin()
	if err != nil || dir == "" {
		return c, err
	}
	return load(c, os.DirFS(dir), ".", dir)
}

func load(c *Catalog, from fs.FS, folder string, shown ...string) (*Catalog, error) {
	names, err := fs.Glob(from, path.Join(folder, "*.yaml"))
	if err != nil {
		return nil, fmt.Errorf("listing the image catalogue: %w", err)
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("no *.yaml in the image catalogue %s", strings.Join(append(shown, folder)[:1], ""))
	}
	var errs []error
	for _, name := range names {
		label := filepath.Join(append(slices.Clone(shown), name)...)
		e, err := read(from, name, label)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		c.entries = slices.DeleteFunc(c.entries, func(o *Entry) bool { return o.Name == e.Name })
		c.entries = append(c.entries, e)
	}
	slices.SortFunc(c.entries, func(a, b *Entry) int { return strings.Compare(a.Name, b.Name) })
	return c, errors.Join(errs...)
}

func read(from fs.FS, name, label string) (*Entry, error) {
	text, err := fs.ReadFile(from, name)
	if err != nil {
		return nil, fmt.Errorf("reading the image catalogue: %w", err)
	}
	return Parse(label, text)
}

// Parse reads the entry in a file of that name; errors say file and line.
func Parse(label string, text []byte) (*Entry, error) {
	if len(text) > maxEntry {
		return nil, fmt.Errorf("%s: %d bytes, at most %d", label, len(text), maxEntry)
	}
	var node yaml.Node
	if err := yaml.Unmarshal(text, &node); err != nil {
		return nil, fmt.Errorf("%s: %s", label, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	e := &Entry{text: text}
	d := yaml.NewDecoder(strings.NewReader(string(text)))
	d.KnownFields(true)
	if err := d.Decode(e); err != nil {
		return nil, fmt.Errorf("%s: %s", label, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	return e, check(label, &node, e)
}

// All returns the entries in order of their names.
func (c *Catalog) All() []*Entry { return slices.Clone(c.entries) }

// Named returns the entry of that name.
func (c *Catalog) Named(name string) (*Entry, bool) {
	for _, e := range c.entries {
		if e.Name == name {
			return e, true
		}
	}
	return nil, false
}

// Names returns the names of all entries.
func (c *Catalog) Names() []string {
	var names []string
	for _, e := range c.entries {
		names = append(names, e.Name)
	}
	return names
}
