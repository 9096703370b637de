package redfish

import (
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strconv"
	"strings"

	"github.com/bedplate/bedplate/lab/board"
)

// maxUpload bounds what is pushed: an image and what goes with it.
const maxUpload = 65 << 20

var updateRoutes = []entry{
	{"/UpdateService", route{methods: get(getUpdateService)}},
	{"/UpdateService/Actions/UpdateService.SimpleUpdate", route{methods: post(postSimpleUpdate)}},
	{"/UpdateService/upload", route{methods: post(postUpload)}},
	{"/UpdateService/push", route{methods: post(postPush)}},
	{"/UpdateService/FirmwareInventory", route{methods: get(getFirmwares)}},
	{"/UpdateService/FirmwareInventory/{}", route{methods: get(getFirmware)}},
	{"/TaskService", route{methods: get(getTaskService)}},
	{"/TaskService/Tasks", route{methods: get(getTasks)}},
	{"/TaskService/Tasks/{}", route{methods: getDelete(getTask, deleteTask)}},
	{"/TaskService/TaskMonitors/{}", route{methods: get(getTaskMonitor)}},
}

func getUpdateService(c *call) error {
	o := c.resource("UpdateService", "v1_11_0", "UpdateService", "Update Service")
	o["ServiceEnabled"], o["Status"] = true, enabled
	o["FirmwareInventory"] = ref("/UpdateService/FirmwareInventory")
	o["HttpPushUri"], o["MultipartHttpPushUri"], o["MaxImageSizeBytes"] = root+"/UpdateService/push", root+"/UpdateService/upload", 64<<20
	o["Actions"] = object{"#UpdateService.SimpleUpdate": action("/UpdateService/Actions/UpdateService.SimpleUpdate", object{
		"TransferProtocol@Redfish.AllowableValues": []string{"HTTP", "HTTPS"},
	})}
	return c.show(o)
}

func postSimpleUpdate(c *call) error {
	var body struct {
		ImageURI, TransferProtocol, Username, Password *string
	}
	if err := c.read(&body); err != nil {
		return err
	}
	if body.ImageURI == nil {
		return errParameter("UpdateService.SimpleUpdate", "ImageURI")
	}
	image := *body.ImageURI
	if body.TransferProtocol != nil {
		scheme := strings.ToLower(*body.TransferProtocol)
		if scheme != "http" && scheme != "https" {
			return errValue(*body.TransferProtocol, "TransferProtocol")
		}
		if !strings.Contains(image, "://") {
			image = scheme + "://" + image
		}
	}
	var login board.Login
	if body.Username != nil && body.Password != nil {
		login = board.Login{Username: *body.Username, Password: *body.Password}
	}
	t, err := c.b.Update(image, login)
	if err != nil {
		return err
	}
	return c.accepted(t)
}

// postPush takes an image as the body of the request.
func postPush(c *call) error {
	t, err := c.b.Push(c.Body)
	if err != nil {
		return err
	}
	return c.accepted(t)
}

// postUpload takes an image as a part of a form (DSP0266 §12.6.2).
func postUpload(c *call) error {
	kind, params, err := mime.ParseMediaType(c.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/form-data" || params["boundary"] == "" {
		return &failure{status: http.StatusUnsupportedMediaType, id: "HeaderInvalid", message: "Content-Type: want multipart/form-data", args: []string{"Content-Type"}}
	}
	form := multipart.NewReader(c.Body, params["boundary"])
	seen := false
	for range 8 {
		part, err := form.NextPart()
		if err != nil {
			break
		}
		switch part.FormName() {
		case "UpdateParameters":
			text, err := io.ReadAll(io.LimitReader(part, maxBody))
			if err != nil {
				return errMalformed()
			}
			if err := decode(text, &struct{ Targets []string }{}); err != nil {
				return err
			}
			seen = true
		case "UpdateFile":
			if !seen {
				return errMissing("UpdateParameters")
			}
			t, err := c.b.Push(part)
			if err != nil {
				return err
			}
			return c.accepted(t)
		}
	}
	return errMissing("UpdateFile")
}

