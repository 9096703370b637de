package stack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/bedplate/bedplate/stack/apply"
	"github.com/bedplate/bedplate/stack/render"
	"github.com/bedplate/bedplate/store"
)

// recordPrefix is where records are kept: /stack-records/STACK/LAYER.
const recordPrefix = "/stack-records/"

// maxRendered bounds what is read back of a rendered layer.
const maxRendered = 256 << 20

// record is what is known to have been applied of one layer. It is written
// before anything is.
type record struct {
	Layer string `json:"layer"`
	// Order is the layer's place, for an uninstallation in reverse.
	Order     int        `json:"order"`
	Revisions []revision `json:"revisions"`
}

// revision is one state of a layer.
type revision struct {
	Number int `json:"number"`
	// Inputs is the digest of what it was made of: source, values, namespace.
	Inputs string `json:"inputs"`
	// Rendered is the content that has the objects, compressed and sealed.
	Rendered  string      `json:"rendered"`
	Version   string      `json:"version"`
	Namespace string      `json:"namespace"`
	Objects   []apply.Ref `json:"objects"`
	Hooks     []apply.Ref `json:"hooks,omitempty"`
	Ready     bool        `json:"ready"`
}

// rendered is what a revision's content has.
type rendered struct {
	Objects []*unstructured.Unstructured `json:"objects"`
	Hooks   []*unstructured.Unstructured `json:"hooks"`
}

func (r *record) last() *revision {
	if len(r.Revisions) == 0 {
		return nil
	}
	return &r.Revisions[len(r.Revisions)-1]
}

// ready is the newest revision that was healthy; nil: none was.
func (r *record) ready() *revision {
	for i := len(r.Revisions) - 1; i >= 0; i-- {
		if r.Revisions[i].Ready {
			return &r.Revisions[i]
		}
	}
	return nil
}

// refs are all objects that any revision may have left.
func (r *record) refs() []apply.Ref {
	var out []apply.Ref
	seen := map[apply.Ref]bool{}
	for _, rev := range slices.Backward(r.Revisions) {
		for _, ref := range slices.Concat(rev.Objects, rev.Hooks) {
			if !seen[ref.Same()] {
				seen[ref.Same()] = true
				out = append(out, ref)
			}
		}
	}
	return out
}

func recordKey(stack, layer string) string { return recordPrefix + stack + "/" + layer }

// loadRecord reads a layer's record; an empty one if there is none.
func (c *Controller) loadRecord(ctx context.Context, stack, layer string) (*record, error) {
	kv, err := c.cfg.DB.Store.Get(ctx, recordKey(stack, layer))
	if errors.Is(err, store.ErrNotFound) {
		return &record{Layer: layer}, nil
	}
	if err != nil {
		return nil, err
	}
	return parseRecord(kv.Value)
}

func parseRecord(value []byte) (*record, error) {
	text, err := unzip(value)
	if err != nil {
		return nil, err
	}
	r := &record{}
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("reading the record of a layer: %w", err)
	}
	return r, nil
}

func (c *Controller) saveRecord(ctx context.Context, stack string, r *record) error {
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("writing the record of layer %s: %w", r.Layer, err)
	}
	_, err = c.cfg.DB.Store.Txn(ctx, nil, []store.Op{store.Put(recordKey(stack, r.Layer), zip(text))})
	return err
}

// records returns all records of a stack, in the order of their layers.
func (c *Controller) records(ctx context.Context, stack string) ([]*record, error) {
	prefix := recordPrefix + stack + "/"
	var out []*record
	var token string
	for {
		page, err := c.cfg.DB.Store.List(ctx, prefix, token, 100)
		if err != nil {
			return nil, err
		}
		for _, kv := range page.KVs {
			r, err := parseRecord(kv.Value)
			if err != nil {
				return nil, err
			}
			r.Layer = strings.TrimPrefix(kv.Key, prefix)
			out = append(out, r)
			token = kv.Key
		}
		if !page.More {
			break
		}
	}
	slices.SortStableFunc(out, func(a, b *record) int { return a.Order - b.Order })
	return out, nil
}

// dropRecord forgets a layer of which nothing is left.
func (c *Controller) dropRecord(ctx context.Context, stack string, r *record) error {
	if _, err := c.cfg.DB.Store.Txn(ctx, nil, []store.Op{store.Delete(recordKey(stack, r.Layer))}); err != nil {
		return err
	}
	for _, rev := range r.Revisions {
		if err := c.content.Remove(rev.Rendered); err != nil {
			return err
		}
	}
	return nil
}

// keepRendered stores the objects of a revision; they may hold secrets.
func (c *Controller) keepRendered(ctx context.Context, objects, hooks []*unstructured.Unstructured) (string, error) {
	text, err := json.Marshal(rendered{objects, hooks})
	if err != nil {
		return "", fmt.Errorf("writing rendered objects: %w", err)
	}
	sealed, err := c.cfg.Sealer.Seal("stack", zip(text))
	if err != nil {
		return "", fmt.Errorf("sealing rendered objects: %w", err)
	}
	return c.content.PutBytes(ctx, sealed)
}

// readRendered returns the objects of a revision.
func (c *Controller) readRendered(rev *revision) (*render.Rendered, error) {
	sealed, err := c.content.Get(rev.Rendered)
	if err != nil {
		return nil, err
	}
	packed, err := c.cfg.Sealer.Open("stack", sealed)
	if err != nil {
		return nil, fmt.Errorf("opening rendered objects: %w", err)
	}
	text, err := unzip(packed)
	if err != nil {
		return nil, err
	}
	var r rendered
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("reading rendered objects: %w", err)
	}
	return &render.Rendered{Objects: r.Objects, Hooks: r.Hooks, Version: rev.Version}, nil
}

func zip(data []byte) []byte {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		panic(err) // Only options can be wrong.
	}
	return w.EncodeAll(data, nil)
}

func unzip(data []byte) ([]byte, error) {
	r, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(maxRendered))
	if err != nil {
		return nil, fmt.Errorf("unpacking: %w", err)
	}
	defer r.Close()
	out, err := r.DecodeAll(data, nil)
	if err != nil {
		return nil, fmt.Errorf("unpacking: %w", err)
	}
	return out, nil
}

func refsOf(objects []*unstructured.Unstructured) []apply.Ref {
	out := make([]apply.Ref, len(objects))
	for i, o := range objects {
		out[i] = apply.RefOf(o)
	}
	return out
}
