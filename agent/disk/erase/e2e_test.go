package erase

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bedplate/bedplate/agent/step"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// TestE2E_LoopDevice erases block devices of the real kernel, one with a file
// system mounted.
func TestE2E_LoopDevice(t *testing.T) {
	if os.Getenv("BEDPLATE_E2E") != "1" {
		t.Skip("SKIPPED: set BEDPLATE_E2E=1, as root, to work on loop devices")
	}
	run := func(name string, args ...string) string {
		t.Helper()
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	for _, c := range []struct {
		name    string
		options []string
		with    map[string]any
		method  string
	}{
		{"discard", nil, nil, "discard"},
		{"blocks of 4096 bytes", []string{"-b", "4096"}, map[string]any{"method": "overwrite", "verify": "full"}, "overwrite"},
		{"noise", nil, map[string]any{"method": "overwrite", "pattern": "random", "verify": "full"}, "overwrite"},
	} {
		t.Run(c.name, func(t *testing.T) {
			const size = 40<<20 + 4096 // No whole number of writes.
			file := filepath.Join(t.TempDir(), "disk")
			if err := os.WriteFile(file, bytes.Repeat([]byte("somebody's data "), size/16), 0o600); err != nil {
				t.Fatal(err)
			}
			loop := run("losetup", append(append([]string{"-f", "--show"}, c.options...), file)...)
			t.Cleanup(func() { run("losetup", "-d", loop) })
			run("mkfs.ext4", "-q", loop)
			dir := t.TempDir()
			run("mount", loop, dir)
			s, err := New(Config{Disks: func(context.Context) ([]*pb.Disk, error) { return nil, nil }, Random: rand.Reader, Now: time.Now})
			if err != nil {
				t.Fatal(err)
			}
			with := map[string]any{"disks": []any{loop}}
			for k, v := range c.with {
				with[k] = v
			}
			l := &logbook{}
			res, err := s.Steps()["disk.erase"].Execute(t.Context(), step.Request{With: with}, l)
			if err != nil {
				t.Fatalf("%v\n%s", err, l.text())
			}
			m := res.Outputs["results"].([]any)[0].(map[string]any)
			if m["method"] != c.method || m["size_bytes"] != int64(size) || !strings.Contains(l.text(), "unmounted "+dir) {
				t.Errorf("%v\n%s", m, l.text())
			}
			b, err := os.ReadFile(file)
			if err = errors.Join(err, nil); err != nil || bytes.Contains(b, []byte("somebody's")) || c.with["pattern"] == nil && !bytes.Equal(b, make([]byte, size)) {
				t.Errorf("content is left: %v", err)
			}
			t.Run("a program that uses the file system keeps the disk from being erased", func(t *testing.T) {
				run("mkfs.ext4", "-q", loop)
				run("mount", loop, dir)
				f, err := os.Create(filepath.Join(dir, "open"))
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				defer cancel()
				_, err = s.Steps()["disk.erase"].Execute(ctx, step.Request{With: with}, l)
				if err = errors.Join(err, f.Close()); err == nil {
					t.Error("a file system in use was erased")
				}
				if _, err := os.Stat(filepath.Join(dir, "open")); err != nil {
					t.Error(err)
				}
				run("umount", dir)
			})
		})
	}
}
