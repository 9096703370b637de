package engine

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/bedplate/bedplate/dhcp/lease"
	"github.com/bedplate/bedplate/machine"
	"github.com/bedplate/bedplate/store"
)

const leasePrefix = "/leases/"

// leases keeps DHCP leases in the store.
type leases struct{ store store.Store }

// leaseRecord is a lease as it is stored; the identity is text, so that a dump
// of the store can be read.
type leaseRecord struct {
	lease.Lease
	Client string
	MAC    string
}

func leaseKey(l lease.Lease) string { return leasePrefix + l.Network + "/" + l.Address.String() }

// Load implements dhcp.Leases.
func (s leases) Load(ctx context.Context) ([]lease.Lease, error) {
	page, err := s.store.List(ctx, leasePrefix, "", 0)
	if err != nil {
		return nil, fmt.Errorf("reading leases: %w", err)
	}
	out := make([]lease.Lease, 0, len(page.KVs))
	for _, kv := range page.KVs {
		l, err := parseLease(kv.Value)
		if err != nil {
			return nil, fmt.Errorf("reading lease %s: %w", kv.Key, err)
		}
		out = append(out, l)
	}
	return out, nil
}

func parseLease(value []byte) (lease.Lease, error) {
	var r leaseRecord
	if err := json.Unmarshal(value, &r); err != nil {
		return lease.Lease{}, err
	}
	l := r.Lease
	if r.Client != "" {
		c, err := lease.ParseClient(r.Client)
		if err != nil {
			return lease.Lease{}, err
		}
		l.Client = c
	}
	if r.MAC != "" {
		mac, err := machine.ParseMAC(r.MAC)
		if err != nil {
			return lease.Lease{}, err
		}
		l.MAC = mac
	}
	return l, nil
}

// Put implements dhcp.Leases.
func (s leases) Put(ctx context.Context, l lease.Lease) error {
	r := leaseRecord{Lease: l, Client: l.Client.String()}
	if !l.MAC.IsZero() {
		r.MAC = l.MAC.String()
	}
	value, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encoding lease %s: %w", l.Address, err)
	}
	_, err = s.store.Txn(ctx, nil, []store.Op{store.Put(leaseKey(l), value)})
	return err
}

// Delete implements dhcp.Leases.
func (s leases) Delete(ctx context.Context, l lease.Lease) error {
	_, err := s.store.Txn(ctx, nil, []store.Op{store.Delete(leaseKey(l))})
	return err
}
