package inventory

import (
	"encoding/binary"
	"errors"
	"math"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

var (
	errHealth   = errors.New("answer too short")
	errNoHealth = errors.New("disks of this kind have none")
)

const zeroCelsius = 273 // in kelvin, as NVMe counts

// parseNVMeHealth reads log page 2 (NVMe 1.4 figure 194).
func parseNVMeHealth(b []byte) (*pb.SMART, error) {
	if len(b) < 512 {
		return nil, errHealth
	}
	return &pb.SMART{
		Supported: true, Healthy: b[0] == 0,
		TemperatureCelsius: int32(binary.LittleEndian.Uint16(b[1:])) - zeroCelsius,
		PercentageUsed:     uint32(b[5]), PowerOnHours: low64(b[128:144]), MediaErrors: low64(b[160:176]),
	}, nil
}

// low64 reads a 128 bit counter; one that doesn't fit is at its highest.
func low64(b []byte) uint64 {
	if binary.LittleEndian.Uint64(b[8:]) != 0 {
		return math.MaxUint64
	}
	return binary.LittleEndian.Uint64(b)
}

// ATA attributes that nearly all makers agree on.
const (
	attrReallocated   = 5
	attrPowerOnHours  = 9
	attrAirflow       = 190
	attrTemperature   = 194
	attrUncorrectable = 198
)

// parseATAHealth reads SMART READ DATA: thirty attributes of twelve bytes from
// offset 2, each id, flags (2), value, worst, raw (6), reserved.
func parseATAHealth(b []byte, healthy bool) (*pb.SMART, error) {
	if len(b) < 512 {
		return nil, errHealth
	}
	s := &pb.SMART{Supported: true, Healthy: healthy}
	for i := 2; i+12 <= 2+30*12; i += 12 {
		raw := uint64(binary.LittleEndian.Uint32(b[i+5:])) | uint64(binary.LittleEndian.Uint16(b[i+9:]))<<32
		switch b[i] {
		case attrReallocated:
			s.ReallocatedSectors = raw & 0xffffffff
		case attrPowerOnHours:
			s.PowerOnHours = raw & 0xffffffff // above that some drives keep minutes or milliseconds
		case attrTemperature:
			s.TemperatureCelsius = int32(int8(b[i+5])) // the rest holds lowest and highest
		case attrAirflow:
			if s.TemperatureCelsius == 0 {
				s.TemperatureCelsius = int32(int8(b[i+5]))
			}
		case attrUncorrectable:
			s.MediaErrors = raw & 0xffffffff
		}
	}
	return s, nil
}

// ataStatus reads the registers that SMART RETURN STATUS leaves in descriptor
// sense data (SAT-3 §12.2.2.6): 4Fh C2h is good, F4h 2Ch is a threshold exceeded.
func ataStatus(sense []byte) (healthy, ok bool) {
	if len(sense) < 22 || sense[0]&0x7f != 0x72 || sense[8] != 0x09 {
		return false, false
	}
	switch [2]byte{sense[17], sense[19]} {
	case [2]byte{0x4f, 0xc2}:
		return true, true
	case [2]byte{0xf4, 0x2c}:
		return false, true
	}
	return false, false
}

// parseSCSIHealth reads the informational exceptions log page (SPC-4 §7.3.8).
func parseSCSIHealth(b []byte) (*pb.SMART, error) {
	const page, failurePrediction = 0x2f, 0x5d
	if len(b) < 11 || b[0]&0x3f != page || b[7] < 3 {
		return nil, errHealth
	}
	s := &pb.SMART{Supported: true, Healthy: b[8] != failurePrediction}
	if b[10] != 0xff {
		s.TemperatureCelsius = int32(b[10])
	}
	return s, nil
}
