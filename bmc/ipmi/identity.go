package ipmi

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"github.com/bougou/go-ipmi/pkg/command/app"
	"github.com/bougou/go-ipmi/pkg/types"

	"github.com/bedplate/bedplate/bmc"
	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// Identity reads the system's GUID and the product area of the FRU data. IPMI
// doesn't know the addresses of the machine's interfaces.
func (d *Driver) Identity(ctx context.Context) (bmc.Identity, error) {
	state, err := d.PowerState(ctx)
	if err != nil {
		return bmc.Identity{}, err
	}
	id := bmc.Identity{Power: state, UUID: d.uuid(ctx)}
	fru, err := d.fru(ctx)
	if err != nil {
		return id, nil //nolint:nilerr // many BMCs have no FRU data: what there is, is the identity
	}
	sys := systemOf(fru)
	id.Manufacturer, id.Product, id.Serial = sys.Manufacturer, sys.Product, sys.Serial
	if p := fru.ProductInfoArea; p != nil {
		id.AssetTag = field(p.AssetTagTypeLength, p.AssetTag)
	}
	return id, nil
}

// uuid reads the system's GUID (§22.14); empty where the BMC has none.
func (d *Driver) uuid(ctx context.Context) machine.UUID {
	answer, err := get(ctx, d, "system GUID", d.c.GetSystemGUID)
	if err != nil {
		return ""
	}
	return uuidOf(answer.GUID)
}

// uuidOf returns the UUID that a GUID means. IPMI wants the fields' bytes in
// reverse, all of them; many BMCs send them as SMBIOS has them, some as they are
// written. Which it is shows in the version, whose high nibble is at another byte
// in each: the one that makes a version of RFC 9562 is taken, SMBIOS' first
// (ipmitool, issue 25).
func uuidOf(guid [16]byte) machine.UUID {
	if guid == ([16]byte{}) || bytes.Count(guid[:], []byte{0xff}) == len(guid) {
		return ""
	}
	best := machine.UUIDFromWire(guid)
	for _, mode := range []types.GUIDMode{types.GUIDModeSMBIOS, types.GUIDModeRFC4122, types.GUIDModeIPMI} {
		u, err := types.ParseGUID(guid[:], mode)
		if err == nil && u.Version() >= 1 && u.Version() <= 8 && u.Variant().String() == "RFC4122" {
			best = machine.UUID(u.String())
			break
		}
	}
	return best
}

// fru reads the FRU data of the machine itself, device 0.
func (d *Driver) fru(ctx context.Context) (*types.FRU, error) {
	fru, err := get(ctx, d, "FRU data", func(ctx context.Context) (*types.FRU, error) { return d.c.GetFRU(ctx, 0, "") })
	if err != nil {
		return nil, err
	}
	if fru == nil || !fru.Present() {
		return nil, bmc.Unsupported(Name, "FRU data")
	}
	return fru, nil
}

// field returns the text of a FRU field.
func field(tl types.TypeLength, raw []byte) string {
	chars, err := tl.Chars(raw)
	if err != nil {
		return ""
	}
	return clean(string(chars))
}

// clean returns text without what isn't to be printed, and nothing for a placeholder.
func clean(s string) string {
	s = strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0xfffd {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "")))
	switch strings.ToLower(s) {
	case "none", "n/a", "to be filled by o.e.m.", "default string", "not specified", "empty", "unknown", "0123456789", "system serial number":
		return ""
	}
	return s
}

// systemOf returns who the machine is by its FRU data: the product area, or
// else the board's.
func systemOf(fru *types.FRU) *pb.System {
	s := &pb.System{}
	if p := fru.ProductInfoArea; p != nil {
		s.Manufacturer = field(p.ManufacturerTypeLength, p.Manufacturer)
		s.Product = field(p.NameTypeLength, p.Name)
		s.Version = field(p.VersionTypeLength, p.Version)
		s.Serial = field(p.SerialNumberTypeLength, p.SerialNumber)
		s.Sku = field(p.PartModelTypeLength, p.PartModel)
	}
	if b := fru.BoardInfoArea; b != nil && s.Manufacturer == "" {
		s.Manufacturer = field(b.ManufacturerTypeLength, b.Manufacturer)
	}
	if b := fru.BoardInfoArea; b != nil && s.Product == "" {
		s.Product = field(b.ProductNameTypeLength, b.ProductName)
	}
	return s
}

// Inventory reads what IPMI knows: system, board, chassis and the BMC. The rest
// is for the machine's own system to read.
func (d *Driver) Inventory(ctx context.Context) (*pb.Inventory, error) {
	id, err := d.Identity(ctx)
	if err != nil {
		return nil, err
	}
	inv := &pb.Inventory{System: &pb.System{Uuid: string(id.UUID)}}
	fru, err := d.fru(ctx)
	if err != nil {
		inv.Warnings = append(inv.Warnings, "system: "+d.redact(err.Error()))
	} else {
		inv.System = systemOf(fru)
		inv.System.Uuid = string(id.UUID)
		if b := fru.BoardInfoArea; b != nil {
			inv.Baseboard = &pb.Baseboard{
				Manufacturer: field(b.ManufacturerTypeLength, b.Manufacturer), Product: field(b.ProductNameTypeLength, b.ProductName),
				Version: field(b.PartNumberTypeLength, b.PartNumber), Serial: field(b.SerialNumberTypeLength, b.SerialNumber),
			}
		}
		if c := fru.ChassisInfoArea; c != nil {
			inv.Chassis = &pb.Chassis{Serial: field(c.SerialNumberTypeLength, c.SerialNumber), Type: c.ChassisType.String()}
		}
	}
	inv.Bmc = d.bmcInfo(ctx, inv)
	inv.Warnings = append(inv.Warnings, "IPMI knows no processors, memory, disks or network interfaces")
	return inv, ctx.Err()
}

// bmcInfo reads the BMC's version and address.
func (d *Driver) bmcInfo(ctx context.Context, inv *pb.Inventory) *pb.BMCInfo {
	info := &pb.BMCInfo{Present: true}
	id, err := get(ctx, d, "device ID", d.c.GetDeviceID)
	if err != nil {
		inv.Warnings = append(inv.Warnings, "management controller: "+d.redact(err.Error()))
	} else {
		info.FirmwareVersion = version(id)
	}
	mac, ip := &types.LanConfigParam_MAC{}, &types.LanConfigParam_IP{}
	for _, param := range []types.LanConfigParameter{mac, ip} {
		if err := d.do(ctx, "LAN configuration", func(ctx context.Context) error {
			return d.c.GetLanConfigParamFor(ctx, types.ChannelNumberSelf, param)
		}); err != nil {
			return info // an extra
		}
	}
	if m, err := machine.ParseMAC(mac.MAC.String()); err == nil && !m.IsZero() {
		info.Mac = m.String()
	}
	if ip.IP != nil && !ip.IP.IsUnspecified() {
		info.Address = ip.IP.String()
	}
	return info
}

// version returns the BMC's firmware version: the minor one is BCD.
func version(id *app.GetDeviceIDResponse) string {
	return fmt.Sprintf("%d.%02x", id.MajorFirmwareRevision, id.MinorFirmwareRevision)
}
