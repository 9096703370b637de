package redfish

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"

	"github.com/bedplate/bedplate/lab/board"
)

var systemRoutes = []entry{
	{"/Systems", route{methods: get(func(c *call) error { return c.collection("ComputerSystemCollection", "Computer Systems", "/Systems/1") })}},
	{"/Systems/1", route{methods: getPatch(getSystem, patchSystem)}},
	{"/Systems/1/Actions/ComputerSystem.Reset", route{methods: post(postReset)}},
	{"/Systems/1/ResetActionInfo", route{methods: get(getResetInfo)}},
	{"/Systems/1/Bios", route{methods: get(getBIOS)}},
	{"/Systems/1/Bios/Settings", route{methods: getPatch(getBIOSSettings, patchBIOSSettings)}},
	{"/Systems/1/Bios/Actions/Bios.ResetBios", route{methods: post(postResetBIOS)}},
	{"/Systems/1/Processors", route{methods: get(getProcessors)}},
	{"/Systems/1/Processors/{}", route{methods: get(getProcessor)}},
	{"/Systems/1/Memory", route{methods: get(func(c *call) error { return c.collection("MemoryCollection", "Memory", "/Systems/1/Memory/1") })}},
	{"/Systems/1/Memory/1", route{methods: get(getMemory)}},
	{"/Systems/1/EthernetInterfaces", route{methods: get(getNICs)}},
	{"/Systems/1/EthernetInterfaces/{}", route{methods: get(getNIC)}},
	{"/Systems/1/Storage", route{methods: get(getStorages)}},
	{"/Systems/1/Storage/{}", route{methods: get(getStorage)}},
	{"/Systems/1/Storage/{}/Drives/{}", route{methods: get(getDrive)}},
	{"/Systems/1/Storage/{}/Volumes", route{methods: get(getVolumes)}},
	{"/Systems/1/Storage/{}/Volumes/{}", route{methods: get(getVolume)}},
	{"/Systems/1/LogServices", route{methods: get(func(c *call) error {
		return c.collection("LogServiceCollection", "Log Services", "/Systems/1/LogServices/SEL")
	})}},
	{"/Systems/1/LogServices/SEL", route{methods: get(getLog)}},
	{"/Systems/1/LogServices/SEL/Entries", route{methods: get(getEntries)}},
	{"/Systems/1/LogServices/SEL/Entries/{}", route{methods: get(getEntry)}},
	{"/Systems/1/LogServices/SEL/Actions/LogService.ClearLog", route{methods: post(postClearLog), write: manager}},
}

func powerState(on bool) string {
	if on {
		return "On"
	}
	return "Off"
}

func getSystem(c *call) error { return c.show(c.system()) }

func (c *call) system() object {
	h, on, label := c.b.Hardware(), c.b.PowerOn(), c.b.Label()
	o := c.resource("ComputerSystem", "v1_16_0", "1", h.Name)
	o["SystemType"], o["Manufacturer"], o["Model"], o["SerialNumber"], o["UUID"] = "Physical", h.Manufacturer, h.Model, h.Serial, h.UUID
	o["SKU"], o["PartNumber"] = h.Model, h.Model
	o["AssetTag"], o["IndicatorLED"], o["HostName"] = label.AssetTag, label.LED, h.Name
	o["PowerState"], o["BiosVersion"] = powerState(on), c.b.Version(board.FirmwareBIOS)
	o["Status"] = status("Enabled", string(c.b.Health()))
	o["Boot"] = c.boot()
	o["BootProgress"] = object{"LastState": map[bool]string{true: "OEM", false: "None"}[on]}
	o["ProcessorSummary"] = object{"Count": 1, "CoreCount": h.CPUs, "LogicalProcessorCount": h.CPUs, "Model": h.CPUModel, "Status": enabled}
	o["MemorySummary"] = object{"TotalSystemMemoryGiB": gib(h.Memory), "Status": enabled}
	o["TrustedModules"] = []object{}
	if h.TPM {
		o["TrustedModules"] = []object{{"InterfaceType": "TPM2_0", "Status": enabled}}
	}
	for _, name := range []string{"Bios", "Processors", "Memory", "EthernetInterfaces", "Storage", "LogServices"} {
		o[name] = ref("/Systems/1/" + name)
	}
	if c.b.HasSecureBoot() {
		o["SecureBoot"] = ref("/Systems/1/SecureBoot")
	}
	o["SerialConsole"] = object{
		"MaxConcurrentSessions": 1,
		"IPMI":                  object{"ServiceEnabled": true, "HotKeySequenceDisplay": "~. to end", "SharedWithManagerCLI": false},
	}
	o["Links"] = object{"Chassis": refs("/Chassis/1"), "ManagedBy": refs("/Managers/1")}
	o["Actions"] = object{"#ComputerSystem.Reset": action("/Systems/1/Actions/ComputerSystem.Reset", object{
		"ResetType@Redfish.AllowableValues": board.Actions, "@Redfish.ActionInfo": root + "/Systems/1/ResetActionInfo",
	})}
	return o
}

