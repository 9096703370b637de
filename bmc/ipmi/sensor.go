package ipmi

import (
	"context"
	"fmt"
	"strings"

	"github.com/bougou/go-ipmi/pkg/command/chassis"
	"github.com/bougou/go-ipmi/pkg/types"

	"github.com/bedplate/bedplate/bmc"
)

// maxSensors bounds what is read of an SDR repository.
const maxSensors = 1024

// Sensors reads the SDR repository (§33) and each sensor that has a value.
func (d *Driver) Sensors(ctx context.Context) ([]bmc.Sensor, error) {
	all, err := get(ctx, d, "sensors", func(ctx context.Context) ([]*types.Sensor, error) { return d.c.GetSensors(ctx) })
	if err != nil {
		return nil, err
	}
	var sensors []bmc.Sensor
	for _, s := range all {
		if s.IsThreshold() && len(sensors) < maxSensors {
			sensors = append(sensors, sensorOf(s))
		}
	}
	return sensors, nil
}

// sensorKinds are the sensor types (table 42-3) that have a word of ours.
var sensorKinds = map[types.SensorType]bmc.SensorKind{
	types.SensorTypeTemperature: bmc.SensorTemperature,
	types.SensorTypeFan:         bmc.SensorFan,
	types.SensorTypeVoltage:     bmc.SensorVoltage,
	types.SensorTypeCurrent:     bmc.SensorCurrent,
}

// sensorUnits are the library's names of units (table 43-15) as people write them.
var sensorUnits = map[string]string{"degrees C": "°C", "degrees F": "°F", "Volts": "V", "Amps": "A", "Watts": "W"}

func sensorOf(s *types.Sensor) bmc.Sensor {
	out := bmc.Sensor{
		Name: clean(s.Name), Kind: sensorKinds[s.SensorType], Unit: s.SensorUnit.String(),
		Present: s.IsReadingValid() && !s.NotPresent && !s.ScanningDisabled,
	}
	if unit, ok := sensorUnits[out.Unit]; ok {
		out.Unit = unit
	}
	switch {
	case out.Kind == "" && out.Unit == "W":
		out.Kind = bmc.SensorPower
	case out.Kind == "":
		out.Kind = bmc.SensorOther
	}
	if out.Present {
		out.Value = s.Value
		out.Health = thresholdHealth(string(s.Threshold.ThresholdStatus))
	}
	return out
}

// thresholdHealth returns what a threshold status means: ok, or l or u and nc, c
// or nr.
func thresholdHealth(status string) bmc.Health {
	switch {
	case strings.EqualFold(status, "ok"):
		return bmc.HealthOK
	case strings.HasSuffix(status, "nc"):
		return bmc.HealthWarning
	case status == "":
		return bmc.HealthUnknown
	}
	return bmc.HealthCritical
}

// Health reads the chassis status, which has what is broken in power, cooling
// and disks; single sensors are Sensors' concern.
func (d *Driver) Health(ctx context.Context) (bmc.HealthReport, error) {
	s, err := get(ctx, d, "health", d.c.GetChassisStatus)
	if err != nil {
		return bmc.HealthReport{}, err
	}
	return healthOf(s), nil
}

func healthOf(s *chassis.GetChassisStatusResponse) bmc.HealthReport {
	report := bmc.HealthReport{Overall: bmc.HealthOK}
	for _, f := range []struct {
		is     bool
		what   string
		health bmc.Health
	}{
		{s.PowerFault, "fault in the main power subsystem", bmc.HealthCritical},
		{s.PowerControlFault, "power was switched and did not follow", bmc.HealthCritical},
		{s.PowerOverload, "power overload", bmc.HealthCritical},
		{s.CollingFanFault, "cooling or fan fault", bmc.HealthCritical},
		{s.DriveFault, "drive fault", bmc.HealthCritical},
		{s.ChassisIntrusionActive, "chassis is open", bmc.HealthWarning},
	} {
		if f.is {
			report.Overall = report.Overall.Worse(f.health)
			report.Problems = append(report.Problems, fmt.Sprintf("chassis: %s", f.what))
		}
	}
	return report
}
