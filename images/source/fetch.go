package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/bedplate/bedplate/images/checksum"
)

const (
	// maxContent bounds one file, in bytes: 1 TiB, as the image store does.
	maxContent = 1 << 40
	// attempts is how often a transfer that breaks off is taken up again.
	attempts = 5
	bufSize  = 1 << 20
)

// Fetcher gets releases.
type Fetcher struct {
	Source Source
	// Dir keeps what has arrived, so that a transfer can go on after a break.
	Dir string
	// Now is the clock.
	Now func() time.Time
	// Wait waits before another attempt; nil: not at all.
	Wait func(ctx context.Context, attempt int) error
	// Progress is told how far a file has come; size is -1 where it is not known. It may be nil.
	Progress func(name string, done, size int64)
	// Most bounds one file, in bytes; 0: 1 TiB.
	Most int64
	// Keys are keys that a person gave, in place of those that are fetched. They have to have the entry's fingerprints, if it has any.
	Keys []byte
	// Digest is the SHA-256 that a person expects of the only file, as `sha256:HEX`; empty: nothing.
	Digest string
}

// local is a source whose files needn't be copied.
type local interface {
	// Local returns the path of a URL's file, if it lies on this machine.
	Local(url string) (path string, ok bool)
}

// content fetches a file into Dir and returns its path once it is whole.
func (f *Fetcher) content(ctx context.Context, name, url string) (string, error) {
	if l, ok := f.Source.(local); ok {
		if path, ok := l.Local(url); ok {
			return path, nil
		}
	}
	if err := os.MkdirAll(f.Dir, 0o700); err != nil {
		return "", fmt.Errorf("making the download folder: %w", err)
	}
	sum := sha256.Sum256([]byte(f.Source.Where() + " " + url))
	part := &partial{path: filepath.Join(f.Dir, hex.EncodeToString(sum[:8])+"-"+name)}
	for n := 1; ; n++ {
		err := f.attempt(ctx, name, url, part)
		if err == nil {
			return part.path, nil
		}
		if n == attempts || ctx.Err() != nil || errors.Is(err, ErrNotFound) || errors.Is(err, ErrInsecure) || errors.Is(err, errTooLong) {
			return "", err
		}
		if f.Wait != nil {
			if err := f.Wait(ctx, n); err != nil {
				return "", err
			}
		}
	}
}

var errTooLong = errors.New("longer than a file may be")

// attempt goes on with a transfer until it ends or breaks.
func (f *Fetcher) attempt(ctx context.Context, name, url string, part *partial) error {
	offset, validator := part.state()
	body, err := f.Source.Open(ctx, url, offset, validator)
	if err != nil {
		return err
	}
	defer body.Close()
	most := f.Most
	if most == 0 {
		most = maxContent
	}
	if body.Size > most {
		return fmt.Errorf("%s has %d bytes, at most %d: %w", url, body.Size, most, errTooLong)
	}
	file, err := part.open(body.Offset, body.Validator)
	if err != nil {
		return err
	}
	defer file.Close()
	done, buf := body.Offset, make([]byte, bufSize)
	for {
		n, err := body.Read(buf)
		if _, werr := file.Write(buf[:n]); werr != nil {
			return fmt.Errorf("keeping %s: %w", name, werr)
		}
		if done += int64(n); done > most {
			return errors.Join(fmt.Errorf("%s goes on after %d bytes: %w", url, most, errTooLong), part.remove())
		}
		if f.Progress != nil && n > 0 {
			f.Progress(name, done, body.Size)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("fetching %s: broken off after %d bytes: %w", url, done, err)
		}
	}
	if body.Size >= 0 && done != body.Size {
		return fmt.Errorf("fetching %s: it ended after %d of %d bytes: %w", url, done, body.Size, io.ErrUnexpectedEOF)
	}
	return file.Sync()
}

// partial is a file that is arriving. What it is a part of is noted beside it.
type partial struct{ path string }

// state says how much is there of which state of the file.
func (p *partial) state() (offset int64, validator string) {
	note, err := os.ReadFile(p.path + ".validator")
	if err != nil || len(note) == 0 || len(note) > 1024 {
		return 0, ""
	}
	info, err := os.Stat(p.path)
	if err != nil {
		return 0, ""
	}
	return info.Size(), string(note)
}

// open opens it to go on at an offset.
func (p *partial) open(offset int64, validator string) (*os.File, error) {
	if offset == 0 {
		if err := os.WriteFile(p.path+".validator", []byte(validator), 0o600); err != nil {
			return nil, fmt.Errorf("noting what is fetched: %w", err)
		}
	}
	file, err := os.OpenFile(p.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the download: %w", err)
	}
	err = file.Truncate(offset)
	if err == nil {
		_, err = file.Seek(offset, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("going on with the download: %w", err), file.Close())
	}
	return file, nil
}

// discard removes a download that isn't what it should be, and returns err.
func (f *Fetcher) discard(path string, err error) error {
	if filepath.Dir(path) != filepath.Clean(f.Dir) {
		return err // the person's own file
	}
	return errors.Join(err, (&partial{path}).remove())
}

func (p *partial) remove() error {
	_ = os.Remove(p.path + ".validator")
	return os.Remove(p.path)
}

// Forget removes the downloads of a release that has been taken over.
func (f *Fetcher) Forget(files []File) error {
	var errs []error
	for _, file := range files {
		errs = append(errs, f.discard(file.Path, nil))
	}
	return errors.Join(errs...)
}

// sums reads a file once, and returns its SHA-256, its length, and whether it has the digest that is wanted.
func sums(path string, want checksum.Digest) (digest string, size int64, ok bool, err error) {
	file, err := os.Open(path)
	if err != nil {
		return "", 0, false, fmt.Errorf("reading the download: %w", err)
	}
	defer file.Close()
	own := sha256.New()
	var theirs hash.Hash = sha256.New()
	if want != "" {
		theirs = want.Hash()
	}
	if size, err = io.CopyBuffer(io.MultiWriter(own, theirs), struct{ io.Reader }{file}, make([]byte, bufSize)); err != nil {
		return "", 0, false, fmt.Errorf("reading the download: %w", err)
	}
	return "sha256:" + hex.EncodeToString(own.Sum(nil)), size, want == "" || want.Is(theirs), nil
}
