package engine

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/trust"
)

// liveEngine has what a live system is decided from, and nothing else.
func liveEngine(t *testing.T, images ...*pb.Image) *Engine {
	t.Helper()
	key, err := trust.OpenKey(t.TempDir(), strings.NewReader(strings.Repeat("k", 64)))
	if err != nil {
		t.Fatal(err)
	}
	e := &Engine{catalogue: newCatalogue(), networks: &networks{}, key: key}
	for _, i := range images {
		e.catalogue.set(i)
	}
	e.documents = newDocuments(nil, func(string, string) string { return "KEY" }, func(machine.Machine, string) (systemNetwork, error) { return systemNetwork{}, nil })
	return e
}

func file(name, digest, url string) *pb.Image {
	return &pb.Image{Metadata: &pb.Metadata{Name: name}, Spec: &pb.ImageSpec{Url: url}, Status: &pb.ImageStatus{Digest: digest}}
}

func TestLiveScript(t *testing.T) {
	live := func(l *pb.ImageLive) *pb.Image {
		return &pb.Image{Metadata: &pb.Metadata{Name: "live"}, Spec: &pb.ImageSpec{Live: l}}
	}
	instance := &pb.Instance{Metadata: &pb.Metadata{Name: "i", Uid: "u"}, Spec: &pb.InstanceSpec{Image: "live", Hostname: "h", KernelArguments: []string{"quiet"}}}
	t.Run("files are the store's, an image's URL, or a URL; words are the instance's", func(t *testing.T) {
		e := liveEngine(t, file("k", "sha256:1", ""), file("i1", "", "https://images.example/i"), live(&pb.ImageLive{
			Kernel: "k", Initramfs: []string{"i1", "http://other.example/i"}, Rootfs: "k",
			KernelArguments: []string{"root=${rootfs_url}", "ds=nocloud-net;s=${metadata_url}", "name=${hostname}"},
		}))
		e.documents.set(instance)
		l, ok, err := e.liveScript(machine.Machine{Name: "m", Instance: "i"}, "http://s")
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		i := slices.IndexFunc(l.Args, func(a string) bool { return strings.HasPrefix(a, "ds=") })
		if !strings.HasPrefix(l.Args[i], "ds=nocloud-net;s=http://s/nocloud/") {
			t.Errorf("%q", l.Args[i])
		}
		l.Args = slices.Delete(l.Args, i, i+1)
		got := append(append([]string{l.Image, l.KernelURL}, l.InitramfsURLs...), l.Args...)
		want := []string{"live", "http://s/images/k", "https://images.example/i", "http://other.example/i", "root=http://s/images/k", "name=h", "quiet"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
	t.Run("what is missing is named", func(t *testing.T) {
		for want, l := range map[string]*pb.ImageLive{
			"there is no image k":         {Kernel: "k"},
			"has neither a URL nor":       {Kernel: "empty"},
			"there is no ${nothing} here": {Kernel: "http://a/k", KernelArguments: []string{"a=${nothing}"}},
		} {
			e := liveEngine(t, file("empty", "", ""), live(l))
			e.documents.set(instance)
			if _, ok, err := e.liveScript(machine.Machine{Instance: "i"}, "http://s"); ok || err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v: %v, %v; want %q", l, ok, err, want)
			}
		}
	})
	t.Run("a machine without an instance, or with one for its disk, has none", func(t *testing.T) {
		e := liveEngine(t, file("live", "sha256:1", ""))
		e.documents.set(instance)
		for _, name := range []string{"", "i"} {
			if _, ok, err := e.liveScript(machine.Machine{Instance: name}, "http://s"); ok || err != nil {
				t.Errorf("instance %q: %v, %v", name, ok, err)
			}
		}
	})
}
