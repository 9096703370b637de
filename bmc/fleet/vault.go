package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/bedplate/bedplate/bmc"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/store"
)

// vaultPrefix is where the passwords are that the server has given BMCs.
const vaultPrefix = "/bmc/passwords/"

// errRotating is what calls get while the BMC's password is being changed.
var errRotating = fmt.Errorf("its password is being changed: %w", bmc.ErrBusy)

// record is what the vault knows of one BMC. It is stored sealed.
type record struct {
	// Address is the BMC's: a machine that comes back under another name is found by it.
	Address string `json:"address"`
	// Current is the password that the BMC has; empty: its first one.
	Current string `json:"current,omitempty"`
	// Pending is one that the BMC may have been told, or not.
	Pending string    `json:"pending,omitempty"`
	Time    time.Time `json:"time,omitzero"`
}

// vault keeps the passwords that the server has given BMCs: sealed in the
// store, and open in memory.
type vault struct {
	cfg Config

	mu        sync.Mutex
	records   map[string]record // by machine
	byAddress map[string]string // machine by address
	changing  map[string]bool   // machines whose password is being changed or found out
}

func openVault(ctx context.Context, cfg Config) (*vault, error) {
	v := &vault{cfg: cfg, records: map[string]record{}, byAddress: map[string]string{}, changing: map[string]bool{}}
	page, err := cfg.DB.Store.List(ctx, vaultPrefix, "", 0)
	if err != nil {
		return nil, fmt.Errorf("reading BMC passwords: %w", err)
	}
	for _, kv := range page.KVs {
		name := strings.TrimPrefix(kv.Key, vaultPrefix)
		plain, err := cfg.Sealer.Open(sealName(name), kv.Value)
		if err != nil {
			// One that can't be opened is one BMC that can't be logged in to, no more.
			cfg.Logger.Error("opening the password of a BMC", "machine", name, "err", err)
			continue
		}
		var r record
		if err := json.Unmarshal(plain, &r); err != nil {
			cfg.Logger.Error("reading the password of a BMC", "machine", name, "err", errors.New("not what this server writes"))
			continue
		}
		v.keepLocked(name, r)
	}
	return v, nil
}

// sealName binds a sealed password to its machine.
func sealName(machine string) string { return "bmc/" + machine }

func (v *vault) keepLocked(name string, r record) {
	v.records[name] = r
	v.byAddress[r.Address] = name
}

// find returns the record of the machine: its own, or that of a machine which
// had the same BMC before.
func (v *vault) find(m *pb.Machine) record {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.findLocked(m)
}

func (v *vault) findLocked(m *pb.Machine) record {
	if r, ok := v.records[m.GetMetadata().GetName()]; ok {
		return r
	}
	return v.records[v.byAddress[m.GetSpec().GetBmc().GetAddress()]]
}

// op returns the op that stores the record, for a Txn; see kept.
func (v *vault) op(name string, r record) (store.Op, error) {
	plain, err := json.Marshal(r)
	if err != nil {
		return store.Op{}, fmt.Errorf("encoding the BMC password of machine %s: %w", name, err)
	}
	sealed, err := v.cfg.Sealer.Seal(sealName(name), plain)
	if err != nil {
		return store.Op{}, err
	}
	return store.Put(vaultPrefix+name, sealed), nil
}

// kept says that the record is durable.
func (v *vault) kept(name string, r record) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.keepLocked(name, r)
}

// put stores the record.
func (v *vault) put(ctx context.Context, name string, r record) error {
	op, err := v.op(name, r)
	if err != nil {
		return err
	}
	if _, err := v.cfg.DB.Store.Txn(ctx, nil, []store.Op{op}); err != nil {
		return fmt.Errorf("keeping the BMC password of machine %s: %w", name, err)
	}
	v.kept(name, r)
	return nil
}

// begin claims the machine's password for a change; false while another has it.
func (v *vault) begin(name string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.changing[name] {
		return false
	}
	v.changing[name] = true
	return true
}

func (v *vault) end(name string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.changing, name)
}

// password returns the password that the server has given the machine's BMC,
// empty if none. settle is called where it isn't certain which one works.
func (v *vault) password(ctx context.Context, m *pb.Machine, settle func(context.Context, *pb.Machine, record) (record, error)) (string, error) {
	name := m.GetMetadata().GetName()
	v.mu.Lock()
	r, changing := v.findLocked(m), v.changing[name]
	v.mu.Unlock()
	switch {
	case changing:
		return "", fmt.Errorf("machine/%s: %w", name, errRotating)
	case r.Pending == "":
		return r.Current, nil
	}
	if !v.begin(name) {
		return "", fmt.Errorf("machine/%s: %w", name, errRotating)
	}
	defer v.end(name)
	r, err := settle(ctx, m, r)
	return r.Current, err
}
