package redfish

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// The bounds of collections.
const (
	maxMembers = 512
	maxPages   = 200
)

// page is a part of a collection.
type page struct {
	Members []json.RawMessage
	Next    string `json:"Members@odata.nextLink"`
}

// pages reads a collection part by part until each says stop.
func (d *Driver) pages(ctx context.Context, path string, each func(p page) (more bool)) error {
	for range maxPages {
		var p page
		if _, err := d.get(ctx, path, &p); err != nil {
			return err
		}
		if !each(p) || p.Next == "" || p.Next == path {
			return nil
		}
		path = p.Next
	}
	return fmt.Errorf("collection %s has more than %d pages", path, maxPages)
}

// members returns the paths of a collection's members, at most maxMembers.
func (d *Driver) members(ctx context.Context, path string) ([]string, error) {
	var paths []string
	err := d.pages(ctx, path, func(p page) bool {
		for _, raw := range p.Members {
			var l link
			if decode(raw, &l) == nil && l.Path != "" && len(paths) < maxMembers {
				paths = append(paths, l.Path)
			}
		}
		return len(paths) < maxMembers
	})
	return paths, err
}

// each reads every member of a collection, whole, in as few requests as the
// service allows, and calls fn with its path and content. A member that can't be
// read is passed to failed and left out.
func (d *Driver) each(ctx context.Context, path string, fn func(path string, raw json.RawMessage), failed func(error)) error {
	n := 0
	read := func(p page) bool {
		for _, raw := range p.Members {
			if n++; n > maxMembers {
				return false
			}
			d.member(ctx, raw, fn, failed)
		}
		return true
	}
	if q := d.expand(); q != "" && !strings.Contains(path, "?") {
		a, err := d.do(ctx, http.MethodGet, path+q, nil, nil)
		if err != nil {
			return err
		}
		var p page
		if a.ok() && decode(a.body, &p) == nil {
			if !read(p) || p.Next == "" {
				return nil
			}
			return d.pages(ctx, p.Next, read)
		}
		// Some services say that they can expand and then can't.
	}
	return d.pages(ctx, path, read)
}

// member calls fn with a member of a collection, which is read if the
// collection has only a link to it.
func (d *Driver) member(ctx context.Context, raw json.RawMessage, fn func(string, json.RawMessage), failed func(error)) {
	var l link
	if decode(raw, &l) != nil || l.Path == "" {
		return
	}
	if isLink(raw) {
		var whole json.RawMessage
		if _, err := d.get(ctx, l.Path, &whole); err != nil {
			failed(err)
			return
		}
		raw = whole
	}
	fn(l.Path, raw)
}

// isLink reports whether a member is a link alone and not the resource.
func isLink(raw json.RawMessage) bool {
	var properties map[string]json.RawMessage
	if json.Unmarshal(raw, &properties) != nil {
		return true
	}
	for name := range properties {
		if !strings.HasPrefix(name, "@") {
			return false
		}
	}
	return true
}

// expand returns the query that has a collection's members in it (DSP0266
// §7.3.2), where the service says it can.
func (d *Driver) expand() string {
	e := d.root.ProtocolFeaturesSupported.ExpandQuery
	switch {
	case e.NoLinks && e.Levels:
		return "?$expand=.($levels=1)"
	case e.ExpandAll && e.Levels:
		return "?$expand=*($levels=1)"
	}
	return ""
}

// collect reads every member of a collection as a T.
func collect[T any](ctx context.Context, d *Driver, path string, failed func(error)) ([]T, error) {
	if path == "" {
		return nil, nil
	}
	var all []T
	err := d.each(ctx, path, func(_ string, raw json.RawMessage) {
		var v T
		if err := decode(bytes.TrimSpace(raw), &v); err != nil {
			failed(err)
			return
		}
		all = append(all, v)
	}, failed)
	return all, err
}
