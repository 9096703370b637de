package bmctest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/bedplate/bedplate/bmc"
)

// Redfish is a Redfish service in front of a Fake: enough of DSP0266 and its
// schemas for every method of the driver. Each of its own faults is one that
// real services have.
type Redfish struct {
	fake *Fake
	mux  *http.ServeMux

	mu       sync.Mutex
	sessions map[string]*session
	next     int
	quirks   Quirks
	requests []string
}

// Quirks are habits of Redfish services. The zero value follows the schemas.
type Quirks struct {
	// NoSessions has no session service: basic authentication only.
	NoSessions bool
	// NeedETag wants If-Match on every PATCH.
	NeedETag bool
	// Slots has a fixed number of accounts, which are made by writing to a free one.
	Slots bool
	// ImageOnly refuses parameters of InsertMedia besides the image.
	ImageOnly bool
	// NoBootMode refuses a boot mode.
	NoBootMode bool
	// OddTypes has numbers where strings should be, and the reverse.
	OddTypes bool
	// EchoSecrets repeats what it didn't like, passwords too.
	EchoSecrets bool
	// KeepsImage keeps an image's address after it was ejected.
	KeepsImage bool
	// Expand can put the members into a collection.
	Expand bool
	// Redirect sends requests for the system to another host.
	Redirect string
	// Link is what the collection of systems has as its member.
	Link string
	// Endless answers a request for the system without end.
	Endless bool
}

// NewRedfish returns a service in front of f.
func NewRedfish(f *Fake, q Quirks) *Redfish {
	r := &Redfish{fake: f, mux: http.NewServeMux(), sessions: map[string]*session{}, quirks: q}
	r.routes()
	return r
}

// Requests returns method and path of every request so far.
func (r *Redfish) Requests() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.requests)
}

// DropSessions ends every session, as a BMC does that has restarted.
func (r *Redfish) DropSessions() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.sessions {
		_ = s.Close(context.Background())
	}
	clear(r.sessions)
}

// Sessions returns how many sessions are open.
func (r *Redfish) Sessions() int { r.mu.Lock(); defer r.mu.Unlock(); return len(r.sessions) }

// ServeHTTP answers one request.
func (r *Redfish) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	r.requests = append(r.requests, req.Method+" "+req.URL.Path)
	r.mu.Unlock()
	r.mux.ServeHTTP(w, req)
}

type obj = map[string]any

func ref(path string) obj { return obj{"@odata.id": path} }

const v1 = "/redfish/v1"

// reply writes JSON.
func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if v != nil {
		_ = json.NewEncoder(w).Encode(v)
	}
}

// refuse answers with an error of the schema.
func refuse(w http.ResponseWriter, status int, id, text string) {
	reply(w, status, obj{"error": obj{"code": "Base.1.8.GeneralError", "message": "see ExtendedInfo",
		"@Message.ExtendedInfo": []obj{{"MessageId": "Base.1.8." + id, "Message": text}}}})
}

// fail answers with what the fake's driver returned.
func fail(w http.ResponseWriter, err error) {
	switch {
	case errors.Is(err, bmc.ErrNotFound):
		refuse(w, http.StatusNotFound, "ResourceMissingAtURI", err.Error())
	case errors.Is(err, bmc.ErrUnreachable):
		panic(http.ErrAbortHandler)
	case errors.Is(err, bmc.ErrBusy):
		refuse(w, http.StatusServiceUnavailable, "ServiceTemporarilyUnavailable", err.Error())
	case errors.Is(err, bmc.ErrUnsupported):
		refuse(w, http.StatusMethodNotAllowed, "ActionNotSupported", err.Error())
	default:
		refuse(w, http.StatusInternalServerError, "InternalError", err.Error())
	}
}

// user returns the session of a request, or answers 401.
func (r *Redfish) user(w http.ResponseWriter, req *http.Request) *session {
	if token := req.Header.Get("X-Auth-Token"); token != "" {
		r.mu.Lock()
		defer r.mu.Unlock()
		if s := r.sessions[token]; s != nil {
			return s
		}
	} else if name, password, ok := req.BasicAuth(); ok {
		d, err := r.fake.Dial(req.Context(), bmc.Target{Username: name, Password: password})
		if err == nil {
			s, _ := d.(*session)
			s.transient()
			return s
		}
	}
	refuse(w, http.StatusUnauthorized, "NoValidSession", "no valid session")
	return nil
}

