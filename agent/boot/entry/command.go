package entry

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// command runs one command. Those that are about screens, modules and the like
// do nothing and are true.
func (g *grub) command(w []string) (bool, error) {
	if len(w) == 0 {
		return true, nil
	}
	if name, value, ok := strings.Cut(w[0], "="); ok && len(w) == 1 && isName(name) {
		g.env[name] = value
		return true, nil
	}
	args := w[1:]
	switch w[0] {
	case "[", "test":
		return g.test(slices.DeleteFunc(slices.Clone(args), func(a string) bool { return a == "]" }))
	case "!":
		ok, err := g.command(args)
		return !ok, err
	case "true":
		return true, nil
	case "false":
		return false, nil
	case "set":
		return g.set(args)
	case "unset":
		for _, a := range args {
			delete(g.env, a)
		}
	case "load_env":
		g.loadEnv(args)
	case "search", "search.fs_uuid", "search.fs_label", "search.file":
		return g.search(w[0], args), nil
	case "configfile", "source", ".", "extract_entries_source", "legacy_configfile":
		return g.include(args)
	case "linux", "linuxefi", "linux16":
		return g.linux(args)
	case "initrd", "initrdefi", "initrd16":
		return g.initrd(args)
	case "chainloader", "multiboot", "multiboot2", "xen_hypervisor", "halt", "reboot", "exit", "fwsetup", "uki":
		if g.chosen { // else it is only asked for, as in fwsetup --is-supported
			return false, fmt.Errorf("its default entry is no Linux kernel but `%s`", w[0])
		}
	case "boot":
		return true, errBoot
	case "blscfg", "bls_import":
		return true, g.addBLS(args)
	default:
		if body, ok := g.funcs[w[0]]; ok {
			return g.run(body)
		}
	}
	return true, nil
}

func isName(s string) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool {
		return r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}) < 0
}

func (g *grub) set(args []string) (bool, error) {
	for _, a := range args {
		name, value, ok := strings.Cut(a, "=")
		if ok && len(g.env) < maxEntries && len(value) < maxConfig {
			g.env[name] = value
		}
	}
	return true, nil
}

// test is the command [, as far as configurations use it: -a and -o bind as in
// sh, one level of negation, no parentheses.
func (g *grub) test(a []string) (bool, error) {
	for i, w := range a {
		if w == "-o" {
			x, err := g.test(a[:i])
			if err != nil || x {
				return x, err
			}
			return g.test(a[i+1:])
		}
	}
	for i, w := range a {
		if w == "-a" {
			x, err := g.test(a[:i])
			if err != nil || !x {
				return false, err
			}
			return g.test(a[i+1:])
		}
	}
	if len(a) > 0 && a[0] == "!" {
		x, err := g.test(a[1:])
		return !x, err
	}
	return g.primary(a), nil
}

func (g *grub) primary(a []string) bool {
	switch len(a) {
	case 0:
		return false
	case 1:
		return a[0] != ""
	case 2:
		switch a[0] {
		case "-z":
			return a[1] == ""
		case "-n":
			return a[1] != ""
		}
		st, err := g.stat(a[1])
		switch a[0] {
		case "-e":
			return err == nil
		case "-f":
			return err == nil && !st.IsDir()
		case "-d":
			return err == nil && st.IsDir()
		case "-s":
			return err == nil && st.Size() > 0
		}
		return false
	}
	x, xerr := strconv.Atoi(a[0])
	y, yerr := strconv.Atoi(a[2])
	numbers := xerr == nil && yerr == nil
	switch a[1] {
	case "=", "==":
		return a[0] == a[2]
	case "!=":
		return a[0] != a[2]
	case "-eq":
		return numbers && x == y
	case "-ne":
		return numbers && x != y
	case "-lt":
		return numbers && x < y
	case "-le":
		return numbers && x <= y
	case "-gt":
		return numbers && x > y
	case "-ge":
		return numbers && x >= y
	}
	return false
}

// nameOf is what a volume is called in variables such as root.
func (g *grub) nameOf(v *Volume) string { return fmt.Sprintf("hd0,gpt%d", v.Number) }

// volume returns the one that a device's name stands for: hd0,gpt2, hd0,msdos1
// or hd0,2. The number of the disk is not looked at: there is but one.
func (g *grub) volume(name string) (*Volume, error) {
	_, p, ok := strings.Cut(name, ",")
	if !ok {
		p = "0"
	}
	n, err := strconv.Atoi(strings.TrimLeft(p, "abcdefghijklmnopqrstuvwxyz"))
	if err == nil {
		for i := range g.volumes {
			if g.volumes[i].Number == n {
				return &g.volumes[i], nil
			}
		}
	}
	return nil, fmt.Errorf("there is no device (%s)", name)
}

