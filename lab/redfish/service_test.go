package redfish_test

import (
	"bytes"
	"encoding/json"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bedplate/bedplate/lab"
	"github.com/bedplate/bedplate/lab/board"
	"github.com/bedplate/bedplate/lab/redfish"
)

// rig is a service of a simulated machine, without a network.
type rig struct {
	t       testing.TB
	board   *board.Board
	machine *lab.Simulated
	service *redfish.Service
	clock   time.Time
	// username and password are sent unless token is.
	username, password, token string
	header                    http.Header
}

func hardware() board.Hardware {
	return board.Hardware{
		Name: "m1", Manufacturer: "Bedplate", Model: "Lab", Serial: "SN1", UUID: "b3d91a7e-0000-4000-8000-000000000001", UEFI: true, SecureBoot: true, TPM: true,
		CPUs: 4, CPUModel: "cpu", Memory: 2 << 30, BIOSVersion: "1.0.0",
		NICs: []board.NIC{{Name: "nic0", MAC: "52:54:00:77:00:01", Model: "virtio"}},
		Disks: []board.Disk{
			{Name: "hd0", Serial: "D0", Model: "disk", Bus: "nvme", Size: 1 << 30}, {Name: "hd1", Serial: "D1", Model: "disk", Bus: "nvme", Size: 1 << 30}, {Name: "hd2", Serial: "D2", Model: "disk", Bus: "scsi", Size: 1 << 30},
		},
	}
}

func newRig(t testing.TB, change ...func(*board.Hardware)) *rig {
	t.Helper()
	r := &rig{t: t, clock: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), username: "admin", password: "secret"}
	h := hardware()
	for _, f := range change {
		f(&h)
	}
	now := func() time.Time { return r.clock }
	r.machine = lab.NewSimulated(h, 0, 0, now)
	b, err := board.New(board.Config{Machine: r.machine, Dir: t.TempDir(), Username: "admin", Password: "secret", MAC: "52:54:bc:00:00:01", Now: now})
	if err != nil {
		t.Fatal(err)
	}
	r.machine.Attach(b)
	r.board, r.service = b, redfish.New(b, nil)
	t.Cleanup(func() { b.Close(); r.service.Close(); r.machine.Close() })
	return r
}

// as is the rig for another caller.
func (r *rig) as(username, password string) *rig {
	other := *r
	other.username, other.password, other.token = username, password, ""
	return &other
}

func (r *rig) with(key, value string) *rig {
	other := *r
	other.header = other.header.Clone()
	if other.header == nil {
		other.header = http.Header{}
	}
	other.header.Set(key, value)
	return &other
}

func (r *rig) raw(method, path, body string) *http.Response {
	r.t.Helper()
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	for k, v := range r.header {
		req.Header[k] = v
	}
	switch {
	case r.token != "":
		req.Header.Set("X-Auth-Token", r.token)
	case r.username != "":
		req.SetBasicAuth(r.username, r.password)
	}
	w := httptest.NewRecorder()
	r.service.ServeHTTP(w, req)
	return w.Result()
}

// do wants a status and returns the answer.
func (r *rig) do(want int, method, path, body string) map[string]any {
	r.t.Helper()
	resp := r.raw(method, path, body)
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	if resp.StatusCode != want {
		r.t.Fatalf("%s %s: status %d, want %d: %s", method, path, resp.StatusCode, want, text)
	}
	var answer map[string]any
	if len(text) > 0 {
		if err := json.Unmarshal(text, &answer); err != nil {
			r.t.Fatalf("%s %s: %v in %s", method, path, err, text)
		}
	}
	return answer
}

func (r *rig) get(path string) map[string]any {
	r.t.Helper()
	return r.do(http.StatusOK, http.MethodGet, path, "")
}

// messageID is the first message of an error.
func messageID(answer map[string]any) string {
	e, _ := answer["error"].(map[string]any)
	info, _ := e["@Message.ExtendedInfo"].([]any)
	if len(info) == 0 {
		return ""
	}
	id, _ := info[0].(map[string]any)["MessageId"].(string)
	return strings.TrimPrefix(id, "Base.1.12.")
}

