package redfish

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/bedplate/bedplate/bmc"
)

// health returns what a word of the schema means.
func health(word string) bmc.Health {
	switch word {
	case "OK":
		return bmc.HealthOK
	case "Warning":
		return bmc.HealthWarning
	case "Critical":
		return bmc.HealthCritical
	}
	return bmc.HealthUnknown
}

// health returns the worse of a thing's own health and that of its parts.
func (s status) health() bmc.Health { return health(s.Health).Worse(health(s.HealthRollup)) }

// Health reads the system and its chassis, whose health has that of their parts
// in it (HealthRollup).
func (d *Driver) Health(ctx context.Context) (bmc.HealthReport, error) {
	s, err := d.system(ctx)
	if err != nil {
		return bmc.HealthReport{}, err
	}
	report := bmc.HealthReport{Overall: s.Status.health()}
	note := func(what string, st status) {
		h := st.health()
		report.Overall = report.Overall.Worse(h)
		if h <= bmc.HealthOK || len(report.Problems) >= bmc.MaxProblems {
			return
		}
		for _, c := range st.Conditions {
			if text := shorten(c.Message); text != "" && len(report.Problems) < bmc.MaxProblems {
				report.Problems = append(report.Problems, what+": "+text)
			}
		}
		if len(st.Conditions) == 0 {
			report.Problems = append(report.Problems, fmt.Sprintf("%s: %s", what, h))
		}
	}
	note("system", s.Status)
	note("memory", s.MemorySummary.Status)
	note("processors", s.ProcessorStatus.Status)
	paths, err := d.chassis(ctx)
	if err != nil {
		if errors.Is(err, bmc.ErrUnsupported) {
			err = nil
		}
		return report, err
	}
	for _, path := range paths {
		var c struct{ Status status }
		if _, err := d.get(ctx, path, &c); err != nil {
			return report, err
		}
		note("chassis "+lastElement(path), c.Status)
	}
	return report, nil
}

// chassisSensors are where a chassis has its sensors.
type chassisSensors struct {
	Thermal link
	Power   link
	Sensors link
}

// Sensors reads the sensors of each chassis: Thermal and Power where they are,
// else the collection that replaced them (2020.4).
func (d *Driver) Sensors(ctx context.Context) ([]bmc.Sensor, error) {
	ctx = withBudget(ctx)
	paths, err := d.chassis(ctx)
	if err != nil {
		return nil, err
	}
	var sensors []bmc.Sensor
	var problem error
	offered := false
	for _, path := range paths {
		var c chassisSensors
		if _, err := d.get(ctx, path, &c); err != nil {
			problem = err
			continue
		}
		offered = offered || c != chassisSensors{}
		found, err := d.legacySensors(ctx, c)
		if len(found) == 0 && c.Sensors.Path != "" {
			found, err = d.newSensors(ctx, c.Sensors.Path)
		}
		if err != nil {
			problem = err
		}
		sensors = append(sensors, found...)
	}
	if len(sensors) > 0 {
		return sensors, nil
	}
	if problem == nil && !offered {
		problem = d.lacks("sensors")
	}
	return nil, problem
}

// reading is a member of Thermal or Power; each has another name for its value.
type reading struct {
	Name           string
	FanName        string
	Status         status
	Celsius        *float64 `json:"ReadingCelsius"`
	Volts          *float64 `json:"ReadingVolts"`
	Reading        *float64
	ReadingUnits   string
	ConsumedWatts  *float64 `json:"PowerConsumedWatts"`
	OutputWatts    *float64 `json:"PowerOutputWatts"`
	LastPowerWatts *float64 `json:"LastPowerOutputWatts"`
}

func (r reading) sensor(kind bmc.SensorKind, unit string, values ...*float64) bmc.Sensor {
	s := bmc.Sensor{Name: r.Name, Kind: kind, Unit: unit, Health: r.Status.health()}
	if s.Name == "" {
		s.Name = r.FanName
	}
	for _, v := range values {
		if v != nil && r.Status.present() {
			s.Value, s.Present = *v, true
			break
		}
	}
	return s
}

func (d *Driver) legacySensors(ctx context.Context, c chassisSensors) ([]bmc.Sensor, error) {
	var sensors []bmc.Sensor
	var problem error
	if c.Thermal.Path != "" {
		var t struct{ Temperatures, Fans []reading }
		if _, err := d.get(ctx, c.Thermal.Path, &t); err != nil {
			problem = err
		}
		for _, r := range t.Temperatures {
			sensors = append(sensors, r.sensor(bmc.SensorTemperature, "°C", r.Celsius))
		}
		for _, r := range t.Fans {
			unit := r.ReadingUnits
			if strings.EqualFold(unit, "percent") {
				unit = "%"
			}
			sensors = append(sensors, r.sensor(bmc.SensorFan, unit, r.Reading))
		}
	}
	if c.Power.Path != "" {
		var p struct{ Voltages, PowerControl, PowerSupplies []reading }
		if _, err := d.get(ctx, c.Power.Path, &p); err != nil {
			problem = err
		}
		for _, r := range p.Voltages {
			sensors = append(sensors, r.sensor(bmc.SensorVoltage, "V", r.Volts))
		}
		for _, r := range p.PowerControl {
			sensors = append(sensors, r.sensor(bmc.SensorPower, "W", r.ConsumedWatts))
		}
		for _, r := range p.PowerSupplies {
			sensors = append(sensors, r.sensor(bmc.SensorPower, "W", r.OutputWatts, r.LastPowerWatts))
		}
	}
	return sensors, problem
}

// sensorKinds are the kinds of readings that have a word of ours (Sensor.ReadingType).
var sensorKinds = map[string]bmc.SensorKind{
	"Temperature": bmc.SensorTemperature, "Rotational": bmc.SensorFan, "Voltage": bmc.SensorVoltage,
	"Current": bmc.SensorCurrent, "Power": bmc.SensorPower,
}

// sensorUnits are UCUM's words as people write them.
var sensorUnits = map[string]string{"Cel": "°C", "{rev}/min": "RPM", "RPM": "RPM"}

func (d *Driver) newSensors(ctx context.Context, path string) ([]bmc.Sensor, error) {
	type sensor struct {
		Name, ReadingType, ReadingUnits string
		Reading                         *float64
		Status                          status
	}
	var problem error
	all, err := collect[sensor](ctx, d, path, func(err error) { problem = err })
	var sensors []bmc.Sensor
	for _, v := range all {
		s := bmc.Sensor{Name: v.Name, Kind: sensorKinds[v.ReadingType], Unit: v.ReadingUnits, Health: v.Status.health()}
		if s.Kind == "" {
			s.Kind = bmc.SensorOther
		}
		if unit, ok := sensorUnits[s.Unit]; ok {
			s.Unit = unit
		}
		if v.Reading != nil && v.Status.present() {
			s.Value, s.Present = *v.Reading, true
		}
		sensors = append(sensors, s)
	}
	if err == nil && len(sensors) == 0 {
		err = problem
	}
	return sensors, err
}
