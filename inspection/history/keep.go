package history

import (
	"context"
	"log/slog"
	"strings"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/resource/claim"
	"github.com/bedplate/bedplate/store"
)

// sweepPage is how many records are deleted at a time.
const sweepPage = 16

// Run deletes the records of machines that are gone, until ctx is done. It
// holds the name and the uid of every machine. What it can't delete is logged,
// and tried again at the next start.
func (h *History) Run(ctx context.Context, log *slog.Logger) error {
	k := keeper{h: h, log: log, uids: map[string]string{}}
	return resource.Follow(ctx, h.db,
		func(m *pb.Machine) {
			name, uid := m.GetMetadata().GetName(), m.GetMetadata().GetUid()
			if was := k.uids[name]; was != "" && was != uid { // deleted and made again
				k.gone(ctx, name, was)
			}
			k.uids[name] = uid
		},
		func(name string) {
			uid := k.uids[name]
			delete(k.uids, name)
			k.gone(ctx, name, uid)
		},
		func() { k.sweep(ctx) })
}

// keeper knows which machines there are.
type keeper struct {
	h    *History
	log  *slog.Logger
	uids map[string]string
}

// gone deletes the records of a machine, unless it goes on under another name.
func (k *keeper) gone(ctx context.Context, name, uid string) {
	if uid == "" {
		return
	}
	err := k.drop(ctx, name, uid)
	if err != nil && ctx.Err() == nil {
		k.log.Warn("forgetting the history of a machine", "machine", name, "err", err)
	}
}

func (k *keeper) drop(ctx context.Context, name, uid string) error {
	now, err := claim.Owner(ctx, k.h.db, "former-name="+name)
	if err != nil {
		return err
	}
	if now != "" {
		m, err := resource.Get[*pb.Machine](ctx, k.h.db, now)
		if err != nil || m.GetMetadata().GetUid() == uid {
			return err
		}
	}
	for _, prefix := range []string{inventoryPrefix, testPrefix} {
		if err := k.h.dropAll(ctx, prefix+uid+"/"); err != nil {
			return err
		}
	}
	return nil
}

// dropAll deletes every key below a prefix.
func (h *History) dropAll(ctx context.Context, prefix string) error {
	for {
		page, err := h.db.Store.List(ctx, prefix, "", sweepPage)
		if err != nil || len(page.KVs) == 0 {
			return err
		}
		ops := make([]store.Op, len(page.KVs))
		for i, kv := range page.KVs {
			ops[i] = store.Delete(kv.Key)
		}
		if _, err := h.db.Store.Txn(ctx, nil, ops); err != nil {
			return err
		}
	}
}

// sweep deletes the records of machines that were deleted while the server was
// down, or just before it went down.
func (k *keeper) sweep(ctx context.Context) {
	there := make(map[string]bool, len(k.uids))
	for _, uid := range k.uids {
		there[uid] = true
	}
	for _, prefix := range []string{inventoryPrefix, testPrefix} {
		for after := ""; ; {
			page, err := k.h.db.Store.List(ctx, prefix, after, 1)
			if err != nil || len(page.KVs) == 0 {
				break
			}
			uid, _, _ := strings.Cut(strings.TrimPrefix(page.KVs[0].Key, prefix), "/")
			if !there[uid] {
				k.gone(ctx, "", uid)
			}
			// On with the next machine: 0 is what follows the slash.
			after = prefix + uid + "0"
		}
	}
}
