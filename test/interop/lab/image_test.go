package lab

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// sector sizes of disks and of CDs.
const (
	sector   = 512
	cdSector = 2048
)

// bootSector is a program that says a line on the first serial port and halts.
func bootSector(line string) []byte {
	code := []byte{
		0xfa,       // cli
		0xfc,       // cld
		0x31, 0xc0, // xor ax, ax
		0x8e, 0xd8, // mov ds, ax
		0xe8, 0x00, 0x00, // call the next instruction
		0x5e,             // pop si: where it is
		0x83, 0xc6, 0x11, // add si, 17: where the line is
		0xba, 0xf8, 0x03, // mov dx, 3f8h
		0xac,       // lodsb
		0x84, 0xc0, // test al, al
		0x74, 0x03, // jz to the end
		0xee,       // out dx, al
		0xeb, 0xf8, // jmp to lodsb
		0xf4, 0xeb, 0xfd, // hlt; jmp to it
	}
	b := make([]byte, sector)
	n := copy(b, code)
	// The call pushed 9; the line follows the code.
	b[12] = byte(n - 9)
	copy(b[n:], line+"\r\n\x00")
	b[510], b[511] = 0x55, 0xaa
	return b
}

// efiVolume is a FAT file system with iPXE as the program that UEFI looks for.
func efiVolume(t *testing.T) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "efi.img")
	if err := os.WriteFile(file, make([]byte, 4<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"mformat", "-i", file, "::"},
		{"mmd", "-i", file, "::/EFI", "::/EFI/BOOT"},
		{"mcopy", "-i", file, "/usr/lib/ipxe/snponly.efi", "::/EFI/BOOT/BOOTX64.EFI"},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// disc is a CD that boots by BIOS and by UEFI (El Torito 1.0; ISO 9660 as far as
// firmware looks at it). The boot record points to a catalog with both programs.
func disc(line string, efi []byte) []byte {
	const catalogAt, biosAt, efiAt = 19, 20, 21
	b := make([]byte, efiAt*cdSector+len(efi))
	volume := b[16*cdSector:]
	volume[0] = 1
	copy(volume[1:], "CD001\x01")
	record := b[17*cdSector:]
	copy(record[1:], "CD001\x01EL TORITO SPECIFICATION")
	binary.LittleEndian.PutUint32(record[0x47:], catalogAt)
	end := b[18*cdSector:]
	end[0] = 0xff
	copy(end[1:], "CD001\x01")
	catalog := b[catalogAt*cdSector:]
	// Validation entry, whose words sum up to zero.
	catalog[0], catalog[30], catalog[31] = 1, 0x55, 0xaa
	binary.LittleEndian.PutUint16(catalog[28:], 0x55aa)
	entry := func(at int, sectors uint16, lba uint32) {
		catalog[at] = 0x88 // bootable, no emulation
		binary.LittleEndian.PutUint16(catalog[at+6:], sectors)
		binary.LittleEndian.PutUint32(catalog[at+8:], lba)
	}
	entry(32, 4, biosAt)
	copy(catalog[64:], []byte{0x91, 0xef, 1, 0}) // the last section, for UEFI, of one entry
	entry(96, uint16(min(len(efi)/sector, 0xffff)), efiAt)
	copy(b[biosAt*cdSector:], bootSector(line))
	copy(b[efiAt*cdSector:], efi)
	binary.LittleEndian.PutUint32(volume[80:], uint32(len(b)/cdSector))
	binary.BigEndian.PutUint32(volume[84:], uint32(len(b)/cdSector))
	binary.LittleEndian.PutUint16(volume[128:], cdSector)
	binary.BigEndian.PutUint16(volume[130:], cdSector)
	return b
}

func TestBootSector(t *testing.T) {
	b := bootSector("hello")
	if len(b) != sector || b[510] != 0x55 || !bytes.Contains(b, []byte("hello\r\n\x00")) {
		t.Errorf("sector is %x", b)
	}
}
