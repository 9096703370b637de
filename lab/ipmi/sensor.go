package ipmi

import (
	"context"
	"math"

	"github.com/bougou/go-ipmi/pkg/handlers"
	"github.com/bougou/go-ipmi/pkg/types"

	"github.com/bedplate/bedplate/lab/board"
)

// registerSensors adds the commands that read sensors (§35).
func (s *Server) registerSensors(r *handlers.Registry) {
	r.RegisterFunc(types.CommandGetSensorReading, s.sensorReading)
	r.RegisterFunc(types.CommandGetSensorThresholds, s.sensorThresholds)
	r.RegisterFunc(types.CommandGetDCMIPowerReading, s.powerReading)
}

func (s *Server) sensor(request []byte) (board.Sensor, types.CompletionCode) {
	if len(request) < 1 {
		return board.Sensor{}, types.CodeRequestDataLengthInvalid
	}
	for _, x := range s.board.Sensors() {
		if x.Number == request[0] {
			return x, types.CodeOK
		}
	}
	return board.Sensor{}, types.CodeRequestedDataNotPresent
}

// raw is a value as the sensor's converter has it.
func raw(s board.Sensor, v float64) byte {
	return byte(max(0, min(255, math.Round(v/s.Factor))))
}

// sensorReading answers Get Sensor Reading (table 35-15).
func (s *Server) sensorReading(_ context.Context, _ *handlers.HandlerContext, request []byte) ([]byte, types.CompletionCode, error) {
	x, code := s.sensor(request)
	if code != types.CodeOK {
		return nil, code, nil
	}
	const enabled, unavailable = 0xc0, 0x20
	if !x.Available {
		return []byte{0, enabled | unavailable, 0xc0}, types.CodeOK, nil
	}
	state := byte(0xc0)
	if x.LowerCritical != 0 && x.Reading <= x.LowerCritical {
		state |= 0x02
	}
	if x.UpperWarning != 0 && x.Reading >= x.UpperWarning {
		state |= 0x08
	}
	if x.UpperCritical != 0 && x.Reading >= x.UpperCritical {
		state |= 0x10
	}
	return []byte{raw(x, x.Reading), enabled, state}, types.CodeOK, nil
}

// thresholds returns which there are (table 35-9) and what they are, lowest first:
// lower non-critical, critical, non-recoverable; upper the same.
func thresholds(s board.Sensor) (mask byte, values [6]byte) {
	for i, v := range []float64{0, s.LowerCritical, 0, s.UpperWarning, s.UpperCritical, 0} {
		if v != 0 {
			mask |= 1 << i
			values[i] = raw(s, v)
		}
	}
	return mask, values
}

func (s *Server) sensorThresholds(_ context.Context, _ *handlers.HandlerContext, request []byte) ([]byte, types.CompletionCode, error) {
	x, code := s.sensor(request)
	if code != types.CodeOK {
		return nil, code, nil
	}
	mask, values := thresholds(x)
	return append([]byte{mask}, values[:]...), types.CodeOK, nil
}

// powerReading answers DCMI's Get Power Reading (DCMI v1.5 §6.6.1).
func (s *Server) powerReading(_ context.Context, _ *handlers.HandlerContext, request []byte) ([]byte, types.CompletionCode, error) {
	const groupDCMI = 0xdc
	if len(request) < 1 || request[0] != groupDCMI {
		return nil, types.CodeRequestDataFieldInvalid, nil
	}
	watts := uint16(0)
	for _, x := range s.board.Sensors() {
		if x.Unit == board.Watts {
			watts = uint16(x.Reading)
		}
	}
	lo, hi := byte(watts), byte(watts>>8)
	now := seconds(s.board.Now())
	return []byte{
		groupDCMI, lo, hi, lo, hi, lo, hi, lo, hi, // now, least, most, average
		byte(now), byte(now >> 8), byte(now >> 16), byte(now >> 24), 0xe8, 0x03, 0, 0, 0x40,
	}, types.CodeOK, nil
}

// decimal returns a factor as M × 10^exponent (§36.3).
func decimal(factor float64) (m uint16, exponent int8) {
	for factor != math.Trunc(factor) && exponent > -4 {
		factor *= 10
		exponent--
		factor = math.Round(factor*1e6) / 1e6
	}
	return uint16(factor), exponent
}

// sensorRecord is a Full Sensor Record (table 43-1).
func sensorRecord(s board.Sensor) []byte {
	const headerSize, fullSensor, version = 5, 0x01, 0x51
	m, exponent := decimal(s.Factor)
	mask, limits := thresholds(s)
	r := []byte{
		s.Number, 0, version, fullSensor, 0, // the length follows below
		0x20, 0, s.Number, // owner: the BMC, LUN 0
		entity(s), 1, // entity and its instance
		0x7f, 0x68, // all initialised; readable thresholds, auto re-arm
		s.Type, typeThreshold,
		0, 0, 0, 0, // event masks: nothing is sent
		mask, 0, // thresholds that can be read, none to be set
		0, byte(s.Unit), 0, // units: unsigned, base unit
		0, byte(m), byte(m >> 8 << 6), 0, 0, 0, byte(exponent&0x0f) << 4, // linear: y = M·x·10^exponent
		0, 0, 0, 0, 0xff, 0, // nominal readings are not given
		limits[5], limits[4], limits[3], limits[2], limits[1], limits[0],
		0, 0, 0, 0, 0, // hysteresis, reserved, OEM
		0xc0 | byte(len(s.Name)),
	}
	r = append(r, s.Name...)
	r[4] = byte(len(r) - headerSize)
	return r
}

// entity is what a sensor is part of (table 43-13).
func entity(s board.Sensor) byte {
	const processor, fan, supply, inlet = 3, 29, 10, 0x37
	switch s.Unit {
	case board.RPM:
		return fan
	case board.Volts, board.Watts:
		return supply
	}
	if s.Number == 1 {
		return inlet
	}
	return processor
}
