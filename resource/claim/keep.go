package claim

import (
	"context"
	"errors"
	"log/slog"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

// Keep gives every machine its claims that was written without them, and
// removes those of machines that have gone, until ctx is done. A claim that
// two machines have already is logged; the first one keeps it.
func Keep(ctx context.Context, db *resource.DB, log *slog.Logger) error {
	k := &keeper{ctx: ctx, db: db, log: log, known: map[string]map[string]bool{}}
	return resource.Follow(ctx, db, k.set, k.remove, func() {})
}

// keeper remembers the claims that it has seen to, by machine.
type keeper struct {
	ctx   context.Context
	db    *resource.DB
	log   *slog.Logger
	known map[string]map[string]bool
}

// set sees to the claims of a machine that weren't there before.
func (k *keeper) set(m *pb.Machine) {
	name := m.GetMetadata().GetName()
	claims := resource.Claims(m)
	seen := k.known[name]
	fresh := len(seen) != len(claims)
	now := make(map[string]bool, len(claims))
	for _, c := range claims {
		now[c.Value] = true
		fresh = fresh || !seen[c.Value]
	}
	if !fresh {
		return
	}
	k.known[name] = now
	if err := k.write(m); err != nil {
		// Its next change is looked at again.
		delete(k.known, name)
		k.report(name, err)
	}
}

// remove gives up the claims of a machine that has gone.
func (k *keeper) remove(name string) {
	for value := range k.known[name] {
		k.report(name, k.forget(name, value))
	}
	delete(k.known, name)
}

// write puts the claims that are missing, on the condition that the machine is
// still as it was seen: if not, its next change comes here, too.
func (k *keeper) write(m *pb.Machine) error {
	change, err := Plan(k.ctx, k.db, m, m)
	if err != nil {
		return err
	}
	for _, shared := range change.Shared {
		k.log.Warn("two machines claim the same", "machine", m.GetMetadata().GetName(), "err", shared)
	}
	if len(change.Ops) == 0 {
		return nil
	}
	_, err = k.db.Store.Txn(k.ctx, append(change.Compares, resource.Unchanged(m)), change.Ops)
	return err
}

// forget deletes one claim if it is still the machine's and there is no such machine.
func (k *keeper) forget(name, value string) error {
	kv, err := k.db.Store.Get(k.ctx, key(value))
	if err != nil || string(kv.Value) != name {
		return err
	}
	_, err = k.db.Store.Txn(k.ctx,
		[]store.Compare{{Key: kv.Key, ModRevision: kv.ModRevision}, resource.Absent[*pb.Machine](name)},
		[]store.Op{store.Delete(kv.Key)})
	return err
}

// report logs what went wrong with the store. A conflict means that somebody
// else is at it, so that nothing is lost.
func (k *keeper) report(name string, err error) {
	if err == nil || k.ctx.Err() != nil || errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound) {
		return
	}
	k.log.Error("keeping claims of a machine", "machine", name, "err", err)
}
