package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/bedplate/bedplate/images/catalog"
	"github.com/bedplate/bedplate/images/checksum"
	"github.com/bedplate/bedplate/images/signature"
)

// ErrDigest means that a file isn't the one that the publisher lists.
var ErrDigest = errors.New("wrong digest")

// File is a file of a release that was checked.
type File struct {
	catalog.ReleaseFile
	// Path is where it lies.
	Path string
	// Digest is its SHA-256.
	Digest string
	Size   int64
	Proof  Proof
}

// Proof is all that says whose a file is; with it, anybody who trusts the key can check again.
type Proof struct {
	// Kind is gpg, minisign or cosign; empty: nothing was signed.
	Kind string
	// Of is file or checksums.
	Of string
	// Name of the file in the list of checksums.
	Name string
	// Checksums as published; Signature; Keys that the signature was checked with.
	Checksums, Signature, Keys []byte
	// SignedBy is the fingerprint of the key.
	SignedBy string
}

// Versions looks up the versions of a channel, newest first.
func (f *Fetcher) Versions(ctx context.Context, e *catalog.Entry, channel, arch string) ([]string, error) {
	index, err := e.Index(channel, arch)
	if err != nil {
		return nil, err
	}
	if index == "" {
		return nil, fmt.Errorf("versions of %s can't be looked up: name one", e.Name)
	}
	data, err := small(ctx, f.Source, index, catalog.MaxIndex)
	if err != nil {
		return nil, fmt.Errorf("looking up versions of %s: %w", e.Name, err)
	}
	return e.Lookup(data, channel, arch)
}

// Release fetches and checks every file of a release. A version that isn't
// there is ErrNotFound, with the versions that are most like it.
func (f *Fetcher) Release(ctx context.Context, r *catalog.Release) ([]File, error) {
	var all []File
	for _, rf := range r.Files {
		file, err := f.file(ctx, r, rf)
		if errors.Is(err, ErrNotFound) || errors.Is(err, checksum.ErrNotListed) {
			err = f.near(ctx, r, err)
		}
		if err != nil {
			return nil, fmt.Errorf("%s %s, %s: %w", r.Entry.Name, r.Version, rf.Role, err)
		}
		all = append(all, file)
	}
	return all, nil
}

// near adds versions that there are to the error about one that there isn't.
func (f *Fetcher) near(ctx context.Context, r *catalog.Release, err error) error {
	versions, lookup := f.Versions(ctx, r.Entry, r.Channel, r.Arch)
	if lookup != nil {
		return err
	}
	return fmt.Errorf("%w; there are %s in %s", err, strings.Join(catalog.Near(r.Version, versions, 3), ", "), r.Channel)
}

// file fetches one file. What it is checked with is fetched first: where that is wrong, gigabytes needn't come.
func (f *Fetcher) file(ctx context.Context, r *catalog.Release, rf catalog.ReleaseFile) (File, error) {
	proof, want, err := f.proof(ctx, r.Entry, rf)
	if err != nil {
		return File{}, err
	}
	path, err := f.content(ctx, rf.Name, rf.URL)
	if err != nil {
		return File{}, err
	}
	out := File{ReleaseFile: rf, Path: path, Proof: proof}
	var ok bool
	if out.Digest, out.Size, ok, err = sums(path, want); err != nil {
		return File{}, err
	}
	if f.Digest != "" && f.Digest != out.Digest {
		want, ok = checksum.Digest(f.Digest), false
	}
	if !ok {
		return File{}, f.discard(path, fmt.Errorf("%s from %s has %s, not %s: %w", rf.Name, f.Source.Where(), out.Digest, want, ErrDigest))
	}
	if proof.Of == "file" {
		if out.Proof.SignedBy, err = f.checkFile(r.Entry, proof, path); err != nil {
			return File{}, f.discard(path, err)
		}
	}
	return out, nil
}