const (
	root    = "/redfish/v1"
	system  = root + "/Systems/1"
	manager = root + "/Managers/1"
)

// TestService_Links follows every link from the root: each leads to a resource
// that says it is there, and each action has an address that takes POST only.
func TestService_Links(t *testing.T) {
	r := newRig(t)
	if err := r.board.Power(t.Context(), board.On); err != nil {
		t.Fatal(err)
	}
	if _, err := r.board.Push(bytes.NewReader(board.FirmwareImage(board.FirmwareNIC, "2"))); err != nil {
		t.Fatal(err)
	}
	r.do(http.StatusCreated, http.MethodPost, root+"/SessionService/Sessions", `{"UserName": "admin", "Password": "secret"}`)
	seen := map[string]bool{}
	var follow func(path string)
	var look func(at string, v any)
	follow = func(path string) {
		path, _, _ = strings.Cut(path, "#")
		if seen[path] {
			return
		}
		seen[path] = true
		o := r.get(path)
		if got := o["@odata.id"]; got != path {
			t.Errorf("%s says it is %v", path, got)
		}
		if members, ok := o["Members"].([]any); ok && float64(len(members)) != o["Members@odata.count"] {
			t.Errorf("%s counts %v members and has %d", path, o["Members@odata.count"], len(members))
		}
		if o["@odata.type"] == nil || o["Name"] == nil {
			t.Errorf("%s has no type or no name", path)
		}
		look(path, o)
	}
	look = func(at string, v any) {
		switch v := v.(type) {
		case map[string]any:
			if link, ok := v["@odata.id"].(string); ok {
				follow(link)
			}
			if target, ok := v["target"].(string); ok {
				resp := r.raw(http.MethodGet, target, "")
				if resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") != http.MethodPost {
					t.Errorf("action %s of %s: GET is answered %s, Allow: %s", target, at, resp.Status, resp.Header.Get("Allow"))
				}
			}
			for _, x := range v {
				look(at, x)
			}
		case []any:
			for _, x := range v {
				look(at, x)
			}
		}
	}
	follow(root + "/")
	if len(seen) < 60 {
		t.Errorf("only %d resources are linked", len(seen))
	}
}

