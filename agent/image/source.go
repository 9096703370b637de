package image

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"sort"
	"strings"

	"github.com/bedplate/bedplate/agent/disk/input"
	"github.com/bedplate/bedplate/agent/step"
	"github.com/bedplate/bedplate/images/chunk"
	"github.com/bedplate/bedplate/images/format/compression"
)

// Formats of an image, by the name they have in an Image.
const (
	formatRaw   = "raw"
	formatQcow2 = "qcow2"
)

var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// source is what is to be written, where to, and how.
type source struct {
	name        string
	url         string
	digest      string
	format      string
	compression compression.Kind // Empty: told from the first bytes.
	size        int64
	root        int64
	disk        string
	grow        bool
	verify      bool
	// index is the digest of the image's chunk index; nil: it is a file at url.
	index *chunk.Digest
	// chunks is where index and chunks are.
	chunks  string
	compare string
}

// String names the source for people.
func (s source) String() string {
	if s.name != "" {
		return fmt.Sprintf("image %s (%s)", s.name, s.url)
	}
	return s.url
}

// read takes the action's inputs, and the facts about a named image.
func read(req step.Request) (source, error) {
	in := input.Of(req.With)
	s := source{name: in.String("image"), url: in.String("url"), disk: in.Required("disk"), grow: in.Bool("grow"), verify: in.Bool("verify")}
	if (s.name == "") == (s.url == "") {
		in.Fail("image", "give either the name of an Image, or `url`")
	}
	facts := in
	if s.name != "" {
		var err error
		if facts, err = factsOf(req.Images, s.name); err != nil {
			in.Fail("image", "%w", err)
			return s, in.Err()
		}
		s.url, s.root = facts.String("url"), facts.Int("root_partition", 0)
	}
	s.digest, s.size = facts.String("digest"), facts.Size("size_bytes")
	s.format = facts.String("format")
	s.compression = compression.Kind(facts.String("compression"))
	s.compare = in.Choice("compare", compareAuto, compareAlways, compareNever)
	if facts != in {
		chunksOf(facts, &s, req.Server["http_url"])
		override(in, &s) // What the step says itself goes before what the Image says.
	}
	s.url = absolute(s.url, req.Server["http_url"])
	if s.digest = strings.ToLower(s.digest); s.digest != "" && !digestForm.MatchString(s.digest) {
		in.Fail("digest", "%q is not sha256: and 64 hexadecimal digits", s.digest)
	}
	if !slices.Contains([]string{"", formatRaw, formatQcow2}, s.format) {
		in.Fail("format", "%q is none of raw, qcow2", s.format)
	}
	known := []compression.Kind{"", compression.None, compression.Gzip, compression.Bzip2, compression.XZ, compression.Zstd}
	if !slices.Contains(known, s.compression) {
		in.Fail("compression", "%q is none of none, gzip, bzip2, xz, zstd", s.compression)
	}
	err := in.Err()
	if facts != in {
		err = errors.Join(err, factsErr(s.name, facts))
	}
	return s, err
}

func factsOf(images map[string]any, name string) (*input.Reader, error) {
	m, ok := images[name].(map[string]any)
	if ok {
		return input.Of(m), nil
	}
	var names []string
	for n := range images {
		names = append(names, n)
	}
	sort.Strings(names)
	return nil, fmt.Errorf("there is no image %q among those that the workflow names (%s): name it in an input of the workflow", name, strings.Join(names, ", "))
}

// factsErr reports wrong facts about an image, and lets unknown ones be.
func factsErr(name string, facts *input.Reader) error {
	if err := facts.Known(); err != nil {
		return fmt.Errorf("image %s: %w", name, err)
	}
	return nil
}

func override(in *input.Reader, s *source) {
	for name, field := range map[string]*string{"digest": &s.digest, "format": &s.format, "compression": (*string)(&s.compression)} {
		if v := in.String(name); v != "" {
			*field = v
		}
	}
	if in.String("digest") != "" || in.String("format") != "" || in.String("compression") != "" {
		s.index = nil // They are about the file.
	}
	if n := in.Size("size_bytes"); n > 0 {
		s.size = n
	}
}

// chunksOf takes where an image's chunks are, if the server has it in chunks.
func chunksOf(facts *input.Reader, s *source, base string) {
	index, url := facts.String("index"), facts.String("chunks_url")
	if index == "" {
		return
	}
	d, err := chunk.ParseDigest(index)
	if err != nil {
		facts.Fail("index", "%w", err)
		return
	}
	s.index, s.chunks = &d, absolute(url, base)
}

// absolute completes the URL of an image in the server's own store.
func absolute(url, base string) string {
	if strings.HasPrefix(url, "/") && base != "" {
		return strings.TrimSuffix(base, "/") + url
	}
	return url
}

// recognise settles what the first bytes leave open, and fails where they show
// something other than what was said.
func (s *source) recognise(head []byte) error {
	found := compression.Detect(head)
	if s.compression != "" && s.compression != found {
		return fmt.Errorf("%s: expected compression %s, but the file begins like %s: correct the Image's compression", s, s.compression, found)
	}
	s.compression = found
	return nil
}
