package nvram

import "encoding/binary"

// Places of what the controller's own boot option is kept in; firmware and
// operating systems count up from 0000.
const (
	ownOption = "BootBED0"
	ownNumber = 0xbed0
)

// bootToSetup is EFI_OS_INDICATIONS_BOOT_TO_FW_UI (UEFI 2.10 §8.5.4).
const bootToSetup = 1

// SetSetup makes the next boot stop in the firmware's setup.
func (s *Store) SetSetup() {
	value := make([]byte, 8)
	copy(value, s.Get("OsIndications", Global))
	value[0] |= bootToSetup
	s.Set("OsIndications", Global, NonVolatile|BootService|Runtime, value)
}

// SetURI makes the next boot load a program by HTTP (UEFI 2.10 §3.1.2, §24.7).
// The option's device path is the URI alone, which firmware completes by any card.
func (s *Store) SetURI(uri string) {
	const active, messaging, uriNode, endOfPath, wholePath = 1, 3, 24, 0x7f, 0xff
	path := []byte{messaging, uriNode}
	path = binary.LittleEndian.AppendUint16(path, uint16(4+len(uri)))
	path = append(path, uri...)
	path = append(path, endOfPath, wholePath, 4, 0)
	option := binary.LittleEndian.AppendUint32(nil, active)
	option = binary.LittleEndian.AppendUint16(option, uint16(len(path)))
	option = appendText(option, "Boot by HTTP, as the management controller wants")
	s.Set(ownOption, Global, NonVolatile|BootService|Runtime, append(option, path...))
	s.Set("BootNext", Global, NonVolatile|BootService|Runtime, binary.LittleEndian.AppendUint16(nil, ownNumber))
}

// Clear takes back what SetSetup and SetURI left behind, and nobody else's.
func (s *Store) Clear() {
	if next := s.Get("BootNext", Global); len(next) == 2 && binary.LittleEndian.Uint16(next) == ownNumber {
		s.Delete("BootNext", Global)
	}
	s.Delete(ownOption, Global)
}
