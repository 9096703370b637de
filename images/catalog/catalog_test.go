package catalog

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestBuiltin holds every entry to the schema, and to being of use.
func TestBuiltin(t *testing.T) {
	c, err := Builtin()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"flatcar", "fedora-coreos", "talos", "suse-linux-micro", "elemental", "kairos", "ubuntu", "debian",
		"rhel", "rocky", "almalinux", "opensuse-leap", "opensuse-tumbleweed", "opensuse-microos", "nixos", "freebsd", "linuxkit", "raw-disk", "live-kernel", "iso"} {
		if _, ok := c.Named(name); !ok {
			t.Errorf("%s is missing", name)
		}
	}
	for _, e := range c.All() {
		t.Run(e.Name, func(t *testing.T) {
			if len(e.Sources) == 0 {
				t.Error("nothing says where its facts are from")
			}
			if len(e.Files) == 0 && e.Notes == "" {
				t.Error("neither files nor a note that says where they come from")
			}
			for arch := range e.Architectures {
				for _, channel := range e.Channels {
					r, err := e.Release(channel, "1.2.3", arch)
					if err != nil {
						t.Fatal(err)
					}
					for _, f := range r.Files {
						if strings.ContainsAny(f.URL+f.Checksums+f.Name, "{}") {
							t.Errorf("a word is left in %+v", f)
						}
					}
				}
			}
		})
	}
}

func TestOpen_Override(t *testing.T) {
	dir := t.TempDir()
	own := strings.Replace(good, "name: own", "name: debian", 1)
	if err := os.WriteFile(filepath.Join(dir, "d.yaml"), []byte(own), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if e, _ := c.Named("debian"); e == nil || e.Title != "Own" {
		t.Errorf("debian is %+v, not the folder's", e)
	}
	if _, ok := c.Named("flatcar"); !ok {
		t.Error("the built-in entries are gone")
	}
}

const good = `name: own
title: Own
description: ours
kind: disk
architectures: {x86_64: amd64}
firmware: [uefi]
channels: [stable]
versions: {kind: pattern, url: "https://site.example/{channel}", pattern: "v([0-9.]+)"}
files:
- role: disk
  url: https://site.example/{version}/disk.raw.xz
  checksums: https://site.example/{version}/SHA256SUMS
  signature: {kind: gpg, of: checksums, url: "https://site.example/{version}/SHA256SUMS.asc"}
keys:
- {fingerprint: 0123456789ABCDEF0123456789ABCDEF01234567, url: https://site.example/key.asc}
configuration: none
first_boot: it says so
upgrade: never
`

func TestParse_Wrong(t *testing.T) {
	if _, err := Parse("own.yaml", []byte(good)); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ name, old, new, want string }{
		{"an unknown field", "title:", "titel:", "own.yaml: unmarshal errors:\n  line 2: field titel not found"},
		{"a kind that there isn't", "kind: disk\n", "kind: floppy\n", `own.yaml:4: kind: "floppy": can be disk, live, iso`},
		{"a plain http URL", "url: https://site.example/{version}/disk.raw.xz", "url: http://site.example/{version}/disk.raw.xz", "own.yaml:9: files:"},
		{"a word that nothing fills in", "{version}/disk", "{release}/disk", "{release} in https://"},
		{"a short fingerprint", "0123456789ABCDEF0123456789ABCDEF01234567", "01234567", "own.yaml:14: keys: fingerprint"},
		{"a signature without a key", "keys:\n- {fingerprint: 0123456789ABCDEF0123456789ABCDEF01234567, url: https://site.example/key.asc}\n", "", "keys: missing"},
		{"a pattern without a group", "v([0-9.]+)", "v[0-9.]+", "with one group"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Parse("own.yaml", []byte(strings.Replace(good, tc.old, tc.new, 1)))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
		})
	}
}

func TestParseReference(t *testing.T) {
	for text, want := range map[string]Reference{
		"flatcar":               {Name: "flatcar"},
		"flatcar@beta":          {Name: "flatcar", Version: "beta"},
		"flatcar@beta/4300.1.0": {Name: "flatcar", Channel: "beta", Version: "4300.1.0"},
	} {
		got, err := ParseReference(text)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", text, got, err, want)
		}
	}
	for _, bad := range []string{"", "@", "flatcar@", "flatcar@../../etc", "flatcar@a..b", "Flatcar", "flatcar@1?x=y", "flatcar@beta/"} {
		if got, err := ParseReference(bad); err == nil {
			t.Errorf("%q is taken for %+v", bad, got)
		}
	}
}