func TestService_Status(t *testing.T) {
	r := newRig(t)
	reader := r.as("viewer", "secret")
	operator := r.as("worker", "secret")
	for _, a := range []board.Account{{Username: "viewer", Password: "secret", Role: board.ReadOnly, Enabled: true}, {Username: "worker", Password: "secret", Role: board.Operator, Enabled: true}} {
		if _, err := r.board.PutAccount(a); err != nil {
			t.Fatal(err)
		}
	}
	reset := system + "/Actions/ComputerSystem.Reset"
	for name, c := range map[string]struct {
		rig          *rig
		status       int
		method, path string
		body         string
		message      string
	}{
		"the root needs no login":                      {r.as("", ""), 200, "GET", root + "/", "", ""},
		"the version needs no login":                   {r.as("", ""), 200, "GET", "/redfish", "", ""},
		"everything else does":                         {r.as("", ""), 401, "GET", root + "/Systems", "", "NoValidSession"},
		"also what isn't there":                        {r.as("", ""), 401, "GET", root + "/Nothing", "", "NoValidSession"},
		"a wrong password":                             {r.as("admin", "wrong"), 401, "GET", system, "", "AccessDenied"},
		"an unknown token":                             {r.as("", "").with("X-Auth-Token", "x"), 401, "GET", system, "", "NoValidSession"},
		"a resource that isn't there":                  {r, 404, "GET", root + "/Systems/2", "", "ResourceMissingAtURI"},
		"a disk that isn't there":                      {r, 404, "GET", system + "/Storage/NVME/Drives/hd2", "", "ResourceMissingAtURI"},
		"a method that isn't allowed":                  {r, 405, "DELETE", system, "", "OperationNotAllowed"},
		"a body that is no JSON":                       {r, 400, "POST", reset, "{", "MalformedJSON"},
		"a body that is no object":                     {r, 400, "POST", reset, "[]", "MalformedJSON"},
		"a value of the wrong type":                    {r, 400, "POST", reset, `{"ResetType": 1}`, "PropertyValueTypeError"},
		"a parameter that is missing":                  {r, 400, "POST", reset, `{}`, "ActionParameterMissing"},
		"a parameter that isn't in the list":           {r, 400, "POST", reset, `{"ResetType": "Explode"}`, "ActionParameterNotSupported"},
		"what only a running machine can do":           {r, 409, "POST", reset, `{"ResetType": "ForceRestart"}`, "OperationNotAllowed"},
		"another kind of body":                         {r.with("Content-Type", "text/plain"), 415, "POST", reset, "{}", "HeaderInvalid"},
		"another OData version":                        {r.with("OData-Version", "3.0"), 412, "GET", system, "", "GeneralError"},
		"a read-only property":                         {r, 400, "PATCH", system, `{"PowerState": "On"}`, "PropertyNotWritable"},
		"an unknown property":                          {r, 400, "PATCH", system, `{"Colour": "red"}`, "PropertyUnknown"},
		"nothing to change":                            {r, 400, "PATCH", system, `{}`, "PropertyMissing"},
		"a boot device that isn't there":               {r, 400, "PATCH", system, `{"Boot": {"BootSourceOverrideTarget": "Floppy"}}`, "PropertyValueNotInList"},
		"a boot mode that isn't there":                 {r, 400, "PATCH", system, `{"Boot": {"BootSourceOverrideMode": "Legacy"}}`, "PropertyValueNotInList"},
		"the setup for ever":                           {r, 400, "PATCH", system, `{"Boot": {"BootSourceOverrideTarget": "BiosSetup", "BootSourceOverrideEnabled": "Continuous"}}`, "GeneralError"},
		"an address to boot from that is none":         {r, 400, "PATCH", system, `{"Boot": {"BootSourceOverrideTarget": "UefiHttp", "HttpBootUri": "ftp://x"}}`, "GeneralError"},
		"a reader may read":                            {reader, 200, "GET", system, "", ""},
		"a reader may not switch":                      {reader, 403, "POST", reset, `{"ResetType": "On"}`, "InsufficientPrivilege"},
		"a reader may not make accounts":               {reader, 403, "POST", root + "/AccountService/Accounts", `{}`, "InsufficientPrivilege"},
		"an operator may switch":                       {operator, 204, "POST", reset, `{"ResetType": "ForceOff"}`, ""},
		"an operator may not reset the BMC":            {operator, 403, "POST", manager + "/Actions/Manager.Reset", `{}`, "InsufficientPrivilege"},
		"an operator may not change another's account": {operator, 403, "PATCH", root + "/AccountService/Accounts/2", `{"Password": "stolen"}`, "InsufficientPrivilege"},
		"a password that is too long":                  {r, 400, "PATCH", root + "/AccountService/Accounts/2", `{"Password": "` + strings.Repeat("x", 21) + `"}`, "GeneralError"},
		"the last administrator stays":                 {r, 403, "DELETE", root + "/AccountService/Accounts/2", "", "ResourceCannotBeDeleted"},
		"a name that is taken":                         {r, 409, "POST", root + "/AccountService/Accounts", `{"UserName": "admin", "Password": "secret", "RoleId": "Operator"}`, "ResourceAlreadyExists"},
		"a setting that isn't there":                   {r, 400, "PATCH", system + "/Bios/Settings", `{"Attributes": {"Turbo": "On"}}`, "PropertyValueNotInList"},
		"a medium that can't be":                       {r, 400, "POST", manager + "/VirtualMedia/Cd/Actions/VirtualMedia.InsertMedia", `{"Image": "file:///etc/passwd"}`, "GeneralError"},
		"a drive that isn't there":                     {r, 404, "POST", manager + "/VirtualMedia/Tape/Actions/VirtualMedia.InsertMedia", `{"Image": "http://x/y"}`, "ResourceMissingAtURI"},
		"an image that isn't there to be updated to":   {r, 400, "POST", root + "/UpdateService/Actions/UpdateService.SimpleUpdate", `{}`, "ActionParameterMissing"},
		"a task that isn't there":                      {r, 404, "GET", root + "/TaskService/Tasks/9", "", "ResourceMissingAtURI"},
		"a session timeout that is too short":          {r, 400, "PATCH", root + "/SessionService", `{"SessionTimeout": 1}`, "PropertyValueNotInList"},
		"events to nowhere":                            {r, 400, "POST", root + "/EventService/Subscriptions", `{"Destination": "mailto:x"}`, "PropertyValueNotInList"},
	} {
		t.Run(name, func(t *testing.T) {
			c.rig.t = t
			answer := c.rig.do(c.status, c.method, c.path, c.body)
			if got := messageID(answer); got != c.message {
				t.Errorf("message is %q, want %q", got, c.message)
			}
		})
	}
}

