package ipmi

import "github.com/bedplate/bedplate/lab/board"

// fru is the server's identity as the Platform Management FRU Information
// Storage Definition v1.0 r1.3 has it: a header with the places of the areas in
// units of 8 bytes, then chassis (§10), board (§11) and product (§12).
func fru(b *board.Board) []byte {
	h, label := b.Hardware(), b.Label()
	const rackMount, english = 0x17, 0x19
	chassis := area([]byte{1, 0, rackMount}, h.Model, h.Serial)
	mainboard := area([]byte{1, 0, english, 0, 0, 0}, h.Manufacturer, h.Model, h.Serial, h.Model, "")
	product := area([]byte{1, 0, english}, h.Manufacturer, h.Model, h.Model, b.Version(board.FirmwareBIOS), h.Serial, label.AssetTag, "")
	const headerUnits = 1
	chassisAt := byte(headerUnits)
	boardAt := chassisAt + byte(len(chassis)/8)
	productAt := boardAt + byte(len(mainboard)/8)
	out := withChecksum([]byte{1, 0, chassisAt, boardAt, productAt, 0, 0})
	out = append(out, chassis...)
	out = append(out, mainboard...)
	return append(out, product...)
}

// area makes one from its first bytes, of which the second becomes its length,
// and its fields.
func area(head []byte, fields ...string) []byte {
	const endOfFields, latin1, maxField = 0xc1, 0xc0, 0x3f
	for _, f := range fields {
		f = f[:min(len(f), maxField)]
		if len(f) == 1 { // C1h would be the end
			f += " "
		}
		head = append(head, latin1|byte(len(f)))
		head = append(head, f...)
	}
	head = append(head, endOfFields)
	for len(head)%8 != 7 {
		head = append(head, 0)
	}
	head[1] = byte((len(head) + 1) / 8)
	return withChecksum(head)
}

// withChecksum appends what makes the sum of all bytes zero.
func withChecksum(b []byte) []byte {
	var sum byte
	for _, x := range b {
		sum += x
	}
	return append(b, -sum)
}
