package agentos

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// module is one kernel module as its .modinfo section describes it.
type module struct {
	name     string // with underscores
	path     string // below the modules folder, without a compression suffix
	file     string // on disk
	depends  []string
	soft     []string // "pre" soft dependencies: names or aliases
	aliases  []string
	firmware []string
}

// moduleSet is every module of a kernel package.
type moduleSet struct {
	byName  map[string]*module
	byAlias map[string][]*module
	builtin []byte // modules.builtin
	inside  map[string]bool
}

// maxModule bounds one decompressed module; the largest of Debian is under 8 MiB.
const maxModule = 64 << 20

// readModules reads the .modinfo of every module below dir, which is
// lib/modules/RELEASE of an unpacked package. (Packages ship no modules.dep;
// it is made by depmod when they are installed, and by us here.)
func readModules(ctx context.Context, dir string) (*moduleSet, error) {
	s := &moduleSet{byName: map[string]*module{}, byAlias: map[string][]*module{}, inside: map[string]bool{}}
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, file)
		if err != nil {
			return err
		}
		base, _, ok := strings.Cut(rel, ".ko")
		if d.IsDir() || !ok {
			return nil
		}
		m := &module{name: moduleName(path.Base(base)), path: base + ".ko", file: file}
		b, err := m.read()
		if err != nil {
			return err
		}
		if err := m.parse(b); err != nil {
			return fmt.Errorf("reading module %s: %w", m.name, err)
		}
		s.byName[m.name] = m
		for _, a := range m.aliases {
			s.byAlias[moduleName(a)] = append(s.byAlias[moduleName(a)], m)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading kernel modules: %w", err)
	}
	s.builtin, err = os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading kernel modules: %w", err)
	}
	for _, l := range lines(s.builtin) {
		s.inside[moduleName(strings.TrimSuffix(path.Base(l), ".ko"))] = true
	}
	info, err := os.ReadFile(filepath.Join(dir, "modules.builtin.modinfo"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading kernel modules: %w", err)
	}
	s.addBuiltinAliases(info)
	return s, nil
}

// addBuiltinAliases reads modules.builtin.modinfo, NUL-separated
// name.key=value: what is built in under an alias need not be loaded.
func (s *moduleSet) addBuiltinAliases(info []byte) {
	for pair := range bytes.SplitSeq(info, []byte{0}) {
		k, v, _ := strings.Cut(string(pair), "=")
		if strings.HasSuffix(k, ".alias") {
			s.inside[moduleName(v)] = true
		}
	}
}

// moduleName is the name by which the kernel knows a module.
func moduleName(s string) string { return strings.ReplaceAll(s, "-", "_") }

// read returns the module's bytes, decompressed, with its signature.
func (m *module) read() ([]byte, error) {
	f, err := os.Open(m.file)
	if err != nil {
		return nil, fmt.Errorf("reading module %s: %w", m.name, err)
	}
	defer f.Close() //nolint:errcheck // read only
	var r io.Reader = f
	switch filepath.Ext(m.file) {
	case ".xz":
		if r, err = xz.NewReader(f); err != nil {
			return nil, fmt.Errorf("decompressing module %s: %w", m.name, err)
		}
	case ".zst":
		z, err := zstd.NewReader(f)
		if err != nil {
			return nil, fmt.Errorf("decompressing module %s: %w", m.name, err)
		}
		defer z.Close()
		r = z
	}
	b, err := io.ReadAll(io.LimitReader(r, maxModule+1))
	if err != nil {
		return nil, fmt.Errorf("reading module %s: %w", m.name, err)
	}
	if len(b) > maxModule {
		return nil, fmt.Errorf("reading module %s: larger than %d bytes", m.name, maxModule)
	}
	return b, nil
}

