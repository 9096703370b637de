package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/bedplate/bedplate/cmd/bedplate/table"
	"github.com/bedplate/bedplate/images/catalog"
	"github.com/bedplate/bedplate/images/signature"
	"github.com/bedplate/bedplate/images/source"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// releaseFlags say which release of the image catalogue is imported, and from where.
type releaseFlags struct {
	catalog, mirror, dir, bundle string
	key, as, cache               string
	signed                       bool
}

// asked reports whether a release is wanted, where so many flags name content of the person's own.
func (r *releaseFlags) asked(name string, own int) bool {
	return strings.Contains(name, "@") || r.mirror != "" || r.dir != "" || r.bundle != "" || own == 0
}

// acquired is a release that has been fetched and checked.
type acquired struct {
	release *catalog.Release
	files   []source.File
	fetcher *source.Fetcher
}

// acquire fetches what a reference means, and checks it.
func (im *importer) acquire(ctx context.Context, text string) (*acquired, error) {
	ref, err := catalog.ParseReference(text)
	if err != nil {
		return nil, usageError{err}
	}
	known, err := catalog.Open(im.from.catalog)
	if err != nil {
		return nil, usageError{err}
	}
	e, err := catalogEntry(known, ref.Name)
	if err != nil {
		return nil, err
	}
	if im.from.signed && !e.Signed() && len(e.Files) > 0 {
		return nil, fmt.Errorf("%s isn't signed by its publisher: %s", e.Name, orElse(strings.TrimSpace(e.Notes), "without --require-signature it is imported by its checksums"))
	}
	f, err := im.fetcher()
	if err != nil {
		return nil, err
	}
	if b, ok := f.Source.(*source.Bundle); ok {
		defer b.Close()
		if ref, err = im.bundled(b, ref); err != nil {
			return nil, err
		}
	}
	r, err := im.release(ctx, f, e, ref)
	if err != nil {
		return nil, err
	}
	if im.file != "" {
		f.Source = source.Folder{Dir: filepath.Dir(im.file), As: map[string]string{r.Files[0].Name: filepath.Base(im.file)}}
	}
	screen := im.screen(im.stderr)
	f.Progress = func(name string, done, size int64) {
		screen.Set(name, table.Bar{Label: "fetch " + name, Done: done, Total: max(size, 0), Unit: "bytes"})
	}
	files, err := f.Release(ctx, r)
	if err = errors.Join(err, screen.Close()); err != nil {
		return nil, err
	}
	return &acquired{r, files, f}, nil
}

// fetcher returns what fetches, from where the flags say.
func (im *importer) fetcher() (*source.Fetcher, error) {
	f := &source.Fetcher{Dir: im.from.cache, Now: im.now, Digest: im.spec.Digest, Wait: pauseBetween}
	if f.Dir == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return nil, hint(fmt.Errorf("looking for a folder for downloads: %w", err), "name one with --cache")
		}
		f.Dir = filepath.Join(dir, "bedplate", "images")
	}
	if im.from.key != "" {
		info, err := os.Stat(im.from.key)
		if err == nil && info.Size() > signature.MaxKey {
			err = fmt.Errorf("%d bytes, at most %d", info.Size(), signature.MaxKey)
		}
		if err == nil {
			f.Keys, err = os.ReadFile(im.from.key)
		}
		if err != nil {
			return nil, fmt.Errorf("reading the key: %w", err)
		}
	}
	if im.from.dir != "" {
		f.Source = source.Folder{Dir: im.from.dir}
		return f, nil
	}
	if im.from.bundle != "" {
		b, err := source.OpenBundle(im.from.bundle)
		f.Source = b
		return f, err
	}
	site, err := source.NewSite(im.from.mirror, nil)
	if err != nil {
		return nil, usageError{err}
	}
	f.Source = site
	return f, nil
}

// bundled returns the release that a bundle has, if it is one of what was asked for.
func (im *importer) bundled(b *source.Bundle, ref catalog.Reference) (catalog.Reference, error) {
	if b.Entry != ref.Name || ref.Version != "" && ref.Version != b.Version && ref.Version != b.Channel || ref.Channel != "" && ref.Channel != b.Channel {
		return ref, fmt.Errorf("%s has %s@%s/%s, not what was asked for", im.from.bundle, b.Entry, b.Channel, b.Version)
	}
	if im.spec.Architecture == "" {
		im.spec.Architecture = b.Arch
	}
	return catalog.Reference{Name: b.Entry, Channel: b.Channel, Version: b.Version}, nil
}

