// Package resource gives the store's resources their types: Machine, Network,
// Image, Template, Workflow, Instance, Token, Secret and Event, as the
// messages of proto/bedplate/v1 have them. It reads and writes them with
// optimistic concurrency, watches and checks them, and reads and writes the
// YAML and JSON files that people keep.
//
// A resource is stored at /<plural>/<name> as binary protobuf. This package
// keeps metadata.uid, create_time and update_time on every write;
// metadata.resource_version is the store's revision of the key, set on every
// read and never stored.
//
// It doesn't know who may do what, nor which resources may refer to which:
// that is the business of package api. All functions may be called by any
// number of goroutines; the objects they return belong to the caller.
package resource

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/store"
)

// Object is any resource.
type Object interface {
	proto.Message
	GetMetadata() *pb.Metadata
}

// DB is a store that holds resources. Its fields are set once and not changed.
type DB struct {
	Store store.Store
	// Now is the clock for create_time and update_time.
	Now func() time.Time
	// NewUID returns a new unique identifier for metadata.uid.
	NewUID func() string
}

var (
	// ErrExists means that a resource of this kind and name is there already.
	ErrExists = errors.New("already exists")
	// ErrUnchanged is what the change function of Update returns to leave the
	// resource as it is. Update itself doesn't return it.
	ErrUnchanged = errors.New("unchanged")
	// ErrName means that metadata.name can't be a resource's name.
	ErrName = errors.New("not a name: up to 253 lower-case letters, digits, - and ., beginning and ending with a letter or digit")
)

// updateAttempts bounds how often Update and Replace read again after
// somebody else was faster.
const updateAttempts = 256

// selectorPage is how many resources List reads at a time, at least, when a
// selector leaves some out.
const selectorPage = 256

// Get returns the resource of that name. The error wraps store.ErrNotFound
// when there is none.
func Get[T Object](ctx context.Context, db *DB, name string) (T, error) {
	var none T
	kv, err := db.Store.Get(ctx, keyFor[T](name))
	if err != nil {
		return none, fmt.Errorf("%s: %w", label[T](name), err)
	}
	return decodeKV[T](kv)
}

// ListOptions says what List returns.
type ListOptions struct {
	// Selector leaves out what it doesn't match; the zero value matches all.
	Selector Selector
	// Limit is the most that one call returns; 0: all.
	Limit int
	// After is the name after which to go on: Next of the page before.
	After string
}

// ListResult is one page of a List.
type ListResult[T Object] struct {
	Items []T
	// Next is what to give as After for the next page; empty on the last one.
	Next string
	// Revision of the store that a Watch can go on from. Of several pages
	// keep the first one's.
	Revision int64
}

// List returns resources in order of their names.
func List[T Object](ctx context.Context, db *DB, opts ListOptions) (ListResult[T], error) {
	var out ListResult[T]
	prefix := prefixOf[T]()
	after := ""
	if opts.After != "" {
		after = prefix + opts.After
	}
	read := opts.Limit
	if read > 0 && !opts.Selector.Empty() {
		// Most of what is read may not match.
		read = max(read, selectorPage)
	}
	for {
		page, err := db.Store.List(ctx, prefix, after, read)
		if err != nil {
			return out, fmt.Errorf("listing %s: %w", kindOf[T]().Plural, err)
		}
		if out.Revision == 0 {
			out.Revision = page.Revision
		}
		for i, kv := range page.KVs {
			obj, err := decodeKV[T](kv)
			if err != nil {
				return out, err
			}
			if !opts.Selector.Matches(obj.GetMetadata().GetLabels()) {
				continue
			}
			out.Items = append(out.Items, obj)
			if opts.Limit > 0 && len(out.Items) == opts.Limit {
				if page.More || i+1 < len(page.KVs) {
					out.Next = obj.GetMetadata().GetName()
				}
				return out, nil
			}
		}
		if !page.More {
			return out, nil
		}
		after = page.KVs[len(page.KVs)-1].Key
	}
}