func gib(bytes int64) float64 { return float64(bytes) / (1 << 30) }

func (c *call) boot() object {
	o, mode := c.b.Override(), c.b.Mode()
	boot := object{
		"BootSourceOverrideEnabled": o.Enabled, "BootSourceOverrideEnabled@Redfish.AllowableValues": []board.Enabled{board.Disabled, board.Once, board.Continuous},
		"BootSourceOverrideTarget": o.Target, "BootSourceOverrideTarget@Redfish.AllowableValues": c.b.Targets(),
		"BootSourceOverrideMode": o.Mode, "BootSourceOverrideMode@Redfish.AllowableValues": []board.Mode{mode},
	}
	if mode == board.UEFI {
		boot["HttpBootUri"] = nil
		if o.URI != "" {
			boot["HttpBootUri"] = o.URI
		}
	}
	return boot
}

// bootBody is what may be set of the boot override.
type bootBody struct {
	BootSourceOverrideEnabled *board.Enabled
	BootSourceOverrideTarget  *board.Target
	BootSourceOverrideMode    *board.Mode
	HttpBootUri               *string //nolint:revive // Redfish's own spelling
}

func patchSystem(c *call) error {
	if err := c.matches(c.system()); err != nil {
		return err
	}
	var body struct {
		Boot                   *bootBody
		AssetTag, IndicatorLED *string
	}
	var raw map[string]json.RawMessage
	if err := c.read(&raw); err != nil {
		return err
	}
	if err := c.check(raw, "Boot", "AssetTag", "IndicatorLED"); err != nil {
		return err
	}
	if err := redecode(raw, &body); err != nil {
		return err
	}
	if err := c.patchLabel(body.AssetTag, body.IndicatorLED); err != nil {
		return err
	}
	if body.Boot != nil {
		if err := c.patchBoot(*body.Boot); err != nil {
			return err
		}
	}
	return c.show(c.system())
}

// check wants only properties that may be written, and at least one.
func (c *call) check(raw map[string]json.RawMessage, writable ...string) error {
	for name := range raw {
		if slices.Contains(writable, name) || len(name) > 0 && name[0] == '@' {
			continue
		}
		if _, there := c.system()[name]; there {
			return errNotWritable(name)
		}
		return errUnknown(name)
	}
	if len(raw) == 0 {
		return errMissing(fmt.Sprint(writable))
	}
	return nil
}

// redecode reads an object whose properties were looked at before.
func redecode(raw map[string]json.RawMessage, v any) error {
	text, err := json.Marshal(raw)
	if err != nil {
		return errMalformed()
	}
	return decode(text, v)
}

func (c *call) patchLabel(asset, led *string) error {
	if asset == nil && led == nil {
		return nil
	}
	l := c.b.Label()
	if asset != nil {
		l.AssetTag = *asset
	}
	if led != nil {
		l.LED = *led
	}
	return c.b.SetLabel(l)
}