func TestService_ETag(t *testing.T) {
	r := newRig(t)
	tag := r.raw(http.MethodGet, system, "").Header.Get("ETag")
	if tag == "" || r.get(system)["@odata.etag"] != tag {
		t.Fatalf("ETag is %q", tag)
	}
	t.Run("what one has already is not sent again", func(t *testing.T) {
		if got := r.with("If-None-Match", tag).raw(http.MethodGet, system, "").StatusCode; got != http.StatusNotModified {
			t.Errorf("status is %d", got)
		}
	})
	t.Run("a change of what is there", func(t *testing.T) {
		r.with("If-Match", tag).do(http.StatusOK, http.MethodPatch, system, `{"AssetTag": "rack 7"}`)
	})
	t.Run("a change of what was there is refused", func(t *testing.T) {
		answer := r.with("If-Match", tag).do(http.StatusPreconditionFailed, http.MethodPatch, system, `{"AssetTag": "rack 8"}`)
		if got := messageID(answer); got != "PreconditionFailed" {
			t.Errorf("message is %q", got)
		}
		r.with("If-Match", "*").do(http.StatusOK, http.MethodPatch, system, `{"AssetTag": "rack 9"}`)
	})
	t.Run("the time of day changes nothing", func(t *testing.T) {
		was := r.raw(http.MethodGet, manager, "").Header.Get("ETag")
		r.clock = r.clock.Add(time.Minute)
		if got := r.raw(http.MethodGet, manager, "").Header.Get("ETag"); got != was {
			t.Errorf("ETag was %s and is %s", was, got)
		}
	})
}

