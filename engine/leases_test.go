package engine

import (
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bedplate/bedplate/dhcp/lease"
	"github.com/bedplate/bedplate/machine"
	"github.com/bedplate/bedplate/store/bolt"
)

func TestLeases(t *testing.T) {
	st, err := bolt.Open(t.TempDir()+"/store.db", bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	s := leases{st}
	mac := machine.MAC{0x52, 0x54, 0, 0x77, 0, 1}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	want := lease.Lease{
		Network: "rack", Address: netip.MustParseAddr("10.77.0.100"), Client: lease.ClientOf(mac, 1, mac[:], nil), MAC: mac,
		Identifier: []byte{0, 1, 2}, Hostname: "web", Start: at, Renewed: at, Expires: at.Add(time.Hour),
	}
	if err := s.Put(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	got, err := s.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	addr := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	if diff := cmp.Diff([]lease.Lease{want}, got, addr); diff != "" {
		t.Errorf("a lease did not come back as it was stored (-want +got):\n%s", diff)
	}
	if err := s.Delete(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	if got, _ := s.Load(t.Context()); len(got) != 0 {
		t.Errorf("after Delete there are %d leases", len(got))
	}
}

func TestLeases_ReadableRecord(t *testing.T) {
	var r map[string]any
	mac := machine.MAC{0x52, 0x54, 0, 0x77, 0, 1}
	value, err := json.Marshal(leaseRecord{Lease: lease.Lease{MAC: mac}, MAC: mac.String()})
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(value, &r); err != nil {
		t.Fatal(err)
	}
	if r["MAC"] != "52:54:00:77:00:01" {
		t.Errorf("the record's MAC address reads %v", r["MAC"])
	}
}
