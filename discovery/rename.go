package discovery

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/resource/claim"
	"github.com/bedplate/bedplate/store"
)

// ErrInUse means that a machine can't get another name, since something
// speaks of it by the one that it has.
var ErrInUse = errors.New("it is in use under its name")

// renameAttempts bounds how often Rename looks again after somebody else was faster.
const renameAttempts = 16

// Rename moves the machine `from` to the name `to`, with what apply changes of
// it and its claims, in one transaction; compares and ops go with it. Its uid stays, and
// so does what goes by that: its history. The error wraps resource.ErrExists
// when `to` is taken, ErrInUse when a workflow, an instance, a job or an
// erasure record has its name, or it has been renamed before, and is a *resource.FieldErrors when apply
// claims what another machine has. apply may be called more than once.
//
// The machine's agent may be connected. Its certificate has the old name, so
// the machine keeps that as its former name (resource.AnnotationFormerName),
// and the agents' service takes a certificate of that name, of the boot and
// key that the machine has on record, for the machine's own: the stream under
// the old name ends, and the agent connects again under the new one. Nothing
// is restarted. From its next boot on it has a certificate of its new name.
//
// Events stay with the name that the machine had when they happened.
func Rename(ctx context.Context, db *resource.DB, from, to string, apply func(*pb.Machine) error, compares []store.Compare, ops []store.Op) error {
	if !resource.ValidName(to) {
		return fmt.Errorf("renaming machine/%s to %q: %w", from, to, resource.ErrName)
	}
	var err error
	for range renameAttempts {
		if err = rename(ctx, db, from, to, apply, compares, ops); !errors.Is(err, store.ErrConflict) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("renaming machine/%s to %s: %w", from, to, err)
	}
	return nil
}

func rename(ctx context.Context, db *resource.DB, from, to string, apply func(*pb.Machine) error, also []store.Compare, ops []store.Op) error {
	before, err := resource.Get[*pb.Machine](ctx, db, from)
	if err != nil {
		return err
	}
	if err := renamable(before); err != nil {
		return err
	}
	if _, err := resource.Get[*pb.Machine](ctx, db, to); err == nil {
		return fmt.Errorf("machine/%s: %w", to, resource.ErrExists)
	} else if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	after := proto.Clone(before).(*pb.Machine)
	if err := apply(after); err != nil {
		return err
	}
	md := after.GetMetadata()
	md.Name, md.ResourceVersion, md.Uid, md.CreateTime = to, 0, before.GetMetadata().GetUid(), before.GetMetadata().GetCreateTime()
	if md.Annotations == nil {
		md.Annotations = map[string]string{}
	}
	md.Annotations[resource.AnnotationFormerName] = from
	claims, err := claim.Plan(ctx, db, before, after)
	if err != nil {
		return err
	}
	resource.Stamp(db, after)
	compares := append(append(claims.Compares, also...), resource.Unchanged(before), resource.Absent[*pb.Machine](to))
	all := append(claims.Ops, resource.Remove[*pb.Machine](from), resource.Put(after))
	_, err = db.Store.Txn(ctx, compares, append(all, ops...))
	return err
}

// renamable returns what speaks of a machine by its name.
func renamable(m *pb.Machine) error {
	s := m.GetStatus()
	for _, held := range []struct{ kind, name string }{
		{"workflow", s.GetWorkflow()}, {"instance", s.GetInstance()}, {"job", s.GetJob()}, {"erasure record", s.GetErasure()},
	} {
		if held.name != "" {
			return fmt.Errorf("%w: by %s %s", ErrInUse, held.kind, held.name)
		}
	}
	if former := m.GetMetadata().GetAnnotations()[resource.AnnotationFormerName]; former != "" {
		return fmt.Errorf("%w: by an agent that goes by %s", ErrInUse, former)
	}
	if s.GetBmc().GetPasswordTime() != nil {
		return fmt.Errorf("%w: by the password that its BMC was given", ErrInUse)
	}
	return nil
}

// Renamed returns the name that the machine now has that once had this one;
// false if there is none, or a machine of that name is there.
func Renamed(ctx context.Context, db *resource.DB, former machine.Name) (machine.Name, bool, error) {
	_, err := resource.Get[*pb.Machine](ctx, db, string(former))
	if err == nil || !errors.Is(err, store.ErrNotFound) {
		return "", false, err
	}
	name, err := claim.Owner(ctx, db, "former-name="+string(former))
	return machine.Name(name), name != "", err
}