// handle routes what needs a login.
func (r *Redfish) handle(pattern string, fn func(w http.ResponseWriter, req *http.Request, s *session) error) {
	method, path, _ := strings.Cut(pattern, " ")
	r.mux.HandleFunc(method+" "+v1+path, func(w http.ResponseWriter, req *http.Request) {
		s := r.user(w, req)
		if s == nil {
			return
		}
		if r.quirks.NeedETag && method == http.MethodPatch && req.Header.Get("If-Match") == "" {
			refuse(w, http.StatusPreconditionRequired, "PreconditionRequired", "If-Match is missing")
			return
		}
		if err := fn(w, req, s); err != nil {
			fail(w, err)
		}
	})
}

// get routes a resource.
func (r *Redfish) get(path string, fn func(req *http.Request, s *session) (obj, error)) {
	r.handle("GET "+path, func(w http.ResponseWriter, req *http.Request, s *session) error {
		o, err := fn(req, s)
		if err != nil {
			return err
		}
		if o["@odata.id"] == nil {
			o["@odata.id"] = req.URL.Path
		}
		w.Header().Set("ETag", `W/"1"`)
		reply(w, http.StatusOK, o)
		return nil
	})
}

// act routes an action or a PATCH with its body.
func (r *Redfish) act(pattern string, fn func(w http.ResponseWriter, req *http.Request, s *session, body obj) error) {
	r.handle(pattern, func(w http.ResponseWriter, req *http.Request, s *session) error {
		body := obj{}
		if err := json.NewDecoder(io.LimitReader(req.Body, 1<<20)).Decode(&body); err != nil && !errors.Is(err, io.EOF) {
			refuse(w, http.StatusBadRequest, "MalformedJSON", "body is not JSON")
			return nil
		}
		written := &statusWriter{ResponseWriter: w}
		if err := fn(written, req, s, body); err != nil {
			return err
		}
		if !written.wrote {
			w.WriteHeader(http.StatusNoContent)
		}
		return nil
	})
}

type statusWriter struct {
	http.ResponseWriter
	wrote bool
}

func (s *statusWriter) WriteHeader(status int) { s.wrote = true; s.ResponseWriter.WriteHeader(status) }

func (r *Redfish) routes() {
	r.mux.HandleFunc("GET "+v1+"/{$}", r.serveRoot)
	if !r.quirks.NoSessions {
		r.mux.HandleFunc("POST "+v1+"/SessionService/Sessions", r.login)
		r.mux.HandleFunc("DELETE "+v1+"/SessionService/Sessions/{id}", r.logout)
	}
	r.systemRoutes()
	r.managerRoutes()
	r.chassisRoutes()
	r.accountRoutes()
	r.updateRoutes()
}

func (r *Redfish) serveRoot(w http.ResponseWriter, _ *http.Request) {
	root := obj{"RedfishVersion": "1.15.0", "Vendor": "Bedplate", "Name": "Root"}
	for _, name := range []string{"Systems", "Managers", "Chassis", "UpdateService", "AccountService"} {
		root[name] = ref(v1 + "/" + name)
	}
	if !r.quirks.NoSessions {
		root["Links"] = obj{"Sessions": ref(v1 + "/SessionService/Sessions")}
	}
	if r.quirks.Expand {
		root["ProtocolFeaturesSupported"] = obj{"ExpandQuery": obj{"NoLinks": true, "Levels": true}}
	}
	reply(w, http.StatusOK, root)
}