// All returns every resource of the kind and the revision to watch from.
func All[T Object](ctx context.Context, db *DB) ([]T, int64, error) {
	r, err := List[T](ctx, db, ListOptions{})
	return r.Items, r.Revision, err
}

// Create stores a new resource and returns it with its metadata filled in;
// obj itself isn't altered. The error wraps ErrExists when the name is taken.
func Create[T Object](ctx context.Context, db *DB, obj T) (T, error) {
	var none T
	obj, err := stamped(db, obj)
	if err != nil {
		return none, err
	}
	md := obj.GetMetadata()
	md.Uid, md.CreateTime = db.NewUID(), md.UpdateTime
	rev, err := db.Store.Txn(ctx, []store.Compare{Absent[T](md.GetName())}, []store.Op{Put(obj)})
	if errors.Is(err, store.ErrConflict) {
		return none, fmt.Errorf("%s: %w", label[T](md.GetName()), ErrExists)
	}
	if err != nil {
		return none, fmt.Errorf("creating %s: %w", label[T](md.GetName()), err)
	}
	md.ResourceVersion = rev
	return obj, nil
}

// Update reads the resource, lets change alter it, and writes it if nobody
// else has changed it in between; else it begins again. change may so be
// called more than once, and must not keep what it is given. Where it returns
// ErrUnchanged, or has changed nothing, nothing is written; any other error
// ends the update and is returned as it is.
func Update[T Object](ctx context.Context, db *DB, name string, change func(T) error) (T, error) {
	var none T
	for range updateAttempts {
		before, err := Get[T](ctx, db, name)
		if err != nil {
			return none, err
		}
		after := proto.Clone(before).(T)
		switch err := change(after); {
		case errors.Is(err, ErrUnchanged):
			return before, nil
		case err != nil:
			return none, err
		}
		keep(before, after)
		if proto.Equal(before, after) {
			return before, nil
		}
		after, err = stamped(db, after)
		if err != nil {
			return none, err
		}
		rev, err := db.Store.Txn(ctx, []store.Compare{Unchanged(before)}, []store.Op{Put(after)})
		if errors.Is(err, store.ErrConflict) {
			continue
		}
		if err != nil {
			return none, fmt.Errorf("updating %s: %w", label[T](name), err)
		}
		after.GetMetadata().ResourceVersion = rev
		return after, nil
	}
	return none, fmt.Errorf("updating %s: %w", label[T](name), store.ErrConflict)
}

// keep carries over the metadata that no change may alter.
func keep[T Object](before, after T) {
	md := metadata(after)
	was := before.GetMetadata()
	md.Name, md.Uid, md.CreateTime = was.GetName(), was.GetUid(), was.GetCreateTime()
	md.UpdateTime, md.ResourceVersion = was.GetUpdateTime(), was.GetResourceVersion()
}

// Replace stores obj in place of the resource of that name, which must be
// there. Where obj carries a resource_version or uid it must still be that
// one, else the error wraps store.ErrConflict.
func Replace[T Object](ctx context.Context, db *DB, obj T) (T, error) {
	want := obj.GetMetadata()
	return Update(ctx, db, want.GetName(), func(current T) error {
		have := current.GetMetadata()
		if v := want.GetResourceVersion(); v != 0 && v != have.GetResourceVersion() {
			return fmt.Errorf("%s: %w", label[T](want.GetName()), store.ErrConflict)
		}
		if uid := want.GetUid(); uid != "" && uid != have.GetUid() {
			return fmt.Errorf("%s: %w", label[T](want.GetName()), store.ErrConflict)
		}
		proto.Reset(current)
		proto.Merge(current, obj)
		return nil
	})
}

