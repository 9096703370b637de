package redfish

import (
	"strconv"
	"strings"

	"github.com/bedplate/bedplate/lab/board"
)

var chassisRoutes = []entry{
	{"/Chassis", route{methods: get(func(c *call) error { return c.collection("ChassisCollection", "Chassis", "/Chassis/1") })}},
	{"/Chassis/1", route{methods: get(getChassis)}},
	{"/Chassis/1/Thermal", route{methods: get(getThermal)}},
	{"/Chassis/1/Power", route{methods: get(getPower)}},
	{"/Chassis/1/Sensors", route{methods: get(getSensors)}},
	{"/Chassis/1/Sensors/{}", route{methods: get(getSensor)}},
}

func getChassis(c *call) error {
	h, label := c.b.Hardware(), c.b.Label()
	o := c.resource("Chassis", "v1_19_0", "1", h.Name)
	o["ChassisType"], o["Manufacturer"], o["Model"], o["SerialNumber"], o["AssetTag"] = "RackMount", h.Manufacturer, h.Model, h.Serial, label.AssetTag
	o["PowerState"], o["IndicatorLED"], o["Status"] = powerState(c.b.PowerOn()), label.LED, status("Enabled", string(c.b.Health()))
	for _, name := range []string{"Thermal", "Power", "Sensors"} {
		o[name] = ref("/Chassis/1/" + name)
	}
	o["Links"] = object{"ComputerSystems": refs("/Systems/1"), "ManagedBy": refs("/Managers/1")}
	return c.show(o)
}

// limit is nil for one that isn't there.
func limit(v float64) any {
	if v == 0 {
		return nil
	}
	return v
}

func reading(s board.Sensor) any {
	if !s.Available {
		return nil
	}
	return s.Reading
}

func sensorStatus(s board.Sensor) object {
	if !s.Available {
		return object{"State": "UnavailableOffline", "Health": nil}
	}
	return object{"State": "Enabled", "Health": s.Health()}
}

func sensorID(s board.Sensor) string { return strings.ReplaceAll(s.Name, " ", "") }

func getThermal(c *call) error {
	o := c.resource("Thermal", "v1_7_1", "Thermal", "Thermal")
	temperatures, fans := []object{}, []object{}
	for _, s := range c.b.Sensors() {
		switch s.Unit {
		case board.Celsius:
			temperatures = append(temperatures, object{
				"@odata.id": root + "/Chassis/1/Thermal#/Temperatures/" + strconv.Itoa(len(temperatures)), "MemberId": sensorID(s), "Name": s.Name, "SensorNumber": int(s.Number),
				"Status": sensorStatus(s), "ReadingCelsius": reading(s), "UpperThresholdNonCritical": limit(s.UpperWarning), "UpperThresholdCritical": limit(s.UpperCritical),
			})
		case board.RPM:
			fans = append(fans, object{
				"@odata.id": root + "/Chassis/1/Thermal#/Fans/" + strconv.Itoa(len(fans)), "MemberId": sensorID(s), "Name": s.Name, "SensorNumber": int(s.Number),
				"Status": sensorStatus(s), "Reading": reading(s), "ReadingUnits": "RPM", "LowerThresholdCritical": limit(s.LowerCritical),
			})
		}
	}
	o["Temperatures"], o["Temperatures@odata.count"], o["Fans"], o["Fans@odata.count"] = temperatures, len(temperatures), fans, len(fans)
	return c.show(o)
}

func getPower(c *call) error {
	o := c.resource("Power", "v1_7_1", "Power", "Power")
	voltages, supplies, control := []object{}, []object{}, []object{}
	for _, s := range c.b.Sensors() {
		switch s.Unit {
		case board.Volts:
			voltages = append(voltages, object{
				"@odata.id": root + "/Chassis/1/Power#/Voltages/" + strconv.Itoa(len(voltages)), "MemberId": sensorID(s), "Name": s.Name, "SensorNumber": int(s.Number),
				"Status": sensorStatus(s), "ReadingVolts": reading(s), "UpperThresholdCritical": limit(s.UpperCritical), "LowerThresholdCritical": limit(s.LowerCritical),
			})
		case board.Watts:
			control = append(control, object{
				"@odata.id": root + "/Chassis/1/Power#/PowerControl/0", "MemberId": "0", "Name": "System Power Control",
				"PowerConsumedWatts": reading(s), "PowerCapacityWatts": 800, "Status": sensorStatus(s),
			})
			supplies = append(supplies, object{
				"@odata.id": root + "/Chassis/1/Power#/PowerSupplies/0", "MemberId": "0", "Name": "PSU1", "PowerSupplyType": "AC", "PowerCapacityWatts": 800,
				"LastPowerOutputWatts": reading(s), "Status": sensorStatus(s), "Manufacturer": "Bedplate", "Model": "Lab PSU",
			})
		}
	}
	o["PowerControl"], o["PowerControl@odata.count"] = control, len(control)
	o["Voltages"], o["Voltages@odata.count"] = voltages, len(voltages)
	o["PowerSupplies"], o["PowerSupplies@odata.count"] = supplies, len(supplies)
	return c.show(o)
}

func getSensors(c *call) error {
	var members []string
	for _, s := range c.b.Sensors() {
		members = append(members, "/Chassis/1/Sensors/"+sensorID(s))
	}
	return c.collection("SensorCollection", "Sensors", members...)
}

// kinds are Redfish's words for units: what is read, and in what.
var kinds = map[board.Unit][2]string{
	board.Celsius: {"Temperature", "Cel"}, board.Volts: {"Voltage", "V"}, board.Watts: {"Power", "W"}, board.RPM: {"Rotational", "RPM"},
}

func getSensor(c *call) error {
	for _, s := range c.b.Sensors() {
		if sensorID(s) != c.vars[0] {
			continue
		}
		o := c.resource("Sensor", "v1_5_0", sensorID(s), s.Name)
		o["ReadingType"], o["ReadingUnits"], o["Reading"], o["Status"] = kinds[s.Unit][0], kinds[s.Unit][1], reading(s), sensorStatus(s)
		thresholds := object{}
		for name, v := range map[string]float64{"LowerCritical": s.LowerCritical, "UpperCaution": s.UpperWarning, "UpperCritical": s.UpperCritical} {
			if v != 0 {
				thresholds[name] = object{"Reading": v}
			}
		}
		o["Thresholds"] = thresholds
		return c.show(o)
	}
	return errNotFound(c.path)
}
