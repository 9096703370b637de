package claim

import (
	"context"
	"errors"
	"fmt"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

// Merge returns what changes when the machine `before` becomes `after` and the
// machine `from`, which turned out to be the same server, is deleted in the
// same Txn: what from claims goes to after. The ops delete from; its being
// unchanged is among the compares. Where a third machine has something that
// after newly claims, the error is a *resource.FieldErrors that names it.
func Merge(ctx context.Context, db *resource.DB, before, after, from *pb.Machine) (Change, error) {
	p := planner{ctx: ctx, db: db, name: after.GetMetadata().GetName(), was: before.GetMetadata().GetName(), had: map[string]bool{}}
	for _, c := range resource.Claims(before) {
		p.had[c.Value] = true
	}
	handed, wanted := map[string]bool{}, resource.Claims(after)
	for _, c := range resource.Claims(from) {
		handed[c.Value] = true
	}
	rest := make([]resource.Claim, 0, len(wanted))
	kept := map[string]bool{}
	for _, c := range wanted {
		kept[c.Value] = true
		taken := false
		if handed[c.Value] {
			var err error
			if taken, err = p.takeFrom(from, c); err != nil {
				return Change{}, err
			}
		}
		if !taken {
			rest = append(rest, c)
		}
	}
	wrong, err := p.takeAll(rest)
	if err == nil {
		err = p.dropOthers(resource.Claims(before), wanted)
	}
	if err != nil {
		return Change{}, err
	}
	if len(wrong) > 0 {
		return Change{}, &resource.FieldErrors{Kind: "Machine", Name: p.name, Errors: wrong}
	}
	if err := p.giveUp(from, kept); err != nil {
		return Change{}, err
	}
	p.out.Compares = append(p.out.Compares, resource.Unchanged(from))
	p.out.Ops = append(p.out.Ops, resource.Remove[*pb.Machine](from.GetMetadata().GetName()))
	if len(p.out.Ops) > maxOps {
		return Change{}, fmt.Errorf("merging machine/%s into machine/%s: %d addresses change at once, at most %d", from.GetMetadata().GetName(), p.name, len(p.out.Ops), maxOps)
	}
	return p.out, nil
}

// takeFrom makes a claim that from holds this machine's; false if from doesn't hold it.
func (p *planner) takeFrom(from *pb.Machine, c resource.Claim) (bool, error) {
	kv, err := p.db.Store.Get(p.ctx, key(c.Value))
	if errors.Is(err, store.ErrNotFound) || err == nil && string(kv.Value) != from.GetMetadata().GetName() {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading claim %s: %w", c.Value, err)
	}
	p.out.Compares = append(p.out.Compares, store.Compare{Key: kv.Key, ModRevision: kv.ModRevision})
	p.out.Ops = append(p.out.Ops, store.Put(kv.Key, []byte(p.name)))
	return true, nil
}

// giveUp deletes what from claims and nobody takes over.
func (p *planner) giveUp(from *pb.Machine, kept map[string]bool) error {
	for _, c := range resource.Claims(from) {
		if kept[c.Value] {
			continue
		}
		kv, err := p.db.Store.Get(p.ctx, key(c.Value))
		if errors.Is(err, store.ErrNotFound) || err == nil && string(kv.Value) != from.GetMetadata().GetName() {
			continue
		}
		if err != nil {
			return fmt.Errorf("reading claim %s: %w", c.Value, err)
		}
		p.out.Compares = append(p.out.Compares, store.Compare{Key: kv.Key, ModRevision: kv.ModRevision})
		p.out.Ops = append(p.out.Ops, store.Delete(kv.Key))
	}
	return nil
}
