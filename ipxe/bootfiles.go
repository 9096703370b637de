package ipxe

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxBootFile bounds what is read of one boot file. The largest of Debian 13's
// is under 5 MB.
const maxBootFile = 32 << 20

// LoadedFile is a boot file in memory.
type LoadedFile struct {
	BootFile
	// Path is the file it was read from.
	Path string
	// Digest is `sha256:` and the hexadecimal SHA-256 of Content.
	Digest string
	// Content must not be altered.
	Content []byte
}

// Missing is a boot file that was not found.
type Missing struct {
	BootFile
	Dirs []string
}

// String says what to do about it.
func (m Missing) String() string {
	s := fmt.Sprintf("boot file %s is missing: no %s in %s", m.Name, strings.Join(m.Sources, " or "), strings.Join(m.Dirs, ", "))
	if m.Package != "" {
		s += fmt.Sprintf("; install it with `apt-get install %s`", m.Package)
	}
	return s
}

// ErrNoBootFiles means that there is nothing at all to boot machines with.
var ErrNoBootFiles = errors.New("no boot file found: install them with `apt-get install ipxe`, or name their directory with --ipxe-dir")

// BootFiles are the boot files that are there. It never changes.
type BootFiles struct {
	files   map[string]LoadedFile
	missing []Missing
}

// Load reads the table's files from dirs, of which earlier ones go first; none:
// DefaultDirs. A file that is missing is no error (see Missing); one that cannot
// be read or is not a regular file is, and so is finding no boot file at all.
func Load(dirs ...string) (*BootFiles, error) {
	if len(dirs) == 0 {
		dirs = DefaultDirs()
	}
	b := &BootFiles{files: map[string]LoadedFile{}}
	for _, row := range Table() {
		path, content, err := find(dirs, row.Sources)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if !row.Optional {
				b.missing = append(b.missing, Missing{BootFile: row, Dirs: dirs})
			}
			continue
		case err != nil:
			return nil, fmt.Errorf("reading boot file %s: %w", row.Name, err)
		}
		sum := sha256.Sum256(content)
		b.files[row.Name] = LoadedFile{BootFile: row, Path: path, Digest: "sha256:" + hex.EncodeToString(sum[:]), Content: content}
	}
	if len(b.files) == 0 {
		return nil, fmt.Errorf("looking in %s: %w", strings.Join(dirs, ", "), ErrNoBootFiles)
	}
	return b, nil
}

// find reads the first of the sources that is in one of the dirs.
func find(dirs, sources []string) (string, []byte, error) {
	for _, dir := range dirs {
		for _, source := range sources {
			path := filepath.Join(dir, source)
			content, err := readBounded(path)
			if !errors.Is(err, fs.ErrNotExist) {
				return path, content, err
			}
		}
	}
	return "", nil, fs.ErrNotExist
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	content, err := io.ReadAll(io.LimitReader(f, maxBootFile+1))
	if err != nil {
		return nil, err
	}
	if len(content) > maxBootFile || len(content) == 0 {
		return nil, fmt.Errorf("%s has %d bytes, want 1 to %d", path, info.Size(), maxBootFile)
	}
	return content, nil
}

// Missing lists the files that should be there and are not.
func (b *BootFiles) Missing() []Missing { return slices.Clone(b.missing) }

// File returns the boot file of that name.
func (b *BootFiles) File(name string) (LoadedFile, bool) {
	f, ok := b.files[name]
	return f, ok
}

// All returns the boot files in the table's order.
func (b *BootFiles) All() []LoadedFile {
	var all []LoadedFile
	for _, row := range Table() {
		if f, ok := b.files[row.Name]; ok {
			all = append(all, f)
		}
	}
	return all
}

// NameFor returns the name of the boot file that a client of that architecture
// is to be told, if it is there; with secureBoot the first of a signed chain. It
// never returns an unsigned file for a machine with Secure Boot.
func (b *BootFiles) NameFor(arch Arch, secureBoot bool) (string, bool) {
	for _, row := range Table() {
		if !slices.Contains(row.Archs, arch) || row.SecureBoot != secureBoot {
			continue
		}
		if _, ok := b.files[row.Name]; ok {
			return row.Name, true
		}
	}
	return "", false
}

// memory is a file in memory as Open returns it.
type memory struct{ *bytes.Reader }

// Close does nothing.
func (memory) Close() error { return nil }
