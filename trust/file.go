package trust

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// maxFileBytes bounds what is read of a key file; a real one has some 1.5 KiB.
const maxFileBytes = 64 << 10

// ErrDamaged is in the error for a key file that can't be used. The usual
// causes are a full disk during a restore and an editor.
var ErrDamaged = errors.New("is damaged")

// damaged says which file can't be used, why, and what to do.
func damaged(path string, cause error, loss string) error {
	return fmt.Errorf("file %s %w (%v): restore it from a backup; if there is none, move it away and start again, which makes a new one (%s)",
		path, ErrDamaged, cause, loss)
}

// loadOrCreate returns the file's content; if there is no such file it makes
// one with what `create` returns.
func loadOrCreate(path string, create func() ([]byte, error)) ([]byte, error) {
	data, err := loadPrivate(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return data, err
	}
	if data, err = create(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("making directory for keys: %w", err)
	}
	if err := writeFile(path, data, 0o600); err != nil {
		return nil, err
	}
	return data, nil
}

// loadPrivate reads a file that nobody else may read.
func loadPrivate(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening key file: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read from
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading key file: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("file %s can be read by others (mode %#o): run `chmod 600 %s`, and replace it if others had access to this machine",
			path, info.Mode().Perm(), path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes))
	if err != nil {
		return nil, fmt.Errorf("reading key file %s: %w", path, err)
	}
	return data, nil
}

// writeFile puts data at path so that after a crash at any moment the file is
// either not there (or the old one) or whole.
func writeFile(path string, data []byte, mode fs.FileMode) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
			err = fmt.Errorf("writing %s: %w", path, err)
		}
	}()
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

// syncDir makes a rename in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close() //nolint:errcheck // only synced
	return d.Sync()
}
