package api

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/bedplate/bedplate/event"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

// attempts bounds how often a change is made again after somebody else was faster.
const attempts = 64

// change is one resource that is about to be created, changed or deleted.
type change[T resource.Object] struct {
	// before is nil when the resource is created, after when it is deleted.
	before, after T
	creating      bool
	actor         string
	// compares and ops go into the Txn with the resource.
	compares []store.Compare
	ops      []store.Op
	// note names what changed besides the fields that can be compared.
	note []string
	// extra is kept, encrypted, with the record of a request_id: a token.
	extra []byte
}

func (c *change[T]) add(compares []store.Compare, ops ...store.Op) {
	c.compares = append(c.compares, compares...)
	c.ops = append(c.ops, ops...)
}

// crud is what can be done with every kind of resource. The functions are what
// differs between kinds; each of them may be nil.
type crud[T resource.Object] struct {
	s    *Server
	kind resource.Kind
	// take looks at what the client sent before it is validated, and may alter it.
	take func(ctx context.Context, c *change[T]) error
	// check decides on a validated change, and may alter status and add to the Txn.
	check func(ctx context.Context, c *change[T]) error
	// release decides on a deletion, and may add to the Txn.
	release func(ctx context.Context, c *change[T]) error
	// committed is told of a change that is durable, removed of a deletion.
	committed func(obj T)
	removed   func(name string)
	// redact takes out what no client may see. It may alter its argument.
	redact func(obj T)
	// lock is held from before the check until after the commit, by creates
	// and updates and by deletions: a resource can't be deleted while another
	// that refers to it is made.
	changeLock, deleteLock sync.Locker
}

func newCRUD[T resource.Object](s *Server) crud[T] {
	var none T
	return crud[T]{s: s, kind: resource.KindOf(none), changeLock: noLock{}, deleteLock: noLock{}}
}

// noLock is for kinds that no other refers to.
type noLock struct{}

func (noLock) Lock()   {}
func (noLock) Unlock() {}

func (a *crud[T]) newObject() T { return a.kind.New().(T) }

func (a *crud[T]) isNil(obj T) bool { return !obj.ProtoReflect().IsValid() }

// visible returns obj as clients may see it.
func (a *crud[T]) visible(obj T) T {
	if a.redact == nil {
		return obj
	}
	obj = proto.Clone(obj).(T)
	a.redact(obj)
	return obj
}

// named refuses what can't be a name, so that no key is made of it.
func named(name string) error {
	if name == "" {
		return fieldError("name", "missing")
	}
	if !resource.ValidName(name) {
		return fieldError("name", "%q: %v", name, resource.ErrName)
	}
	return nil
}

func (a *crud[T]) get(ctx context.Context, name string) (T, error) {
	var none T
	if err := named(name); err != nil {
		return none, err
	}
	obj, err := resource.Get[T](ctx, a.s.cfg.DB, name)
	if err != nil {
		return none, err
	}
	return a.visible(obj), nil
}

// createOptions are those of the Create requests.
type createOptions struct {
	dryRun    bool
	requestID string
}

// createRequest is what all Create requests have.
type createRequest interface {
	GetDryRun() bool
	GetRequestId() string
}

func optionsOf(r createRequest) createOptions {
	return createOptions{dryRun: r.GetDryRun(), requestID: r.GetRequestId()}
}

// created is the outcome of a create, now or when its request_id came first.
type created[T resource.Object] struct {
	object T
	extra  []byte
}

// createPlain is create for kinds that answer with the resource alone.
func (a *crud[T]) createPlain(ctx context.Context, obj T, r createRequest) (T, error) {
	out, err := a.create(ctx, obj, optionsOf(r))
	return out.object, err
}

// create stores a new resource.
func (a *crud[T]) create(ctx context.Context, obj T, opts createOptions) (created[T], error) {
	if a.isNil(obj) {
		return created[T]{}, fieldError(a.kind.Singular, "missing: send the %s to create", a.kind.Singular)
	}
	request, err := newRequest(caller(ctx).name, a.kind.Plural, obj, opts.requestID)
	if err != nil {
		return created[T]{}, err
	}
	for range attempts {
		if out, ok, err := a.replay(ctx, request); ok || err != nil {
			return out, err
		}
		out, err := a.tryCreate(ctx, obj, opts, request)
		if errors.Is(err, store.ErrConflict) {
			continue
		}
		if err != nil {
			// What is in the way may be this very request, sent twice at once.
			if first, ok, _ := a.replay(ctx, request); ok {
				return first, nil
			}
		}
		return out, err
	}
	return created[T]{}, a.busy(obj.GetMetadata().GetName())
}

