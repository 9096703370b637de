package ignition

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	ignconfig "github.com/coreos/ignition/v2/config"
	"github.com/google/go-cmp/cmp"
)

const butaneText = `variant: flatcar
version: 1.0.0
passwd:
  users:
  - name: core
    ssh_authorized_keys: [ssh-ed25519 AAAAtheirs me]
storage:
  files:
  - path: /etc/proof
    mode: 0644
    contents: {inline: "made by butane\n"}
`

func TestCompile(t *testing.T) {
	for name, text := range map[string]string{
		"Butane of Flatcar":      butaneText,
		"Butane of CoreOS":       strings.NewReplacer("flatcar", "fcos", "1.0.0", "1.5.0").Replace(butaneText),
		"Ignition 3.0":           `{"ignition": {"version": "3.0.0"}}`,
		"Ignition 3.5":           `{"ignition": {"version": "3.5.0"}, "kernelArguments": {"shouldExist": ["quiet"]}}`,
		"Ignition after a blank": "\n  {\"ignition\": {\"version\": \"3.4.0\"}}",
	} {
		t.Run(name, func(t *testing.T) {
			raw, _, err := Compile(text)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := ignconfig.Parse(raw); err != nil {
				t.Errorf("the library doesn't take the result: %v\n%s", err, raw)
			}
		})
	}
}

