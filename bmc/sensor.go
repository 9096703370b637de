package bmc

import "context"

// Health is a BMC's judgement of something.
type Health uint8

// The degrees of health. The zero value is no judgement.
const (
	HealthUnknown Health = iota
	HealthOK
	HealthWarning
	HealthCritical
)

// String returns unknown, ok, warning or critical.
func (h Health) String() string {
	switch h {
	case HealthOK:
		return "ok"
	case HealthWarning:
		return "warning"
	case HealthCritical:
		return "critical"
	default:
		return "unknown"
	}
}

// Worse returns the worse of two judgements; no judgement is better than any.
func (h Health) Worse(other Health) Health { return max(h, other) }

// SensorKind is what a sensor measures.
type SensorKind string

// The kinds of sensor.
const (
	SensorTemperature SensorKind = "temperature"
	SensorFan         SensorKind = "fan"
	SensorVoltage     SensorKind = "voltage"
	SensorCurrent     SensorKind = "current"
	SensorPower       SensorKind = "power"
	SensorOther       SensorKind = "other"
)

// Sensor is one reading.
type Sensor struct {
	Name string
	Kind SensorKind
	// Value is meaningless unless Present.
	Value float64
	// Unit is °C, RPM, %, V, A or W, or the BMC's own word.
	Unit string
	// Present is false where nothing is fitted or the machine is off.
	Present bool
	Health  Health
}

// HealthReport is a BMC's judgement of its machine.
type HealthReport struct {
	Overall Health
	// Problems are what is not ok, in the BMC's words; at most MaxProblems.
	Problems []string
}

// MaxProblems bounds HealthReport.Problems.
const MaxProblems = 32

// Sensors is what a BMC measures.
type Sensors interface {
	Sensors(ctx context.Context) ([]Sensor, error)
	// Health asks for as little as it can: it is asked of every BMC every few minutes.
	Health(ctx context.Context) (HealthReport, error)
}
