// Package content keeps charts, manifests and what was rendered of them, each
// file under its digest. A file is durable before its digest is given out.
// Archives are read with bounds on their number of files and their size, and
// no name in one leads out of it.
package content

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
)

const (
	// MaxBytes bounds one file.
	MaxBytes = 64 << 20
	// maxFiles and maxUnpacked bound an archive.
	maxFiles    = 20_000
	maxUnpacked = 256 << 20
)

// ErrMissing means that there is no such content; it was never uploaded to
// this server, or its data directory was lost.
var ErrMissing = errors.New("there is no such content: apply the stack again from the files that it was made of")

// Store keeps files in a directory.
type Store struct{ dir string }

// Open returns the store in dir, which is made if it isn't there.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the directory of stack content: %w", err)
	}
	return &Store{dir}, nil
}

// Put stores the pieces that next returns until io.EOF.
func (s *Store) Put(_ context.Context, next func() ([]byte, error)) (digest string, size int64, err error) {
	f, err := os.CreateTemp(s.dir, ".new-*")
	if err != nil {
		return "", 0, fmt.Errorf("storing content: %w", err)
	}
	defer func() {
		_ = f.Close()
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	sum := sha256.New()
	for {
		piece, err := next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", 0, err
		}
		if size += int64(len(piece)); size > MaxBytes {
			return "", 0, fmt.Errorf("storing content: more than %d MiB", MaxBytes>>20)
		}
		sum.Write(piece)
		if _, err := f.Write(piece); err != nil {
			return "", 0, fmt.Errorf("storing content: %w", err)
		}
	}
	digest = "sha256:" + hex.EncodeToString(sum.Sum(nil))
	if err := f.Sync(); err != nil {
		return "", 0, fmt.Errorf("storing content: %w", err)
	}
	if err := os.Rename(f.Name(), s.path(digest)); err != nil {
		return "", 0, fmt.Errorf("storing content: %w", err)
	}
	return digest, size, syncDir(s.dir)
}

// PutBytes stores one file.
func (s *Store) PutBytes(ctx context.Context, data []byte) (string, error) {
	sent := false
	digest, _, err := s.Put(ctx, func() ([]byte, error) {
		if sent {
			return nil, io.EOF
		}
		sent = true
		return data, nil
	})
	return digest, err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("storing content: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}

// path is where a digest's file is. ValidDigest keeps it in the directory.
func (s *Store) path(digest string) string {
	return filepath.Join(s.dir, strings.TrimPrefix(digest, "sha256:"))
}

// ValidDigest reports whether d is sha256: and 64 digits.
func ValidDigest(d string) bool {
	text, ok := strings.CutPrefix(d, "sha256:")
	b, err := hex.DecodeString(text)
	return ok && err == nil && len(b) == sha256.Size
}

// Digest is the digest of data.
func Digest(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Get returns a file, and checks that it is what its digest says.
func (s *Store) Get(digest string) ([]byte, error) {
	if !ValidDigest(digest) {
		return nil, fmt.Errorf("reading content %q: not a digest", digest)
	}
	data, err := os.ReadFile(s.path(digest))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("reading content %s: %w", digest, ErrMissing)
	}
	if err != nil {
		return nil, fmt.Errorf("reading content: %w", err)
	}
	if got := Digest(data); got != digest {
		return nil, fmt.Errorf("reading content %s: the file on disk is %s: remove it and apply the stack again", digest, got)
	}
	return data, nil
}

// Remove deletes a file, if it is there.
func (s *Store) Remove(digest string) error {
	if !ValidDigest(digest) {
		return nil
	}
	if err := os.Remove(s.path(digest)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing content: %w", err)
	}
	return nil
}

// Files are the files of an archive by their paths, with slashes.
type Files map[string][]byte

// IsArchive reports whether data is compressed by gzip, as archives are.
func IsArchive(data []byte) bool { return len(data) > 2 && data[0] == 0x1f && data[1] == 0x8b }

// Unpack reads a tar archive compressed by gzip. Links and devices are refused.
func Unpack(data []byte) (Files, error) {
	zip, err := gzip.NewReader(bufio.NewReader(bytes.NewReader(data)))
	if err != nil {
		return nil, fmt.Errorf("unpacking: %w", err)
	}
	archive := tar.NewReader(io.LimitReader(zip, maxUnpacked))
	files := Files{}
	total := 0
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, fmt.Errorf("unpacking: %w", err)
		}
		switch h.Typeflag {
		case tar.TypeDir, tar.TypeXGlobalHeader:
			continue
		case tar.TypeReg:
		default:
			return nil, fmt.Errorf("unpacking: %s is neither a file nor a directory", h.Name)
		}
		name, err := confined(h.Name)
		if err != nil {
			return nil, err
		}
		body, err := io.ReadAll(archive)
		if err != nil {
			return nil, fmt.Errorf("unpacking %s: %w", name, err)
		}
		if total += len(body); total > maxUnpacked || len(files) >= maxFiles {
			return nil, fmt.Errorf("unpacking: more than %d MiB or %d files", maxUnpacked>>20, maxFiles)
		}
		files[name] = body
	}
}

// confined cleans a name, and refuses one that leads out of the archive.
func confined(name string) (string, error) {
	if strings.ContainsAny(name, "\\\x00") || !filepath.IsLocal(filepath.FromSlash(path.Clean(name))) {
		return "", fmt.Errorf("unpacking: %q leads out of the archive", name)
	}
	return path.Clean(name), nil
}
