package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/bedplate/bedplate/images/catalog"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
)

// publisher writes the files of a signed release, and the catalogue's entry about it, into the working directory.
func publisher(t *testing.T, disk []byte, now time.Time) {
	t.Helper()
	config := &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, Time: func() time.Time { return now.AddDate(0, -1, 0) }}
	key, err := openpgp.NewEntity("Site", "", "site@example", config)
	if err != nil {
		t.Fatal(err)
	}
	list := fmt.Appendf(nil, "%x  own-1.2.raw\n", sha256.Sum256(disk))
	var sig, keys bytes.Buffer
	if err := errors.Join(openpgp.ArmoredDetachSign(&sig, key, bytes.NewReader(list), config), key.Serialize(&keys)); err != nil {
		t.Fatal(err)
	}
	entry := strings.ReplaceAll(`name: own
title: Own OS
description: ours
kind: disk
architectures: {x86_64: amd64}
firmware: [uefi]
channels: [stable]
versions: {kind: pattern, url: "https://site.example/index", pattern: "v([0-9.]+)"}
files:
- role: disk
  url: https://site.example/own-{version}.raw
  format: raw
  checksums: https://site.example/SHA256SUMS
  signature: {kind: gpg, of: checksums, url: "https://site.example/SHA256SUMS.asc"}
keys:
- {fingerprint: FPR, url: "https://site.example/key.asc"}
configuration: ignition
finish: {kernel_arguments: ["ignition.config.url=${ignition_url}"]}
first_boot: it says so
upgrade: never
`, "FPR", strings.ToUpper(hex.EncodeToString(key.PrimaryKey.Fingerprint)))
	for name, data := range map[string][]byte{
		"site/own-1.2.raw": disk, "site/SHA256SUMS": list, "site/SHA256SUMS.asc": sig.Bytes(), "site/key.asc": keys.Bytes(),
		"site/index": []byte("v1.2 v1.1"), "entries/own.yaml": []byte(entry),
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, data, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestImage_ImportRelease(t *testing.T) {
	f := newFakeServer(t)
	f.load(t, filepath.Join("testdata", "fixtures.yaml"))
	var got bytes.Buffer
	upload(f, &got, func(*pb.UploadImageHeader) error { return nil })
	t.Chdir(t.TempDir())
	disk := bytes.Repeat([]byte("disk"), 1000)
	a := newTestApp(f, nil, nil)
	publisher(t, disk, a.now())
	mirror := httptest.NewServer(http.FileServer(http.Dir("site")))
	defer mirror.Close()
	for _, from := range []string{"--mirror " + mirror.URL, "--dir site", "--file site/own-1.2.raw"} {
		t.Run(from, func(t *testing.T) {
			got.Reset()
			out := command(t.Context(), a, "image import own@1.2 --catalog entries --cache cache --require-signature "+from)
			if !strings.Contains(out, "image/own-1.2 imported: Own OS 1.2, 4 kB") && !strings.Contains(out, "image/own-1.2 imported: Own OS 1.2, 3.91 KiB") || !strings.Contains(out, "signed by ") {
				t.Errorf("it says:\n%s", out)
			}
			if !bytes.Equal(got.Bytes(), disk) {
				t.Errorf("%d bytes were sent", got.Len())
			}
			image, ok := f.objects["image/own-1.2"].(*pb.Image)
			if !ok {
				t.Fatal("it isn't declared")
			}
			s := image.Spec
			if s.Origin.GetEntry() != "own" || s.Origin.GetKind() != "gpg" || len(s.Origin.GetSignature()) == 0 || !s.RequireSignature ||
				s.Configuration != "ignition" || len(s.Finish.GetKernelArguments()) != 1 || s.Os != "own" || s.OsVersion != "1.2" {
				t.Errorf("it is declared as %v", s)
			}
		})
	}
	t.Run("the newest version is looked up", func(t *testing.T) {
		got.Reset()
		if out := command(t.Context(), a, "image import own --catalog entries --cache cache --mirror "+mirror.URL); !strings.Contains(out, "image/own-1.2 imported") {
			t.Errorf("it says:\n%s", out)
		}
	})
	for _, tc := range []struct{ name, args, want string }{
		{"a version that there isn't", "own@1.3 --mirror " + mirror.URL, "there are 1.2, 1.1 in stable"},
		{"an entry that there isn't", "owl@1.2 --dir site", "did you mean own?"},
		{"an unsigned system, where a signature is wanted", "debian --require-signature --dir site", "debian isn't signed by its publisher"},
		{"no version, from a folder", "own --dir site", "name the version as well"},
		{"two sources", "own --dir site --mirror https://x", "give one of --file, --url, --oci, --mirror, --dir and --bundle"},
		{"a file of one's own without a version", "rhel --catalog entries", "has no releases to fetch; give a version and --file"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if out := command(t.Context(), a, "image import --catalog entries --cache cache "+tc.args); !strings.Contains(out, tc.want) || !strings.Contains(out, "[exit code") {
				t.Errorf("it says:\n%s\nwant %q", out, tc.want)
			}
		})
	}
	t.Run("a bundle has all that an import needs", func(t *testing.T) {
		got.Reset()
		if out := command(t.Context(), a, "image bundle own@1.2 -o own.tar --catalog entries --dir site"); !strings.Contains(out, "own.tar has own@stable/1.2") {
			t.Fatalf("it says:\n%s", out)
		}
		if out := command(t.Context(), a, "image import own --bundle own.tar --catalog entries --cache cache --require-signature"); !strings.Contains(out, "signed by ") || !bytes.Equal(got.Bytes(), disk) {
			t.Errorf("%d bytes were sent; it says:\n%s", got.Len(), out)
		}
		if out := command(t.Context(), a, "image import own@1.1 --bundle own.tar --catalog entries --cache cache"); !strings.Contains(out, "own.tar has own@stable/1.2, not what was asked for") {
			t.Errorf("of another version it says:\n%s", out)
		}
	})
	t.Run("a changed disk isn't sent", func(t *testing.T) {
		got.Reset()
		if err := os.WriteFile("site/own-1.2.raw", []byte("evil"), 0o600); err != nil {
			t.Fatal(err)
		}
		if out := command(t.Context(), a, "image import own@1.2 --catalog entries --dir site"); !strings.Contains(out, "wrong digest") || got.Len() > 0 {
			t.Errorf("%d bytes were sent:\n%s", got.Len(), out)
		}
	})
}

// TestImageCatalog_Finish holds what the catalogue says of disks to what an Image may say.
func TestImageCatalog_Finish(t *testing.T) {
	c, err := catalog.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range c.All() {
		text, err := e.FinishJSON()
		if err != nil {
			t.Fatal(err)
		}
		spec := &pb.ImageSpec{Os: e.Name, Configuration: e.Configuration, RootPartition: e.RootPartition, Finish: &pb.ImageFinish{}}
		if err := protojson.Unmarshal(text, spec.Finish); err != nil && e.Finish != nil {
			t.Errorf("%s: %v", e.Name, err)
		}
		if err := resource.Validate(&pb.Image{Metadata: &pb.Metadata{Name: e.Name}, Spec: spec}); err != nil {
			t.Errorf("%s: %v", e.Name, err)
		}
	}
}