func TestCompile_Problems(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"a path that is not absolute, in Butane": {
			"variant: fcos\nversion: 1.5.0\nstorage:\n  files:\n  - path: etc/proof\n",
			"line 5, column 11: storage.files.0.path: path not absolute",
		},
		"a key that there is not": {
			"variant: fcos\nversion: 1.5.0\nstorage:\n  filez: []\n",
			"line 4, column 3: storage.filez: Unused key filez",
		},
		"a local file": {
			"variant: fcos\nversion: 1.5.0\nstorage:\n  files:\n  - path: /a\n    contents: {local: /etc/shadow}\n",
			"line 6, column 23: storage.files.0.contents.local: local file paths are relative to a files directory that must be specified with -d/--files-dir",
		},
		"YAML that is none": {"variant: fcos\nversion: [", "Error unmarshaling yaml: yaml: line 2: did not find expected node content"},
		"cloud-config":      {"#cloud-config\nusers: []\n", "neither Butane nor Ignition: Butane begins with `variant: flatcar` or `variant: fcos` and `version:`, Ignition is JSON with ignition.version"},
		"a version to come": {`{"ignition": {"version": "3.9.0"}}`, "ignition.version: 3.9.0 is not one of 3.0.0 to 3.5.0"},
		"the old versions":  {`{"ignition": {"version": "2.3.0"}}`, "ignition.version: 2.3.0 is not one of 3.0.0 to 3.5.0"},
		"JSON that is none": {"{\"ignition\": {\"version\": \"3.3.0\"},\n \"storage\": oops}", "line 2, column 13: invalid character 'o' looking for beginning of value"},
		"a path that is not absolute, in Ignition": {
			"{\"ignition\": {\"version\": \"3.3.0\"},\n \"storage\": {\"files\": [{\"path\": \"etc\"}]}}",
			"line 2, column 33: storage.files.0.path: path not absolute",
		},
		"nothing":  {" \n", "empty: neither Butane nor Ignition"},
		"too much": {strings.Repeat(" ", MaxSize+1), "262145 bytes; at most 262144"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := Compile(c.text)
			var p Problems
			if !errors.As(err, &p) {
				t.Fatalf("got %v, want Problems", err)
			}
			if got := p[0].String(); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// facts is what a joined configuration says, for comparing.
type facts struct {
	Version string
	Files   []string
	Keys    map[string][]string
	Units   []string
	Args    []string
}

func factsOf(t *testing.T, raw []byte) facts {
	t.Helper()
	c, rep, err := ignconfig.Parse(raw)
	if err != nil {
		t.Fatalf("the library doesn't take it: %v\n%s\n%s", err, rep, raw)
	}
	var v struct{ Ignition struct{ Version string } }
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	f := facts{Version: v.Ignition.Version, Keys: map[string][]string{}}
	for _, file := range c.Storage.Files {
		f.Files = append(f.Files, file.Path)
	}
	for _, u := range c.Passwd.Users {
		for _, k := range u.SSHAuthorizedKeys {
			f.Keys[u.Name] = append(f.Keys[u.Name], string(k))
		}
	}
	for _, u := range c.Systemd.Units {
		f.Units = append(f.Units, u.Name)
	}
	for _, a := range c.KernelArguments.ShouldExist {
		f.Args = append(f.Args, string(a))
	}
	return f
}

func TestJoin(t *testing.T) {
	add := Additions{
		Hostname: "node-1", SSHKeys: []string{"ssh-ed25519 AAAAours op\n"}, KernelArguments: []string{"console=ttyS0"},
		PhoneHomeURL: "http://10.0.0.1:8080/phone-home/k'ey", InstanceID: "i-1",
		Files: []File{{Path: "/etc/systemd/network/10-lan.network", Content: []byte("[Match]\n")}},
	}
	ours := []string{"/etc/bedplate/phone-home", "/etc/hostname", "/etc/systemd/network/10-lan.network"}
	t.Run("nothing of the user's is ours alone", func(t *testing.T) {
		raw, err := Join("", add)
		if err != nil {
			t.Fatal(err)
		}
		want := facts{Version: "3.3.0", Files: ours, Keys: map[string][]string{"core": {"ssh-ed25519 AAAAours op"}}, Units: []string{"bedplate-phone-home.service"}, Args: []string{"console=ttyS0"}}
		if diff := cmp.Diff(want, factsOf(t, raw)); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
	t.Run("the user's is added, in the user's version", func(t *testing.T) {
		raw, err := Join(strings.Replace(butaneText, "1.0.0", "1.1.0", 1), add)
		if err != nil {
			t.Fatal(err)
		}
		want := facts{
			Version: "3.4.0", Files: append(ours[:3:3], "/etc/proof"),
			Keys:  map[string][]string{"core": {"ssh-ed25519 AAAAours op", "ssh-ed25519 AAAAtheirs me"}},
			Units: []string{"bedplate-phone-home.service"}, Args: []string{"console=ttyS0"},
		}
		if diff := cmp.Diff(want, factsOf(t, raw)); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
	t.Run("the user's file wins over ours", func(t *testing.T) {
		raw, err := Join(`{"ignition": {"version": "3.0.0"}, "storage": {"files": [{"path": "/etc/hostname", "contents": {"source": "data:,mine"}}]}}`, add)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(raw), "data:,mine") {
			t.Errorf("the user's host name is lost:\n%s", raw)
		}
		if got := factsOf(t, raw).Version; got != "3.3.0" {
			t.Errorf("version %s: kernel arguments need 3.3.0", got)
		}
	})
	t.Run("what is wrong is named", func(t *testing.T) {
		var p Problems
		if _, err := Join("variant: fcos", add); !errors.As(err, &p) {
			t.Errorf("got %v, want Problems", err)
		}
	})
}

func FuzzCompile(f *testing.F) {
	f.Add(butaneText)
	f.Add(`{"ignition": {"version": "3.4.0"}, "storage": {"files": [{"path": "/etc/a", "mode": 420}]}}`)
	f.Add("variant: fcos\nversion: 1.5.0\nstorage: &a {files: [*a]}")
	f.Fuzz(func(t *testing.T, text string) {
		raw, _, err := Compile(text)
		if err != nil {
			return
		}
		joined, err := Join(text, Additions{Hostname: "a", PhoneHomeURL: "http://h/", KernelArguments: []string{"quiet"}})
		if err != nil {
			return // an addition may not go with it
		}
		if _, err := check(joined); err != nil {
			t.Errorf("%s joined is %s: %v", raw, joined, err)
		}
	})
}