func TestService_Sessions(t *testing.T) {
	r := newRig(t)
	login := func() (string, string) {
		resp := r.as("", "").raw(http.MethodPost, root+"/SessionService/Sessions", `{"UserName": "admin", "Password": "secret"}`)
		if resp.StatusCode != http.StatusCreated {
			t.Fatal(resp.Status)
		}
		return resp.Header.Get("X-Auth-Token"), resp.Header.Get("Location")
	}
	token, location := login()
	s := *r
	s.token = token
	s.get(system)
	t.Run("logging out", func(t *testing.T) {
		s.do(http.StatusNoContent, http.MethodDelete, location, "")
		s.do(http.StatusUnauthorized, http.MethodGet, system, "")
	})
	t.Run("a session that nobody uses ends", func(t *testing.T) {
		r.do(http.StatusOK, http.MethodPatch, root+"/SessionService", `{"SessionTimeout": 60}`)
		s.token, _ = login()
		r.clock = r.clock.Add(59 * time.Second)
		s.get(system)
		r.clock = r.clock.Add(59 * time.Second)
		s.get(system)
		r.clock = r.clock.Add(61 * time.Second)
		s.do(http.StatusUnauthorized, http.MethodGet, system, "")
	})
	t.Run("a reset of the BMC ends all", func(t *testing.T) {
		s.token, _ = login()
		r.do(http.StatusNoContent, http.MethodPost, manager+"/Actions/Manager.Reset", `{"ResetType": "ForceRestart"}`)
		s.do(http.StatusUnauthorized, http.MethodGet, system, "")
	})
	t.Run("an account that is switched off takes its sessions with it", func(t *testing.T) {
		a, err := r.board.PutAccount(board.Account{Username: "guest", Password: "secret", Role: board.ReadOnly, Enabled: true})
		if err != nil {
			t.Fatal(err)
		}
		resp := r.raw(http.MethodPost, root+"/SessionService/Sessions", `{"UserName": "guest", "Password": "secret"}`)
		s.token = resp.Header.Get("X-Auth-Token")
		s.get(system)
		a.Enabled = false
		if _, err := r.board.PutAccount(a); err != nil {
			t.Fatal(err)
		}
		s.do(http.StatusUnauthorized, http.MethodGet, system, "")
	})
	t.Run("there is a limit", func(t *testing.T) {
		for range 64 {
			if resp := r.raw(http.MethodPost, root+"/SessionService/Sessions", `{"UserName": "admin", "Password": "secret"}`); resp.StatusCode == http.StatusServiceUnavailable {
				return
			}
		}
		t.Error("64 sessions were opened")
	})
}

func TestService_Accounts(t *testing.T) {
	r := newRig(t)
	made := r.do(http.StatusCreated, http.MethodPost, root+"/AccountService/Accounts", `{"UserName": "ops", "Password": "first", "RoleId": "Operator"}`)
	path := made["@odata.id"].(string)
	r.as("ops", "first").do(http.StatusOK, http.MethodPatch, path, `{"Password": "second"}`)
	r.as("ops", "first").do(http.StatusUnauthorized, http.MethodGet, system, "")
	r.as("ops", "second").get(system)
	r.as("ops", "second").do(http.StatusForbidden, http.MethodPatch, path, `{"RoleId": "Administrator"}`)
	r.do(http.StatusNoContent, http.MethodDelete, path, "")
	r.as("ops", "second").do(http.StatusUnauthorized, http.MethodGet, system, "")
	if got := r.get(root + "/AccountService/Accounts/2")["Password"]; got != nil {
		t.Errorf("a password is shown: %v", got)
	}
}

func TestService_BIOS(t *testing.T) {
	r := newRig(t)
	r.do(http.StatusOK, http.MethodPatch, system+"/Bios/Settings", `{"Attributes": {"ProcCores": "1"}}`)
	cores := func() any { return r.get(system + "/Bios")["Attributes"].(map[string]any)["ProcCores"] }
	if got := cores(); got != "All" {
		t.Errorf("before the boot it is %v", got)
	}
	if err := r.board.Power(t.Context(), board.On); err != nil {
		t.Fatal(err)
	}
	if got := cores(); got != "1" {
		t.Errorf("after the boot it is %v", got)
	}
	if last, _ := r.machine.Booted(); last.Settings["ProcCores"] != "1" {
		t.Errorf("the machine booted with %v", last.Settings)
	}
	if d := cmp.Diff(map[string]any{}, r.get(system + "/Bios/Settings")["Attributes"]); d != "" {
		t.Errorf("still pending (-want +got):\n%s", d)
	}
	r.do(http.StatusNoContent, http.MethodPost, system+"/Bios/Actions/Bios.ResetBios", "")
	if err := r.board.Power(t.Context(), board.ForceRestart); err != nil {
		t.Fatal(err)
	}
	if got := cores(); got != "All" {
		t.Errorf("after the reset of the settings it is %v", got)
	}
}

