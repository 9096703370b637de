package entry

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// blsEntry is one file of loader/entries (Boot Loader Specification, type 1).
type blsEntry struct {
	id      string
	volume  *Volume
	title   string
	version string
	sortKey string
	linux   string
	initrd  []string
	options []string
	efi     bool // boots something that is no Linux kernel
	// bad entries have failed to boot as often as they may (boot counting).
	bad bool
}

// blsEntries reads a folder of entries.
func blsEntries(v *Volume, dir string) ([]blsEntry, error) {
	files, err := fs.ReadDir(v.FS, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNone
	}
	if err != nil {
		return nil, err
	}
	var out []blsEntry
	for _, d := range files[:min(len(files), maxEntries)] {
		id, ok := strings.CutSuffix(d.Name(), ".conf")
		if !ok || d.IsDir() {
			continue
		}
		text, err := read(File{v, path.Join(dir, d.Name())})
		if err != nil {
			return nil, err
		}
		e := parseBLS(text)
		e.id, e.bad = countedID(id)
		e.volume = v
		out = append(out, e)
	}
	if len(out) == 0 {
		return nil, ErrNone
	}
	return out, nil
}

// countedID takes off what boot counting adds to a name: +LEFT-DONE. With none
// left the entry is bad (systemd, AUTOMATIC_BOOT_ASSESSMENT).
func countedID(id string) (string, bool) {
	i := strings.LastIndexByte(id, '+')
	if i < 0 {
		return id, false
	}
	left, _, _ := strings.Cut(id[i+1:], "-")
	if left == "" || strings.Trim(left, "0123456789") != "" {
		return id, false
	}
	return id[:i], strings.Trim(left, "0") == ""
}

func parseBLS(text string) blsEntry {
	var e blsEntry
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, value, _ := strings.Cut(strings.ReplaceAll(line, "\t", " "), " ")
		value = strings.TrimSpace(value)
		switch key {
		case "title":
			e.title = value
		case "version":
			e.version = value
		case "sort-key":
			e.sortKey = value
		case "linux":
			e.linux = value
		case "initrd":
			e.initrd = append(e.initrd, strings.Fields(value)...)
		case "options":
			e.options = append(e.options, value)
		case "efi", "uki", "uki-url":
			e.efi = true
		}
	}
	return e
}

// addBLS is blscfg: the menu gets the entries, the newest first.
func (g *grub) addBLS(args []string) error {
	if len(g.menu) >= maxEntries {
		return errSteps
	}
	dirs := []string{"/loader/entries", "/boot/loader/entries"}
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		dirs = args[:1]
	} else if d := g.env["blsdir"]; d != "" {
		dirs = append([]string{d}, dirs...)
	}
	// The boot partition's entries are there whatever root is at the moment.
	for _, v := range append([]*Volume{g.rootVolume(), g.config.Volume}, pointers(g.volumes)...) {
		for _, dir := range dirs {
			p, err := clean(dir)
			if v == nil || err != nil {
				continue
			}
			all, err := blsEntries(v, p)
			if errors.Is(err, ErrNone) {
				continue
			}
			if err != nil {
				return err
			}
			slices.SortFunc(all, func(a, b blsEntry) int { return CompareVersions(b.id, a.id) })
			for i := range all {
				g.menu = append(g.menu, item{title: all[i].title, id: all[i].id, bls: &all[i]})
			}
			return nil
		}
	}
	return errors.New("blscfg finds no entries")
}

func (g *grub) rootVolume() *Volume {
	v, err := g.volume(g.env["root"])
	if err != nil {
		return nil
	}
	return v
}

func pointers(vs []Volume) []*Volume {
	var out []*Volume
	for i := range vs {
		out = append(out, &vs[i])
	}
	return out
}

// bootBLS is what blscfg's entries do. GRUB expands its own variables in them:
// $kernelopts, $tuned_params.
func (g *grub) bootBLS(e *blsEntry) error {
	got, err := e.entry(func(s string) []string {
		tokens, err := lex(s)
		if err != nil {
			return strings.Fields(s)
		}
		var c command
		for _, t := range tokens {
			if t.op == "" {
				c = append(c, t.word)
			}
		}
		return g.words(c)
	})
	if err != nil {
		return err
	}
	g.title, g.kernel, g.initrds, g.cmdline = got.Title, &got.Kernel, got.Initrds, got.Cmdline
	return nil
}

// entry makes an Entry; words splits a text, and expands it where there is
// something to expand.
func (e *blsEntry) entry(words func(string) []string) (Entry, error) {
	if e.linux == "" || e.efi {
		return Entry{}, fmt.Errorf("entry %s boots no Linux kernel of its own", e.id)
	}
	kernel, err := clean(e.linux)
	if err != nil {
		return Entry{}, err
	}
	out := Entry{Title: e.title, Source: e.id, Kernel: File{e.volume, kernel}}
	for _, i := range e.initrd {
		for _, name := range words(i) {
			p, err := clean(name)
			if err != nil {
				return Entry{}, err
			}
			out.Initrds = append(out.Initrds, File{e.volume, p})
		}
	}
	var options []string
	for _, o := range e.options {
		options = append(options, words(o)...)
	}
	out.Cmdline = joined(options)
	return out, nil
}

// fromSystemdBoot returns the default of a volume that has loader/loader.conf or entries.
func fromSystemdBoot(v *Volume) (Entry, error) {
	all, err := blsEntries(v, "loader/entries")
	if err != nil {
		return Entry{}, err
	}
	wanted := ""
	if text, err := read(File{v, "loader/loader.conf"}); err == nil {
		for line := range strings.Lines(text) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "default" {
				wanted = strings.TrimSuffix(f[1], ".conf")
			}
		}
	}
	// By sort-key, then the newest version, as sd-boot shows them; bad ones last.
	slices.SortStableFunc(all, func(a, b blsEntry) int {
		switch {
		case a.bad != b.bad:
			return truth(a.bad) - truth(b.bad)
		case (a.sortKey == "") != (b.sortKey == ""):
			return truth(a.sortKey == "") - truth(b.sortKey == "")
		case a.sortKey != b.sortKey:
			return strings.Compare(a.sortKey, b.sortKey)
		case a.version != b.version:
			return CompareVersions(b.version, a.version)
		}
		return CompareVersions(b.id, a.id)
	})
	chosen := &all[0]
	if wanted != "" {
		i := slices.IndexFunc(all, func(e blsEntry) bool {
			ok, err := path.Match(wanted, e.id)
			return err == nil && ok
		})
		if i < 0 {
			return Entry{}, fmt.Errorf("loader.conf names %s, which is no entry: it is made by systemd-boot itself, or by the firmware", wanted)
		}
		chosen = &all[i]
	}
	return chosen.entry(strings.Fields)
}

func truth(b bool) int {
	if b {
		return 1
	}
	return 0
}
