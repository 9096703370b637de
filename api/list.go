package api

import (
	"context"
	"encoding/base64"
	"encoding/json"

	"google.golang.org/protobuf/proto"

	"github.com/bedplate/bedplate/resource"
)

const (
	defaultPage = 100
	maxPage     = 1000
	// maxPageBytes keeps a page below the 4 MiB that gRPC clients accept.
	maxPageBytes = 3 << 20
)

// listRequest is what all List requests have.
type listRequest interface {
	GetPageSize() int32
	GetPageToken() string
	GetLabelSelector() string
}

// page is one page of a list.
type page[T resource.Object] struct {
	items    []T
	next     string
	revision int64
}

// pageToken says where a list goes on. Clients pass it back unread.
type pageToken struct {
	// List is what is listed, so that the token isn't used for another list.
	List string `json:"l"`
	// After is the name of the last item before.
	After string `json:"a"`
	// Revision is the first page's: a watch from it misses nothing of any page.
	Revision int64 `json:"r"`
}

func (t pageToken) encode() string {
	text, err := json.Marshal(t)
	if err != nil {
		return "" // strings and numbers can always be written
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

// parsePageToken reads a token of the named list; an empty one is its beginning.
func parsePageToken(text, list string) (pageToken, error) {
	t := pageToken{List: list}
	if text == "" {
		return t, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err == nil {
		err = json.Unmarshal(raw, &t)
	}
	if err != nil || t.List != list || !resource.ValidName(t.After) {
		return t, fieldError("page_token", "not one of this list: begin again without it, with the same selector on every page")
	}
	return t, nil
}

// pageSize returns how many items the client wants at most.
func pageSize(asked int32) (int, error) {
	switch {
	case asked < 0:
		return 0, fieldError("page_size", "%d: not a number of items", asked)
	case asked == 0:
		return defaultPage, nil
	}
	return min(int(asked), maxPage), nil
}

func parseSelector(text string) (resource.Selector, error) {
	sel, err := resource.ParseSelector(text)
	if err != nil {
		return sel, fieldError("label_selector", "%v", err)
	}
	return sel, nil
}

func (a *crud[T]) list(ctx context.Context, r listRequest) (page[T], error) {
	size, err := pageSize(r.GetPageSize())
	if err != nil {
		return page[T]{}, err
	}
	sel, err := parseSelector(r.GetLabelSelector())
	if err != nil {
		return page[T]{}, err
	}
	token, err := parsePageToken(r.GetPageToken(), a.kind.Plural+"?"+sel.String())
	if err != nil {
		return page[T]{}, err
	}
	found, err := resource.List[T](ctx, a.s.cfg.DB, resource.ListOptions{Selector: sel, Limit: size, After: token.After})
	if err != nil {
		return page[T]{}, err
	}
	out := page[T]{revision: token.Revision}
	if out.revision == 0 {
		out.revision = found.Revision
	}
	next, bytes := found.Next, 0
	for i, obj := range found.Items {
		obj = a.visible(obj)
		bytes += proto.Size(obj)
		if i > 0 && bytes > maxPageBytes {
			next = found.Items[i-1].GetMetadata().GetName()
			break
		}
		out.items = append(out.items, obj)
	}
	if next != "" {
		out.next = pageToken{List: token.List, After: next, Revision: out.revision}.encode()
	}
	return out, nil
}
