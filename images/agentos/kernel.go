package agentos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// kernelPackage is a Debian package file whose digest has been checked.
type kernelPackage struct {
	name, version, path, sha256 string
}

// Deadlines of the tools that a build runs.
const (
	downloadDeadline = 15 * time.Minute
	queryDeadline    = time.Minute
	unpackDeadline   = 5 * time.Minute
)

// kernelPackage finds the concrete package behind c.KernelPackage and gets it.
func (c Config) kernelPackage(ctx context.Context) (kernelPackage, error) {
	if c.KernelDeb != "" {
		return localPackage(ctx, c.KernelDeb)
	}
	r, err := resolve(ctx, c.KernelPackage)
	if err != nil {
		return kernelPackage{}, err
	}
	p := kernelPackage{name: r["Package"], version: r["Version"], sha256: r["SHA256"]}
	p.path = filepath.Join(c.Cache, filepath.Base(r["Filename"]))
	if got, err := hashFile(p.path); err == nil && got == p.sha256 {
		return p, nil
	}
	c.Progress("downloading "+p.name, 0, 0)
	return p, c.download(ctx, p)
}

// download gets a package by name and version with apt, which checks it
// against the signed index of the archive, and checks the digest once more.
func (c Config) download(ctx context.Context, p kernelPackage) error {
	dir, err := os.MkdirTemp(c.Cache, "download-")
	if err != nil {
		return fmt.Errorf("making a folder to download to: %w", err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a left-over in the cache is harmless
	// Without the option apt warns that its sandbox user cannot write here.
	if _, err := run(ctx, downloadDeadline, dir, "apt-get", "-q", "-o", "APT::Sandbox::User=", "download", p.name+"="+p.version); err != nil {
		return fmt.Errorf("downloading %s (is the network there? run apt-get update): %w", p.name, err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(files) != 1 {
		return fmt.Errorf("downloading %s: %d packages came", p.name, len(files))
	}
	got, err := hashFile(files[0])
	if err != nil {
		return fmt.Errorf("checking %s: %w", p.name, err)
	}
	if got != p.sha256 {
		return fmt.Errorf("checking %s: its digest is %s, the archive's index says %s", p.name, got, p.sha256)
	}
	return os.Rename(files[0], p.path)
}

// resolve follows metapackages until it reaches one that has a kernel in it.
func resolve(ctx context.Context, name string) (map[string]string, error) {
	for range 4 {
		out, err := run(ctx, queryDeadline, "", "apt-cache", "show", "--no-all-versions", name)
		if err != nil {
			return nil, fmt.Errorf("looking up package %s (run apt-get update first): %w", name, err)
		}
		r := control(out)
		if r["Filename"] == "" || r["SHA256"] == "" {
			return nil, fmt.Errorf("looking up package %s: the archive does not have it; run apt-get update first", name)
		}
		next := kernelDependency(r["Depends"])
		if next == "" {
			return r, nil
		}
		name = next
	}
	return nil, fmt.Errorf("looking up package %s: it depends on itself", name)
}

var kernelName = regexp.MustCompile(`(?:^|[\s,])(linux-image-[a-z0-9.+~-]+)`)

// kernelDependency returns the kernel package that a metapackage stands for.
func kernelDependency(depends string) string {
	if m := kernelName.FindStringSubmatch(depends); m != nil {
		return m[1]
	}
	return ""
}

// control reads the first paragraph of Debian control data; folded lines are dropped.
func control(b []byte) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimRight(line, "\n")
		if line == "" {
			break
		}
		if k, v, ok := strings.Cut(line, ":"); ok && !strings.HasPrefix(line, " ") {
			out[k] = strings.TrimSpace(v)
		}
	}
	return out
}

func localPackage(ctx context.Context, path string) (kernelPackage, error) {
	sum, err := hashFile(path)
	if err != nil {
		return kernelPackage{}, fmt.Errorf("reading kernel package: %w", err)
	}
	out, err := run(ctx, queryDeadline, "", "dpkg-deb", "-f", path, "Package", "Version")
	if err != nil {
		return kernelPackage{}, fmt.Errorf("reading kernel package: %w", err)
	}
	r := control(out)
	return kernelPackage{name: r["Package"], version: r["Version"], path: path, sha256: sum}, nil
}

// unpack extracts the package into dir and returns the kernel as it was
// signed, and its release.
func (p kernelPackage) unpack(ctx context.Context, dir string) (kernel []byte, release string, err error) {
	if _, err := run(ctx, unpackDeadline, "", "dpkg-deb", "-x", p.path, dir); err != nil {
		return nil, "", fmt.Errorf("unpacking %s: %w", p.name, err)
	}
	// Since Debian 13 modules are under /usr/lib; before, under /lib.
	if _, err := os.Stat(filepath.Join(dir, "lib/modules")); errors.Is(err, fs.ErrNotExist) {
		if err := errors.Join(os.MkdirAll(filepath.Join(dir, "lib"), 0o755),
			os.Symlink("../usr/lib/modules", filepath.Join(dir, "lib/modules"))); err != nil {
			return nil, "", fmt.Errorf("unpacking %s: %w", p.name, err)
		}
	}
	found, err := filepath.Glob(filepath.Join(dir, "boot/vmlinuz-*"))
	if err != nil || len(found) != 1 {
		return nil, "", fmt.Errorf("unpacking %s: %d kernels in it, want one", p.name, len(found))
	}
	release = strings.TrimPrefix(filepath.Base(found[0]), "vmlinuz-")
	if kernel, err = os.ReadFile(found[0]); err != nil {
		return nil, "", fmt.Errorf("reading kernel: %w", err)
	}
	return kernel, release, nil
}

// run starts a tool in dir and returns what it printed; its own words are part
// of the error.
func run(ctx context.Context, deadline time.Duration, dir, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	cmd.WaitDelay = 5 * time.Second
	var out, msg bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &msg
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		if said := lines(msg.Bytes()); len(said) > 0 {
			return nil, fmt.Errorf("%s: %w: %s", name, err, said[len(said)-1])
		}
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return out.Bytes(), nil
}