func TestService_SecureBoot(t *testing.T) {
	r := newRig(t)
	const path = system + "/SecureBoot"
	r.do(http.StatusOK, http.MethodPatch, path, `{"SecureBootEnable": false}`)
	if got := r.get(path); got["SecureBootEnable"] != false || got["SecureBootCurrentBoot"] != "Enabled" {
		t.Errorf("before the boot: %v", got)
	}
	if err := r.board.Power(t.Context(), board.On); err != nil {
		t.Fatal(err)
	}
	if got := r.get(path)["SecureBootCurrentBoot"]; got != "Disabled" {
		t.Errorf("after the boot it is %v", got)
	}
	r.do(http.StatusNoContent, http.MethodPost, path+"/Actions/SecureBoot.ResetKeys", `{"ResetKeysType": "DeleteAllKeys"}`)
	if err := r.board.Power(t.Context(), board.ForceRestart); err != nil {
		t.Fatal(err)
	}
	if got := r.get(path)["SecureBootMode"]; got != "SetupMode" {
		t.Errorf("without keys the mode is %v", got)
	}
	none := newRig(t, func(h *board.Hardware) { h.UEFI, h.SecureBoot = false, false })
	none.do(http.StatusNotFound, http.MethodGet, path, "")
	if none.get(system)["SecureBoot"] != nil {
		t.Error("a machine with BIOS links to Secure Boot")
	}
}

// wait asks for a task until it has ended.
func (r *rig) wait(path string) map[string]any {
	r.t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		if o := r.get(path); o["TaskState"] != "Running" {
			return o
		}
	}
	r.t.Fatal("the task doesn't end")
	return nil
}

func TestService_Update(t *testing.T) {
	r := newRig(t)
	files := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/junk" {
			_, _ = w.Write([]byte("junk"))
			return
		}
		_, _ = w.Write(board.FirmwareImage(board.FirmwareBIOS, "2.1.0"))
	}))
	defer files.Close()
	version := func(part string) any { return r.get(root + "/UpdateService/FirmwareInventory/" + part)["Version"] }
	simple := root + "/UpdateService/Actions/UpdateService.SimpleUpdate"

	t.Run("BIOS firmware is active after a reset", func(t *testing.T) {
		if err := r.board.Power(t.Context(), board.On); err != nil {
			t.Fatal(err)
		}
		task := r.do(http.StatusAccepted, http.MethodPost, simple, `{"ImageURI": "`+files.URL+`/bios"}`)
		if got := r.wait(task["@odata.id"].(string)); got["TaskState"] != "Completed" || got["PercentComplete"] != 100.0 {
			t.Fatalf("the task is %v", got)
		}
		if got := version("BIOS"); got != "1.0.0" {
			t.Errorf("before the reset the version is %v", got)
		}
		if err := r.board.Power(t.Context(), board.ForceRestart); err != nil {
			t.Fatal(err)
		}
		if last, _ := r.machine.Booted(); version("BIOS") != "2.1.0" || last.BIOSVersion != "2.1.0" {
			t.Errorf("after the reset the version is %v, and the machine shows %s", version("BIOS"), last.BIOSVersion)
		}
	})
	t.Run("an image that is none fails the task and changes nothing", func(t *testing.T) {
		task := r.do(http.StatusAccepted, http.MethodPost, simple, `{"ImageURI": "`+files.URL+`/junk"}`)
		got := r.wait(task["@odata.id"].(string))
		if got["TaskState"] != "Exception" || version("BIOS") != "2.1.0" {
			t.Errorf("the task is %v", got)
		}
	})
	t.Run("by push, as a form; the BMC restarts with its own", func(t *testing.T) {
		var body bytes.Buffer
		form := multipart.NewWriter(&body)
		for name, text := range map[string]string{"UpdateParameters": `{"Targets": []}`} {
			if err := form.WriteField(name, text); err != nil {
				t.Fatal(err)
			}
		}
		file, err := form.CreateFormFile("UpdateFile", "bmc.bin")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.Write(board.FirmwareImage(board.FirmwareBMC, "3.0.0")); err != nil {
			t.Fatal(err)
		}
		if err := form.Close(); err != nil {
			t.Fatal(err)
		}
		task := r.with("Content-Type", form.FormDataContentType()).do(http.StatusAccepted, http.MethodPost, root+"/UpdateService/upload", body.String())
		if got := r.wait(task["@odata.id"].(string)); got["TaskState"] != "Completed" || version("BMC") != "3.0.0" {
			t.Errorf("the task is %v, the version %v", got, version("BMC"))
		}
	})
}

