package redfish

import (
	"net"
	"net/http"
	"slices"

	"github.com/bedplate/bedplate/lab/board"
)

var managerRoutes = []entry{
	{"/Managers", route{methods: get(func(c *call) error { return c.collection("ManagerCollection", "Managers", "/Managers/1") })}},
	{"/Managers/1", route{methods: get(getManager)}},
	{"/Managers/1/Actions/Manager.Reset", route{methods: post(postManagerReset), write: manager}},
	{"/Managers/1/Actions/Manager.ResetToDefaults", route{methods: post(postManagerDefaults), write: manager}},
	{"/Managers/1/NetworkProtocol", route{methods: get(getNetworkProtocol)}},
	{"/Managers/1/EthernetInterfaces", route{methods: get(func(c *call) error {
		return c.collection("EthernetInterfaceCollection", "Manager Ethernet Interfaces", "/Managers/1/EthernetInterfaces/eth0")
	})}},
	{"/Managers/1/EthernetInterfaces/eth0", route{methods: get(getManagerNIC)}},
	{"/Managers/1/LogServices", route{methods: get(func(c *call) error {
		return c.collection("LogServiceCollection", "Log Services", "/Systems/1/LogServices/SEL")
	})}},
	{"/Managers/1/VirtualMedia", route{methods: get(getDrives)}},
	{"/Managers/1/VirtualMedia/{}", route{methods: get(getMedia)}},
	{"/Managers/1/VirtualMedia/{}/Actions/VirtualMedia.InsertMedia", route{methods: post(postInsert)}},
	{"/Managers/1/VirtualMedia/{}/Actions/VirtualMedia.EjectMedia", route{methods: post(postEject)}},
}

const timeFormat = "2006-01-02T15:04:05Z07:00"

func (c *call) now() string { return c.b.Now().UTC().Format(timeFormat) }

func getManager(c *call) error {
	o := c.resource("Manager", "v1_15_0", "1", "Bedplate Lab BMC")
	o["ManagerType"], o["Manufacturer"], o["Model"], o["UUID"] = "BMC", "Bedplate", "Lab BMC", c.s.uuid
	o["FirmwareVersion"], o["PowerState"], o["Status"] = c.b.Version(board.FirmwareBMC), "On", enabled
	o["DateTime"], o["DateTimeLocalOffset"], o["LastResetTime"] = c.now(), "+00:00", c.b.Started().UTC().Format(timeFormat)
	o["ServiceEntryPointUUID"] = c.s.uuid
	o["SerialConsole"] = object{"ServiceEnabled": true, "MaxConcurrentSessions": 1, "ConnectTypesSupported": []string{"IPMI"}}
	for _, name := range []string{"VirtualMedia", "EthernetInterfaces", "NetworkProtocol", "LogServices"} {
		o[name] = ref("/Managers/1/" + name)
	}
	o["Links"] = object{"ManagerForServers": refs("/Systems/1"), "ManagerForChassis": refs("/Chassis/1"), "ManagerInChassis": ref("/Chassis/1")}
	o["Actions"] = object{
		"#Manager.Reset":           action("/Managers/1/Actions/Manager.Reset", object{"ResetType@Redfish.AllowableValues": managerResets}),
		"#Manager.ResetToDefaults": action("/Managers/1/Actions/Manager.ResetToDefaults", object{"ResetType@Redfish.AllowableValues": []string{"ResetAll"}}),
	}
	return c.show(o)
}

var managerResets = []string{"ForceRestart", "GracefulRestart"}

func postManagerReset(c *call) error {
	var body struct{ ResetType *string }
	if err := c.read(&body); err != nil {
		return err
	}
	if body.ResetType != nil && !slices.Contains(managerResets, *body.ResetType) {
		return errValue(*body.ResetType, "ResetType")
	}
	c.b.Restart()
	return c.done()
}

func postManagerDefaults(c *call) error {
	var body struct{ ResetType *string }
	if err := c.read(&body); err != nil {
		return err
	}
	if body.ResetType == nil {
		return errParameter("Manager.ResetToDefaults", "ResetType")
	}
	if *body.ResetType != "ResetAll" {
		return errValue(*body.ResetType, "ResetType")
	}
	if err := c.b.FactoryReset(); err != nil {
		return err
	}
	return c.done()
}

func getNetworkProtocol(c *call) error {
	o := c.resource("ManagerNetworkProtocol", "v1_8_0", "NetworkProtocol", "Manager Network Protocol")
	o["HostName"], o["Status"] = c.b.Hardware().Name+"-bmc", enabled
	o["HTTPS"], o["HTTP"] = object{"ProtocolEnabled": c.TLS != nil, "Port": 443}, object{"ProtocolEnabled": c.TLS == nil, "Port": 80}
	o["IPMI"] = object{"ProtocolEnabled": true, "Port": 623}
	o["SSH"], o["Telnet"], o["SNMP"] = object{"ProtocolEnabled": false}, object{"ProtocolEnabled": false}, object{"ProtocolEnabled": false}
	o["VirtualMedia"] = object{"ProtocolEnabled": true}
	return c.show(o)
}

