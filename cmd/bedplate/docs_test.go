package main

import (
	"io"
	"os"
	"path/filepath"
	"testing"
)

func TestReference(t *testing.T) {
	dir := filepath.Join("..", "..", "docs", "cli")
	a := newTestApp(nil, io.Discard, io.Discard)
	for name, want := range reference(newRootCommand(a)) {
		path := filepath.Join(dir, name)
		if *update {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != want {
			t.Errorf("docs/cli/%s is not what the commands say (%v): go generate ./cmd/bedplate", name, err)
		}
	}
}
