// Package source gets releases of the image catalogue from where they are: the
// publisher's site, a mirror, a folder, a bundle or an OCI registry, and keeps
// only what proves to be the publisher's. Whatever it is got from, the same is
// checked: the signature by a key that the catalogue pins, the digest, and the
// length. Transfers resume, are bounded, and end when nothing comes any more.
package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
)

var (
	// ErrNotFound means that the source doesn't have the file.
	ErrNotFound = errors.New("not there")
	// ErrInsecure means that a redirect led from https to something else.
	ErrInsecure = errors.New("not https")
)

// Body is what a source has at a URL.
type Body struct {
	io.ReadCloser
	// Offset is where it begins: what was asked for, or 0.
	Offset int64
	// Size of the whole file in bytes; -1: unknown.
	Size int64
	// Validator changes when the file does (an ETag or a date); empty: unknown.
	Validator string
}

// Source is where the files of releases come from.
type Source interface {
	// Open opens the file of a URL from an offset on, if it still has that
	// validator, else from its beginning. Errors: ErrNotFound, ErrInsecure.
	Open(ctx context.Context, url string, offset int64, validator string) (*Body, error)
	// Where names the source for people.
	Where() string
}

// Folder has files by the last element of their URLs. Symbolic links that lead out of it aren't followed.
type Folder struct {
	Dir string
	// As maps names of files to others that they have in the folder.
	As map[string]string
}

// Where implements Source.
func (f Folder) Where() string { return f.Dir }

// Local returns where the file of a URL lies.
func (f Folder) Local(rawURL string) (string, bool) {
	body, err := f.Open(context.Background(), rawURL, 0, "")
	if err != nil {
		return "", false
	}
	defer body.Close()
	return body.ReadCloser.(*os.File).Name(), true
}

// Open implements Source.
func (f Folder) Open(_ context.Context, rawURL string, offset int64, _ string) (*Body, error) {
	name, err := baseName(rawURL)
	if err != nil {
		return nil, err
	}
	if as, ok := f.As[name]; ok {
		name = as
	}
	root, err := os.OpenRoot(f.Dir)
	if err != nil {
		return nil, fmt.Errorf("opening the folder: %w", err)
	}
	defer root.Close()
	file, err := root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", filepath.Join(f.Dir, name), ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("opening %s in %s: %w", name, f.Dir, err)
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a file")
	}
	if err == nil {
		_, err = file.Seek(offset, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening %s in %s: %w", name, f.Dir, err), file.Close())
	}
	return &Body{ReadCloser: file, Offset: offset, Size: info.Size()}, nil
}

// baseName returns the name that a URL ends with.
func baseName(rawURL string) (string, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return "", fmt.Errorf("%q is no URL: %w", rawURL, err)
	}
	name := path.Base(u.Path)
	if !filepath.IsLocal(name) || name == "." {
		return "", fmt.Errorf("%s: no file has that name", rawURL)
	}
	return name, nil
}

// small reads a file that is to be kept in memory.
func small(ctx context.Context, from Source, rawURL string, most int) ([]byte, error) {
	body, err := from.Open(ctx, rawURL, 0, "")
	if err != nil {
		return nil, err
	}
	defer body.Close()
	data, err := io.ReadAll(io.LimitReader(body, int64(most)+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", rawURL, err)
	}
	if len(data) > most {
		return nil, fmt.Errorf("%s goes on after %d bytes: it isn't what it should be", rawURL, most)
	}
	return data, nil
}
