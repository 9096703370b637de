package catalog

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// MaxIndex bounds an index of versions: Ubuntu's simplestreams has 10 MB.
const MaxIndex = 64 << 20

// ErrNoVersion means that an index names no version of the channel.
var ErrNoVersion = errors.New("no version")

// Lookup reads an index and returns the channel's versions, newest first.
func (e *Entry) Lookup(index []byte, channel, arch string) ([]string, error) {
	words, err := e.words(channel, arch)
	if err != nil {
		return nil, err
	}
	if len(index) > MaxIndex {
		return nil, fmt.Errorf("the index of %s has over %d bytes", e.Name, MaxIndex)
	}
	var found []string
	switch e.Versions.Kind {
	case "pattern":
		found, err = byPattern(index, fillQuoted(e.Versions.Pattern, words))
	case "coreos-stream":
		found, err = coreOSStream(index, words["arch"])
	case "simplestreams":
		found, err = simplestreams(index, fill(e.Versions.Product, words))
	case "github":
		found, err = githubReleases(index, words["channel"])
	default:
		return nil, fmt.Errorf("versions of %s can't be looked up: name one", e.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the versions of %s: %w", e.Name, err)
	}
	found = slices.DeleteFunc(found, func(v string) bool { return !versionPattern.MatchString(v) || strings.Contains(v, "..") })
	slices.SortFunc(found, func(a, b string) int { return -compareVersions(a, b) })
	if found = slices.Compact(found); len(found) == 0 {
		return nil, fmt.Errorf("the index of %s has none in %s for %s: %w", e.Name, channel, orDefault(arch), ErrNoVersion)
	}
	return found, nil
}

// fillQuoted puts words into a regular expression as they are.
func fillQuoted(pattern string, words map[string]string) string {
	quoted := map[string]string{}
	for w, v := range words {
		quoted[w] = regexp.QuoteMeta(v)
	}
	return fill(pattern, quoted)
}

func byPattern(index []byte, pattern string) ([]string, error) {
	re, err := regexp.Compile(pattern)
	if err != nil || re.NumSubexp() != 1 {
		return nil, fmt.Errorf("pattern %q has not one group", pattern)
	}
	var found []string
	for _, m := range re.FindAllSubmatch(index, 10_000) {
		found = append(found, string(m[1]))
	}
	return found, nil
}

// coreOSStream reads stream metadata of CoreOS (github.com/coreos/stream-metadata-go):
// a stream has one release of each artifact at a time.
func coreOSStream(index []byte, arch string) ([]string, error) {
	var s struct {
		Architectures map[string]struct {
			Artifacts map[string]struct {
				Release string `json:"release"`
			} `json:"artifacts"`
		} `json:"architectures"`
	}
	if err := json.Unmarshal(index, &s); err != nil {
		return nil, fmt.Errorf("stream metadata: %w", err)
	}
	if r := s.Architectures[arch].Artifacts["metal"].Release; r != "" {
		return []string{r}, nil
	}
	return nil, nil
}

// simplestreams reads a products file of format products:1.0 (lp:simplestreams).
func simplestreams(index []byte, product string) ([]string, error) {
	var s struct {
		Format   string `json:"format"`
		Products map[string]struct {
			Versions map[string]json.RawMessage `json:"versions"`
		} `json:"products"`
	}
	if err := json.Unmarshal(index, &s); err != nil {
		return nil, fmt.Errorf("simplestreams: %w", err)
	}
	if s.Format != "products:1.0" {
		return nil, fmt.Errorf("simplestreams: format %q, not products:1.0", s.Format)
	}
	var found []string
	for v := range s.Products[product].Versions {
		found = append(found, v)
	}
	return found, nil
}

// githubReleases reads a page of GitHub's list of releases. Drafts are left out,
// prereleases as well unless the channel is named so.
func githubReleases(index []byte, channel string) ([]string, error) {
	var all []struct {
		Tag        string `json:"tag_name"`
		Draft      bool   `json:"draft"`
		Prerelease bool   `json:"prerelease"`
	}
	if err := json.Unmarshal(index, &all); err != nil {
		return nil, fmt.Errorf("releases on GitHub: %w", err)
	}
	var found []string
	for _, r := range all {
		if !r.Draft && r.Prerelease == (channel == "prerelease") {
			found = append(found, r.Tag)
		}
	}
	return found, nil
}

var runs = regexp.MustCompile(`[0-9]+|[A-Za-z]+`)

// compareVersions orders versions by their numbers and words; a word, such as
// alpha or rc, comes before nothing and before numbers.
func compareVersions(a, b string) int {
	x, y := runs.FindAllString(a, -1), runs.FindAllString(b, -1)
	for i := range min(len(x), len(y)) {
		if c := compareRuns(x[i], y[i]); c != 0 {
			return c
		}
	}
	switch {
	case len(x) > len(y):
		return sign(isNumber(x[len(y)]))
	case len(y) > len(x):
		return -sign(isNumber(y[len(x)]))
	}
	return strings.Compare(a, b)
}

func compareRuns(a, b string) int {
	if isNumber(a) != isNumber(b) {
		return sign(isNumber(a))
	}
	if isNumber(a) {
		a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
		if len(a) != len(b) {
			return sign(len(a) > len(b))
		}
	}
	return strings.Compare(a, b)
}

func isNumber(s string) bool { return s[0] >= '0' && s[0] <= '9' }

func sign(positive bool) int {
	if positive {
		return 1
	}
	return -1
}

// Near returns up to n versions that are most like one that isn't there.
func Near(version string, among []string, n int) []string {
	near := slices.Clone(among)
	slices.SortStableFunc(near, func(a, b string) int { return common(version, b) - common(version, a) })
	return near[:min(n, len(near))]
}

func common(a, b string) int {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}
