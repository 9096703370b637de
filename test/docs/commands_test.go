package docs

import (
	"fmt"
	"maps"
	"regexp"
	"strings"
	"testing"
)

// command is one command as docs/cli has it; a test of cmd/bedplate keeps that
// the same as the program.
type command struct {
	// flags by name with their dashes: whether a value follows.
	flags map[string]bool
	// shared are those of the commands below as well.
	shared map[string]bool
	subs   map[string]*command
	// takes: it takes arguments itself, besides having commands below it.
	takes bool
}

func newCommand() *command {
	return &command{flags: map[string]bool{"--help": false, "-h": false}, shared: map[string]bool{}, subs: map[string]*command{}}
}

// at returns the command below c of that path, and makes it if it isn't there.
func (c *command) at(path []string) *command {
	for _, w := range path {
		if c.subs[w] == nil {
			c.subs[w] = newCommand()
		}
		c = c.subs[w]
	}
	return c
}

// inherit gives c and the commands below it the flags of those above.
func (c *command) inherit(from map[string]bool) {
	maps.Copy(c.shared, from)
	maps.Copy(c.flags, c.shared)
	for _, s := range c.subs {
		s.inherit(c.shared)
	}
}

var (
	flagRow = regexp.MustCompile("^\\| `((?:-[a-zA-Z], )?--[a-z0-9-]+)( [^`]+)?` \\|")
	alias   = regexp.MustCompile(`^Also: (.*)\.$`)
)

// reference reads docs/cli.
func reference(t *testing.T) *command {
	t.Helper()
	top := newCommand()
	for _, p := range pages(t) {
		if strings.HasPrefix(p.path, "docs/cli/") {
			top.read(p)
		}
	}
	top.inherit(nil)
	if len(top.subs) < 10 || len(top.shared) < 5 {
		t.Fatalf("docs/cli has %d commands and %d flags of all: it is not understood", len(top.subs), len(top.shared))
	}
	return top
}

// read takes in one page of the reference.
func (c *command) read(p page) {
	now := c
	var path []string
	to := now.flags
	for line := range strings.SplitSeq(p.text, "\n") {
		if m := heading.FindStringSubmatch(line); m != nil && strings.HasPrefix(m[1], "bedplate") {
			path = strings.Fields(m[1])[1:]
			now = c.at(path)
			to = now.flags
		}
		if usage, ok := strings.CutPrefix(line, "bedplate "+strings.Join(path, " ")+" "); ok && len(path) > 0 && usage != "[flags]" {
			now.takes = true
		}
		if strings.HasPrefix(line, "All of these commands have") || strings.HasPrefix(line, "Every command has") {
			to = now.shared
		}
		if m := alias.FindStringSubmatch(line); m != nil && len(path) > 0 {
			for a := range strings.SplitSeq(strings.ReplaceAll(m[1], "`", ""), ", ") {
				c.at(path[:len(path)-1]).subs[a] = now
			}
		}
		if m := flagRow.FindStringSubmatch(line); m != nil {
			for f := range strings.SplitSeq(m[1], ", ") {
				to[f] = m[2] != ""
			}
		}
	}
}

// check returns what is wrong with the words after `bedplate`. A word that is
// an ellipsis or a placeholder in capitals stands for anything.
func (c *command) check(words []string) error {
	path, positional := "bedplate", 0
	for i := 0; i < len(words); i++ {
		w := words[i]
		switch {
		case w == "--": // the rest is another program's
			return nil
		case w == "…" || w == "...":
			return nil
		case strings.HasPrefix(w, "-") && w != "-":
			name, _, joined := strings.Cut(w, "=")
			takes, ok := c.flags[name]
			if !ok {
				return fmt.Errorf("`%s` has no flag %s", path, name)
			}
			if takes && !joined {
				i++
			}
		case len(c.subs) > 0 && positional == 0:
			sub := c.subs[w]
			if sub == nil && c.takes {
				positional++
				continue
			}
			if sub == nil {
				return fmt.Errorf("`%s` has no command %s", path, w)
			}
			c, path = sub, path+" "+w
		default:
			positional++
		}
	}
	return nil
}

// split cuts a line into words as a shell does, and stops at a pipe, a
// redirection or the end of a command. rest is what follows.
func split(line string) (words []string, rest string) {
	var word strings.Builder
	begun, quote := false, rune(0)
	end := func() {
		if begun {
			words = append(words, word.String())
		}
		word.Reset()
		begun = false
	}
	for i, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, begun = r, true
		case r == ' ' || r == '\t':
			end()
		case strings.ContainsRune("|;&>()#", r) && (r != '#' || !begun):
			end()
			return words, line[i+1:]
		default:
			word.WriteRune(r)
			begun = true
		}
	}
	end()
	return words, ""
}

// uses returns every use of bedplate in a line of shell.
func uses(line string) [][]string {
	var out [][]string
	for line != "" {
		words, rest := split(line)
		for len(words) > 0 && (strings.Contains(words[0], "=") || words[0] == "sudo" || words[0] == "$") {
			words = words[1:]
		}
		if len(words) > 0 && (words[0] == "bedplate" || strings.HasSuffix(words[0], "/bedplate")) {
			out = append(out, words[1:])
			// `bedplate lab exec -- bedplate serve` is a use inside a use.
			for i, w := range words[1:] {
				if w == "--" && i+2 < len(words) && words[i+2] == "bedplate" {
					out = append(out, words[i+3:])
				}
			}
		}
		line = rest
	}
	return out
}

var inline = regexp.MustCompile("`([^`\n]+)`")

func TestCommands(t *testing.T) {
	top := reference(t)
	n := 0
	check := func(where, line string) {
		for _, words := range uses(line) {
			n++
			if err := top.check(words); err != nil {
				t.Errorf("%s: %s: %v", where, strings.TrimSpace(line), err)
			}
		}
	}
	for _, p := range written(t) {
		for _, b := range p.blocks() {
			if b.info == "text" || b.info == "ini" || strings.HasPrefix(b.info, "yaml") {
				continue
			}
			for line := range strings.SplitSeq(strings.ReplaceAll(b.text, "\\\n", " "), "\n") {
				command, isCommand := strings.CutPrefix(line, "$ ")
				if b.info == "console" && !isCommand {
					continue // output
				}
				check(fmt.Sprintf("%s:%d", p.path, b.line), command)
			}
		}
		for _, m := range inline.FindAllStringSubmatch(p.prose(), -1) {
			if strings.HasPrefix(m[1], "bedplate ") {
				check(p.path, m[1])
			}
		}
	}
	if n < 50 {
		t.Errorf("only %d commands were found: the pages are not understood", n)
	}
}

func TestCommandCheck(t *testing.T) {
	top := reference(t)
	for _, tt := range []struct{ line, want string }{
		{"bedplate machine list -l role=web", ""},
		{"bedplate workflow run x --machine web-1 -i a=b | tee log", ""},
		{"bedplate lab list --lab other", ""},
		{"bedplate machine lst", "`bedplate machine` has no command lst"},
		{"bedplate machine eventlog web-1", ""},
		{"bedplate machine eventlog clear web-1", ""},
		{"bedplate machine list --colour", "`bedplate machine list` has no flag --colour"},
		{"true | bedplate frobnicate", "`bedplate` has no command frobnicate"},
	} {
		found := uses(tt.line)
		if len(found) != 1 {
			t.Errorf("%s: %d uses of bedplate, want 1", tt.line, len(found))
			continue
		}
		got := ""
		if err := top.check(found[0]); err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.line, got, tt.want)
		}
	}
}