func (r *Redfish) login(w http.ResponseWriter, req *http.Request) {
	var body struct{ UserName, Password string }
	_ = json.NewDecoder(io.LimitReader(req.Body, 1<<16)).Decode(&body)
	d, err := r.fake.Dial(req.Context(), bmc.Target{Username: body.UserName, Password: body.Password})
	if err != nil {
		text := "wrong user name or password"
		if r.quirks.EchoSecrets {
			text = fmt.Sprintf("the value %s is not the password", body.Password)
		}
		refuse(w, http.StatusUnauthorized, "ResourceAtUriUnauthorized", text)
		return
	}
	r.mu.Lock()
	r.next++
	id := strconv.Itoa(r.next)
	token := "token-" + id
	s, _ := d.(*session)
	r.sessions[token] = s
	r.mu.Unlock()
	w.Header().Set("X-Auth-Token", token)
	w.Header().Set("Location", v1+"/SessionService/Sessions/"+id)
	reply(w, http.StatusCreated, obj{"@odata.id": v1 + "/SessionService/Sessions/" + id})
}

func (r *Redfish) logout(w http.ResponseWriter, req *http.Request) {
	token := "token-" + req.PathValue("id")
	r.mu.Lock()
	s := r.sessions[token]
	delete(r.sessions, token)
	r.mu.Unlock()
	if s == nil {
		refuse(w, http.StatusNotFound, "ResourceMissingAtURI", "no such session")
		return
	}
	_ = s.Close(req.Context())
	w.WriteHeader(http.StatusNoContent)
}

// collection routes a collection of members that are read one by one.
func (r *Redfish) collection(path string, members func(req *http.Request, s *session) ([]string, error)) {
	r.get(path, func(req *http.Request, s *session) (obj, error) {
		ids, err := members(req, s)
		list := []obj{}
		for _, id := range ids {
			list = append(list, ref(v1+path+"/"+id))
		}
		return obj{"Members": list, "Members@odata.count": len(list)}, err
	})
}

func fixed(ids ...string) func(*http.Request, *session) ([]string, error) {
	return func(*http.Request, *session) ([]string, error) { return ids, nil }
}

func (r *Redfish) managerRoutes() {
	const m = "/Managers/BMC"
	r.collection("/Managers", fixed("BMC"))
	r.get(m, func(req *http.Request, s *session) (obj, error) {
		info, err := s.ManagerInfo(req.Context())
		return obj{
			"Id": "BMC", "Model": info.Model, "FirmwareVersion": info.FirmwareVersion,
			"VirtualMedia": ref(v1 + m + "/VirtualMedia"), "LogServices": ref(v1 + m + "/LogServices"),
			"EthernetInterfaces": ref(v1 + m + "/EthernetInterfaces"), "NetworkProtocol": ref(v1 + m + "/NetworkProtocol"),
			"Actions": obj{"#Manager.Reset": obj{
				"target":                            v1 + m + "/Actions/Manager.Reset",
				"ResetType@Redfish.AllowableValues": []string{"ForceRestart", "GracefulRestart"},
			}},
		}, err
	})
	r.get(m+"/NetworkProtocol", func(*http.Request, *session) (obj, error) {
		return obj{"IPMI": obj{"ProtocolEnabled": true, "Port": 623}, "SSH": obj{"ProtocolEnabled": false}}, nil
	})
	r.collection(m+"/EthernetInterfaces", fixed("eth0"))
	r.get(m+"/EthernetInterfaces/eth0", func(*http.Request, *session) (obj, error) {
		return obj{"Id": "eth0", "MACAddress": "52:54:00:bb:00:01", "IPv4Addresses": []obj{{"Address": "192.0.2.1"}}}, nil
	})
	r.act("POST "+m+"/Actions/Manager.Reset", func(_ http.ResponseWriter, req *http.Request, s *session, _ obj) error {
		err := s.ResetManager(req.Context())
		r.DropSessions()
		return err
	})
	r.mediaRoutes(m + "/VirtualMedia")
	r.logRoutes(m + "/LogServices")
}

var slots = map[string]bmc.MediaKind{"Cd": bmc.MediaCD, "Usb": bmc.MediaUSB}

