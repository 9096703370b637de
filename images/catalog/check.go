package catalog

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

var (
	namePattern    = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{0,62}$`)
	gpgFingerprint = regexp.MustCompile(`^([0-9A-F]{40}|[0-9A-F]{64})$`)
	wordPattern    = regexp.MustCompile(`\{[a-z]*\}`)
)

// checker collects what is wrong with an entry, by line.
type checker struct {
	label string
	root  *yaml.Node
	errs  []error
}

// check says everything that is wrong with an entry.
func check(label string, doc *yaml.Node, e *Entry) error {
	c := &checker{label: label, root: doc}
	c.need(namePattern.MatchString(e.Name), "name: %q: lower-case letters, digits, dots and hyphens", e.Name)
	c.need(e.Title != "", "title: missing")
	c.need(e.Description != "", "description: missing")
	c.oneOf("kind", e.Kind, "disk", "live", "iso")
	c.oneOf("configuration", e.Configuration, "cloud-init", "ignition", "talos", "none")
	c.need(e.FirstBoot != "", "first_boot: missing: say how one knows that it is done")
	c.need(e.Upgrade != "", "upgrade: missing")
	c.need(len(e.Architectures) > 0, "architectures: missing")
	for a := range e.Architectures {
		c.oneOf("architectures", a, "x86_64", "aarch64")
	}
	c.need(len(e.Firmware) > 0, "firmware: missing")
	for _, f := range e.Firmware {
		c.oneOf("firmware", f, "bios", "uefi")
	}
	c.versions(e)
	c.files(e)
	c.keys(e)
	return errors.Join(c.errs...)
}

func (c *checker) versions(e *Entry) {
	if len(e.Files) == 0 {
		return
	}
	c.need(len(e.Channels) > 0, "channels: missing")
	v := e.Versions
	c.oneOf("versions", v.Kind, "", "pattern", "coreos-stream", "simplestreams", "github")
	if v.Kind == "" {
		return
	}
	c.url("versions", v.URL, "channel", "major", "number", "arch")
	if v.Kind == "pattern" {
		re, err := regexp.Compile(fill(v.Pattern, map[string]string{"channel": "c", "arch": "a", "major": "m", "number": "1"}))
		c.need(err == nil && re.NumSubexp() == 1, "versions: pattern %q: a regular expression with one group", v.Pattern)
	}
	c.need(v.Kind != "simplestreams" || v.Product != "", "versions: product is missing")
}

func (c *checker) files(e *Entry) {
	roles := map[string][]string{"disk": {"disk"}, "iso": {"iso"}, "live": {"kernel", "initramfs", "rootfs"}}[e.Kind]
	var seen []string
	for _, f := range e.Files {
		c.oneOf("files", f.Role, roles...)
		c.need(!slices.Contains(seen, f.Role), "files: two are the %s", f.Role)
		seen = append(seen, f.Role)
		c.url("files", f.URL, "channel", "version", "major", "number", "arch")
		if f.Checksums != "" {
			c.url("files", f.Checksums, "channel", "version", "major", "number", "arch", "file")
		}
		c.signature(e, f)
	}
}

func (c *checker) signature(e *Entry, f File) {
	s := f.Signature
	if s == nil {
		return
	}
	c.oneOf("files", s.Kind, "gpg", "minisign", "cosign")
	c.oneOf("files", s.Of, "file", "checksums")
	c.need(s.Of != "checksums" || f.Checksums != "", "files: the checksums are said to be signed, but there are none")
	c.need(len(e.Keys) > 0, "keys: missing: %s is signed", f.Role)
	switch {
	case s.URL != "":
		c.url("files", s.URL, "channel", "version", "major", "number", "arch", "file")
	case s.Kind != "gpg" || s.Of != "checksums":
		c.need(false, "files: the signature of the %s has no url; only a list signed with gpg can hold its own", f.Role)
	}
}

func (c *checker) keys(e *Entry) {
	for _, k := range e.Keys {
		c.need(gpgFingerprint.MatchString(k.Fingerprint), "keys: fingerprint %q: 40 or 64 hexadecimal digits in upper case", k.Fingerprint)
		c.url("keys", k.URL)
	}
}

// url checks a URL with places for some words.
func (c *checker) url(key, text string, words ...string) {
	for _, w := range wordPattern.FindAllString(text, -1) {
		c.need(slices.Contains(words, strings.Trim(w, "{}")), "%s: %s in %s: can be %s", key, w, text, "{"+strings.Join(words, "}, {")+"}")
	}
	u, err := url.Parse(wordPattern.ReplaceAllString(text, "x"))
	c.need(err == nil && u.Scheme == "https" && u.Host != "", "%s: %q: an https URL", key, text)
}

func (c *checker) oneOf(key, value string, words ...string) {
	c.need(slices.Contains(words, value), "%s: %q: can be %s", key, value, strings.Join(words, ", "))
}

// need records an error whose text begins with the key that it is about.
func (c *checker) need(ok bool, format string, args ...any) {
	if ok {
		return
	}
	text := fmt.Sprintf(format, args...)
	key, _, _ := strings.Cut(text, ":")
	c.errs = append(c.errs, fmt.Errorf("%s:%d: %s", c.label, c.line(key), text))
}

// line returns the line of a key at the top of the file; 1 if it isn't there.
func (c *checker) line(key string) int {
	if len(c.root.Content) == 0 {
		return 1
	}
	fields := c.root.Content[0].Content
	for i := 0; i+1 < len(fields); i += 2 {
		if fields[i].Value == key {
			return fields[i].Line
		}
	}
	return 1
}
