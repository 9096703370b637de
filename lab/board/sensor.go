package board

// Sensor is one reading. Limits that are 0 aren't there.
type Sensor struct {
	Number byte
	Name   string
	// Type is IPMI's sensor type, Unit IPMI's unit type (v2.0 table 43-15).
	Type byte
	Unit Unit
	// Available is false for what can't be read while the power is off.
	Available bool
	Reading   float64
	// Factor is what one step of the sensor's converter is worth.
	Factor float64
	// Lower and upper limits.
	LowerCritical, UpperWarning, UpperCritical float64
}

// Unit is that of a reading.
type Unit byte

// Units (IPMI v2.0 table 43-15).
const (
	Celsius Unit = 1
	Volts   Unit = 4
	Watts   Unit = 6
	RPM     Unit = 18
)

// Health compares the reading with its limits.
func (s Sensor) Health() Severity {
	switch {
	case !s.Available:
		return OK
	case s.UpperCritical != 0 && s.Reading >= s.UpperCritical, s.LowerCritical != 0 && s.Reading <= s.LowerCritical:
		return Critical
	case s.UpperWarning != 0 && s.Reading >= s.UpperWarning:
		return Warning
	}
	return OK
}

// Sensors returns what is measured now.
func (b *Board) Sensors() []Sensor {
	on := b.machine.On()
	_, hot := b.Fault(FaultHot)
	either := func(whenOn, whenOff float64) float64 {
		if on {
			return whenOn
		}
		return whenOff
	}
	cpu := either(46, 24)
	if hot {
		cpu = 97
	}
	return []Sensor{
		{Number: 1, Name: "Inlet Temp", Type: sensorTemperature, Unit: Celsius, Available: true, Reading: 22, Factor: 1, UpperWarning: 38, UpperCritical: 42},
		{Number: 2, Name: "CPU Temp", Type: sensorTemperature, Unit: Celsius, Available: on || hot, Reading: cpu, Factor: 1, UpperWarning: 85, UpperCritical: 95},
		{Number: 3, Name: "Fan 1", Type: sensorFan, Unit: RPM, Available: on, Reading: either(5400, 0), Factor: 60, LowerCritical: 600},
		{Number: 4, Name: "Fan 2", Type: sensorFan, Unit: RPM, Available: on, Reading: either(5280, 0), Factor: 60, LowerCritical: 600},
		{Number: 5, Name: "12V", Type: sensorVoltage, Unit: Volts, Available: on, Reading: either(12.06, 0), Factor: 0.06, LowerCritical: 10.8, UpperCritical: 13.2},
		{Number: 6, Name: "PSU1 Power", Type: sensorOther, Unit: Watts, Available: true, Reading: either(116, 8), Factor: 4, UpperCritical: 800},
	}
}

// Health is the worst of all sensors.
func (b *Board) Health() Severity {
	worst := OK
	for _, s := range b.Sensors() {
		switch s.Health() {
		case Critical:
			return Critical
		case Warning:
			worst = Warning
		}
	}
	return worst
}