// file returns the file of a path such as /boot/vmlinuz or (hd0,gpt2)/vmlinuz.
func (g *grub) file(p string) (File, error) {
	device := g.env["root"]
	if rest, ok := strings.CutPrefix(p, "("); ok {
		name, path, ok := strings.Cut(rest, ")")
		if !ok {
			return File{}, fmt.Errorf("%q is no path", p)
		}
		device, p = name, path
	}
	v, err := g.volume(device)
	if err != nil {
		return File{}, err
	}
	p, err = clean(p)
	return File{v, p}, err
}

func (g *grub) stat(p string) (fs.FileInfo, error) {
	f, err := g.file(p)
	if err != nil {
		return nil, err
	}
	return fs.Stat(f.Volume.FS, f.Path)
}

// search sets a variable to the volume that is asked for.
func (g *grub) search(name string, args []string) bool {
	by, variable, what := strings.TrimPrefix(name, "search."), "root", ""
	var words []string
	for i := 0; i < len(args); i++ {
		switch a := args[i]; {
		case a == "--fs-uuid" || a == "-u":
			by = "fs_uuid"
		case a == "--label" || a == "-l":
			by = "fs_label"
		case a == "--file" || a == "-f":
			by = "file"
		case strings.HasPrefix(a, "--set="):
			variable = a[len("--set="):]
		case (a == "--set" || a == "-s") && i+1 < len(args) && !strings.HasPrefix(args[i+1], "-"):
			// `--set root UUID`, or `--set UUID` for root.
			if i+2 < len(args) && !strings.HasPrefix(args[i+2], "-") {
				i++
				variable = args[i]
			}
		case strings.HasPrefix(a, "--hint"), strings.HasPrefix(a, "-"):
		default:
			words = append(words, a)
		}
	}
	if len(words) == 0 {
		return false
	}
	what = words[0]
	if strings.HasPrefix(name, "search.") && len(words) > 1 {
		variable = words[1]
	}
	for i := range g.volumes {
		if g.volumes[i].is(by, what) {
			g.env[variable] = g.nameOf(&g.volumes[i])
			return true
		}
	}
	return false
}

func (v *Volume) is(by, what string) bool {
	switch by {
	case "fs_label":
		return v.Label == what
	case "file":
		p, err := clean(what)
		if err != nil {
			return false
		}
		_, err = fs.Stat(v.FS, p)
		return err == nil
	default:
		return v.UUID != "" && strings.EqualFold(v.UUID, what)
	}
}

// include runs another configuration in this one's place.
func (g *grub) include(args []string) (bool, error) {
	if len(args) == 0 {
		return false, nil
	}
	f, err := g.file(args[0])
	if err != nil {
		return false, nil //nolint:nilerr // as when it isn't there
	}
	text, err := g.read(f)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if g.depth++; g.depth > maxDepth {
		return false, errSteps
	}
	defer func() { g.depth-- }()
	return true, g.script(text)
}

// read counts what is read, so that files that read each other come to an end.
func (g *grub) read(f File) (string, error) {
	if g.bytes > maxBytes {
		return "", errSteps
	}
	text, err := read(f)
	g.bytes += len(text) + 1<<10
	return text, err
}

// loadEnv reads an environment block: the names that are given, or all.
func (g *grub) loadEnv(args []string) {
	name := g.env["prefix"] + "/grubenv"
	var only []string
	for i := 0; i < len(args); i++ {
		switch a := args[i]; {
		case (a == "--file" || a == "-f") && i+1 < len(args):
			i++
			name = args[i]
		case strings.HasPrefix(a, "--file="):
			name = a[len("--file="):]
		case !strings.HasPrefix(a, "-"):
			only = append(only, a)
		}
	}
	f, err := g.file(name)
	if err != nil {
		return
	}
	text, err := g.read(f)
	if err != nil {
		return
	}
	for key, value := range parseEnv(text) {
		if len(only) == 0 || slices.Contains(only, key) {
			g.env[key] = value
		}
	}
}

// parseEnv reads an environment block: lines of name=value, and # that fill it up.
func parseEnv(text string) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if name, value, ok := strings.Cut(line, "="); ok && isName(name) && len(out) < maxEntries {
			out[name] = strings.ReplaceAll(value, `\\`, `\`)
		}
	}
	return out
}

func (g *grub) linux(args []string) (bool, error) {
	if len(args) == 0 {
		return false, errors.New("linux has no file")
	}
	f, err := g.file(args[0])
	if err != nil {
		return false, err
	}
	g.kernel, g.initrds, g.cmdline = &f, nil, joined(args[1:])
	return true, nil
}

func (g *grub) initrd(args []string) (bool, error) {
	g.initrds = nil
	for _, a := range args {
		if strings.HasPrefix(a, "newc:") {
			return false, fmt.Errorf("initrd %s: parts made by GRUB can't be had", path.Base(a))
		}
		f, err := g.file(a)
		if err != nil {
			return false, err
		}
		g.initrds = append(g.initrds, f)
	}
	return true, nil
}