// Delete removes the resource; if resourceVersion isn't 0 only when that is
// still its version, else the error wraps store.ErrConflict.
func Delete[T Object](ctx context.Context, db *DB, name string, resourceVersion int64) error {
	key := keyFor[T](name)
	for range updateAttempts {
		kv, err := db.Store.Get(ctx, key)
		if err != nil {
			return fmt.Errorf("%s: %w", label[T](name), err)
		}
		if resourceVersion != 0 && resourceVersion != kv.ModRevision {
			break
		}
		compares := []store.Compare{{Key: key, ModRevision: kv.ModRevision}}
		_, err = db.Store.Txn(ctx, compares, []store.Op{store.Delete(key)})
		if err == nil {
			return nil
		}
		if !errors.Is(err, store.ErrConflict) {
			return fmt.Errorf("deleting %s: %w", label[T](name), err)
		}
	}
	return fmt.Errorf("%s: %w", label[T](name), store.ErrConflict)
}

// Stamp fills in the metadata that Create and Update would: uid and
// create_time where they are missing, and update_time. It is for objects that
// go into the store by Put.
func Stamp(db *DB, obj Object) {
	md := metadata(obj)
	md.UpdateTime = timestamppb.New(db.Now())
	if md.GetUid() == "" {
		md.Uid = db.NewUID()
	}
	if md.GetCreateTime() == nil {
		md.CreateTime = md.UpdateTime
	}
}

// Put returns the op that stores obj as it is, for a Txn over several
// resources; see Stamp. For an object without a proper name, or with text
// that isn't UTF-8, it is an op without a key, which every store refuses.
func Put[T Object](obj T) store.Op {
	name := obj.GetMetadata().GetName()
	if !ValidName(name) {
		return store.Op{}
	}
	value, err := marshal(obj)
	if err != nil {
		return store.Op{}
	}
	return store.Put(keyFor[T](name), value)
}

// Remove returns the op that deletes the resource of that name.
func Remove[T Object](name string) store.Op { return store.Delete(keyFor[T](name)) }

// Unchanged returns the condition that the resource is still the version that
// obj was read at.
func Unchanged[T Object](obj T) store.Compare {
	md := obj.GetMetadata()
	return store.Compare{Key: keyFor[T](md.GetName()), ModRevision: md.GetResourceVersion()}
}

// Absent returns the condition that there is no such resource.
func Absent[T Object](name string) store.Compare { return store.Compare{Key: keyFor[T](name)} }

// stamped returns a copy of obj with a new update_time, after a look at its name.
func stamped[T Object](db *DB, obj T) (T, error) {
	name := obj.GetMetadata().GetName()
	if !ValidName(name) {
		var none T
		return none, fmt.Errorf("metadata.name %q: %w", name, ErrName)
	}
	obj = proto.Clone(obj).(T)
	obj.GetMetadata().UpdateTime = timestamppb.New(db.Now())
	return obj, nil
}

// ValidName reports whether name can be a resource's name: the pattern of
// metadata.name in proto/bedplate/v1/meta.proto.
func ValidName(name string) bool {
	if name == "" || len(name) > 253 {
		return false
	}
	for i := range len(name) {
		c := name[i]
		alnum := 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
		if !alnum && (i == 0 || i == len(name)-1 || c != '-' && c != '.') {
			return false
		}
	}
	return true
}

// metadata returns obj's metadata, which it makes if there is none.
func metadata(obj Object) *pb.Metadata {
	if md := obj.GetMetadata(); md != nil {
		return md
	}
	m := obj.ProtoReflect()
	return m.Mutable(m.Descriptor().Fields().ByName("metadata")).Message().Interface().(*pb.Metadata)
}

func marshal(obj Object) ([]byte, error) {
	md := obj.GetMetadata()
	version := md.GetResourceVersion()
	if version != 0 {
		obj = proto.Clone(obj).(Object)
		obj.GetMetadata().ResourceVersion = 0
	}
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(obj)
	if err != nil {
		return nil, fmt.Errorf("encoding %s: %w", md.GetName(), err)
	}
	return value, nil
}

func decodeKV[T Object](kv store.KV) (T, error) {
	obj := newObject[T]()
	if err := proto.Unmarshal(kv.Value, obj); err != nil {
		var none T
		return none, fmt.Errorf("decoding %s: %w", kv.Key, err)
	}
	metadata(obj).ResourceVersion = kv.ModRevision
	return obj, nil
}
