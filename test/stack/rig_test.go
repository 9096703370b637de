package stack

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fmt"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/stack"
	"github.com/bedplate/bedplate/stack/apply"
	"github.com/bedplate/bedplate/stack/content"
	"github.com/bedplate/bedplate/stack/render"
	"github.com/bedplate/bedplate/store"
	"github.com/bedplate/bedplate/store/bolt"
)

// rig is a controller of stacks with a store and a cluster of its own.
type rig struct {
	t       *testing.T
	cluster *cluster
	kube    *apply.Cluster
	db      *resource.DB
	stacks  *stack.Controller
	stop    func()
}

type secrets struct{ kubeconfig string }

func (s secrets) Secret(context.Context, string) (map[string]string, error) {
	return map[string]string{"kubeconfig": s.kubeconfig}, nil
}

// open is a Sealer that doesn't.
type open struct{}

func (open) Seal(_ string, b []byte) ([]byte, error) { return b, nil }
func (open) Open(_ string, b []byte) ([]byte, error) { return b, nil }

func newRig(t *testing.T, nodes int) *rig {
	r := &rig{t: t, cluster: needCluster(t, nodes)}
	var err error
	if r.kube, err = apply.Connect([]byte(r.cluster.kubeconfig), ""); err != nil {
		t.Fatal(err)
	}
	st, err := bolt.Open(r.cluster.path("store.db"), bolt.Options{Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	r.db = &resource.DB{Store: st, Now: time.Now, NewUID: uuid.NewString}
	if _, err := resource.Create(t.Context(), r.db, &pb.Secret{Metadata: &pb.Metadata{Name: "k"}, Spec: &pb.SecretSpec{}}); err != nil {
		t.Fatal(err)
	}
	r.run()
	t.Cleanup(func() { r.stop() })
	r.nodes(nodes)
	return r
}

// run starts a controller, as a server that starts does.
func (r *rig) run() {
	var err error
	r.stacks, err = stack.New(stack.Config{
		DB: r.db, Dir: r.cluster.path("stacks"), Secrets: secrets{r.cluster.kubeconfig}, Sealer: open{}, DriftInterval: time.Second, Now: time.Now, Logger: slog.New(slog.DiscardHandler),
		Event: func(name, reason, message string, _ bool) store.Op {
			r.t.Logf("%s: %s %s", name, reason, message)
			return store.Put("/events/"+uuid.NewString(), nil)
		},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.stacks.Run(ctx) }()
	r.stop = func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("the controller ended: %v", err)
		}
		r.stop = func() {}
	}
}

// nodes makes simulated nodes and waits until they are ready.
func (r *rig) nodes(n int) {
	gvk := schema.GroupVersionKind{Version: "v1", Kind: "Node"}
	requests, err := r.kube.For(gvk, "")
	if err != nil {
		r.t.Fatal(err)
	}
	for i := range n {
		node := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "v1", "kind": "Node",
			"metadata": map[string]any{
				"name": fmt.Sprintf("node-%d", i), "annotations": map[string]any{"kwok.x-k8s.io/node": "fake"},
				"labels": map[string]any{"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", "kubernetes.io/hostname": fmt.Sprintf("node-%d", i)},
			},
		}}
		if _, err := requests.Create(r.t.Context(), node, metav1.CreateOptions{}); err != nil {
			r.t.Fatal(err)
		}
	}
	eventually(r.t, 2*time.Minute, "all nodes are ready", func() (bool, string) {
		list, err := requests.List(r.t.Context(), metav1.ListOptions{})
		if err != nil {
			return false, err.Error()
		}
		ready := 0
		for _, item := range list.Items {
			conditions, _, _ := unstructured.NestedSlice(item.Object, "status", "conditions")
			for _, c := range conditions {
				if m := c.(map[string]any); m["type"] == "Ready" && m["status"] == "True" {
					ready++
				}
			}
		}
		return ready == n, fmt.Sprintf("%d of %d", ready, n)
	})
}