func TestService_Events(t *testing.T) {
	r := newRig(t)
	got := make(chan map[string]any, 8)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
		var e map[string]any
		if json.NewDecoder(q.Body).Decode(&e) == nil {
			got <- e
		}
	}))
	defer receiver.Close()
	made := r.do(http.StatusCreated, http.MethodPost, root+"/EventService/Subscriptions", `{"Destination": "`+receiver.URL+`", "Context": "mine", "Protocol": "Redfish"}`)
	if err := r.board.Power(t.Context(), board.On); err != nil {
		t.Fatal(err)
	}
	select {
	case e := <-got:
		if first := e["Events"].([]any)[0].(map[string]any); e["Context"] != "mine" || first["MessageId"] != "BedplateLab.1.0.SystemBoot" {
			t.Errorf("event is %v", e)
		}
	case <-time.After(time.Minute):
		t.Fatal("no event came")
	}
	r.do(http.StatusNoContent, http.MethodDelete, made["@odata.id"].(string), "")
}

// FuzzService sends bodies to everything that takes one: whatever comes, the
// answer is JSON or nothing, and no server error but where a machine is asked for the impossible.
func FuzzService(f *testing.F) {
	paths := []struct{ method, path string }{
		{"PATCH", system}, {"POST", system + "/Actions/ComputerSystem.Reset"}, {"PATCH", system + "/Bios/Settings"}, {"PATCH", system + "/SecureBoot"},
		{"POST", system + "/SecureBoot/SecureBootDatabases/db/Certificates"}, {"POST", root + "/AccountService/Accounts"}, {"PATCH", root + "/AccountService/Accounts/2"},
		{"POST", root + "/SessionService/Sessions"}, {"PATCH", root + "/SessionService"}, {"POST", manager + "/VirtualMedia/Cd/Actions/VirtualMedia.EjectMedia"},
		{"POST", root + "/UpdateService/push"}, {"POST", root + "/EventService/Actions/EventService.SubmitTestEvent"}, {"POST", system + "/SecureBoot/Actions/SecureBoot.ResetKeys"},
	}
	for i := range paths {
		f.Add(uint8(i), []byte(`{}`))
	}
	f.Add(uint8(0), []byte(`{"Boot": {"BootSourceOverrideTarget": "Cd", "BootSourceOverrideEnabled": "Once", "HttpBootUri": "http://a"}, "AssetTag": "x"}`))
	f.Add(uint8(1), []byte(`{"ResetType": "On"}`))
	f.Add(uint8(2), []byte(`{"Attributes": {"ProcCores": "1", "BootMenu": 7}}`))
	f.Add(uint8(5), []byte(`{"UserName": "a", "Password": "bcde", "RoleId": "Operator"}`))
	f.Add(uint8(7), []byte(`{"UserName": "admin", "Password": "secret"}`))
	f.Add(uint8(10), board.FirmwareImage(board.FirmwareNIC, "7"))
	r := newRig(f)
	f.Fuzz(func(t *testing.T, which uint8, body []byte) {
		p := paths[int(which)%len(paths)]
		r := *r
		r.t = t
		resp := r.raw(p.method, p.path, string(body))
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode >= http.StatusInternalServerError && resp.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("%s %s: %s: %s", p.method, p.path, resp.Status, text)
		}
		if len(text) > 0 && !json.Valid(text) {
			t.Errorf("%s %s: no JSON: %s", p.method, p.path, text)
		}
	})
}