// pauseBetween waits between two attempts: 1 s, then 2 s, 4 s, 8 s.
func pauseBetween(ctx context.Context, attempt int) error {
	t := time.NewTimer(time.Second << (attempt - 1))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// release says which version it is, looking it up if it has to, and where its files are.
func (im *importer) release(ctx context.Context, f *source.Fetcher, e *catalog.Entry, ref catalog.Reference) (*catalog.Release, error) {
	if len(e.Files) == 0 {
		return im.ownRelease(e, ref)
	}
	ref, err := e.Resolve(ref)
	if err != nil {
		return nil, usageError{err}
	}
	if ref.Version == "" {
		if im.file != "" || im.from.dir != "" {
			return nil, usageError{fmt.Errorf("name the version as well, such as %s@%s/1.2.3: a file doesn't say which it is", e.Name, ref.Channel)}
		}
		versions, err := f.Versions(ctx, e, ref.Channel, im.spec.Architecture)
		if err != nil {
			return nil, err
		}
		ref.Version = versions[0]
	}
	r, err := e.Release(ref.Channel, ref.Version, im.spec.Architecture)
	if err != nil {
		return nil, usageError{err}
	}
	return r, nil
}

// ownRelease is of an entry whose file the person brings. Checksums and
// signature lie beside it, named as SUSE names them, or aren't there.
func (im *importer) ownRelease(e *catalog.Entry, ref catalog.Reference) (*catalog.Release, error) {
	if im.file == "" || ref.Version == "" {
		return nil, hint(usageError{fmt.Errorf("%s has no releases to fetch; give a version and --file", e.Name)}, orElse(strings.TrimSpace(e.Notes), "see `bedplate image catalog "+e.Name+"`"))
	}
	if e.Kind == "live" {
		return nil, hint(usageError{fmt.Errorf("%s is made of several files", e.Name)},
			"import each with `bedplate image import NAME --file FILE`, and name them in spec.live of another Image")
	}
	name := filepath.Base(im.file)
	rf := catalog.ReleaseFile{Role: e.Kind, Name: name, URL: "file:///" + name}
	if _, err := os.Stat(im.file + ".sha256"); err == nil {
		rf.Checksums = rf.URL + ".sha256"
	}
	if _, err := os.Stat(im.file + ".sha256.asc"); err == nil && rf.Checksums != "" && len(e.Keys) > 0 {
		rf.Signature = &catalog.Signature{Kind: "gpg", Of: "checksums", URL: rf.Checksums + ".asc"}
	}
	if im.from.signed && rf.Signature == nil {
		return nil, fmt.Errorf("%s has no signature beside it: want %s.sha256 and %s.sha256.asc", im.file, name, name)
	}
	return &catalog.Release{Entry: e, Channel: ref.Channel, Version: ref.Version, Arch: im.spec.Architecture, Files: []catalog.ReleaseFile{rf}}, nil
}

var unusable = regexp.MustCompile(`[^a-z0-9.-]+`)

// imageName returns what the image is called: NAME-VERSION, as names of resources have to be.
func (im *importer) imageName(r *catalog.Release) string {
	if im.from.as != "" {
		return im.from.as
	}
	name := unusable.ReplaceAllString(strings.ToLower(r.Entry.Name+"-"+r.Version), "-")
	return strings.Trim(name[:min(len(name), 63)], ".-")
}

// importRelease fetches a release, checks it, and sends it to the server with what proves it.
func (im *importer) importRelease(ctx context.Context, c *client, text string) error {
	got, err := im.acquire(ctx, text)
	if err != nil {
		return err
	}
	r, file := got.release, got.files[0]
	if err := im.describeRelease(r, file); err != nil {
		return err
	}
	name := im.imageName(r)
	if err := im.declare(ctx, c, name); err != nil {
		return err
	}
	content, err := os.Open(file.Path)
	if err != nil {
		return fmt.Errorf("opening the download: %w", err)
	}
	defer content.Close()
	image, err := im.upload(ctx, c, name, content, file.Size)
	if err != nil {
		return err
	}
	fprintf(im.stdout, "image/%s imported: %s %s, %s, %s\n", name, r.Entry.Title, r.Version, table.Bytes(file.Size), image.GetStatus().GetDigest())
	if by := file.Proof.SignedBy; by != "" {
		fprintf(im.stdout, "signed by %s (%s)\n", by, file.Proof.Kind)
	} else {
		fprintf(im.stdout, "not signed: what stands for it is %s\n", standsFor(file, im.spec.Digest))
	}
	return got.fetcher.Forget(got.files)
}

func standsFor(f source.File, given string) string {
	switch {
	case len(f.Proof.Checksums) > 0:
		return "the publisher's list of checksums"
	case given != "":
		return "the digest that was given"
	}
	return "nothing"
}

// describeRelease puts what the catalogue knows into the image's spec; flags go first.
func (im *importer) describeRelease(r *catalog.Release, f source.File) error {
	e, s := r.Entry, &im.spec
	s.Digest = f.Digest
	s.Os, s.OsVersion = orElse(s.Os, e.Name), orElse(s.OsVersion, r.Version)
	s.Architecture, s.Format = orElse(s.Architecture, r.Arch), orElse(s.Format, f.Format)
	s.Configuration = orElse(s.Configuration, e.Configuration)
	if s.RootPartition == 0 {
		s.RootPartition = e.RootPartition
	}
	if s.Finish == nil && len(e.Finish) > 0 {
		text, err := e.FinishJSON()
		if err != nil {
			return err
		}
		s.Finish = &pb.ImageFinish{}
		if err := protojson.Unmarshal(text, s.Finish); err != nil {
			return fmt.Errorf("reading finish of the entry %s: %w", e.Name, err)
		}
	}
	s.RequireSignature = s.RequireSignature || im.from.signed
	p := f.Proof
	s.Origin = &pb.ImageOrigin{Entry: e.Name, Channel: r.Channel, Version: r.Version, Url: f.URL}
	if p.Kind != "" {
		s.Origin.Kind, s.Origin.Of, s.Origin.File = p.Kind, p.Of, p.Name
		s.Origin.Checksums, s.Origin.Signature, s.Origin.Keys = slices.Clone(p.Checksums), p.Signature, p.Keys
	}
	return nil
}