// parse reads the NUL-separated key=value pairs of .modinfo.
func (m *module) parse(b []byte) error {
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		return err
	}
	info := f.Section(".modinfo")
	if info == nil {
		return errors.New("no .modinfo section")
	}
	data, err := info.Data()
	if err != nil {
		return err
	}
	for pair := range bytes.SplitSeq(data, []byte{0}) {
		k, v, _ := strings.Cut(string(pair), "=")
		switch k {
		case "depends":
			for d := range strings.SplitSeq(v, ",") {
				if d != "" {
					m.depends = append(m.depends, moduleName(d))
				}
			}
		case "alias":
			m.aliases = append(m.aliases, v)
		case "firmware":
			m.firmware = append(m.firmware, v)
		case "softdep":
			m.soft = append(m.soft, softBefore(v)...)
		}
	}
	return nil
}

// softBefore returns the names after "pre:" in a soft dependency.
func softBefore(s string) []string {
	var out []string
	before := false
	for word := range strings.FieldsSeq(s) {
		switch {
		case strings.HasSuffix(word, ":"):
			before = word == "pre:"
		case before:
			out = append(out, word)
		}
	}
	return out
}

// requires returns what must be loaded before m. Soft dependencies are taken
// in as hard ones: there is no modprobe in the agent's system for the kernel
// to call, so libcrc32c without a crc32c algorithm would not load. Of several
// modules that can serve, the generic one runs on every processor.
func (s *moduleSet) requires(m *module) []*module {
	var out []*module
	for _, name := range m.depends {
		if d := s.byName[name]; d != nil && !slices.Contains(out, d) {
			out = append(out, d)
		}
	}
	for _, name := range m.soft {
		name = moduleName(name)
		if s.inside[name] {
			continue
		}
		d := s.byName[name]
		if d == nil {
			d = generic(s.byAlias[name])
		}
		if d != nil && d != m && !slices.Contains(out, d) {
			out = append(out, d)
		}
	}
	return out
}

func generic(of []*module) *module {
	for _, m := range of {
		if strings.Contains(m.name, "generic") {
			return m
		}
	}
	if len(of) == 1 {
		return of[0]
	}
	return nil
}

// closure returns everything that m needs, directly and not, in the order in
// which it must be loaded. Cycles, which only soft dependencies can make, are cut.
func (s *moduleSet) closure(m *module) []*module {
	var out []*module
	seen := map[*module]bool{m: true}
	var visit func(*module)
	visit = func(m *module) {
		for _, d := range s.requires(m) {
			if !seen[d] {
				seen[d] = true
				visit(d)
				out = append(out, d)
			}
		}
	}
	visit(m)
	return out
}

// choose returns the modules of that name with all they need, sorted by name,
// and the names that this kernel has in no form.
func (s *moduleSet) choose(names []string) (chosen []*module, absent []string) {
	set := map[*module]bool{}
	for _, name := range names {
		name = moduleName(name)
		m := s.byName[name]
		if m == nil {
			if !s.inside[name] {
				absent = append(absent, name)
			}
			continue
		}
		set[m] = true
		for _, d := range s.closure(m) {
			set[d] = true
		}
	}
	for m := range set {
		chosen = append(chosen, m)
	}
	slices.SortFunc(chosen, func(a, b *module) int { return strings.Compare(a.name, b.name) })
	slices.Sort(absent)
	return chosen, slices.Compact(absent)
}

// install puts the chosen modules into t with the tables that a loader reads:
// modules.dep and modules.alias as depmod writes them, modules.builtin as it came.
func (s *moduleSet) install(t *tree, release string, chosen []*module) error {
	root := "usr/lib/modules/" + release + "/"
	var dep, alias bytes.Buffer
	for _, m := range chosen {
		b, err := m.read()
		if err != nil {
			return err
		}
		t.file(root+m.path, 0o644, b)
		fmt.Fprintf(&dep, "%s:", m.path)
		// depmod's order: what must be loaded first comes last.
		needs := s.closure(m)
		slices.Reverse(needs)
		for _, d := range needs {
			fmt.Fprintf(&dep, " %s", d.path)
		}
		dep.WriteByte('\n')
		for _, a := range m.aliases {
			fmt.Fprintf(&alias, "alias %s %s\n", a, m.name)
		}
	}
	t.file(root+"modules.dep", 0o644, dep.Bytes())
	t.file(root+"modules.alias", 0o644, alias.Bytes())
	t.file(root+"modules.builtin", 0o644, s.builtin)
	return nil
}
