package system

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// Modules is what depmod wrote of one kernel's modules: files, dependencies,
// aliases. It is never changed after ReadModules.
type Modules struct {
	dir     string
	path    map[string]string   // module name -> file, relative to dir
	depends map[string][]string // file -> files it needs, the last to be loaded first
	soft    map[string][]string // module name -> modules to load before it
	aliases map[string][]alias  // by aliasKey
	builtin map[string]bool     // module names that are part of the kernel
}

type alias struct{ pattern, module string }

// ReadModules reads modules.dep, .alias, .softdep and .builtin in dir.
// Without modules.dep it returns an error; the others may be absent.
func ReadModules(dir string) (*Modules, error) {
	m := &Modules{dir: dir, path: map[string]string{}, depends: map[string][]string{}, soft: map[string][]string{}, aliases: map[string][]alias{}, builtin: map[string]bool{}}
	if err := readLines(filepath.Join(dir, "modules.dep"), m.addDependency); err != nil {
		return nil, fmt.Errorf("reading module dependencies: %w", err)
	}
	for name, add := range map[string]func(string){"modules.alias": m.addAlias, "modules.softdep": m.addSoftDependency, "modules.builtin": m.addBuiltin} {
		if err := readLines(filepath.Join(dir, name), add); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
	}
	return m, nil
}

func readLines(name string, line func(string)) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return scanLines(f, line)
}

func scanLines(r io.Reader, line func(string)) error {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 64<<10), 1<<20)
	for s.Scan() {
		line(s.Text())
	}
	return s.Err()
}

func (m *Modules) addDependency(line string) {
	file, rest, ok := strings.Cut(line, ":")
	if !ok {
		return
	}
	m.depends[file] = strings.Fields(rest)
	m.path[moduleName(file)] = file
}

func (m *Modules) addAlias(line string) {
	// alias PATTERN MODULE; patterns hold no blanks except in a few platform names.
	rest, ok := strings.CutPrefix(line, "alias ")
	i := strings.LastIndexByte(rest, ' ')
	if !ok || i < 0 {
		return
	}
	a := alias{pattern: normalise(rest[:i]), module: rest[i+1:]}
	k := aliasKey(a.pattern)
	m.aliases[k] = append(m.aliases[k], a)
}

func (m *Modules) addSoftDependency(line string) {
	f := strings.Fields(line)
	if len(f) < 3 || f[0] != "softdep" {
		return
	}
	name, pre := moduleName(f[1]), false
	for _, w := range f[2:] {
		switch w {
		case "pre:":
			pre = true
		case "post:":
			pre = false
		default:
			if pre {
				m.soft[name] = append(m.soft[name], moduleName(w))
			}
		}
	}
}

func (m *Modules) addBuiltin(line string) { m.builtin[moduleName(line)] = true }

// moduleName is the name a module has in the kernel, for a file or a name
// with dashes.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// normalise makes dashes and underscores equal outside brackets, as modprobe does.
func normalise(pattern string) string {
	if !strings.Contains(pattern, "-") {
		return pattern
	}
	b, inside := []byte(pattern), false
	for i, c := range b {
		switch {
		case c == '[':
			inside = true
		case c == ']':
			inside = false
		case c == '-' && !inside:
			b[i] = '_'
		}
	}
	return string(b)
}

// keyLength is that of "pci:v0000XXXX", which spreads the longest list (PCI)
// by vendor.
const keyLength = 14

// aliasKey is what a pattern and every name that it matches have in common:
// the first characters, or the bus where a wildcard comes early.
func aliasKey(s string) string {
	if i := strings.IndexAny(s, "*?["); i >= 0 && i < keyLength || len(s) < keyLength {
		return busKey(s)
	}
	return s[:keyLength]
}

// busKey is the part before the first colon; "" for patterns whose bus is
// itself a pattern, such as char-major-10-*, which are few.
func busKey(s string) string {
	bus, _, colon := strings.Cut(s, ":")
	if trimmed := strings.TrimRight(bus, "*"); colon || trimmed == bus {
		bus = trimmed // acpi*:IPI0001:*
	}
	if strings.ContainsAny(bus, "*?[") {
		return ""
	}
	return bus
}

// Resolve returns the modules for a modalias or for a module's own name, none
// if the kernel has it built in or doesn't know it.
func (m *Modules) Resolve(name string) []string {
	var found []string
	if n := moduleName(name); !strings.Contains(name, ":") && m.path[n] != "" {
		found = append(found, n)
	}
	name = normalise(name)
	keys := []string{"", busKey(name)}
	if k := aliasKey(name); k != keys[1] {
		keys = append(keys, k)
	}
	for _, k := range keys {
		for _, a := range m.aliases[k] {
			if match(a.pattern, name) {
				found = append(found, moduleName(a.module))
			}
		}
	}
	return found
}

// match is fnmatch(3) without flags: unlike path.Match its stars match
// slashes, and brackets need no closing.
func match(pattern, s string) bool {
	star, mark := -1, 0
	p, i := 0, 0
	for i < len(s) {
		if p < len(pattern) {
			if pattern[p] == '*' {
				star, mark = p, i
				p++
				continue
			}
			if n, ok := matchOne(pattern[p:], s[i]); ok {
				p += n
				i++
				continue
			}
		}
		if star < 0 {
			return false
		}
		mark++
		p, i = star+1, mark
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// matchOne matches one character and returns the length of the pattern used.
func matchOne(pattern string, c byte) (int, bool) {
	switch pattern[0] {
	case '?':
		return 1, true
	case '[':
		end := strings.IndexByte(pattern, ']')
		if end < 0 {
			return 1, c == '['
		}
		return end + 1, inSet(pattern[1:end], c)
	}
	return 1, pattern[0] == c
}

func inSet(set string, c byte) bool {
	negate := set != "" && (set[0] == '!' || set[0] == '^')
	if negate {
		set = set[1:]
	}
	for i := 0; i < len(set); i++ {
		lo, hi := set[i], set[i]
		if i+2 < len(set) && set[i+1] == '-' {
			hi = set[i+2]
			i += 2
		}
		if lo <= c && c <= hi {
			return !negate
		}
	}
	return negate
}
