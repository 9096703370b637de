package entry

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// fromGRUB runs a configuration up to the menu, chooses the default, and runs that.
func fromGRUB(volumes []Volume, config File, uefi bool) (Entry, error) {
	text, err := read(config)
	if err != nil {
		return Entry{}, err
	}
	g := newGRUB(volumes, config, uefi)
	if err := g.script(text); err != nil && !errors.Is(err, errBoot) {
		return Entry{}, err
	}
	if len(g.menu) > 0 && g.kernel == nil {
		if err := g.choose(g.menu, g.env["default"], 0); err != nil {
			return Entry{}, err
		}
	}
	if g.kernel == nil {
		return Entry{}, errors.New("its default entry boots no Linux kernel")
	}
	return Entry{Title: g.title, Source: config.Path, Kernel: *g.kernel, Initrds: g.initrds, Cmdline: g.cmdline}, nil
}

// grub is GRUB, as far as finding a kernel goes.
type grub struct {
	volumes []Volume
	config  File
	env     map[string]string
	funcs   map[string][]node
	menu    []item
	steps   int
	bytes   int // of text that variables were expanded to
	depth   int
	chosen  bool // an entry is being run

	title   string
	kernel  *File
	initrds []File
	cmdline string
}

// item is an entry of the menu.
type item struct {
	title, id string
	body      []node
	submenu   bool
	// bls is an entry of the Boot Loader Specification.
	bls *blsEntry
}

// Bounds of a run.
const (
	maxSteps = 100_000
	maxDepth = 32
	maxBytes = 16 << 20
)

var (
	errSteps = errors.New("the configuration does not come to an end")
	// errBoot is `boot`: nothing after it is run.
	errBoot = errors.New("boot")
)

func newGRUB(volumes []Volume, config File, uefi bool) *grub {
	g := &grub{volumes: volumes, config: config, funcs: map[string][]node{}, env: map[string]string{
		"grub_cpu": "x86_64", "grub_platform": "pc", "feature_menuentry_id": "y", "feature_menuentry_options": "y", "feature_timeout_style": "y",
		"feature_default_font_path": "y", "feature_all_video_module": "y", "feature_platform_search_hint": "y", "feature_200_final": "y",
		"menuentry_id_option": "--id",
	}}
	if uefi {
		g.env["grub_platform"] = "efi"
	}
	g.env["root"] = g.nameOf(config.Volume)
	g.env["prefix"] = "(" + g.env["root"] + ")/" + path.Dir(config.Path)
	g.env["config_directory"] = g.env["prefix"]
	return g
}

func (g *grub) script(text string) error {
	tokens, err := lex(text)
	if err != nil {
		return err
	}
	nodes, err := parse(tokens)
	if err != nil {
		return err
	}
	_, err = g.run(nodes)
	return err
}

// choose runs the entry that a default names: its place, id or title; in a
// submenu what follows a `>`.
func (g *grub) choose(menu []item, name string, depth int) error {
	if depth > maxDepth {
		return errSteps
	}
	first, rest, _ := strings.Cut(name, ">")
	i := slices.IndexFunc(menu, func(it item) bool { return it.id == first || it.title == first })
	if i < 0 {
		n, err := strconv.Atoi(first)
		if err != nil || n < 0 || n >= len(menu) {
			n = 0 // what GRUB does with a default that isn't there
		}
		i = n
	}
	if len(menu) == 0 {
		return errors.New("its menu is empty")
	}
	it := menu[i]
	g.title = it.title
	switch {
	case it.bls != nil:
		return g.bootBLS(it.bls)
	case it.submenu:
		g.menu = nil
		if _, err := g.run(it.body); err != nil {
			return err
		}
		return g.choose(g.menu, rest, depth+1)
	}
	g.chosen, g.env["chosen"] = true, it.title
	if _, err := g.run(it.body); err != nil && !errors.Is(err, errBoot) {
		return err
	}
	return nil
}

// run runs nodes and returns whether the last command was true.
func (g *grub) run(nodes []node) (ok bool, err error) {
	if g.depth++; g.depth > maxDepth {
		return false, errSteps
	}
	defer func() { g.depth-- }()
	ok = true
	for _, n := range nodes {
		if g.steps++; g.steps > maxSteps {
			return false, errSteps
		}
		switch n := n.(type) {
		case command:
			ok, err = g.command(g.words(n))
		case condition:
			ok, err = g.condition(n)
		case loop:
			ok, err = g.loop(n)
		case function:
			g.funcs[n.name] = n.body
		case menuItem:
			err = g.addItem(n)
		}
		if err != nil {
			return false, err
		}
	}
	return ok, nil
}

func (g *grub) condition(n condition) (bool, error) {
	for _, b := range n.branches {
		ok, err := g.run(b.when)
		if err != nil {
			return false, err
		}
		if ok {
			return g.run(b.then)
		}
	}
	return g.run(n.otherwise)
}

func (g *grub) loop(n loop) (bool, error) {
	if n.variable != "" {
		for _, v := range g.words(command(n.over)) {
			g.env[n.variable] = v
			if _, err := g.run(n.body); err != nil {
				return false, err
			}
		}
		return true, nil
	}
	for {
		ok, err := g.run(n.when)
		if err != nil || ok == n.until {
			return true, err
		}
		if _, err := g.run(n.body); err != nil {
			return false, err
		}
		if g.steps++; g.steps > maxSteps {
			return false, errSteps
		}
	}
}

// addItem adds a menuentry or submenu: its title is the first word that is no
// option, its id that of --id or else the title.
func (g *grub) addItem(n menuItem) error {
	if len(g.menu) >= maxEntries {
		return fmt.Errorf("it has more than %d entries", maxEntries)
	}
	it := item{body: n.body, submenu: n.submenu}
	words := g.words(n.words)
	for i := 0; i < len(words); i++ {
		switch w := words[i]; {
		case w == "--id" && i+1 < len(words):
			i++
			it.id = words[i]
		case strings.HasPrefix(w, "--id="):
			it.id = w[len("--id="):]
		case (w == "--class" || w == "--users" || w == "--hotkey") && i+1 < len(words):
			i++
		case strings.HasPrefix(w, "--"):
		case it.title == "":
			it.title = w
		}
	}
	if it.id == "" {
		it.id = it.title
	}
	g.menu = append(g.menu, it)
	return nil
}

// words expands variables. One that isn't quoted is split at blanks, and gone
// when it is empty.
func (g *grub) words(c command) []string {
	var out []string
	for _, w := range c {
		var text strings.Builder
		keep := false
		for _, p := range w {
			s := p.text
			if p.variable {
				s = g.env[p.text]
			}
			if p.variable && !p.quoted && strings.ContainsAny(s, " \t\n") {
				fields := strings.Fields(s)
				for i, f := range fields {
					text.WriteString(f)
					if i < len(fields)-1 {
						out = append(out, text.String())
						text.Reset()
					}
				}
				keep = keep || len(fields) > 0
				continue
			}
			text.WriteString(s)
			keep = keep || s != "" || p.quoted
		}
		if keep {
			out = append(out, text.String())
		}
		if g.bytes += text.Len(); g.bytes > maxBytes {
			g.steps = maxSteps // the next one is too many
			return nil
		}
	}
	return out
}
