package content

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Pack returns a file as it is, or a directory as an archive. The same files
// always make the same bytes. What a .helmignore or a repository leaves out
// isn't left out: give a directory that has only what belongs to it.
func Pack(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("packing: %w", err)
	}
	if !info.IsDir() {
		if info.Size() > MaxBytes {
			return nil, fmt.Errorf("packing %s: more than %d MiB", name, MaxBytes>>20)
		}
		return os.ReadFile(name)
	}
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	archive := tar.NewWriter(zip)
	// An os.Root follows no link that leads out of the directory.
	root, err := os.OpenRoot(name)
	if err != nil {
		return nil, fmt.Errorf("packing: %w", err)
	}
	defer root.Close() //nolint:errcheck // it was only read
	err = fs.WalkDir(root.FS(), ".", func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if err == nil && d.Name() == ".git" {
				return fs.SkipDir
			}
			return err
		}
		body, err := fs.ReadFile(root.FS(), file)
		if err != nil {
			return err
		}
		h := &tar.Header{Name: filepath.ToSlash(file), Mode: 0o644, Size: int64(len(body)), ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
		if err := archive.WriteHeader(h); err != nil {
			return err
		}
		_, err = archive.Write(body)
		if out.Len() > MaxBytes {
			return fmt.Errorf("more than %d MiB", MaxBytes>>20)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("packing %s: %w", name, err)
	}
	if err := archive.Close(); err != nil {
		return nil, fmt.Errorf("packing %s: %w", name, err)
	}
	if err := zip.Close(); err != nil {
		return nil, fmt.Errorf("packing %s: %w", name, err)
	}
	return out.Bytes(), nil
}
