package bmctest

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/bedplate/bedplate/bmc"
)

var (
	schemaPower = map[bmc.PowerState]string{
		bmc.PowerOn: "On", bmc.PowerOff: "Off", bmc.PoweringOn: "PoweringOn", bmc.PoweringOff: "PoweringOff",
	}
	schemaResets = map[string]bmc.PowerAction{
		"On": bmc.ActionOn, "ForceOff": bmc.ActionOff, "GracefulShutdown": bmc.ActionSoft,
		"ForceRestart": bmc.ActionReset, "PowerCycle": bmc.ActionCycle, "Nmi": bmc.ActionNMI,
	}
	schemaTargets = map[bmc.BootDevice]string{
		bmc.BootNone: "None", bmc.BootNetwork: "Pxe", bmc.BootDisk: "Hdd", bmc.BootCD: "Cd", bmc.BootUSB: "Usb",
		bmc.BootSetup: "BiosSetup", bmc.BootHTTP: "UefiHttp", bmc.BootDiagnostic: "Diags",
	}
	schemaModes = map[bmc.BootMode]string{bmc.ModeBIOS: "Legacy", bmc.ModeUEFI: "UEFI"}
)

func (r *Redfish) systemRoutes() {
	const sys = "/Systems/Box-1"
	if r.quirks.Link != "" {
		r.get("/Systems", func(*http.Request, *session) (obj, error) { return obj{"Members": []obj{ref(r.quirks.Link)}}, nil })
	} else {
		r.collection("/Systems", fixed("Box-1"))
	}
	r.handle("GET "+sys, func(w http.ResponseWriter, req *http.Request, s *session) error {
		switch {
		case r.quirks.Redirect != "":
			http.Redirect(w, req, r.quirks.Redirect+req.URL.Path, http.StatusTemporaryRedirect)
			return nil
		case r.quirks.Endless:
			_, _ = w.Write([]byte(`{"Id":"`))
			for req.Context().Err() == nil {
				if _, err := w.Write([]byte(strings.Repeat("x", 1<<16))); err != nil {
					return nil //nolint:nilerr // the client has had enough
				}
			}
			return nil
		}
		o, err := r.system(req, s, sys)
		if err != nil {
			return err
		}
		w.Header().Set("ETag", `W/"1"`)
		reply(w, http.StatusOK, o)
		return nil
	})
	r.act("PATCH "+sys, r.patchSystem)
	r.act("POST "+sys+"/Actions/ComputerSystem.Reset", func(w http.ResponseWriter, req *http.Request, s *session, body obj) error {
		word, _ := body["ResetType"].(string)
		action, ok := schemaResets[word]
		if !ok {
			refuse(w, http.StatusBadRequest, "ActionParameterValueNotInList", "ResetType is not one of the list")
			return nil
		}
		return s.RequestPower(req.Context(), action)
	})
	r.get(sys+"/ResetActionInfo", func(*http.Request, *session) (obj, error) {
		words := []string{}
		for word := range schemaResets {
			words = append(words, word)
		}
		return obj{"Parameters": []obj{{"Name": "ResetType", "AllowableValues": words}}}, nil
	})
	r.partRoutes(sys)
	r.biosRoutes(sys)
	r.secureBootRoutes(sys)
}

func (r *Redfish) system(req *http.Request, s *session, path string) (obj, error) {
	id, err := s.Identity(req.Context())
	if err != nil {
		return nil, err
	}
	state, err := s.PowerState(req.Context())
	if err != nil {
		return nil, err
	}
	o, err := s.BootOverride(req.Context())
	if err != nil {
		return nil, err
	}
	sys := obj{
		"@odata.id": v1 + path, "Id": "Box-1", "SystemType": "Physical", "Manufacturer": id.Manufacturer, "Model": id.Product,
		"SerialNumber": id.Serial, "UUID": strings.ToUpper(string(id.UUID)), "BiosVersion": "1.0", "PowerState": schemaPower[state],
		"Status":        obj{"State": "Enabled", "Health": "OK", "HealthRollup": "OK"},
		"MemorySummary": obj{"TotalSystemMemoryGiB": 32},
		"TrustedModules": []obj{
			{"InterfaceType": "TPM2_0", "Status": obj{"State": "Enabled"}},
		},
		"Boot":  schemaBoot(o),
		"Links": obj{"Chassis": []obj{ref(v1 + "/Chassis/1")}, "ManagedBy": []obj{ref(v1 + "/Managers/BMC")}},
		"Actions": obj{"#ComputerSystem.Reset": obj{
			"target": v1 + path + "/Actions/ComputerSystem.Reset", "@Redfish.ActionInfo": v1 + path + "/ResetActionInfo",
		}},
	}
	for _, part := range []string{"Processors", "Memory", "Storage", "EthernetInterfaces", "Bios", "SecureBoot"} {
		sys[part] = ref(v1 + path + "/" + part)
	}
	if r.quirks.OddTypes {
		sys["MemorySummary"] = obj{"TotalSystemMemoryGiB": "32 GiB"}
		sys["Redundancy@odata.count"] = 0
		sys["SKU"] = 12345
	}
	return sys, nil
}

