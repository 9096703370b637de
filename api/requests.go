package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

const (
	requestsPrefix = "/index/requests/"
	// requestsKept is how long a request_id makes a create idempotent.
	requestsKept      = time.Hour
	requestsTrim      = 10 * time.Minute
	requestsPage      = 64
	maxRequestIDBytes = 128
)

// request is one create that carries a request_id; nil is one that doesn't.
type request struct {
	key    string
	digest string
	// expired is the revision of a record that is too old to count; 0: none.
	expired int64
}

// record is what is stored of a request: enough to give the same answer again.
type record struct {
	Time   time.Time `json:"time"`
	Digest string    `json:"digest"`
	Object []byte    `json:"object"`
	Extra  []byte    `json:"extra,omitempty"`
}

// newRequest names a create by who asks, for what kind, under which id.
func newRequest(actor, plural string, obj resource.Object, id string) (*request, error) {
	if id == "" {
		return nil, nil
	}
	if len(id) > maxRequestIDBytes {
		return nil, fieldError("request_id", "%d bytes, at most %d", len(id), maxRequestIDBytes)
	}
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(obj)
	if err != nil {
		return nil, fmt.Errorf("encoding request: %w", err)
	}
	sum := sha256.Sum256(body)
	name := sha256.Sum256([]byte(actor + "\x00" + plural + "\x00" + id))
	return &request{key: requestsPrefix + hex.EncodeToString(name[:]), digest: hex.EncodeToString(sum[:])}, nil
}

// replay returns the outcome of the same request, if it came before.
func (a *crud[T]) replay(ctx context.Context, r *request) (created[T], bool, error) {
	if r == nil {
		return created[T]{}, false, nil
	}
	r.expired = 0
	kv, err := a.s.cfg.DB.Store.Get(ctx, r.key)
	if errors.Is(err, store.ErrNotFound) {
		return created[T]{}, false, nil
	}
	if err != nil {
		return created[T]{}, false, err
	}
	var rec record
	if err := json.Unmarshal(kv.Value, &rec); err != nil {
		return created[T]{}, false, fmt.Errorf("decoding %s: %w", kv.Key, err)
	}
	if a.s.cfg.DB.Now().Sub(rec.Time) >= requestsKept {
		r.expired = kv.ModRevision
		return created[T]{}, false, nil
	}
	if rec.Digest != r.digest {
		return created[T]{}, false, fieldError("request_id", "was used for another request within the last hour: take a new one for each")
	}
	out := created[T]{object: a.newObject()}
	if err := proto.Unmarshal(rec.Object, out.object); err != nil {
		return created[T]{}, false, fmt.Errorf("decoding %s: %w", kv.Key, err)
	}
	// The record was written in the Txn of the resource: it has its version.
	out.object.GetMetadata().ResourceVersion = kv.ModRevision
	if len(rec.Extra) > 0 {
		if out.extra, err = a.s.cfg.Sealer.Open(r.key, rec.Extra); err != nil {
			return created[T]{}, false, err
		}
	}
	return out, true, nil
}

// record adds to a change what makes its request's repetition harmless.
func (a *crud[T]) record(r *request, c *change[T]) error {
	if r == nil {
		return nil
	}
	object, err := proto.Marshal(a.visible(c.after))
	if err != nil {
		return fmt.Errorf("encoding request: %w", err)
	}
	rec := record{Time: a.s.cfg.DB.Now(), Digest: r.digest, Object: object}
	if len(c.extra) > 0 {
		if rec.Extra, err = a.s.cfg.Sealer.Seal(r.key, c.extra); err != nil {
			return err
		}
	}
	value, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("encoding request: %w", err)
	}
	c.add([]store.Compare{{Key: r.key, ModRevision: r.expired}}, store.Put(r.key, value))
	return nil
}

// trimRequests deletes records that no longer count, now and then, until ctx
// is done.
func (s *Server) trimRequests(ctx context.Context) error {
	ticker := time.NewTicker(requestsTrim)
	defer ticker.Stop()
	for {
		if err := s.trimRequestsOnce(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("deleting old request records", "err", err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *Server) trimRequestsOnce(ctx context.Context) error {
	for after := ""; ; {
		page, err := s.cfg.DB.Store.List(ctx, requestsPrefix, after, requestsPage)
		if err != nil {
			return err
		}
		var ops []store.Op
		for _, kv := range page.KVs {
			var rec record
			// One that can't be read is of no use either.
			if err := json.Unmarshal(kv.Value, &rec); err != nil || s.cfg.DB.Now().Sub(rec.Time) >= requestsKept {
				ops = append(ops, store.Delete(kv.Key))
			}
			after = kv.Key
		}
		if len(ops) > 0 {
			if _, err := s.cfg.DB.Store.Txn(ctx, nil, ops); err != nil {
				return err
			}
		}
		if !page.More {
			return nil
		}
	}
}
