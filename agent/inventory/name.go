package inventory

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"unicode"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// The agent's system has no udev, so the names below /dev/disk/by-id are made
// here as systemd's 60-persistent-storage.rules (version 252) and its helpers
// ata_id and scsi_id would: what an installed system will call the disk.

// byID returns the names, sorted. identity is that of an ATA disk, if it
// answered.
func (c *Collector) byID(d *pb.Disk, identity *ataIdentity) []string {
	dir := "sys/block/" + d.Name
	var names []string
	add := func(format string, parts ...string) {
		if slices.Contains(parts, "") {
			return
		}
		args := make([]any, len(parts))
		for i, p := range parts {
			args[i] = udevName(p)
		}
		names = append(names, fmt.Sprintf(format, args...))
	}
	switch d.Bus {
	case "nvme":
		add("nvme-%s", d.Wwn)
		add("nvme-%s_%s", d.Model, d.Serial)
		add("nvme-%s_%s_%s", d.Model, d.Serial, c.read(dir, "nsid")) // systemd 254
	case "virtio":
		add("virtio-%s", d.Serial)
	case "mmc":
		add("mmc-%s_0x%s", d.Model, d.Serial)
	case "sata":
		if identity != nil {
			add("ata-%s_%s", identity.model, identity.serial)
		}
		add("wwn-%s", d.Wwn)
	case "usb":
		add("usb-%s_%s_%s-0:0", d.Vendor, d.Model, d.Serial)
		add("wwn-%s", d.Wwn)
	default:
		add("scsi-%s", scsiID(c.bytes(dir, "device/vpd_pg83"), c.raw(dir, "device/vendor"), c.raw(dir, "device/model")))
		add("wwn-%s", d.Wwn)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// raw is a file's text with its padding.
func (c *Collector) raw(elem ...string) string {
	return strings.TrimRight(string(c.bytes(elem...)), "\n")
}

// udevName replaces what udev doesn't allow in a link's name: blanks by one
// underscore for each run, other characters by one each.
func udevName(s string) string {
	s = strings.Join(strings.Fields(s), "_")
	return strings.Map(func(r rune) rune {
		if r > unicode.MaxASCII || unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("#+-.:=@_", r) {
			return r
		}
		return '_'
	}, s)
}

// ataIdentity is what is used of IDENTIFY DEVICE (ACS-3 §7.12.7), as
// HDIO_GET_IDENTITY gives it: with the texts in reading order, unlike the disk's
// own words (ata_get_identity of Linux 6.1; a serial number of QEMU's ide-hd
// came out with its letters in pairs turned round before).
type ataIdentity struct {
	model, serial, firmware string
	// wwn is 0x and 16 digits, empty if the disk has none.
	wwn string
}

func parseIdentity(b []byte) (ataIdentity, bool) {
	if len(b) < 512 {
		return ataIdentity{}, false
	}
	id := ataIdentity{
		serial: collapse(printable(string(b[20:40]))), firmware: collapse(printable(string(b[46:54]))), model: collapse(printable(string(b[54:94]))),
	}
	const hasName = 1 << 8 // word 87
	if binary.LittleEndian.Uint16(b[174:])&hasName != 0 {
		var n uint64
		for w := 108; w <= 111; w++ {
			n = n<<16 | uint64(binary.LittleEndian.Uint16(b[2*w:]))
		}
		if n != 0 {
			id.wwn = fmt.Sprintf("0x%016x", n)
		}
	}
	return id, id.model != "" || id.serial != ""
}

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, s)
}

// pageSerial reads the unit serial number page (SPC-4 §7.8.15).
func pageSerial(page []byte) string {
	if len(page) < 4 {
		return ""
	}
	n := int(binary.BigEndian.Uint16(page[2:]))
	return collapse(printable(string(page[4:min(len(page), 4+n)])))
}

// designator is one name in the device identification page (SPC-4 §7.8.6).
type designator struct {
	kind, codeSet byte
	value         []byte
}

// Designator types of SPC-4 table 577.
const (
	designatorVendor = 0
	designatorT10    = 1
	designatorEUI64  = 2
	designatorNAA    = 3
)

// designators returns those of the logical unit itself.
func designators(page []byte) []designator {
	if len(page) < 4 {
		return nil
	}
	b := page[4:min(len(page), 4+int(binary.BigEndian.Uint16(page[2:])))]
	var all []designator
	for len(b) >= 4 && len(b) >= 4+int(b[3]) {
		if association := b[1] >> 4 & 3; association == 0 && b[3] > 0 {
			all = append(all, designator{kind: b[1] & 0xf, codeSet: b[0] & 0xf, value: b[4 : 4+int(b[3])]})
		}
		b = b[4+int(b[3]):]
	}
	return all
}

// wwn returns the NAA name as 0x and hexadecimal digits, the longest first.
func wwn(page []byte) string {
	best := ""
	for _, d := range designators(page) {
		if s := hex.EncodeToString(d.value); d.kind == designatorNAA && len(s) > len(best) {
			best = s
		}
	}
	if best == "" {
		return ""
	}
	return "0x" + best
}

// scsiID is scsi_id's ID_SERIAL: the best designator, its type as a digit
// before it; NAA before EUI-64, T10 vendor and vendor specific.
func scsiID(page []byte, vendor, model string) string {
	all := designators(page)
	for _, kind := range []byte{designatorNAA, designatorEUI64, designatorT10, designatorVendor} {
		best := ""
		for _, d := range all {
			if d.kind == kind && len(d.text()) > len(best) {
				best = d.text()
			}
		}
		switch {
		case best == "":
			continue
		case kind == designatorVendor:
			return "0" + fmt.Sprintf("%-8s%-16s", vendor, model) + best
		default:
			return fmt.Sprintf("%d%s", kind, best)
		}
	}
	return ""
}

func (d designator) text() string {
	const binarySet = 1
	if d.codeSet == binarySet {
		return hex.EncodeToString(d.value)
	}
	return printable(string(d.value))
}