func schemaBoot(o bmc.BootOverride) obj {
	targets := []string{}
	for _, d := range bmc.BootDevices() {
		targets = append(targets, schemaTargets[d])
	}
	b := obj{
		"BootSourceOverrideEnabled": "Disabled", "BootSourceOverrideTarget": schemaTargets[o.Device], "BootSourceOverrideMode": schemaModes[o.Mode],
		"HttpBootUri": o.URI, "BootSourceOverrideTarget@Redfish.AllowableValues": targets,
	}
	switch {
	case o.Device == bmc.BootNone:
	case o.Persistent:
		b["BootSourceOverrideEnabled"] = "Continuous"
	default:
		b["BootSourceOverrideEnabled"] = "Once"
	}
	return b
}

func (r *Redfish) patchSystem(w http.ResponseWriter, req *http.Request, s *session, body obj) error {
	b, _ := body["Boot"].(obj)
	o := bmc.BootOverride{Device: bmc.BootNone, Persistent: b["BootSourceOverrideEnabled"] == "Continuous"}
	if r.quirks.NoBootMode && b["BootSourceOverrideMode"] != nil {
		refuse(w, http.StatusBadRequest, "PropertyNotWritable", "the property BootSourceOverrideMode is read-only")
		return nil
	}
	for device, word := range schemaTargets {
		if word == b["BootSourceOverrideTarget"] && b["BootSourceOverrideEnabled"] != "Disabled" {
			o.Device = device
		}
	}
	for mode, word := range schemaModes {
		if word == b["BootSourceOverrideMode"] {
			o.Mode = mode
		}
	}
	o.URI, _ = b["HttpBootUri"].(string)
	return s.RequestBoot(req.Context(), o)
}

// parts of the machine, of which one can't be read and one isn't fitted.
func (r *Redfish) partRoutes(sys string) {
	r.list(sys+"/Processors",
		obj{"Id": "1", "ProcessorType": "CPU", "Manufacturer": "Intel", "Model": "Xeon", "TotalCores": 8, "TotalThreads": 16, "MaxSpeedMHz": 3200, "Status": obj{"State": "Enabled"}},
		obj{"Id": "2", "ProcessorType": "CPU", "Status": obj{"State": "Absent"}},
	)
	r.list(sys+"/Memory",
		obj{"Id": "1", "DeviceLocator": "A1", "CapacityMiB": 16384, "OperatingSpeedMhz": 3200, "MemoryDeviceType": "DDR4", "Manufacturer": "Acme", "SerialNumber": "M1"},
		obj{"Id": "2", "DeviceLocator": "A2", "CapacityMiB": 16384, "OperatingSpeedMhz": 3200, "MemoryDeviceType": "DDR4"},
		obj{"Id": "3", "DeviceLocator": "A3", "Status": obj{"State": "Absent"}},
	)
	r.list(sys+"/Storage", obj{"Id": "1", "Drives": []obj{ref(v1 + sys + "/Storage/1/Drives/0"), ref(v1 + sys + "/Storage/1/Drives/gone")}})
	r.get(sys+"/Storage/1/Drives/0", func(*http.Request, *session) (obj, error) {
		return obj{"Id": "0", "Model": "NVMe 1", "SerialNumber": "S1", "CapacityBytes": 960197124096, "MediaType": "SSD", "Protocol": "NVMe", "Revision": "1.2", "Status": obj{"Health": "OK"}}, nil
	})
	r.collection(sys+"/EthernetInterfaces", func(req *http.Request, s *session) ([]string, error) {
		id, err := s.Identity(req.Context())
		ids := []string{}
		for i := range id.MACs {
			ids = append(ids, strconv.Itoa(i))
		}
		return ids, err
	})
	r.get(sys+"/EthernetInterfaces/{n}", func(req *http.Request, s *session) (obj, error) {
		id, err := s.Identity(req.Context())
		n, convErr := strconv.Atoi(req.PathValue("n"))
		if err != nil || convErr != nil || n >= len(id.MACs) {
			return nil, bmc.ErrNotFound
		}
		return obj{"Id": "eth" + strconv.Itoa(n), "MACAddress": strings.ToUpper(id.MACs[n].String()), "LinkStatus": "LinkUp", "SpeedMbps": 25000}, nil
	})
}