// tryCreate makes one attempt; store.ErrConflict asks for another one.
func (a *crud[T]) tryCreate(ctx context.Context, obj T, opts createOptions, request *request) (created[T], error) {
	a.changeLock.Lock()
	defer a.changeLock.Unlock()
	name := obj.GetMetadata().GetName()
	c := &change[T]{after: a.newObject(), creating: true, actor: caller(ctx).name}
	a.copyClient(c.after, obj)
	if err := a.decide(ctx, c); err != nil {
		return created[T]{}, err
	}
	if _, err := a.s.cfg.DB.Store.Get(ctx, a.kind.Prefix()+name); err == nil {
		return created[T]{}, fmt.Errorf("%s/%s %w", a.kind.Singular, name, resource.ErrExists)
	} else if !errors.Is(err, store.ErrNotFound) {
		return created[T]{}, err
	}
	resource.Stamp(a.s.cfg.DB, c.after)
	out := created[T]{object: c.after, extra: c.extra}
	if opts.dryRun {
		out.extra = nil
		out.object = a.visible(out.object)
		return out, nil
	}
	c.add([]store.Compare{resource.Absent[T](name)}, resource.Put(c.after),
		a.s.cfg.Events.Op(event.About(c.after, "Created", "", c.actor)))
	if err := a.record(request, c); err != nil {
		return created[T]{}, err
	}
	if err := a.commit(ctx, c); err != nil {
		return created[T]{}, err
	}
	out.object = a.visible(out.object)
	return out, nil
}

// copyClient copies to dst what is the client's to say: name, labels,
// annotations and spec.
func (a *crud[T]) copyClient(dst, src T) {
	from, to := src.ProtoReflect(), dst.ProtoReflect()
	fields := to.Descriptor().Fields()
	md := src.GetMetadata()
	to.Set(fields.ByName("metadata"), protoreflect.ValueOfMessage((&pb.Metadata{
		Name: md.GetName(), Labels: maps.Clone(md.GetLabels()), Annotations: maps.Clone(md.GetAnnotations()),
	}).ProtoReflect()))
	spec := fields.ByName("spec")
	to.Clear(spec)
	if from.Has(spec) {
		to.Set(spec, protoreflect.ValueOfMessage(proto.Clone(from.Get(spec).Message().Interface()).ProtoReflect()))
	}
}

// decide takes in, validates and checks what is to become of a resource.
func (a *crud[T]) decide(ctx context.Context, c *change[T]) error {
	if a.take != nil {
		if err := a.take(ctx, c); err != nil {
			return err
		}
	}
	if err := resource.Validate(c.after); err != nil {
		return err
	}
	if a.check == nil {
		return nil
	}
	return a.check(ctx, c)
}

// commit writes the change.
func (a *crud[T]) commit(ctx context.Context, c *change[T]) error {
	revision, err := a.s.cfg.DB.Store.Txn(ctx, c.compares, c.ops)
	if err != nil {
		return err
	}
	c.after.GetMetadata().ResourceVersion = revision
	if a.committed != nil {
		a.committed(proto.Clone(c.after).(T))
	}
	return nil
}

func (a *crud[T]) busy(name string) error {
	return status.Errorf(codes.Aborted, "%s/%s is being changed by many at once: try again", a.kind.Singular, name)
}

// stale is the error for a resource_version that isn't the newest.
func (a *crud[T]) stale(name string, want, have int64) error {
	if have == 0 {
		return status.Errorf(codes.Aborted, "%s/%s was deleted since you read it (version %d): create it again if it is still wanted", a.kind.Singular, name, want)
	}
	return status.Errorf(codes.Aborted, "%s/%s was changed by someone else: you read version %d, the newest is %d; get it again, make your change to that, and send it again",
		a.kind.Singular, name, want, have)
}

// updateRequest is what all Update requests have.
type updateRequest interface {
	GetDryRun() bool
	GetAllowMissing() bool
}