// accepted answers with a task that runs (DSP0266 §12.2).
func (c *call) accepted(t board.Task) error {
	id := strconv.Itoa(t.ID)
	c.w.Header().Set("Location", root+"/TaskService/TaskMonitors/"+id)
	c.path = root + "/TaskService/Tasks/" + id
	return c.json(http.StatusAccepted, c.task(t))
}

func getFirmwares(c *call) error {
	var members []string
	for _, f := range c.b.Firmwares() {
		members = append(members, "/UpdateService/FirmwareInventory/"+f.Part)
	}
	return c.collection("SoftwareInventoryCollection", "Firmware Inventory", members...)
}

func getFirmware(c *call) error {
	for _, f := range c.b.Firmwares() {
		if f.Part != c.vars[0] {
			continue
		}
		o := c.resource("SoftwareInventory", "v1_7_0", f.Part, f.Name)
		o["Version"], o["SoftwareId"], o["Manufacturer"], o["Updateable"], o["Status"] = f.Version, f.Part, "Bedplate", true, enabled
		if f.Staged != "" {
			o["Status"] = object{"State": "StandbySpare", "Health": "OK"}
			o["Oem"] = object{"Bedplate": object{"@odata.type": "#BedplateSoftware.v1_0_0.Software", "StagedVersion": f.Staged}}
		}
		return c.show(o)
	}
	return errNotFound(c.path)
}

func getTaskService(c *call) error {
	o := c.resource("TaskService", "v1_2_0", "TaskService", "Task Service")
	o["ServiceEnabled"], o["Status"], o["DateTime"], o["CompletedTaskOverWritePolicy"] = true, enabled, c.now(), "Oldest"
	o["LifeCycleEventOnTaskStateChange"], o["Tasks"] = false, ref("/TaskService/Tasks")
	return c.show(o)
}

func getTasks(c *call) error {
	var members []string
	for _, t := range c.b.Tasks() {
		members = append(members, "/TaskService/Tasks/"+strconv.Itoa(t.ID))
	}
	return c.collection("TaskCollection", "Tasks", members...)
}

func (c *call) task(t board.Task) object {
	o := c.resource("Task", "v1_6_0", strconv.Itoa(t.ID), t.Name)
	o["TaskState"], o["PercentComplete"], o["StartTime"], o["TaskStatus"] = t.State, t.Percent, t.Started.UTC().Format(timeFormat), "OK"
	o["TaskMonitor"] = root + "/TaskService/TaskMonitors/" + strconv.Itoa(t.ID)
	id := "TaskProgressChanged"
	switch t.State {
	case board.Completed:
		id = "TaskCompletedOK"
	case board.Cancelled:
		id = "TaskCancelled"
	case board.Exception:
		id, o["TaskStatus"] = "TaskAborted", "Critical"
	}
	if !t.Ended.IsZero() {
		o["EndTime"] = t.Ended.UTC().Format(timeFormat)
	}
	o["Messages"] = []object{{
		"@odata.type": "#Message.v1_1_2.Message", "MessageId": "TaskEvent.1.0." + id, "Message": t.Message, "MessageArgs": []string{strconv.Itoa(t.ID)},
		"Severity": o["TaskStatus"], "Resolution": "None.",
	}}
	return o
}

func (c *call) taskNamed() (board.Task, error) {
	id, err := strconv.Atoi(c.vars[0])
	if err != nil {
		return board.Task{}, errNotFound(c.path)
	}
	t, err := c.b.Task(id)
	if err != nil {
		return t, errNotFound(c.path)
	}
	return t, nil
}

func getTask(c *call) error {
	t, err := c.taskNamed()
	if err != nil {
		return err
	}
	return c.show(c.task(t))
}

func deleteTask(c *call) error {
	t, err := c.taskNamed()
	if err != nil {
		return err
	}
	if err := c.b.CancelTask(t.ID); err != nil {
		return err
	}
	return c.done()
}

// getTaskMonitor answers 202 while the task runs, then with how it ended.
func getTaskMonitor(c *call) error {
	t, err := c.taskNamed()
	if err != nil {
		return err
	}
	switch t.State {
	case board.Running:
		return c.accepted(t)
	case board.Completed:
		return c.done()
	}
	return errInternal(t.Message)
}
