package redfish

import (
	"net/http"
	"strings"

	"github.com/bedplate/bedplate/lab/board"
)

var serviceRoutes = []entry{
	{"~/redfish", route{open: true, methods: get(func(c *call) error { return c.json(http.StatusOK, object{"v1": root + "/"}) })}},
	{"", route{open: true, methods: get(getRoot)}},
	{"/odata", route{open: true, methods: get(getOData)}},
	{"/$metadata", route{open: true, methods: get(getMetadata)}},
	{"/SessionService", route{write: manager, methods: getPatch(getSessionService, patchSessionService)}},
	{"/SessionService/Sessions", route{login: true, methods: getPost(getSessions, postSession)}},
	{"/SessionService/Sessions/Members", route{login: true, methods: post(postSession)}},
	{"/SessionService/Sessions/{}", route{write: self, methods: getDelete(getSession, deleteSession)}},
	{"/AccountService", route{methods: get(getAccountService)}},
	{"/AccountService/Accounts", route{write: users, methods: getPost(getAccounts, postAccount)}},
	{"/AccountService/Accounts/{}", route{write: self, methods: map[string]method{
		http.MethodGet: getAccount, http.MethodPatch: patchAccount, http.MethodDelete: administrators(deleteAccount),
	}}},
	{"/AccountService/Roles", route{methods: get(getRoles)}},
	{"/AccountService/Roles/{}", route{methods: get(getRole)}},
	{"/Registries", route{methods: get(getRegistries)}},
	{"/Registries/{}", route{methods: get(getRegistry)}},
	{"/Registries/{}/content", route{methods: get(getRegistryContent)}},
	{"/JsonSchemas", route{methods: get(func(c *call) error { return c.collection("JsonSchemaFileCollection", "JSON Schema Files") })}},
}

// administrators is for a method that needs more than the others of its resource.
func administrators(m method) method {
	return func(c *call) error {
		if !c.may(users) {
			return errPrivilege()
		}
		return m(c)
	}
}

func getRoot(c *call) error {
	o := c.resource("ServiceRoot", "v1_13_0", "RootService", "Root Service")
	o["@odata.id"] = root + "/"
	o["RedfishVersion"], o["UUID"], o["Vendor"], o["Product"] = "1.15.0", c.s.uuid, "Bedplate", "Bedplate Lab BMC"
	o["ProtocolFeaturesSupported"] = object{"ExpandQuery": object{"ExpandAll": false, "Levels": false, "Links": false, "NoLinks": false}, "FilterQuery": false, "SelectQuery": false, "OnlyMemberQuery": false}
	for name, path := range map[string]string{
		"Systems": "/Systems", "Chassis": "/Chassis", "Managers": "/Managers", "SessionService": "/SessionService", "AccountService": "/AccountService",
		"Tasks": "/TaskService", "UpdateService": "/UpdateService", "EventService": "/EventService", "Registries": "/Registries", "JsonSchemas": "/JsonSchemas",
	} {
		o[name] = ref(path)
	}
	o["Links"] = object{"Sessions": ref("/SessionService/Sessions")}
	return c.show(o)
}

func getOData(c *call) error {
	var values []object
	for _, name := range []string{"Systems", "Chassis", "Managers", "SessionService", "AccountService", "UpdateService", "EventService", "Registries"} {
		values = append(values, object{"name": name, "kind": "Singleton", "url": root + "/" + name})
	}
	return c.json(http.StatusOK, object{"@odata.context": root + "/$metadata", "value": values})
}