func (r *Redfish) mediaRoutes(path string) {
	r.collection(path, fixed("Cd", "Usb"))
	r.get(path+"/{slot}", func(req *http.Request, s *session) (obj, error) {
		slot := req.PathValue("slot")
		media, err := s.Media(req.Context())
		if err != nil {
			return nil, err
		}
		o := obj{"Id": slot, "Inserted": false, "Image": nil, "MediaTypes": []string{map[string]string{"Cd": "DVD", "Usb": "USBStick"}[slot]}}
		for _, m := range media {
			if m.Slot == string(slots[slot]) && m.Inserted {
				o["Inserted"], o["Image"] = true, m.Image
			}
		}
		if r.quirks.KeepsImage && o["Image"] == nil {
			o["Image"], o["ConnectedVia"] = "http://192.0.2.9/ejected.iso", "NotConnected"
		}
		target := v1 + path + "/" + slot + "/Actions/VirtualMedia."
		o["Actions"] = obj{"#VirtualMedia.InsertMedia": obj{"target": target + "InsertMedia"}, "#VirtualMedia.EjectMedia": obj{"target": target + "EjectMedia"}}
		return o, nil
	})
	r.act("POST "+path+"/{slot}/Actions/VirtualMedia.InsertMedia", func(w http.ResponseWriter, req *http.Request, s *session, body obj) error {
		if r.quirks.ImageOnly && len(body) > 1 {
			refuse(w, http.StatusBadRequest, "ActionParameterUnknown", "the parameter Inserted is unknown")
			return nil
		}
		image, _ := body["Image"].(string)
		return s.RequestInsert(req.Context(), slots[req.PathValue("slot")], image)
	})
	r.act("POST "+path+"/{slot}/Actions/VirtualMedia.EjectMedia", func(_ http.ResponseWriter, req *http.Request, s *session, _ obj) error {
		return s.RequestEject(req.Context(), slots[req.PathValue("slot")])
	})
}

func (r *Redfish) logRoutes(path string) {
	r.collection(path, fixed("Audit", "SEL"))
	r.get(path+"/Audit", func(*http.Request, *session) (obj, error) {
		return obj{"Id": "Audit", "Name": "Audit log", "Entries": ref(v1 + path + "/Audit/Entries")}, nil
	})
	r.get(path+"/SEL", func(*http.Request, *session) (obj, error) {
		return obj{"Id": "SEL", "LogEntryType": "SEL", "Entries": ref(v1 + path + "/SEL/Entries"),
			"Actions": obj{"#LogService.ClearLog": obj{"target": v1 + path + "/SEL/Actions/LogService.ClearLog"}}}, nil
	})
	r.get(path+"/SEL/Entries", func(req *http.Request, s *session) (obj, error) {
		entries, err := s.EventLog(req.Context(), 0)
		members := []obj{}
		for _, e := range entries {
			members = append(members, obj{"@odata.id": v1 + path + "/SEL/Entries/" + e.ID, "Id": e.ID, "Message": e.Message, "Severity": "OK", "Created": "2026-01-02T03:04:05+00:00"})
		}
		return obj{"Members": members}, err
	})
	r.act("POST "+path+"/SEL/Actions/LogService.ClearLog", func(_ http.ResponseWriter, req *http.Request, s *session, _ obj) error {
		return s.ClearEventLog(req.Context())
	})
}

func (r *Redfish) chassisRoutes() {
	r.collection("/Chassis", fixed("1"))
	r.get("/Chassis/1", func(req *http.Request, s *session) (obj, error) {
		h, err := s.Health(req.Context())
		return obj{
			"Id": "1", "ChassisType": "RackMount", "Manufacturer": "Bedplate", "SerialNumber": "CHASSIS1",
			"Status":  obj{"State": "Enabled", "Health": map[bmc.Health]string{bmc.HealthOK: "OK", bmc.HealthWarning: "Warning", bmc.HealthCritical: "Critical"}[h.Overall]},
			"Thermal": ref(v1 + "/Chassis/1/Thermal"), "NetworkAdapters": ref(v1 + "/Chassis/1/NetworkAdapters"),
		}, err
	})
	r.get("/Chassis/1/Thermal", func(req *http.Request, s *session) (obj, error) {
		sensors, err := s.Sensors(req.Context())
		temperatures := []obj{{"Name": "CPU2 Temp", "ReadingCelsius": nil, "Status": obj{"State": "Absent"}}}
		for _, v := range sensors {
			temperatures = append(temperatures, obj{"Name": v.Name, "ReadingCelsius": v.Value, "Status": obj{"State": "Enabled", "Health": "OK"}})
		}
		return obj{"Temperatures": temperatures}, err
	})
	r.collection("/Chassis/1/NetworkAdapters", fixed("NIC1"))
	r.get("/Chassis/1/NetworkAdapters/NIC1", func(*http.Request, *session) (obj, error) {
		return obj{"Id": "NIC1", "Manufacturer": "Acme", "Model": "25G", "NetworkDeviceFunctions": ref(v1 + "/Chassis/1/NetworkAdapters/NIC1/NetworkDeviceFunctions")}, nil
	})
	r.collection("/Chassis/1/NetworkAdapters/NIC1/NetworkDeviceFunctions", fixed("F1"))
	r.get("/Chassis/1/NetworkAdapters/NIC1/NetworkDeviceFunctions/F1", func(*http.Request, *session) (obj, error) {
		return obj{"Id": "F1", "Ethernet": obj{"PermanentMACAddress": "52-54-00-77-00-02"}}, nil
	})
}