func getManagerNIC(c *call) error {
	o := c.resource("EthernetInterface", "v1_8_0", "eth0", "Manager Ethernet Interface")
	o["MACAddress"], o["PermanentMACAddress"], o["InterfaceEnabled"], o["LinkStatus"], o["Status"] = c.b.MAC(), c.b.MAC(), true, "LinkUp", enabled
	o["FQDN"], o["HostName"], o["SpeedMbps"], o["FullDuplex"] = c.b.Hardware().Name+"-bmc", c.b.Hardware().Name+"-bmc", 1000, true
	address := c.b.Address()
	if address == nil { // one of several on an address: tell the one that was asked
		if at, ok := c.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok {
			address = at.IP
		}
	}
	o["IPv4Addresses"] = []object{}
	if address.To4() != nil {
		o["IPv4Addresses"] = []object{{"Address": address.String(), "SubnetMask": "255.255.255.0", "AddressOrigin": "Static", "Gateway": "0.0.0.0"}}
	}
	return c.show(o)
}

func drivePath(d board.Drive) string { return "/Managers/1/VirtualMedia/" + string(d) }

func getDrives(c *call) error {
	var members []string
	for _, d := range board.Drives {
		members = append(members, drivePath(d))
	}
	return c.collection("VirtualMediaCollection", "Virtual Media", members...)
}

// drive returns the one that the path is about.
func (c *call) drive() (board.Drive, error) {
	d := board.Drive(c.vars[0])
	if !slices.Contains(board.Drives, d) {
		return "", errNotFound(c.path)
	}
	return d, nil
}

var mediaTypes = map[board.Drive][]string{board.CD: {"CD", "DVD"}, board.USB: {"USBStick"}}

func getMedia(c *call) error {
	d, err := c.drive()
	if err != nil {
		return err
	}
	m := c.b.Media(d)
	o := c.resource("VirtualMedia", "v1_5_1", string(d), "Virtual "+string(d))
	o["MediaTypes"], o["TransferMethod"], o["Status"] = mediaTypes[d], "Upload", enabled
	o["Inserted"], o["Image"], o["ImageName"], o["ConnectedVia"], o["WriteProtected"] = false, nil, nil, "NotConnected", true
	o["TransferProtocolType"], o["UserName"], o["Password"] = nil, nil, nil
	if m.File != "" {
		o["Inserted"], o["Image"], o["ImageName"], o["ConnectedVia"], o["WriteProtected"] = true, m.Image, m.Name(), "URI", !m.Writable
	}
	o["Actions"] = object{
		"#VirtualMedia.InsertMedia": action(drivePath(d)+"/Actions/VirtualMedia.InsertMedia", nil),
		"#VirtualMedia.EjectMedia":  action(drivePath(d)+"/Actions/VirtualMedia.EjectMedia", nil),
	}
	return c.show(o)
}

func postInsert(c *call) error {
	d, err := c.drive()
	if err != nil {
		return err
	}
	var body struct {
		Image, UserName, Password, TransferProtocolType, TransferMethod, MediaType *string
		Inserted, WriteProtected                                                   *bool
	}
	if err := c.read(&body); err != nil {
		return err
	}
	if body.Image == nil {
		return errParameter("VirtualMedia.InsertMedia", "Image")
	}
	if body.TransferMethod != nil && *body.TransferMethod != "Upload" && *body.TransferMethod != "Stream" {
		return errValue(*body.TransferMethod, "TransferMethod")
	}
	if body.TransferProtocolType != nil && !slices.Contains([]string{"HTTP", "HTTPS"}, *body.TransferProtocolType) {
		return errValue(*body.TransferProtocolType, "TransferProtocolType")
	}
	if body.Inserted != nil && !*body.Inserted {
		return errValue("false", "Inserted")
	}
	var login board.Login
	if body.UserName != nil && body.Password != nil {
		login = board.Login{Username: *body.UserName, Password: *body.Password}
	}
	writable := body.WriteProtected != nil && !*body.WriteProtected
	if err := c.b.Insert(c.Context(), d, *body.Image, writable, login); err != nil {
		return err
	}
	return c.done()
}

func postEject(c *call) error {
	d, err := c.drive()
	if err != nil {
		return err
	}
	if err := c.read(&struct{}{}); err != nil {
		return err
	}
	if err := c.b.Eject(c.Context(), d); err != nil {
		return err
	}
	return c.done()
}
