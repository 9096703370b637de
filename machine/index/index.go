// Package index is the in-memory index of all machines that the boot services
// answer from. A watch on the store keeps it current; no lookup scans, touches
// the disk or waits for more than a short read lock.
package index

import (
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/bedplate/bedplate/machine"
)

// Index finds machines by name, MAC address, UUID, serial number and IP
// address. The zero value is not ready: use New. All methods may be called by
// any number of goroutines. The machines it returns must not be altered.
type Index struct {
	mu        sync.RWMutex
	byName    map[machine.Name]machine.Machine
	byMAC     map[machine.MAC]machine.Name
	byUUID    map[machine.UUID]machine.Name
	bySerial  map[string]machine.Name
	byAddress map[netip.Addr]machine.Name
	// leases says which MAC address was last given an address, by DHCP or by
	// an agent that proved who it is. It outlives the machine's own record.
	leases map[netip.Addr]machine.MAC
}

// New returns an empty index.
func New() *Index {
	return &Index{
		byName:    map[machine.Name]machine.Machine{},
		byMAC:     map[machine.MAC]machine.Name{},
		byUUID:    map[machine.UUID]machine.Name{},
		bySerial:  map[string]machine.Name{},
		byAddress: map[netip.Addr]machine.Name{},
		leases:    map[netip.Addr]machine.MAC{},
	}
}

// Set adds m or replaces the machine of its name.
func (x *Index) Set(m machine.Machine) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.removeLocked(m.Name)
	x.byName[m.Name] = m
	if m.UUID != "" {
		x.byUUID[m.UUID] = m.Name
	}
	if m.Serial != "" {
		x.bySerial[strings.ToLower(m.Serial)] = m.Name
	}
	for _, a := range m.Addresses {
		x.byAddress[a] = m.Name
	}
	for _, i := range m.Interfaces {
		x.byMAC[i.MAC] = m.Name
		if i.Address.IsValid() {
			x.byAddress[i.Address.Addr()] = m.Name
		}
	}
}

// Remove forgets the machine of that name, if there is one.
func (x *Index) Remove(name machine.Name) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.removeLocked(name)
}

func (x *Index) removeLocked(name machine.Name) {
	m, ok := x.byName[name]
	if !ok {
		return
	}
	delete(x.byName, name)
	if x.byUUID[m.UUID] == name {
		delete(x.byUUID, m.UUID)
	}
	if s := strings.ToLower(m.Serial); x.bySerial[s] == name {
		delete(x.bySerial, s)
	}
	for _, a := range m.Addresses {
		if x.byAddress[a] == name {
			delete(x.byAddress, a)
		}
	}
	for _, i := range m.Interfaces {
		if x.byMAC[i.MAC] == name {
			delete(x.byMAC, i.MAC)
		}
		if a := i.Address.Addr(); x.byAddress[a] == name {
			delete(x.byAddress, a)
		}
	}
}

// SetLease records that addr is held by mac. It replaces an older holder.
func (x *Index) SetLease(addr netip.Addr, mac machine.MAC) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.leases[addr] = mac
}

// RemoveLease forgets that mac holds addr, if it does.
func (x *Index) RemoveLease(addr netip.Addr, mac machine.MAC) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.leases[addr] == mac {
		delete(x.leases, addr)
	}
}

// ByName returns the machine of that name.
func (x *Index) ByName(name machine.Name) (machine.Machine, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	m, ok := x.byName[name]
	return m, ok
}

// ByMAC returns the machine that has an interface with that address.
func (x *Index) ByMAC(mac machine.MAC) (machine.Machine, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.nameLocked(x.byMAC[mac])
}

// ByUUID returns the machine with that SMBIOS UUID.
func (x *Index) ByUUID(uuid machine.UUID) (machine.Machine, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.nameLocked(x.byUUID[uuid])
}

// BySerial returns the machine with that SMBIOS serial number, in any case.
func (x *Index) BySerial(serial string) (machine.Machine, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.nameLocked(x.bySerial[strings.ToLower(serial)])
}

// ByAddress returns the machine that holds addr: by reservation, or else by lease.
func (x *Index) ByAddress(addr netip.Addr) (machine.Machine, bool) {
	addr = addr.Unmap()
	x.mu.RLock()
	defer x.mu.RUnlock()
	if m, ok := x.nameLocked(x.byAddress[addr]); ok {
		return m, true
	}
	return x.nameLocked(x.byMAC[x.leases[addr]])
}

// HolderOf returns the MAC address that holds addr by lease, known machine or not.
func (x *Index) HolderOf(addr netip.Addr) (machine.MAC, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	mac, ok := x.leases[addr.Unmap()]
	return mac, ok
}

// AddressesOf returns the addresses that a machine holds by lease, in order.
func (x *Index) AddressesOf(name machine.Name) []netip.Addr {
	x.mu.RLock()
	defer x.mu.RUnlock()
	m, ok := x.byName[name]
	if !ok {
		return nil
	}
	var out []netip.Addr
	for a, mac := range x.leases {
		if _, ours := m.InterfaceByMAC(mac); ours {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// Len returns the number of machines.
func (x *Index) Len() int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return len(x.byName)
}

func (x *Index) nameLocked(name machine.Name) (machine.Machine, bool) {
	if name == "" {
		return machine.Machine{}, false
	}
	m, ok := x.byName[name]
	return m, ok
}