// proof fetches checksums, signature and keys, and checks what can be checked before the content.
func (f *Fetcher) proof(ctx context.Context, e *catalog.Entry, rf catalog.ReleaseFile) (p Proof, want checksum.Digest, err error) {
	p.Name = rf.Name
	if rf.Checksums != "" {
		if p.Checksums, err = small(ctx, f.Source, rf.Checksums, checksum.MaxList); err != nil {
			return p, "", fmt.Errorf("fetching the checksums: %w", err)
		}
	}
	if s := rf.Signature; s != nil {
		p.Kind, p.Of = s.Kind, s.Of
		if s.URL != "" {
			if p.Signature, err = small(ctx, f.Source, s.URL, signature.MaxSignature); err != nil {
				return p, "", fmt.Errorf("fetching the signature: %w", err)
			}
		}
		if p.Keys, err = f.keys(ctx, e); err != nil {
			return p, "", err
		}
	}
	want, p.SignedBy, err = p.Expected(f.trust(e, p))
	return p, want, err
}

func (f *Fetcher) trust(e *catalog.Entry, p Proof) signature.Trust {
	return signature.Trust{Kind: p.Kind, Keys: p.Keys, Fingerprints: e.Fingerprints(), Now: f.Now()}
}

// Expected returns the digest that the proof has of its file, and who signed that; both
// are empty where the signature is of the file itself. t says whom to trust.
func (p Proof) Expected(t signature.Trust) (want checksum.Digest, signedBy string, err error) {
	list := p.Checksums
	switch {
	case p.Of == "checksums" && len(p.Signature) == 0:
		list, signedBy, err = signature.Cleartext(t, p.Checksums)
	case p.Of == "checksums":
		signedBy, err = signature.Detached(t, strings.NewReader(string(p.Checksums)), p.Signature)
	}
	if err != nil {
		return "", "", fmt.Errorf("checking the signature of the checksums: %w", err)
	}
	if len(list) > 0 {
		want, err = checksum.Find(list, p.Name)
	}
	return want, signedBy, err
}

// Check reads content to its end, checks that the proof is about it, and returns its SHA-256
// and the fingerprint of the key that vouches for it; that is empty where nothing was signed.
func (p Proof) Check(t signature.Trust, content io.Reader) (digest, signedBy string, err error) {
	want, signedBy, err := p.Expected(t)
	if err != nil {
		return "", "", err
	}
	own, theirs := sha256.New(), want.Hash()
	content = io.TeeReader(content, io.MultiWriter(own, theirs))
	if p.Of == "file" {
		if signedBy, err = signature.Detached(t, content, p.Signature); err != nil {
			return "", "", fmt.Errorf("checking the signature: %w", err)
		}
	}
	if _, err := io.Copy(io.Discard, content); err != nil {
		return "", "", fmt.Errorf("reading what was signed: %w", err)
	}
	digest = "sha256:" + hex.EncodeToString(own.Sum(nil))
	if want != "" && !want.Is(theirs) {
		return "", "", fmt.Errorf("%s has %s, not %s: %w", p.Name, digest, want, ErrDigest)
	}
	return digest, signedBy, nil
}

func (f *Fetcher) checkFile(e *catalog.Entry, p Proof, path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("reading the download: %w", err)
	}
	defer file.Close()
	by, err := signature.Detached(f.trust(e, p), file, p.Signature)
	if err != nil {
		return "", fmt.Errorf("checking the signature: %w", err)
	}
	return by, nil
}

// keys returns the entry's keys: those that a person gave, else from where the entry says.
// One that can't be had is no error while there is another: old ones go, and their signatures with them.
func (f *Fetcher) keys(ctx context.Context, e *catalog.Entry) ([]byte, error) {
	if len(f.Keys) > 0 {
		return f.Keys, nil
	}
	var all []byte
	var done []string
	var errs []error
	for _, k := range e.Keys {
		if slices.Contains(done, k.URL) {
			continue
		}
		done = append(done, k.URL)
		data, err := small(ctx, f.Source, k.URL, signature.MaxKey/4)
		if err != nil {
			errs = append(errs, fmt.Errorf("fetching the key (or give it with --key): %w", err))
			continue
		}
		all = append(all, data...)
	}
	if len(all) == 0 {
		return nil, errors.Join(errs...)
	}
	return all, nil
}