func (c *call) patchBoot(body bootBody) error {
	o := c.b.Override()
	if body.BootSourceOverrideTarget != nil {
		o.Target = *body.BootSourceOverrideTarget
		if o.Enabled == board.Disabled && body.BootSourceOverrideEnabled == nil {
			o.Enabled = board.Once
		}
	}
	if body.BootSourceOverrideEnabled != nil {
		o.Enabled = *body.BootSourceOverrideEnabled
	}
	if body.BootSourceOverrideMode != nil {
		o.Mode = *body.BootSourceOverrideMode
	}
	if body.HttpBootUri != nil {
		o.URI = *body.HttpBootUri
	}
	if !slices.Contains(c.b.Targets(), o.Target) {
		return errValue(string(o.Target), "Boot.BootSourceOverrideTarget")
	}
	if !slices.Contains([]board.Enabled{board.Disabled, board.Once, board.Continuous}, o.Enabled) {
		return errValue(string(o.Enabled), "Boot.BootSourceOverrideEnabled")
	}
	if o.Mode != c.b.Mode() {
		return errValue(string(o.Mode), "Boot.BootSourceOverrideMode")
	}
	return c.b.SetOverride(c.Context(), o)
}

func getResetInfo(c *call) error {
	o := c.resource("ActionInfo", "v1_2_0", "ResetActionInfo", "Reset Action Info")
	o["Parameters"] = []object{{"Name": "ResetType", "Required": true, "DataType": "String", "AllowableValues": board.Actions}}
	return c.show(o)
}

func postReset(c *call) error {
	var body struct{ ResetType *board.Action }
	if err := c.read(&body); err != nil {
		return err
	}
	if body.ResetType == nil {
		return errParameter("ComputerSystem.Reset", "ResetType")
	}
	if !slices.Contains(board.Actions, *body.ResetType) {
		return &failure{
			status: http.StatusBadRequest, id: "ActionParameterNotSupported", args: []string{string(*body.ResetType), "ComputerSystem.Reset"}, property: "ResetType",
			message: "The value " + string(*body.ResetType) + " of the parameter ResetType is not supported by the action ComputerSystem.Reset.",
		}
	}
	if err := c.b.Power(c.Context(), *body.ResetType); err != nil {
		return err
	}
	return c.done()
}

func getProcessors(c *call) error {
	return c.collection("ProcessorCollection", "Processors", "/Systems/1/Processors/1")
}

func getProcessor(c *call) error {
	if c.vars[0] != "1" {
		return errNotFound(c.path)
	}
	h := c.b.Hardware()
	o := c.resource("Processor", "v1_13_0", "1", "Processor")
	o["ProcessorType"], o["ProcessorArchitecture"], o["InstructionSet"] = "CPU", "x86", "x86-64"
	o["Model"], o["Manufacturer"], o["Socket"] = h.CPUModel, "QEMU", "CPU 1"
	o["TotalCores"], o["TotalThreads"], o["TotalEnabledCores"], o["Status"] = h.CPUs, h.CPUs, h.CPUs, enabled
	if now, _ := c.b.Settings(); now[board.SettingCores] == "1" {
		o["TotalEnabledCores"] = 1
	}
	return c.show(o)
}

func getMemory(c *call) error {
	o := c.resource("Memory", "v1_14_0", "1", "DIMM 0")
	o["MemoryType"], o["CapacityMiB"], o["DeviceLocator"], o["Status"] = "DRAM", c.b.Hardware().Memory>>20, "DIMM 0", enabled
	o["Manufacturer"] = "QEMU"
	return c.show(o)
}

func getNICs(c *call) error {
	var members []string
	for _, n := range c.b.Hardware().NICs {
		members = append(members, "/Systems/1/EthernetInterfaces/"+n.Name)
	}
	return c.collection("EthernetInterfaceCollection", "Ethernet Interfaces", members...)
}

func getNIC(c *call) error {
	for _, n := range c.b.Hardware().NICs {
		if n.Name != c.vars[0] {
			continue
		}
		o := c.resource("EthernetInterface", "v1_8_0", n.Name, "Ethernet Interface")
		o["MACAddress"], o["PermanentMACAddress"], o["Description"] = n.MAC, n.MAC, n.Model
		o["InterfaceEnabled"], o["Status"] = true, enabled
		o["LinkStatus"] = map[bool]string{true: "LinkUp", false: "LinkDown"}[c.b.PowerOn()]
		o["FullDuplex"], o["SpeedMbps"], o["MTUSize"] = true, 1000, 1500
		o["Links"] = object{"Chassis": ref("/Chassis/1")}
		return c.show(o)
	}
	return errNotFound(c.path)
}

