package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/bedplate/bedplate/store"
)

// recordHeader is the two revisions before a value.
const recordHeader = 16

func appendRecord(b []byte, created, changed int64, value []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(created))
	b = binary.BigEndian.AppendUint64(b, uint64(changed))
	return append(b, value...)
}

// parseRecord copies: what bbolt returns is gone with the transaction.
func parseRecord(key, record []byte) (store.KV, error) {
	if len(record) < recordHeader {
		return store.KV{}, fmt.Errorf("the record of %s is cut short", key)
	}
	return store.KV{
		Key:            string(key),
		Value:          append([]byte{}, record[recordHeader:]...),
		CreateRevision: int64(binary.BigEndian.Uint64(record)),
		ModRevision:    int64(binary.BigEndian.Uint64(record[8:])),
	}, nil
}

// list reads a page in order of keys, from where the page begins.
func list(ctx context.Context, tx *bbolt.Tx, prefix []byte, after string, limit int) (store.Page, error) {
	revision, err := readRevision(tx)
	if err != nil {
		return store.Page{}, err
	}
	page := store.Page{Revision: revision}
	from := prefix
	if start := []byte(after + "\x00"); after != "" && bytes.Compare(start, prefix) > 0 {
		from = start
	}
	c := tx.Bucket(bucketKV).Cursor()
	for k, v := c.Seek(from); k != nil && bytes.HasPrefix(k, prefix); k, v = c.Next() {
		if limit > 0 && len(page.KVs) == limit {
			page.More = true
			return page, nil
		}
		if err := ctx.Err(); err != nil {
			return store.Page{}, err
		}
		kv, err := parseRecord(k, v)
		if err != nil {
			return store.Page{}, err
		}
		page.KVs = append(page.KVs, kv)
	}
	return page, nil
}

// Check reads the whole file and reports what isn't consistent: the pages of
// bbolt, records that can't be read, and revisions that can't be.
func (s *Store) Check(ctx context.Context) error {
	return s.view(ctx, func(tx *bbolt.Tx) error {
		for err := range tx.Check() {
			return fmt.Errorf("checking the pages of the store: %w", err)
		}
		newest, err := readRevision(tx)
		if err != nil {
			return err
		}
		return tx.Bucket(bucketKV).ForEach(func(k, v []byte) error {
			kv, err := parseRecord(k, v)
			switch {
			case err != nil:
				return err
			case !validKey(kv.Key):
				return fmt.Errorf("%q is no key", kv.Key)
			case kv.CreateRevision < 1 || kv.ModRevision < kv.CreateRevision || kv.ModRevision > newest:
				return fmt.Errorf("%s was created at %d and changed at %d, but the newest revision is %d", kv.Key, kv.CreateRevision, kv.ModRevision, newest)
			}
			return ctx.Err()
		})
	})
}