// put stores a file or directory, as the command line does.
func (r *rig) put(path string) string {
	data, err := content.Pack(path)
	if err != nil {
		r.t.Fatal(err)
	}
	sent := false
	digest, _, err := r.stacks.PutContent(r.t.Context(), func() ([]byte, error) {
		if sent {
			return nil, io.EOF
		}
		sent = true
		return data, nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return digest
}

// apply stores a stack, new or changed.
func (r *rig) apply(text string) {
	r.t.Helper()
	items, err := resource.Decode("stack.yaml", strings.NewReader(text))
	if err != nil {
		r.t.Fatal(err)
	}
	s := items[0].Object.(*pb.Stack)
	if _, err := resource.Update(r.t.Context(), r.db, s.GetMetadata().GetName(), func(old *pb.Stack) error {
		old.Spec = proto.CloneOf(s.GetSpec())
		return nil
	}); err == nil {
		return
	}
	if _, err := resource.Create(r.t.Context(), r.db, s); err != nil {
		r.t.Fatal(err)
	}
}

// wait waits until a stack has settled in a state on what it wants now.
func (r *rig) wait(name string, want pb.StackState, limit time.Duration) *pb.Stack {
	r.t.Helper()
	var s *pb.Stack
	time.Sleep(500 * time.Millisecond)
	eventually(r.t, limit, name+" is "+want.String(), func() (bool, string) {
		var err error
		if s, err = resource.Get[*pb.Stack](r.t.Context(), r.db, name); err != nil {
			return false, err.Error()
		}
		st := s.GetStatus()
		if want == pb.StackState_STACK_READY && st.GetState() == pb.StackState_STACK_FAILED {
			r.t.Fatalf("%s failed: %s", name, st.GetCause())
		}
		return st.GetState() == want, fmt.Sprintf("%s: %s: %v", st.GetState(), st.GetCause(), st.GetLayers())
	})
	return s
}

// remove deletes a stack and waits until it is gone.
func (r *rig) remove(name string, limit time.Duration) {
	r.t.Helper()
	if _, err := resource.Update(r.t.Context(), r.db, name, func(s *pb.Stack) error {
		s.Status.Deleting = true
		return nil
	}); err != nil {
		r.t.Fatal(err)
	}
	eventually(r.t, limit, name+" is gone", func() (bool, string) {
		s, err := resource.Get[*pb.Stack](r.t.Context(), r.db, name)
		return err != nil, s.GetStatus().GetCause() + fmt.Sprint(s.GetStatus().GetLayers())
	})
}

// left lists what is in the cluster with a stack's label.
func (r *rig) left(name string) []string {
	r.t.Helper()
	r.kube.Discovery.Invalidate()
	lists, err := r.kube.Discovery.ServerPreferredResources()
	if err != nil {
		r.t.Fatal(err)
	}
	var out []string
	for _, l := range lists {
		gv, err := schema.ParseGroupVersion(l.GroupVersion)
		if err != nil {
			r.t.Fatal(err)
		}
		for _, res := range l.APIResources {
			if strings.Contains(res.Name, "/") || !strings.Contains(fmt.Sprint(res.Verbs), "list") {
				continue
			}
			found, err := r.kube.Dynamic.Resource(gv.WithResource(res.Name)).List(r.t.Context(), metav1.ListOptions{LabelSelector: apply.LabelStack + "=" + name})
			if err != nil {
				continue
			}
			for _, o := range found.Items {
				out = append(out, apply.RefOf(&o).String())
			}
		}
	}
	return out
}

// example returns a file of the folder that BEDPLATE_STACK_EXAMPLES names.
func example(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("BEDPLATE_STACK_EXAMPLES")
	if dir == "" {
		t.Skip("needs published manifests: set BEDPLATE_STACK_EXAMPLES to the folder that has them")
	}
	return filepath.Join(dir, name)
}

// objects counts the objects in a file of manifests.
func objects(t *testing.T, path string) int {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	list, err := render.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}