func getLog(c *call) error {
	o := c.resource("LogService", "v1_3_1", "SEL", "System Event Log")
	o["ServiceEnabled"], o["MaxNumberOfRecords"], o["OverWritePolicy"], o["LogEntryType"] = true, 512, "WrapsWhenFull", "SEL"
	o["DateTime"], o["DateTimeLocalOffset"], o["Status"] = c.now(), "+00:00", enabled
	o["Entries"] = ref("/Systems/1/LogServices/SEL/Entries")
	o["Actions"] = object{"#LogService.ClearLog": action("/Systems/1/LogServices/SEL/Actions/LogService.ClearLog", nil)}
	return c.show(o)
}

func getEntries(c *call) error {
	members := []object{}
	for _, e := range c.b.Log() {
		members = append(members, logEntry(e))
	}
	return c.show(object{
		"@odata.id": c.path, "@odata.type": "#LogEntryCollection.LogEntryCollection", "Name": "System Event Log Entries",
		"Members": members, "Members@odata.count": len(members),
	})
}

func logEntry(e board.Entry) object {
	id := strconv.Itoa(e.ID)
	return object{
		"@odata.id": root + "/Systems/1/LogServices/SEL/Entries/" + id, "@odata.type": "#LogEntry.v1_11_0.LogEntry",
		"Id": id, "Name": "Log Entry " + id, "EntryType": "SEL", "Severity": e.Severity, "Created": e.Time.Format(timeFormat),
		"Message": e.Message, "MessageId": messageRegistry + e.MessageID, "MessageArgs": []string{}, "SensorNumber": int(e.Type), "EntryCode": "Assert",
	}
}

func getEntry(c *call) error {
	for _, e := range c.b.Log() {
		if strconv.Itoa(e.ID) == c.vars[0] {
			return c.show(logEntry(e))
		}
	}
	return errNotFound(c.path)
}

func postClearLog(c *call) error {
	if err := c.read(&struct{}{}); err != nil {
		return err
	}
	if err := c.b.ClearLog(); err != nil {
		return err
	}
	return c.done()
}

func getBIOS(c *call) error {
	now, _ := c.b.Settings()
	o := c.resource("Bios", "v1_2_0", "Bios", "BIOS Configuration Current Settings")
	o["AttributeRegistry"], o["Attributes"] = biosRegistry, now
	o["@Redfish.Settings"] = object{
		"@odata.type": "#Settings.v1_3_4.Settings", "SettingsObject": ref("/Systems/1/Bios/Settings"), "SupportedApplyTimes": []string{"OnReset"},
	}
	o["Actions"] = object{"#Bios.ResetBios": action("/Systems/1/Bios/Actions/Bios.ResetBios", nil)}
	return c.show(o)
}

func getBIOSSettings(c *call) error { return c.show(c.biosSettings()) }

func (c *call) biosSettings() object {
	_, pending := c.b.Settings()
	if pending == nil {
		pending = map[string]string{}
	}
	o := c.resource("Bios", "v1_2_0", "Settings", "BIOS Configuration Pending Settings")
	o["AttributeRegistry"], o["Attributes"] = biosRegistry, pending
	return o
}

func patchBIOSSettings(c *call) error {
	if err := c.matches(c.biosSettings()); err != nil {
		return err
	}
	var body struct {
		Attributes map[string]any
	}
	if err := c.read(&body); err != nil {
		return err
	}
	if len(body.Attributes) == 0 {
		return errMissing("Attributes")
	}
	wanted := map[string]string{}
	for name, v := range body.Attributes {
		value, ok := v.(string)
		if !ok {
			return errValue(fmt.Sprint(v), "Attributes."+name)
		}
		wanted[name] = value
	}
	err := c.b.ChangeSettings(c.Context(), wanted)
	if errors.Is(err, board.ErrInvalid) {
		return &failure{status: http.StatusBadRequest, id: "PropertyValueNotInList", message: err.Error(), property: "Attributes"}
	}
	if err != nil {
		return err
	}
	return c.show(c.biosSettings())
}

func postResetBIOS(c *call) error {
	if err := c.read(&struct{}{}); err != nil {
		return err
	}
	if err := c.b.ResetSettings(c.Context()); err != nil {
		return err
	}
	return c.done()
}
