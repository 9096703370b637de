// Package claim keeps what only one machine may have (MAC addresses, reserved
// addresses, SMBIOS UUID and serial number) from being given to two, also when
// two machines are created at the same moment.
//
// Every claim is a key /index/claims/<claim> that holds the machine's name.
// It is written in the Txn that writes the machine, on the condition that
// nobody else has it: of two writers one gets store.ErrConflict, looks again
// and is told whose it is.
//
// Machines that are written without their claims get them from Keep, which
// runs beside the API; a claim whose machine has gone, or has dropped it, can
// be taken over. All functions may be called by any number of goroutines.
package claim

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

const prefix = "/index/claims/"

// maxOps leaves room for the machine and an event in one Txn.
const maxOps = store.MaxTxnOps - 8

func key(value string) string { return prefix + url.PathEscape(value) }

// Change is what has to be in a machine's Txn besides the machine.
type Change struct {
	Compares []store.Compare
	Ops      []store.Op
	// Shared is what the machine had before and another machine has as well:
	// machines that were discovered with the same serial number, such as
	// "To be filled by O.E.M.". It is no error, so that they can be changed.
	Shared []resource.FieldError
}

// Plan returns what changes when the machine `before` (nil: a new one) becomes
// `after` (nil: it is deleted). Where another machine has something that
// `after` newly claims, the error is a *resource.FieldErrors that names it.
//
// The two may have different names: the machine is given another one in the
// same Txn.
func Plan(ctx context.Context, db *resource.DB, before, after *pb.Machine) (Change, error) {
	p := planner{ctx: ctx, db: db, name: after.GetMetadata().GetName(), was: before.GetMetadata().GetName(), had: map[string]bool{}}
	if after == nil {
		p.name = p.was
	}
	for _, c := range resource.Claims(before) {
		p.had[c.Value] = true
	}
	wrong, err := p.takeAll(resource.Claims(after))
	if err != nil {
		return Change{}, err
	}
	if err := p.dropOthers(resource.Claims(before), resource.Claims(after)); err != nil {
		return Change{}, err
	}
	if len(p.out.Ops) > maxOps {
		wrong = append(wrong, resource.FieldError{
			Path:    "spec.interfaces",
			Message: fmt.Sprintf("%d addresses change at once, at most %d: change some of them first", len(p.out.Ops), maxOps),
		})
	}
	if len(wrong) > 0 {
		return Change{}, &resource.FieldErrors{Kind: "Machine", Name: p.name, Errors: wrong}
	}
	return p.out, nil
}

// planner collects one Change.
type planner struct {
	ctx  context.Context
	db   *resource.DB
	name string
	// was is the machine's name before; empty for a new one.
	was string
	had map[string]bool
	out Change
}

// takeAll takes every claim, and returns those that are newly made and
// another machine's.
func (p *planner) takeAll(claims []resource.Claim) ([]resource.FieldError, error) {
	var wrong []resource.FieldError
	for _, c := range claims {
		field, err := p.take(c)
		switch {
		case err != nil:
			return nil, err
		case field == nil:
		case p.had[c.Value]:
			p.out.Shared = append(p.out.Shared, *field)
		default:
			wrong = append(wrong, *field)
		}
	}
	return wrong, nil
}

// take adds what makes the claim this machine's. It returns what is wrong with
// the field if another machine has it.
func (p *planner) take(c resource.Claim) (*resource.FieldError, error) {
	kv, err := p.db.Store.Get(p.ctx, key(c.Value))
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("reading claim %s: %w", c.Value, err)
	}
	owner := string(kv.Value)
	if owner == p.name {
		return nil, nil
	}
	if owner != "" && owner != p.was {
		ours, err := p.abandoned(owner, c)
		if ours != nil || err != nil {
			return ours, err
		}
	}
	p.out.Compares = append(p.out.Compares, store.Compare{Key: key(c.Value), ModRevision: kv.ModRevision})
	p.out.Ops = append(p.out.Ops, store.Put(key(c.Value), []byte(p.name)))
	return nil, nil
}

// abandoned adds the condition that the owner on record stays without the
// claim, or returns that it still has it.
func (p *planner) abandoned(owner string, c resource.Claim) (*resource.FieldError, error) {
	m, err := resource.Get[*pb.Machine](p.ctx, p.db, owner)
	if errors.Is(err, store.ErrNotFound) {
		p.out.Compares = append(p.out.Compares, resource.Absent[*pb.Machine](owner))
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, theirs := range resource.Claims(m) {
		if theirs.Value == c.Value {
			_, text, _ := strings.Cut(c.Value, "=")
			return &resource.FieldError{Path: c.Path, Message: text + " is machine/" + owner + "'s already" + advice(m)}, nil
		}
	}
	p.out.Compares = append(p.out.Compares, resource.Unchanged(m))
	return nil, nil
}

// advice says how to go on where a machine made itself known before a person
// described it.
func advice(m *pb.Machine) string {
	if m.GetStatus().GetState() != pb.MachineState_DISCOVERED {
		return ""
	}
	return ", which was discovered on the network: use that name, or delete it first"
}

// dropOthers adds what gives up the claims of before that after doesn't make.
func (p *planner) dropOthers(before, after []resource.Claim) error {
	kept := map[string]bool{}
	for _, c := range after {
		kept[c.Value] = true
	}
	for _, c := range before {
		if kept[c.Value] {
			continue
		}
		kv, err := p.db.Store.Get(p.ctx, key(c.Value))
		if errors.Is(err, store.ErrNotFound) || err == nil && string(kv.Value) != p.was {
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

// Owner returns the name of the machine that has a claim, such as
// mac=52:54:00:77:00:01; empty if none has.
func Owner(ctx context.Context, db *resource.DB, value string) (string, error) {
	kv, err := db.Store.Get(ctx, key(value))
	if errors.Is(err, store.ErrNotFound) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("reading claim %s: %w", value, err)
	}
	m, err := resource.Get[*pb.Machine](ctx, db, string(kv.Value))
	if errors.Is(err, store.ErrNotFound) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	for _, c := range resource.Claims(m) {
		if c.Value == value {
			return string(kv.Value), nil
		}
	}
	return "", nil
}

// createAttempts bounds how often Create looks again after somebody else was faster.
const createAttempts = 16

// Create stores a new machine with its claims, and ops with it. The error
// wraps resource.ErrExists when the name is taken, and is a
// *resource.FieldErrors when another machine has what this one claims.
func Create(ctx context.Context, db *resource.DB, m *pb.Machine, ops ...store.Op) (*pb.Machine, error) {
	name := m.GetMetadata().GetName()
	for range createAttempts {
		if _, err := resource.Get[*pb.Machine](ctx, db, name); err == nil {
			return nil, fmt.Errorf("machine/%s: %w", name, resource.ErrExists)
		} else if !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		change, err := Plan(ctx, db, nil, m)
		if err != nil {
			return nil, err
		}
		resource.Stamp(db, m)
		compares := append(change.Compares, resource.Absent[*pb.Machine](name))
		revision, err := db.Store.Txn(ctx, compares, append(append(change.Ops, resource.Put(m)), ops...))
		if errors.Is(err, store.ErrConflict) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("creating machine/%s: %w", name, err)
		}
		m.Metadata.ResourceVersion = revision
		return m, nil
	}
	return nil, fmt.Errorf("creating machine/%s: %w", name, store.ErrConflict)
}
