// Package nvram reads and writes the flash image in which OVMF keeps its UEFI
// variables, as a server's management controller does while the power is off.
//
//	firmware volume header (PI 1.7 vol. 3 §3.2.1), its length in itself
//	variable store header: GUID 16, size 4, format 1 = 5Ah, state 1 = FEh, reserved 6
//	variables, at multiples of 4:
//	  AA55h 2, state 1, reserved 1, attributes 4, count 8, time 16, key 4, name size 4, data size 4, vendor 16
//	  name in UTF-16 with a NUL, data
//	FFh up to the store's size; after it, what is none of ours
//
// The layout is that of EDK2's authenticated variables (MdeModulePkg,
// Include/Guid/VariableFormat.h). A Store is not for use by several goroutines at once.
package nvram

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf16"
)

// GUID tells vendors of variables apart, in the byte order of UEFI.
type GUID [16]byte

// MustGUID makes a constant's GUID from its usual form.
func MustGUID(s string) GUID {
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != 16 {
		panic("not a GUID: " + s)
	}
	return GUID{b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]}
}

// Vendors of the variables that are of interest.
var (
	Global       = MustGUID("8be4df61-93ca-11d2-aa0d-00e098032b8c") // EFI_GLOBAL_VARIABLE
	Security     = MustGUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f") // EFI_IMAGE_SECURITY_DATABASE: db, dbx
	SecureEnable = MustGUID("f0a30bc7-af08-4556-99c4-001009c93a44") // EDK2: SecureBootEnable
	CustomMode   = MustGUID("c076ec0c-7028-4399-a072-71ee5c448b9f") // EDK2: CustomMode
)

// Attributes (UEFI 2.10 §8.2.1).
const (
	NonVolatile       = 0x01
	BootService       = 0x02
	Runtime           = 0x04
	TimeAuthenticated = 0x20
)

// Variable is one UEFI variable.
type Variable struct {
	Name       string
	Vendor     GUID
	Attributes uint32
	Data       []byte
	// time is when an authenticated variable was last set.
	time [16]byte
	// rest is what of the header has no meaning here.
	count uint64
	key   uint32
}

// Store is the variables of a flash image.
type Store struct {
	image     []byte
	start     int // of the first variable
	end       int // of the store
	Variables []Variable
}

var (
	authenticated = MustGUID("aaf32c78-947b-439a-a180-2e144ec37792")
	errImage      = errors.New("it is no image of UEFI variables")
)

const (
	storeHeader    = 28
	variableHeader = 60
	startID        = 0x55aa
	formatted      = 0x5a
	healthy        = 0xfe
	// States are made by clearing bits: a variable that counts has been added
	// and not been deleted; one in transition counts until its successor is there.
	added        = 0x3f
	inTransition = 0x3e
	maxImage     = 64 << 20
	maxValue     = 1 << 20
)

// Parse reads an image. It keeps a copy.
func Parse(image []byte) (*Store, error) {
	if len(image) < 64 || len(image) > maxImage || string(image[40:44]) != "_FVH" {
		return nil, errImage
	}
	header := int(binary.LittleEndian.Uint16(image[48:]))
	if header > len(image)-storeHeader {
		return nil, errImage
	}
	h := image[header:]
	size := int64(binary.LittleEndian.Uint32(h[16:]))
	if GUID(h[:16]) != authenticated || h[20] != formatted || h[21] != healthy || size < storeHeader || int64(header)+size > int64(len(image)) {
		return nil, errImage
	}
	s := &Store{image: bytes.Clone(image), start: header + storeHeader, end: header + int(size)}
	return s, s.parse()
}

