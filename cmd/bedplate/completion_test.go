package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
)

func TestCompletion(t *testing.T) {
	f := newFakeServer(t)
	f.load(t, filepath.Join("testdata", "fixtures.yaml"))
	a := newTestApp(f, nil, nil)
	for line, want := range map[string]string{
		"machine describe ''":              "web-1 web-2",
		"machine describe web-1 ''":        "web-2",
		"machine explain web-1 ''":         "",
		"get ma":                           "machine",
		"get machine ''":                   "web-1 web-2",
		"get machine/":                     "machine/web-1 machine/web-2",
		"get rack ''":                      "",
		"workflow run --machine ''":        "web-1 web-2",
		"workflow run inst":                "install-image",
		"machine list -o j":                "table wide json yaml name",
		"machine follow web-1 --until act": "active available workflow-done",
		"token create x --role ''":         "viewer operator admin",
	} {
		words := splitWords(line)
		var stdout, stderr bytes.Buffer
		a.stdout, a.stderr = &stdout, &stderr
		a.args = append([]string{"__complete"}, words...)
		if err := a.run(t.Context()); err != nil {
			t.Errorf("%s: %v", line, err)
		}
		var got []string
		for l := range strings.Lines(stdout.String()) {
			if l = strings.TrimSpace(l); !strings.HasPrefix(l, ":") && !strings.HasPrefix(l, "Completion") {
				got = append(got, l)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s completes to %q, want %q", line, got, want)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if out := command(t.Context(), a, "completion "+shell); !strings.Contains(out, "bedplate") || strings.Contains(out, "exit code") {
			t.Errorf("%s: %.100s", shell, out)
		}
	}
}
