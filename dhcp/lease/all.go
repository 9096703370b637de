package lease

import (
	"container/heap"
	"fmt"
	"slices"
	"time"
)

// Restore fills an empty pool with leases that were durable. It returns those
// that can't be kept: outside the subnet, or an older one of the same client or
// address. They are to be deleted.
func (p *Pool) Restore(leases []Lease) (rejected []Lease) {
	sorted := slices.Clone(leases)
	slices.SortFunc(sorted, func(a, b Lease) int { return b.Renewed.Compare(a.Renewed) })
	for _, l := range sorted {
		if !p.cfg.Prefix.Contains(l.Address) || l.Client == "" || p.bound[l.Client] != nil || p.byAddr[l.Address] != nil {
			rejected = append(rejected, l)
			continue
		}
		p.Bind(l, l.Renewed)
	}
	return rejected
}

// Sweep returns the leases that ran out since it was last called, each once,
// and forgets those that ran out longer than keep ago: they are to be deleted.
func (p *Pool) Sweep(now time.Time, keep time.Duration) (expired, forgotten []Lease) {
	expired, p.lost = p.lost, nil
	for _, e := range p.byAddr {
		if !e.lease.Address.IsValid() || !e.lease.Expired(now) {
			continue
		}
		if !e.swept {
			e.swept = true
			expired = append(expired, e.lease)
		}
		if now.Sub(e.lease.Expires) > keep && !now.Before(e.until) {
			forgotten = append(forgotten, e.lease)
			p.disown(e)
		}
	}
	return expired, forgotten
}

// Leases returns all leases, expired ones too, in the order of their addresses.
func (p *Pool) Leases() []Lease {
	all := make([]Lease, 0, len(p.bound))
	for _, e := range p.bound {
		all = append(all, e.lease)
	}
	slices.SortFunc(all, func(a, b Lease) int { return a.Address.Compare(b.Address) })
	return all
}

// Active returns the number of leases in force.
func (p *Pool) Active(now time.Time) int {
	n := 0
	for _, e := range p.bound {
		if !e.lease.Expired(now) {
			n++
		}
	}
	return n
}

// Size returns the number of addresses in the dynamic ranges.
func (p *Pool) Size() uint64 {
	var n uint64
	for _, r := range p.cfg.Ranges {
		n += r.size()
	}
	return n
}

// Check looks for contradictions inside the pool; tests end with it.
func (p *Pool) Check() error {
	if len(p.idle) != len(p.byAddr) {
		return fmt.Errorf("%d entries, %d of them queued", len(p.byAddr), len(p.idle))
	}
	for a, e := range p.byAddr {
		switch {
		case e.addr != a:
			return fmt.Errorf("entry of %v is filed under %v", e.addr, a)
		case e.index >= len(p.idle) || p.idle[e.index] != e:
			return fmt.Errorf("entry of %v isn't where the queue has it", a)
		case e.next.Before(e.until):
			return fmt.Errorf("entry of %v would be reused before its time", a)
		case e.lease.Address.IsValid() != (e.client != "" && p.bound[e.client] == e):
			return fmt.Errorf("entry of %v has a lease or is bound, not both", a)
		case e.lease.Address.IsValid() && (e.lease.Address != a || e.lease.Client != e.client):
			return fmt.Errorf("entry of %v has the lease of %v to %v", a, e.lease.Address, e.lease.Client)
		case e.quarantined && e.client != "":
			return fmt.Errorf("entry of %v is quarantined and owned", a)
		}
		if i := (e.index - 1) / 2; e.index > 0 && p.idle.Less(e.index, i) {
			return fmt.Errorf("entry of %v is out of order", a)
		}
	}
	for kind, m := range map[string]map[Client]*entry{"bound": p.bound, "held": p.held} {
		for c, e := range m {
			if e.client != c || p.byAddr[e.addr] != e {
				return fmt.Errorf("%s: %v points to %v, which %v owns", kind, c, e.addr, e.client)
			}
		}
	}
	return nil
}

// queue is a heap of entries by next.
type queue []*entry

var _ heap.Interface = (*queue)(nil)

func (q queue) Len() int { return len(q) }

func (q queue) Less(i, j int) bool {
	if !q[i].next.Equal(q[j].next) {
		return q[i].next.Before(q[j].next)
	}
	return q[i].addr.Less(q[j].addr)
}

func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

// Push is part of heap.Interface.
func (q *queue) Push(x any) {
	e := x.(*entry)
	e.index = len(*q)
	*q = append(*q, e)
}

// Pop is part of heap.Interface. The pool never forgets an address, so nobody calls it.
func (q *queue) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	return e
}