func (s *Store) parse() error {
	var old []Variable
	for at := s.start; at+variableHeader <= s.end; {
		h := s.image[at:s.end]
		if binary.LittleEndian.Uint16(h) != startID {
			break
		}
		name, data := binary.LittleEndian.Uint32(h[36:]), binary.LittleEndian.Uint32(h[40:])
		if name > maxValue || data > maxValue || name%2 != 0 || variableHeader+int(name)+int(data) > len(h) {
			return fmt.Errorf("%w: a variable at %#x is longer than the store", errImage, at)
		}
		size := variableHeader + int(name) + int(data)
		v := Variable{
			Attributes: binary.LittleEndian.Uint32(h[4:]), count: binary.LittleEndian.Uint64(h[8:]), key: binary.LittleEndian.Uint32(h[32:]),
			Vendor: GUID(h[44:60]), Name: text(h[variableHeader : variableHeader+int(name)]), Data: bytes.Clone(h[variableHeader+int(name) : size]),
		}
		copy(v.time[:], h[16:32])
		switch h[2] {
		case added:
			s.Variables = append(s.Variables, v)
		case inTransition:
			old = append(old, v)
		}
		at += (size + 3) &^ 3
	}
	for _, v := range old {
		if s.index(v.Name, v.Vendor) < 0 {
			s.Variables = append(s.Variables, v)
		}
	}
	return nil
}

func text(b []byte) string {
	var units []uint16
	for i := 0; i+1 < len(b); i += 2 {
		u := binary.LittleEndian.Uint16(b[i:])
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return string(utf16.Decode(units))
}

func appendText(b []byte, s string) []byte {
	for _, u := range append(utf16.Encode([]rune(s)), 0) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}

func (s *Store) index(name string, vendor GUID) int {
	return slices.IndexFunc(s.Variables, func(v Variable) bool { return v.Name == name && v.Vendor == vendor })
}

// Get returns a variable's data; nil if there is none.
func (s *Store) Get(name string, vendor GUID) []byte {
	if i := s.index(name, vendor); i >= 0 {
		return s.Variables[i].Data
	}
	return nil
}

// Set makes or changes a variable. One that is there keeps its attributes.
func (s *Store) Set(name string, vendor GUID, attributes uint32, data []byte) {
	if i := s.index(name, vendor); i >= 0 {
		s.Variables[i].Data = bytes.Clone(data)
		return
	}
	s.Variables = append(s.Variables, Variable{Name: name, Vendor: vendor, Attributes: attributes, Data: bytes.Clone(data)})
}

// Delete deletes a variable, if there is one.
func (s *Store) Delete(name string, vendor GUID) {
	if i := s.index(name, vendor); i >= 0 {
		s.Variables = slices.Delete(s.Variables, i, i+1)
	}
}

// Copy takes a variable over from another store; one that isn't there is deleted here.
func (s *Store) Copy(from *Store, name string, vendor GUID) {
	s.Delete(name, vendor)
	if i := from.index(name, vendor); i >= 0 {
		v := from.Variables[i]
		v.Data = bytes.Clone(v.Data)
		s.Variables = append(s.Variables, v)
	}
}

// Image returns the flash image with the variables as they are now.
func (s *Store) Image() ([]byte, error) {
	var b []byte
	for _, v := range s.Variables {
		name := appendText(nil, v.Name)
		b = binary.LittleEndian.AppendUint16(b, startID)
		b = append(b, added, 0)
		b = binary.LittleEndian.AppendUint32(b, v.Attributes)
		b = binary.LittleEndian.AppendUint64(b, v.count)
		b = append(b, v.time[:]...)
		b = binary.LittleEndian.AppendUint32(b, v.key)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(name)))
		b = binary.LittleEndian.AppendUint32(b, uint32(len(v.Data)))
		b = append(b, v.Vendor[:]...)
		b = append(b, name...)
		b = append(b, v.Data...)
		for len(b)%4 != 0 {
			b = append(b, 0xff)
		}
	}
	if len(b) > s.end-s.start {
		return nil, fmt.Errorf("the variables take %d bytes, and there is room for %d", len(b), s.end-s.start)
	}
	image := bytes.Clone(s.image)
	n := copy(image[s.start:s.end], b)
	for i := s.start + n; i < s.end; i++ {
		image[i] = 0xff
	}
	return image, nil
}
