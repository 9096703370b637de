package catalog

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
)

// ErrNotOffered means that an entry has no such channel or architecture.
var ErrNotOffered = errors.New("not offered")

// Reference is what a person asks for: NAME, NAME@CHANNEL, NAME@VERSION or
// NAME@CHANNEL/VERSION.
type Reference struct{ Name, Channel, Version string }

// versionPattern is what a version may look like: it becomes part of URLs.
var versionPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+~-]{0,62}$`)

// ParseReference splits what a person asks for. Whether a lone word after @ is
// a channel or a version is the entry's to say: see Entry.Resolve.
func ParseReference(s string) (Reference, error) {
	name, rest, found := strings.Cut(s, "@")
	r := Reference{Name: name, Version: rest}
	if channel, version, ok := strings.Cut(rest, "/"); ok {
		r.Channel, r.Version = channel, version
	}
	for _, part := range []string{r.Channel, r.Version} {
		if part != "" && (!versionPattern.MatchString(part) || strings.Contains(part, "..")) {
			return r, fmt.Errorf("%q is neither a channel nor a version", part)
		}
	}
	if !namePattern.MatchString(name) || found && r.Version == "" {
		return r, fmt.Errorf("%q: want NAME, NAME@VERSION, NAME@CHANNEL or NAME@CHANNEL/VERSION", s)
	}
	return r, nil
}

// Resolve says which channel and version a reference means; an empty version
// has to be looked up.
func (e *Entry) Resolve(r Reference) (Reference, error) {
	if len(e.Files) == 0 {
		return r, fmt.Errorf("%s has no releases to fetch: %s: %w", e.Name, e.Notes, ErrNotOffered)
	}
	switch {
	case r.Channel == "" && slices.Contains(e.Channels, r.Version):
		r.Channel, r.Version = r.Version, ""
	case r.Channel == "":
		r.Channel = e.channelOf(r.Version)
	case !slices.Contains(e.Channels, r.Channel):
		return r, fmt.Errorf("%s has no channel %q, but %s: %w", e.Name, r.Channel, strings.Join(e.Channels, ", "), ErrNotOffered)
	}
	return r, nil
}

// channelOf returns the channel whose versions begin like this one (9 for
// 9.6-20250531.0), else the first.
func (e *Entry) channelOf(version string) string {
	for _, c := range e.Channels {
		if strings.HasPrefix(version, c+".") || strings.HasPrefix(version, c+"-") {
			return c
		}
	}
	return e.Channels[0]
}

// Release is one version of an entry for one architecture.
type Release struct {
	Entry                  *Entry
	Channel, Version, Arch string
	Files                  []ReleaseFile
}

// ReleaseFile is a file of a release with its URLs.
type ReleaseFile struct {
	Role, URL, Name string
	Checksums       string
	Signature       *Signature
	Format          string
}

// Release makes the URLs of a version. arch is ours; empty: x86_64.
func (e *Entry) Release(channel, version, arch string) (*Release, error) {
	words, err := e.words(channel, arch)
	if err != nil {
		return nil, err
	}
	if !versionPattern.MatchString(version) {
		return nil, fmt.Errorf("%q is no version of %s", version, e.Name)
	}
	words["version"] = version
	r := &Release{Entry: e, Channel: channel, Version: version, Arch: orDefault(arch)}
	for _, f := range e.Files {
		out := ReleaseFile{Role: f.Role, URL: fill(f.URL, words), Format: f.Format}
		out.Name = path.Base(out.URL)
		words["file"] = out.Name
		out.Checksums = fill(f.Checksums, words)
		if f.Signature != nil {
			s := *f.Signature
			s.URL = fill(s.URL, words)
			out.Signature = &s
		}
		r.Files = append(r.Files, out)
	}
	return r, nil
}

// Index returns the URL that the channel's versions are looked up at.
func (e *Entry) Index(channel, arch string) (string, error) {
	words, err := e.words(channel, arch)
	return fill(e.Versions.URL, words), err
}

func (e *Entry) words(channel, arch string) (map[string]string, error) {
	arch = orDefault(arch)
	theirs, ok := e.Architectures[arch]
	if !ok {
		return nil, fmt.Errorf("%s isn't published for %s, but for %s: %w", e.Name, arch,
			strings.Join(slices.Sorted(maps.Keys(e.Architectures)), ", "), ErrNotOffered)
	}
	major, _, _ := strings.Cut(channel, ".")
	number := e.Numbers[channel]
	return map[string]string{"channel": channel, "arch": theirs, "major": major, "number": number}, nil
}

func orDefault(arch string) string {
	if arch == "" {
		return "x86_64"
	}
	return arch
}

func fill(text string, words map[string]string) string {
	for w, value := range words {
		text = strings.ReplaceAll(text, "{"+w+"}", value)
	}
	return text
}
