package finish

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWishOf(t *testing.T) {
	t.Run("an image without data wants nothing", func(t *testing.T) {
		w, err := wishOf(map[string]any{"root_partition": 1.0})
		if err != nil || w.grow || len(w.files) > 0 || w.entry != nil || w.rootPartition != 1 {
			t.Errorf("%+v, %v", w, err)
		}
	})
	t.Run("what comes from the instance is for root alone, what doesn't for all", func(t *testing.T) {
		w, err := wishOf(map[string]any{"finish": map[string]any{"files": []any{
			map[string]any{"partition": "OEM", "path": "/config.ign", "source": "ignition"},
			map[string]any{"path": "/etc/motd", "content": "hello"},
			map[string]any{"path": "/x", "content": "y", "mode": "0755"},
		}, "boot_entry": map[string]any{"label": "Flatcar", "fallback": true}}})
		if err != nil {
			t.Fatal(err)
		}
		want := []wishFile{
			{partition: "OEM", path: "/config.ign", source: "ignition", mode: 0o600},
			{partition: "root", path: "/etc/motd", content: "hello", mode: 0o644},
			{partition: "root", path: "/x", content: "y", mode: 0o755},
		}
		if diff := cmp.Diff(want, w.files, cmp.AllowUnexported(wishFile{})); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		if w.entry == nil || w.entry.label != "Flatcar" || !w.entry.fallback {
			t.Errorf("boot entry %+v", w.entry)
		}
	})
	t.Run("a server that says something odd is told so", func(t *testing.T) {
		if _, err := wishOf(map[string]any{"finish": map[string]any{"grow": "perhaps"}}); err == nil {
			t.Error("no error")
		}
	})
}

func TestExpand(t *testing.T) {
	r := &run{words: wordsOf(map[string]string{"ignition_url": "http://s/ignition/k/config.ign"})}
	got, err := r.expand("ignition.config.url=${ignition_url} ${root} $x")
	if err != nil || got != "ignition.config.url=http://s/ignition/k/config.ign ${root} ${x}" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := r.expand("${talos_url}"); err == nil || !strings.Contains(err.Error(), "talos_url") {
		t.Errorf("a URL that there is not: %v", err)
	}
}
