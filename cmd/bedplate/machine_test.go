package main

import (
	"path/filepath"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bedplate/bedplate/lifecycle"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
)

func TestAccept(t *testing.T) {
	f := newFakeServer(t)
	f.load(t, filepath.Join("testdata", "fixtures.yaml"))
	m := f.objects["machine/web-2"].(*pb.Machine)
	m.Metadata.Annotations = map[string]string{lifecycle.AnnotationDiscovered: "true", "rack": "r2"}
	a := newTestApp(f, nil, nil)
	t.Run("a machine that changes meanwhile is read again", func(t *testing.T) {
		busy := 2
		f.refuse = func(resource.Object) error {
			if busy--; busy >= 0 {
				return status.Error(codes.Aborted, "machine/web-2 was changed by someone else")
			}
			return nil
		}
		if got, want := command(t.Context(), a, "machine accept web-2"), "machine/web-2 accepted\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		got := f.objects["machine/web-2"].GetMetadata().GetAnnotations()
		if got[lifecycle.AnnotationDiscovered] != "" || got["rack"] != "r2" {
			t.Errorf("annotations %v: want the mark gone and the others kept", got)
		}
	})
	t.Run("accepting twice does no harm", func(t *testing.T) {
		if got, want := command(t.Context(), a, "machine accept web-2"), "machine/web-2 unchanged: it needs no accepting\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
	t.Run("one unknown name does not keep the others from it", func(t *testing.T) {
		f.objects["machine/web-2"].GetMetadata().Annotations = map[string]string{lifecycle.AnnotationDiscovered: "true"}
		got := command(t.Context(), a, "machine accept web-9 web-2")
		want := "machine/web-2 accepted\n[stderr]\nerror: machine/web-9: not found\nhint: did you mean web-1? `bedplate machine list` shows all\n[exit code 1]\n"
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}
