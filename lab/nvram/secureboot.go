package nvram

import (
	"encoding/binary"
	"encoding/hex"
)

// Databases are the variables of Secure Boot, by name.
var Databases = []struct {
	Name   string
	Vendor GUID
}{{"PK", Global}, {"KEK", Global}, {"db", Security}, {"dbx", Security}}

const authAttributes = NonVolatile | BootService | Runtime | TimeAuthenticated

// Signature is an entry of a database.
type Signature struct {
	// Certificate is in DER; nil for a hash.
	Certificate []byte
	// Hash is a SHA-256 in hexadecimal; empty for a certificate.
	Hash string
}

var (
	typeX509   = MustGUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
	typeSHA256 = MustGUID("c1c41626-504c-4092-aca9-41f936934328")
	// owner is what entries of ours are said to belong to.
	owner = MustGUID("5b1d0b1a-6c61-4b62-8000-626564706c74")
)

const listHeader = 28

// SecureBoot returns whether Secure Boot is enforced from the next boot on, and
// whether the machine is in setup mode: without a platform key.
func (s *Store) SecureBoot() (enforced, setup bool) {
	setup = len(s.Get("PK", Global)) == 0
	enable := s.Get("SecureBootEnable", SecureEnable)
	// Firmware makes the variable at its first boot with a platform key, as enabled.
	return !setup && (len(enable) == 0 || enable[0] == 1), setup
}

// EnableSecureBoot sets whether signatures are enforced.
func (s *Store) EnableSecureBoot(on bool) {
	value := []byte{0}
	if on {
		value[0] = 1
	}
	s.Set("SecureBootEnable", SecureEnable, NonVolatile|BootService, value)
}

// Signatures returns the entries of a database (EFI_SIGNATURE_LIST, UEFI 2.10 §32.4.1).
// What it can't read it leaves out.
func (s *Store) Signatures(name string) []Signature {
	var all []Signature
	for _, d := range Databases {
		if d.Name == name {
			all = signatures(s.Get(d.Name, d.Vendor))
		}
	}
	return all
}

func signatures(b []byte) []Signature {
	var all []Signature
	for len(b) >= listHeader {
		size, header, each := binary.LittleEndian.Uint32(b[16:]), binary.LittleEndian.Uint32(b[20:]), binary.LittleEndian.Uint32(b[24:])
		if size < listHeader || int64(size) > int64(len(b)) || int64(header)+listHeader > int64(size) || each <= 16 {
			break
		}
		list, kind := b[listHeader+header:size], GUID(b[:16])
		b = b[size:]
		for ; len(list) >= int(each); list = list[each:] {
			switch kind {
			case typeX509:
				all = append(all, Signature{Certificate: append([]byte(nil), list[16:each]...)})
			case typeSHA256:
				all = append(all, Signature{Hash: hex.EncodeToString(list[16:each])})
			}
		}
	}
	return all
}

// Enrol adds a certificate to a database.
func (s *Store) Enrol(name string, certificate []byte) {
	for _, d := range Databases {
		if d.Name != name {
			continue
		}
		list := append([]byte(nil), typeX509[:]...)
		list = binary.LittleEndian.AppendUint32(list, uint32(listHeader+16+len(certificate)))
		list = binary.LittleEndian.AppendUint32(list, 0)
		list = binary.LittleEndian.AppendUint32(list, uint32(16+len(certificate)))
		list = append(list, owner[:]...)
		list = append(list, certificate...)
		s.Set(d.Name, d.Vendor, authAttributes, append(append([]byte(nil), s.Get(d.Name, d.Vendor)...), list...))
	}
}

// DeleteKeys empties the named databases; without names, all.
func (s *Store) DeleteKeys(names ...string) {
	s.eachKey(names, func(name string, vendor GUID) { s.Delete(name, vendor) })
}

// RestoreKeys takes the named databases from a store as delivered; without names, all.
func (s *Store) RestoreKeys(from *Store, names ...string) {
	s.eachKey(names, func(name string, vendor GUID) { s.Copy(from, name, vendor) })
}

func (s *Store) eachKey(names []string, f func(string, GUID)) {
	for _, d := range Databases {
		wanted := len(names) == 0
		for _, n := range names {
			wanted = wanted || n == d.Name
		}
		if wanted {
			f(d.Name, d.Vendor)
		}
	}
}
