// Package docs compares what the documentation says with the code: links lead
// somewhere, commands and flags exist, resources are accepted, errors are the
// ones that come, and no metric, state, field or file is left out.
package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

// page is one Markdown file.
type page struct {
	// path from the root of the repository.
	path string
	text string
}

// block is one fenced block.
type block struct {
	page page
	// line of the fence, from 1.
	line int
	// info is what follows the fence: `yaml`, `console`.
	info string
	text string
}

// pages returns every page that people write or read.
func pages(t *testing.T) []page {
	t.Helper()
	var out []page
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/cli/*.md"} {
		files, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			path, err := filepath.Rel(root, f)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, page{filepath.ToSlash(path), string(text)})
		}
	}
	if len(out) < 20 {
		t.Fatalf("found only %d pages", len(out))
	}
	return out
}

// written are the pages that people write: not those made from the code.
func written(t *testing.T) []page {
	t.Helper()
	return slices.DeleteFunc(pages(t), func(p page) bool {
		return strings.HasPrefix(p.path, "docs/cli/") || p.path == "docs/actions.md"
	})
}

func pageNamed(t *testing.T, path string) page {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return page{path, string(text)}
}

// blocks returns a page's fenced blocks.
func (p page) blocks() []block {
	var out []block
	var open *block
	for i, line := range strings.Split(p.text, "\n") {
		info, fence := strings.CutPrefix(strings.TrimLeft(line, " "), "```")
		switch {
		case fence && open == nil:
			open = &block{page: p, line: i + 1, info: info}
		case fence:
			out = append(out, *open)
			open = nil
		case open != nil:
			open.text += line + "\n"
		}
	}
	return out
}

// prose returns the page without its fenced blocks.
func (p page) prose() string {
	var out strings.Builder
	inside := false
	for line := range strings.SplitSeq(p.text, "\n") {
		if strings.HasPrefix(strings.TrimLeft(line, " "), "```") {
			inside = !inside
			continue
		}
		if !inside {
			out.WriteString(line + "\n")
		}
	}
	return out.String()
}

var (
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	dropped = regexp.MustCompile(`[^\pL\pN _-]`)
)

// anchors returns what headings can be linked by, as GitHub makes them.
func (p page) anchors() []string {
	var out []string
	for _, m := range heading.FindAllStringSubmatch(p.prose(), -1) {
		text := strings.ReplaceAll(strings.ToLower(m[1]), "`", "")
		out = append(out, strings.ReplaceAll(dropped.ReplaceAllString(text, ""), " ", "-"))
	}
	return out
}

func TestLinks(t *testing.T) {
	all := map[string]page{}
	for _, p := range pages(t) {
		all[p.path] = p
	}
	for _, p := range all {
		for _, m := range link.FindAllStringSubmatch(p.prose(), -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			path := p.path
			if target != "" {
				path = filepath.ToSlash(filepath.Join(filepath.Dir(p.path), target))
			}
			if _, err := os.Stat(filepath.Join(root, path)); err != nil {
				t.Errorf("%s links to %s, which is not there", p.path, m[1])
				continue
			}
			if to, ok := all[path]; ok && anchor != "" && !slices.Contains(to.anchors(), anchor) {
				t.Errorf("%s links to %s: %s has no such heading", p.path, m[1], path)
			}
		}
	}
}

func TestIndex(t *testing.T) {
	index := pageNamed(t, "docs/README.md")
	for _, p := range pages(t) {
		name, inDocs := strings.CutPrefix(p.path, "docs/")
		if !inDocs || name == "README.md" || strings.Contains(name, "/") {
			continue
		}
		if !strings.Contains(index.text, "("+name+")") {
			t.Errorf("docs/README.md does not list %s", name)
		}
	}
}