func (r *Redfish) accountRoutes() {
	const path = "/AccountService/Accounts"
	r.get("/AccountService", func(*http.Request, *session) (obj, error) {
		return obj{"Accounts": ref(v1 + path)}, nil
	})
	r.collection(path, func(req *http.Request, s *session) ([]string, error) {
		users, err := s.Users(req.Context())
		ids := []string{}
		for _, u := range users {
			ids = append(ids, u.ID)
		}
		if r.quirks.Slots {
			ids = append([]string{"1"}, ids...)
			for i := len(ids) + 1; i < 6; i++ {
				ids = append(ids, strconv.Itoa(i))
			}
		}
		return ids, err
	})
	r.get(path+"/{id}", func(req *http.Request, s *session) (obj, error) {
		u, _ := find(req, s)
		return obj{"Id": req.PathValue("id"), "UserName": u.Name, "RoleId": schemaRoles[u.Role], "Enabled": u.Enabled}, nil
	})
	r.act("POST "+path, func(w http.ResponseWriter, req *http.Request, s *session, body obj) error {
		if r.quirks.Slots {
			refuse(w, http.StatusMethodNotAllowed, "OperationNotAllowed", "accounts can't be created")
			return nil
		}
		if err := s.createFrom(req, body); err != nil {
			return err
		}
		reply(w, http.StatusCreated, obj{})
		return nil
	})
	r.act("PATCH "+path+"/{id}", r.patchAccount)
	r.act("DELETE "+path+"/{id}", func(w http.ResponseWriter, req *http.Request, s *session, _ obj) error {
		if r.quirks.Slots {
			refuse(w, http.StatusMethodNotAllowed, "OperationNotAllowed", "accounts can't be deleted")
			return nil
		}
		u, err := find(req, s)
		if err != nil {
			return err
		}
		return s.DeleteUser(req.Context(), u.Name)
	})
}

var schemaRoles = map[bmc.Role]string{bmc.RoleAdministrator: "Administrator", bmc.RoleOperator: "Operator", bmc.RoleReadOnly: "ReadOnly"}

func find(req *http.Request, s *session) (bmc.User, error) {
	users, err := s.Users(req.Context())
	if err != nil {
		return bmc.User{}, err
	}
	for _, u := range users {
		if u.ID == req.PathValue("id") {
			return u, nil
		}
	}
	return bmc.User{}, bmc.ErrNotFound
}

func (s *session) createFrom(req *http.Request, body obj) error {
	name, _ := body["UserName"].(string)
	password, _ := body["Password"].(string)
	var role bmc.Role
	for r, word := range schemaRoles {
		if word == body["RoleId"] {
			role = r
		}
	}
	return s.CreateUser(req.Context(), name, password, role)
}

