package redfish

import (
	"context"
	"slices"

	"github.com/bedplate/bedplate/bmc"
	"github.com/bedplate/bedplate/machine"
)

// ethernet is an interface of the machine or of its manager (EthernetInterface schema).
type ethernet struct {
	ID         string `json:"Id"`
	Name       string
	MAC        string `json:"MACAddress"`
	Permanent  string `json:"PermanentMACAddress"`
	LinkStatus string
	SpeedMbps  uint32
	MTUSize    uint32
	Status     status
	IPv4       []struct{ Address string } `json:"IPv4Addresses"`
	IPv6       []struct{ Address string } `json:"IPv6Addresses"`
}

// mac returns the interface's address, the one burnt in before the one in use.
func (e ethernet) mac() (machine.MAC, bool) {
	for _, text := range []string{e.Permanent, e.MAC} {
		mac, err := machine.ParseMAC(text)
		if err == nil && !mac.IsZero() && mac != (machine.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}) {
			return mac, true
		}
	}
	return machine.MAC{}, false
}

// Identity reads the system and its interfaces; where it has none listed, its
// network adapters.
func (d *Driver) Identity(ctx context.Context) (bmc.Identity, error) {
	ctx = withBudget(ctx)
	s, err := d.system(ctx)
	if err != nil {
		return bmc.Identity{}, err
	}
	id := bmc.Identity{
		Serial:       s.serial(),
		AssetTag:     known(s.AssetTag),
		Manufacturer: known(s.Manufacturer),
		Product:      known(s.Model),
		Power:        powerState(s.PowerState),
	}
	if uuid, err := machine.ParseUUID(known(s.UUID)); err == nil {
		id.UUID = uuid
	}
	nics, err := d.nics(ctx, s, func(error) {})
	for _, n := range nics {
		if mac, err := machine.ParseMAC(n.Mac); err == nil && !slices.Contains(id.MACs, mac) {
			id.MACs = append(id.MACs, mac)
		}
	}
	return id, err
}

// serial returns the machine's serial number. Dell has its service tag, which
// SMBIOS has as the serial number, in SKU, and the board's serial number here.
func (s *system) serial() string {
	if s.isDell() && known(s.SKU) != "" {
		return known(s.SKU)
	}
	return known(s.SerialNumber)
}