// getMetadata refers to DMTF's schemas (DSP0266 §8.4.2).
func getMetadata(c *call) error {
	var b strings.Builder
	b.WriteString("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<edmx:Edmx xmlns:edmx=\"http://docs.oasis-open.org/odata/ns/edmx\" Version=\"4.0\">\n")
	for _, name := range []string{"ServiceRoot", "ComputerSystem", "Manager", "Chassis", "VirtualMedia", "SessionService", "AccountService", "UpdateService", "TaskService", "EventService"} {
		b.WriteString("  <edmx:Reference Uri=\"http://redfish.dmtf.org/schemas/v1/" + name + "_v1.xml\">\n    <edmx:Include Namespace=\"" + name + "\"/>\n  </edmx:Reference>\n")
	}
	b.WriteString("  <edmx:DataServices>\n    <Schema xmlns=\"http://docs.oasis-open.org/odata/ns/edm\" Namespace=\"Service\">\n" +
		"      <EntityContainer Name=\"Service\" Extends=\"ServiceRoot.v1_13_0.ServiceContainer\"/>\n    </Schema>\n  </edmx:DataServices>\n</edmx:Edmx>\n")
	c.w.Header().Set("Content-Type", "application/xml; charset=utf-8")
	if _, err := c.w.Write([]byte(b.String())); err != nil {
		c.s.log.Debug("answering a Redfish request", "err", err)
	}
	return nil
}

// Names of registries.
const (
	messageRegistry = "BedplateLab.1.0."
	biosRegistry    = "BedplateLabBios.1.0.0"
)

var registries = []string{"BedplateLab.1.0.0", biosRegistry}

func getRegistries(c *call) error {
	var members []string
	for _, name := range registries {
		members = append(members, "/Registries/"+name)
	}
	return c.collection("MessageRegistryFileCollection", "Registry Files", members...)
}

func getRegistry(c *call) error {
	for _, name := range registries {
		if name != c.vars[0] {
			continue
		}
		o := c.resource("MessageRegistryFile", "v1_1_3", name, name)
		o["Registry"], o["Languages"] = strings.TrimSuffix(name, ".0"), []string{"en"}
		o["Location"] = []object{{"Language": "en", "Uri": root + "/Registries/" + name + "/content"}}
		return c.show(o)
	}
	return errNotFound(c.path)
}

func getRegistryContent(c *call) error {
	switch c.vars[0] {
	case biosRegistry:
		return c.show(c.attributeRegistry())
	case registries[0]:
		return c.show(c.messageRegistry())
	}
	return errNotFound(c.path)
}

func (c *call) attributeRegistry() object {
	o := c.resource("AttributeRegistry", "v1_3_6", biosRegistry, "BIOS Attribute Registry")
	o["Language"], o["RegistryVersion"], o["OwningEntity"] = "en", "1.0.0", "Bedplate"
	attributes := []object{}
	for _, a := range c.b.Attributes() {
		values := []object{}
		for _, v := range a.Values {
			values = append(values, object{"ValueName": v, "ValueDisplayName": v})
		}
		attributes = append(attributes, object{
			"AttributeName": a.Name, "DisplayName": a.Display, "Type": "Enumeration", "DefaultValue": a.Default, "Value": values,
			"ReadOnly": false, "ResetRequired": true, "ImmutableAttribute": false,
		})
	}
	o["RegistryEntries"] = object{"Attributes": attributes}
	return o
}

// messages are those of the board's log.
var messages = map[string]struct {
	text     string
	severity board.Severity
}{
	"SystemBoot":                    {"The system started to boot.", board.OK},
	"PowerOff":                      {"The system's power went off.", board.OK},
	"ManagerReset":                  {"The management controller was reset.", board.OK},
	"FirmwareActivated":             {"New firmware is active.", board.OK},
	"TemperatureAboveUpperCritical": {"A temperature is above its upper critical threshold.", board.Critical},
	"TemperatureNormal":             {"A temperature is back to normal.", board.OK},
	"ExternalEvent":                 {"An entry that software made.", board.OK},
	"TestEvent":                     {"A test event.", board.OK},
}

func (c *call) messageRegistry() object {
	o := c.resource("MessageRegistry", "v1_5_0", registries[0], "Bedplate Lab Messages")
	o["Language"], o["RegistryPrefix"], o["RegistryVersion"], o["OwningEntity"] = "en", "BedplateLab", "1.0.0", "Bedplate"
	all := object{}
	for id, m := range messages {
		all[id] = object{"Description": m.text, "Message": m.text, "Severity": m.severity, "MessageSeverity": m.severity, "NumberOfArgs": 0, "Resolution": "None."}
	}
	o["Messages"] = all
	return o
}