func (r *Redfish) patchAccount(w http.ResponseWriter, req *http.Request, s *session, body obj) error {
	u, err := find(req, s)
	if err != nil && r.quirks.Slots {
		return s.createFrom(req, body)
	}
	if err != nil {
		return err
	}
	if name, ok := body["UserName"].(string); ok && name == "" {
		return s.DeleteUser(req.Context(), u.Name)
	}
	password, ok := body["Password"].(string)
	if !ok {
		return nil
	}
	if r.quirks.EchoSecrets && len(password) < 8 {
		refuse(w, http.StatusBadRequest, "PropertyValueFormatError", fmt.Sprintf("The value '%s' for the property Password is too short", password))
		return nil
	}
	return s.SetPassword(req.Context(), u.Name, password)
}

func (r *Redfish) updateRoutes() {
	r.get("/UpdateService", func(*http.Request, *session) (obj, error) {
		return obj{
			"ServiceEnabled": true, "FirmwareInventory": ref(v1 + "/UpdateService/FirmwareInventory"),
			"MultipartHttpPushUri": v1 + "/UpdateService/upload",
			"Actions":              obj{"#UpdateService.SimpleUpdate": obj{"target": v1 + "/UpdateService/Actions/UpdateService.SimpleUpdate"}},
		}, nil
	})
	r.get("/UpdateService/FirmwareInventory", func(req *http.Request, s *session) (obj, error) {
		components, err := s.Firmware(req.Context())
		members := []obj{}
		for _, c := range components {
			members = append(members, obj{"@odata.id": v1 + "/UpdateService/FirmwareInventory/" + c.ID, "Id": c.ID, "Name": c.Name, "Version": c.Version, "Updateable": c.Updatable})
		}
		return obj{"Members": members}, err
	})
	start := func(w http.ResponseWriter, req *http.Request, s *session, u bmc.FirmwareUpdate) error {
		id, err := s.UpdateFirmware(req.Context(), u)
		if err != nil {
			return err
		}
		w.Header().Set("Location", v1+"/TaskService/Tasks/"+string(id)+"/Monitor")
		reply(w, http.StatusAccepted, obj{})
		return nil
	}
	r.act("POST /UpdateService/Actions/UpdateService.SimpleUpdate", func(w http.ResponseWriter, req *http.Request, s *session, body obj) error {
		uri, _ := body["ImageURI"].(string)
		return start(w, req, s, bmc.FirmwareUpdate{URI: uri})
	})
	r.handle("POST /UpdateService/upload", func(w http.ResponseWriter, req *http.Request, s *session) error {
		image, err := updateFile(req)
		if err != nil {
			refuse(w, http.StatusBadRequest, "MalformedMultipart", err.Error())
			return nil
		}
		return start(w, req, s, bmc.FirmwareUpdate{Image: image})
	})
	r.get("/TaskService/Tasks/{id}", func(req *http.Request, s *session) (obj, error) {
		t, err := s.Task(req.Context(), bmc.TaskID(req.PathValue("id")))
		state := map[bmc.TaskState]string{bmc.TaskRunning: "Running", bmc.TaskSucceeded: "Completed", bmc.TaskFailed: "Exception"}[t.State]
		return obj{"@odata.type": "#Task.v1_4_3.Task", "Id": string(t.ID), "TaskState": state, "TaskStatus": "OK", "PercentComplete": t.Percent,
			"Messages": []obj{{"Message": t.Message}}}, err
	})
}

// updateFile reads the parts of an upload (DSP0266 §12.6.2.2): the parameters, as
// JSON, and the file behind them.
func updateFile(req *http.Request) (io.Reader, error) {
	_, params, err := mime.ParseMediaType(req.Header.Get("Content-Type"))
	if err != nil {
		return nil, err
	}
	form := multipart.NewReader(req.Body, params["boundary"])
	part, err := form.NextPart()
	if err != nil {
		return nil, err
	}
	if part.FormName() != "UpdateParameters" || part.Header.Get("Content-Type") != "application/json" {
		return nil, fmt.Errorf("first part is %q", part.FormName())
	}
	if err := json.NewDecoder(part).Decode(&obj{}); err != nil {
		return nil, err
	}
	if part, err = form.NextPart(); err != nil {
		return nil, err
	}
	if part.FormName() != "UpdateFile" || part.FileName() == "" {
		return nil, fmt.Errorf("second part is %q", part.FormName())
	}
	return part, nil
}
