package api

import (
	"fmt"
	"slices"
	"sync"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// uses knows which instances and workflows refer to which machines, images
// and templates. Calls of this server enter what they make before they let go
// of the lock, so that nothing is deleted under them; what others make comes
// by watch. Where several servers share a store one may so delete a machine
// that another has just taken: the workflow then fails and says so.
type uses struct {
	// lock is held for reading while something that refers to others is made,
	// for writing while something that is referred to is deleted.
	lock sync.RWMutex

	mu        sync.Mutex
	instances map[string]*pb.Instance // spec and status without the large fields
	workflows map[string]*pb.Workflow // those that have not ended; spec only
	versions  map[string]int64        // newest seen, by kind/name
}

func newUses() *uses {
	return &uses{instances: map[string]*pb.Instance{}, workflows: map[string]*pb.Workflow{}, versions: map[string]int64{}}
}

// newer reports whether a version of key is not older than what was seen, and
// remembers it.
func (u *uses) newerLocked(key string, md *pb.Metadata) bool {
	if u.versions[key] > md.GetResourceVersion() {
		return false
	}
	u.versions[key] = md.GetResourceVersion()
	return true
}

func (u *uses) setInstance(i *pb.Instance) {
	u.mu.Lock()
	defer u.mu.Unlock()
	name := i.GetMetadata().GetName()
	if !u.newerLocked("instance/"+name, i.GetMetadata()) {
		return
	}
	s := i.GetSpec()
	u.instances[name] = &pb.Instance{
		Spec:   &pb.InstanceSpec{Machine: s.GetMachine(), Image: s.GetImage(), Template: s.GetTemplate()},
		Status: &pb.InstanceStatus{Machine: i.GetStatus().GetMachine(), Deleting: i.GetStatus().GetDeleting()},
	}
}

func (u *uses) removeInstance(name string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.instances, name)
	delete(u.versions, "instance/"+name)
}

func (u *uses) setWorkflow(w *pb.Workflow) {
	u.mu.Lock()
	defer u.mu.Unlock()
	name := w.GetMetadata().GetName()
	if ended(w) {
		delete(u.workflows, name)
		delete(u.versions, "workflow/"+name)
		return
	}
	if u.newerLocked("workflow/"+name, w.GetMetadata()) {
		u.workflows[name] = &pb.Workflow{Spec: &pb.WorkflowSpec{Machine: w.GetSpec().GetMachine()}}
	}
}

func (u *uses) removeWorkflow(name string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.workflows, name)
	delete(u.versions, "workflow/"+name)
}

// ended reports whether nothing more happens in a workflow by itself.
func ended(w *pb.Workflow) bool {
	switch w.GetStatus().GetState() {
	case pb.WorkflowState_SUCCEEDED, pb.WorkflowState_WORKFLOW_FAILED, pb.WorkflowState_CANCELLED:
		return true
	}
	return false
}

// instancesWith returns the names of instances for which use is true, in order.
func (u *uses) instancesWith(use func(*pb.Instance) bool) []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	var out []string
	for name, i := range u.instances {
		if use(i) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// workflowsOn returns the names of workflows for a machine that have not
// ended, in order.
func (u *uses) workflowsOn(machine string) []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	var out []string
	for name, w := range u.workflows {
		if w.GetSpec().GetMachine() == machine {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// instancesOf returns the names of instances that want or hold a machine.
func (u *uses) instancesOf(machine string) []string {
	return u.instancesWith(func(i *pb.Instance) bool {
		return i.GetSpec().GetMachine() == machine || i.GetStatus().GetMachine() == machine
	})
}

// some writes the first names of a list for people.
func some(singular string, names []string) string {
	if len(names) == 1 {
		return singular + "/" + names[0]
	}
	return fmt.Sprintf("%s/%s and %d more", singular, names[0], len(names)-1)
}