// update replaces what is the client's of a resource.
func (a *crud[T]) update(ctx context.Context, obj T, r updateRequest) (T, error) {
	var none T
	if a.isNil(obj) {
		return none, fieldError(a.kind.Singular, "missing: send the %s to update", a.kind.Singular)
	}
	name := obj.GetMetadata().GetName()
	if !resource.ValidName(name) {
		return none, fieldError("metadata.name", "%q: %v", name, resource.ErrName)
	}
	for range attempts {
		out, err := a.tryUpdate(ctx, obj, r)
		switch {
		case errors.Is(err, store.ErrNotFound) && r.GetAllowMissing():
			if v := obj.GetMetadata().GetResourceVersion(); v != 0 {
				return none, a.stale(name, v, 0)
			}
			out, err := a.create(ctx, obj, createOptions{dryRun: r.GetDryRun()})
			if errors.Is(err, resource.ErrExists) {
				continue
			}
			return out.object, err
		case !errors.Is(err, store.ErrConflict):
			return out, err
		}
	}
	return none, a.busy(name)
}

// tryUpdate makes one attempt; store.ErrConflict asks for another one.
func (a *crud[T]) tryUpdate(ctx context.Context, obj T, r updateRequest) (T, error) {
	a.changeLock.Lock()
	defer a.changeLock.Unlock()
	var none T
	want := obj.GetMetadata()
	before, err := resource.Get[T](ctx, a.s.cfg.DB, want.GetName())
	if err != nil {
		return none, err
	}
	have := before.GetMetadata()
	if v := want.GetResourceVersion(); v != 0 && v != have.GetResourceVersion() {
		return none, a.stale(want.GetName(), v, have.GetResourceVersion())
	}
	if uid := want.GetUid(); uid != "" && uid != have.GetUid() {
		return none, status.Errorf(codes.Aborted, "%s/%s is another one than you read: it was deleted and made again; get it again", a.kind.Singular, want.GetName())
	}
	c := &change[T]{before: before, after: proto.Clone(before).(T), actor: caller(ctx).name}
	a.copyClient(c.after, obj)
	kept := proto.Clone(have).(*pb.Metadata)
	kept.Labels, kept.Annotations = c.after.GetMetadata().GetLabels(), c.after.GetMetadata().GetAnnotations()
	proto.Reset(c.after.GetMetadata())
	proto.Merge(c.after.GetMetadata(), kept)
	if err := a.decide(ctx, c); err != nil {
		return none, err
	}
	if proto.Equal(before, c.after) {
		return a.visible(before), nil
	}
	resource.Stamp(a.s.cfg.DB, c.after)
	if r.GetDryRun() {
		return a.visible(c.after), nil
	}
	c.add([]store.Compare{resource.Unchanged(before)}, resource.Put(c.after),
		a.s.cfg.Events.Op(event.About(c.after, "Updated", strings.Join(append(changed(before, c.after), c.note...), ", "), c.actor)))
	if err := a.commit(ctx, c); err != nil {
		return none, err
	}
	return a.visible(c.after), nil
}

// deleteRequest is what all Delete requests have.
type deleteRequest interface {
	GetName() string
	GetResourceVersion() int64
}

// remove deletes a resource, on the conditions of its kind.
func (a *crud[T]) remove(ctx context.Context, r deleteRequest) error {
	if err := named(r.GetName()); err != nil {
		return err
	}
	for range attempts {
		err := a.tryRemove(ctx, r)
		if !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return a.busy(r.GetName())
}

func (a *crud[T]) tryRemove(ctx context.Context, r deleteRequest) error {
	a.deleteLock.Lock()
	defer a.deleteLock.Unlock()
	obj, err := resource.Get[T](ctx, a.s.cfg.DB, r.GetName())
	if err != nil {
		return err
	}
	if v, have := r.GetResourceVersion(), obj.GetMetadata().GetResourceVersion(); v != 0 && v != have {
		return a.stale(r.GetName(), v, have)
	}
	c := &change[T]{before: obj, actor: caller(ctx).name}
	if a.release != nil {
		if err := a.release(ctx, c); err != nil {
			return err
		}
	}
	c.add([]store.Compare{resource.Unchanged(obj)}, resource.Remove[T](r.GetName()),
		a.s.cfg.Events.Op(event.About(obj, "Deleted", "", c.actor)))
	if _, err := a.s.cfg.DB.Store.Txn(ctx, c.compares, c.ops); err != nil {
		return err
	}
	if a.removed != nil {
		a.removed(r.GetName())
	}
	return nil
}