func TestLookup(t *testing.T) {
	c, err := Builtin()
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		entry, channel, index string
		want                  []string
	}{
		{"flatcar", "stable", "FLATCAR_BUILD=4230\nFLATCAR_VERSION=4230.2.0\nFLATCAR_VERSION_ID=4230.2.0\n", []string{"4230.2.0"}},
		{"fedora-coreos", "stable", `{"stream":"stable","architectures":{"x86_64":{"artifacts":{"metal":{"release":"42.20250803.3.0"}}}}}`, []string{"42.20250803.3.0"}},
		{"ubuntu", "24.04", `{"format":"products:1.0","products":{"com.ubuntu.cloud:server:24.04:amd64":{"versions":{"20250704":{},"20250805":{}}},"com.ubuntu.cloud:server:22.04:amd64":{"versions":{"20990101":{}}}}}`, []string{"20250805", "20250704"}},
		{"talos", "stable", `[{"tag_name":"v1.9.6"},{"tag_name":"v1.12.0-alpha.1","prerelease":true},{"tag_name":"v1.11.0"},{"tag_name":"v9.9.9","draft":true}]`, []string{"v1.11.0", "v1.9.6"}},
		{"debian", "trixie", `<a href="20250806-2196/">..</a><a href="20250814-2204/">`, []string{"20250814-2204", "20250806-2196"}},
		{"rocky", "9", `<a href="Rocky-9-GenericCloud-Base-9.6-20250531.0.x86_64.qcow2">`, []string{"9.6-20250531.0"}},
		{"almalinux", "9", `<a href="AlmaLinux-9-GenericCloud-9.6-20250522.x86_64.qcow2">`, []string{"9.6-20250522"}},
		{"freebsd", "release", `<a href="14.3-RELEASE/" title="14.3-RELEASE"><a href="13.5-RELEASE/">`, []string{"14.3-RELEASE", "13.5-RELEASE"}},
		{"nixos", "25.05", `<a href='/nixos/25.05/nixos-25.05.807399.c2ae88e026f9/nixos-minimal-25.05.807399.c2ae88e026f9-x86_64-linux.iso'>`, []string{"25.05.807399.c2ae88e026f9"}},
	} {
		t.Run(tc.entry, func(t *testing.T) {
			e, _ := c.Named(tc.entry)
			got, err := e.Lookup([]byte(tc.index), tc.channel, "")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("versions (-want +got):\n%s", diff)
			}
		})
	}
	t.Run("a version that would lead out of its folder is passed over", func(t *testing.T) {
		e, _ := c.Named("talos")
		if got, err := e.Lookup([]byte(`[{"tag_name":"../../evil"},{"tag_name":"a/b"},{"tag_name":"v1..2"}]`), "stable", ""); err == nil {
			t.Errorf("it is taken: %q", got)
		}
	})
}

func TestNear(t *testing.T) {
	got := Near("4230.2.9", []string{"4300.0.0", "4230.2.1", "3975.1.0"}, 2)
	if diff := cmp.Diff([]string{"4230.2.1", "4300.0.0"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func FuzzLookup(f *testing.F) {
	c, err := Builtin()
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{"format":"products:1.0","products":{"com.ubuntu.cloud:server:24.04:amd64":{"versions":{"1":{}}}}}`))
	f.Add([]byte(`{"architectures":{"x86_64":{"artifacts":{"metal":{"release":"42.1"}}}}}`))
	f.Add([]byte(`[{"tag_name":"v1.0"}]`))
	f.Add([]byte("FLATCAR_VERSION=1.2.3\n<a href=\"20250101-1/\">"))
	f.Fuzz(func(t *testing.T, index []byte) {
		for _, e := range c.All() {
			if len(e.Files) == 0 {
				continue
			}
			versions, err := e.Lookup(index, e.Channels[0], "")
			if err != nil {
				continue
			}
			for _, v := range versions {
				if _, err := e.Release(e.Channels[0], v, ""); err != nil {
					t.Errorf("%s: version %q was found, but makes no release: %v", e.Name, v, err)
				}
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Fuzz(func(t *testing.T, text []byte) {
		e, err := Parse("x.yaml", text)
		if err == nil && !namePattern.MatchString(e.Name) {
			t.Errorf("an entry named %q", e.Name)
		}
	})
}
