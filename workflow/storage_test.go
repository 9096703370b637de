package workflow

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/structpb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

// TestController_StorageSecrets follows the passphrase of an instance's
// storage: no template names it, and only a plan that makes storage has it.
func TestController_StorageSecrets(t *testing.T) {
	instance := &pb.Instance{Metadata: &pb.Metadata{Name: "db"}, Spec: &pb.InstanceSpec{Machine: "m", Storage: &pb.StorageSpec{
		Disks:      []*pb.StorageDisk{{Name: "d", Serial: "S"}},
		Encryption: []*pb.StorageEncryption{{Name: "v", Device: "d", KeySecret: "vault"}},
	}}}
	makes := &pb.TemplateSpec{Steps: []*pb.Step{{Id: "s", Uses: "storage.apply", With: map[string]*structpb.Value{
		"layout": mustValue("${{ instance.spec.storage }}"), "keys": mustValue("${{ instance.keys }}"),
	}}}}
	prepare := func(t *testing.T, w *world, spec *pb.TemplateSpec) *pb.Workflow {
		t.Helper()
		w.machine("m", "b1")
		if _, err := w.store.Txn(t.Context(), nil, []store.Op{resource.Put(instance)}); err != nil {
			t.Fatal(err)
		}
		w.template("t", spec)
		wf := workflowFor("w", "t", "m")
		wf.Spec.Instance = "db"
		return wf
	}
	t.Run("a plan that makes storage has it, and it is masked, also after a restart", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			w.secrets["vault"], w.secrets["else"] = map[string]string{"passphrase": "open sesame"}, map[string]string{"passphrase": "no"}
			if _, err := w.c.Create(t.Context(), prepare(t, w, makes)); err != nil {
				t.Fatal(err)
			}
			a := w.agent("m", "b1")
			a.mustConnect()
			got := map[string]map[string]string{}
			for name, s := range a.plan.Secrets {
				got[name] = s.Data
			}
			if diff := cmp.Diff(map[string]map[string]string{"vault": {"passphrase": "open sesame"}}, got); diff != "" {
				t.Errorf("secrets of the plan (-want +got):\n%s", diff)
			}
			a.start("s")
			a.mustFlush()
			w.stop()
			a.session = nil
			w.boot(0, false)
			a.mustConnect()
			a.log("s", "cryptsetup: open sesame")
			a.mustFlush()
			if got := w.logs("w"); got != "cryptsetup: ***" {
				t.Errorf("log %q", got)
			}
		})
	})
	t.Run("a plan that makes none hasn't", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			w.secrets["vault"] = map[string]string{"passphrase": "open sesame"}
			if _, err := w.c.Create(t.Context(), prepare(t, w, noops("a"))); err != nil {
				t.Fatal(err)
			}
			a := w.agent("m", "b1")
			a.mustConnect()
			if len(a.plan.Secrets) > 0 {
				t.Errorf("secrets of the plan: %v", a.plan.Secrets)
			}
		})
	})
	t.Run("one that isn't there is missed before anything starts", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			_, err := w.c.Create(t.Context(), prepare(t, w, makes))
			if err == nil || !strings.Contains(err.Error(), `spec.instance: the storage of instance db speaks of secret "vault", which is not there: apply it first`) {
				t.Errorf("error is %v", err)
			}
		})
	})
}