// list routes a collection with its members.
func (r *Redfish) list(path string, members ...obj) {
	r.get(path, func(req *http.Request, _ *session) (obj, error) {
		out := []obj{}
		for _, m := range members {
			id, _ := m["Id"].(string)
			if !strings.Contains(req.URL.RawQuery, "expand") {
				out = append(out, ref(v1+path+"/"+id))
				continue
			}
			whole := ref(v1 + path + "/" + id)
			for k, v := range m {
				whole[k] = v
			}
			out = append(out, whole)
		}
		return obj{"Members": out}, nil
	})
	r.get(path+"/{id}", func(req *http.Request, _ *session) (obj, error) {
		for _, m := range members {
			if m["Id"] == req.PathValue("id") {
				o := obj{}
				for k, v := range m {
					o[k] = v
				}
				return o, nil
			}
		}
		return nil, bmc.ErrNotFound
	})
}

// typed returns a setting as the type it has.
func typed(text string) any {
	if n, err := strconv.Atoi(text); err == nil {
		return n
	}
	if b, err := strconv.ParseBool(text); err == nil {
		return b
	}
	return text
}

func (r *Redfish) biosRoutes(sys string) {
	attributes := func(settings map[string]string) obj {
		o := obj{}
		for k, v := range settings {
			o[k] = typed(v)
		}
		return o
	}
	r.get(sys+"/Bios", func(req *http.Request, s *session) (obj, error) {
		b, err := s.BIOSSettings(req.Context())
		return obj{
			"Attributes":        attributes(b.Current),
			"@Redfish.Settings": obj{"SettingsObject": ref(v1 + sys + "/Bios/Settings"), "SupportedApplyTimes": []string{"OnReset"}},
			"Actions":           obj{"#Bios.ResetBios": obj{"target": v1 + sys + "/Bios/Actions/Bios.ResetBios"}},
		}, err
	})
	r.get(sys+"/Bios/Settings", func(req *http.Request, s *session) (obj, error) {
		b, err := s.BIOSSettings(req.Context())
		return obj{"Attributes": attributes(b.Pending)}, err
	})
	r.act("PATCH "+sys+"/Bios/Settings", func(w http.ResponseWriter, req *http.Request, s *session, body obj) error {
		settings := map[string]string{}
		wanted, _ := body["Attributes"].(obj)
		for k, v := range wanted {
			switch v := v.(type) {
			case string:
				settings[k] = v
			case bool:
				settings[k] = strconv.FormatBool(v)
			case float64:
				settings[k] = strconv.Itoa(int(v))
			}
			if _, isText := v.(string); isText && typed(settings[k]) != v {
				refuse(w, http.StatusBadRequest, "PropertyValueTypeError", "the value of "+k+" has the wrong type")
				return nil
			}
		}
		return s.RequestBIOS(req.Context(), settings)
	})
	r.act("POST "+sys+"/Bios/Actions/Bios.ResetBios", func(_ http.ResponseWriter, req *http.Request, s *session, _ obj) error {
		return s.ResetBIOS(req.Context())
	})
}

func (r *Redfish) secureBootRoutes(sys string) {
	r.get(sys+"/SecureBoot", func(req *http.Request, s *session) (obj, error) {
		state, err := s.SecureBoot(req.Context())
		return obj{
			"SecureBootEnable":      state.Enabled,
			"SecureBootCurrentBoot": map[bool]string{true: "Enabled", false: "Disabled"}[state.Active],
			"SecureBootMode":        map[bmc.SecureBootMode]string{bmc.SecureBootSetup: "SetupMode", bmc.SecureBootUser: "UserMode"}[state.Mode],
			"Actions":               obj{"#SecureBoot.ResetKeys": obj{"target": v1 + sys + "/SecureBoot/Actions/SecureBoot.ResetKeys"}},
		}, err
	})
	r.act("PATCH "+sys+"/SecureBoot", func(_ http.ResponseWriter, req *http.Request, s *session, body obj) error {
		enabled, _ := body["SecureBootEnable"].(bool)
		return s.RequestSecureBoot(req.Context(), enabled)
	})
	r.act("POST "+sys+"/SecureBoot/Actions/SecureBoot.ResetKeys", func(_ http.ResponseWriter, req *http.Request, s *session, body obj) error {
		reset := map[any]bmc.KeyReset{"ResetAllKeysToDefault": bmc.KeysDefault, "DeleteAllKeys": bmc.KeysDeleteAll, "DeletePK": bmc.KeysDeletePK}[body["ResetKeysType"]]
		return s.ResetSecureBootKeys(req.Context(), reset)
	})
}
