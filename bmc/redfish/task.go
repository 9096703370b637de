package redfish

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/stmcginnis/gofish/redfish"

	"github.com/bedplate/bedplate/bmc"
)

// task is a Task resource, and what a task monitor answers while it runs.
type task struct {
	Path            string `json:"@odata.id"`
	Type            string `json:"@odata.type"`
	TaskState       redfish.TaskState
	TaskStatus      string
	PercentComplete *int
	StartTime       string
	EndTime         string
	Messages        []struct{ Message, MessageID string }
}

// taskOf returns the task that an answer speaks of: in its body, which is the
// task itself, or else in its Location, which is its monitor (DSP0266 §12.2).
func taskOf(a *answer) bmc.TaskID {
	var t task
	if decode(a.body, &t) == nil && strings.Contains(t.Type, "Task") && strings.HasPrefix(t.Path, "/") {
		return bmc.TaskID(t.Path)
	}
	if path := taskInMessages(a.body); path != "" {
		return bmc.TaskID(path)
	}
	if u, err := url.Parse(a.location); err == nil && u.Path != "" {
		// OpenBMC's monitor is the task with /Monitor behind (bmclib, taskIDFromLocationHeader).
		return bmc.TaskID(strings.TrimSuffix(u.Path, "/Monitor"))
	}
	return ""
}

// taskInMessages returns the path of a task that a message names, as
// Supermicro's do (bmclib, taskIDFromResponseBody).
func taskInMessages(body []byte) string {
	var b struct {
		Accepted struct {
			Info []struct{ MessageArgs []string } `json:"@Message.ExtendedInfo"`
		}
	}
	if json.Unmarshal(body, &b) != nil {
		return ""
	}
	for _, info := range b.Accepted.Info {
		for _, arg := range info.MessageArgs {
			if strings.HasPrefix(arg, "/") && strings.Contains(arg, "/TaskService/Tasks/") {
				return arg
			}
		}
	}
	return ""
}

// Task reads a task, or asks its monitor.
func (d *Driver) Task(ctx context.Context, id bmc.TaskID) (bmc.Task, error) {
	path := string(id)
	if !strings.HasPrefix(path, "/") {
		path = "/redfish/v1/TaskService/Tasks/" + url.PathEscape(path)
	}
	a, err := d.do(ctx, http.MethodGet, path, nil, nil)
	if err != nil {
		return bmc.Task{}, err
	}
	if !a.ok() {
		return bmc.Task{}, a.asError(d.t.redactor())
	}
	return taskFrom(id, a), nil
}

// taskFrom reads what the answer says. A monitor answers 202 until the end, and
// then as the operation itself would have.
func taskFrom(id bmc.TaskID, a *answer) bmc.Task {
	var t task
	_ = decode(a.body, &t)
	out := bmc.Task{ID: id, State: taskState(t), Percent: -1, Start: timeOf(t.StartTime), End: timeOf(t.EndTime)}
	if t.TaskState == "" && a.status != http.StatusAccepted {
		out.State = bmc.TaskSucceeded
	}
	if t.PercentComplete != nil && *t.PercentComplete >= 0 && *t.PercentComplete <= 100 {
		out.Percent = *t.PercentComplete
	}
	for _, m := range t.Messages {
		if m.Message != "" {
			out.Message = shorten(m.Message)
		}
	}
	if out.State == bmc.TaskFailed && out.Message == "" {
		out.Message = shorten("the BMC says " + string(t.TaskState) + " " + t.TaskStatus)
	}
	return out
}

func taskState(t task) bmc.TaskState {
	switch t.TaskState {
	case redfish.CompletedTaskState:
		if t.TaskStatus == "Critical" {
			return bmc.TaskFailed
		}
		return bmc.TaskSucceeded
	case redfish.ExceptionTaskState, redfish.KilledTaskState, redfish.CancelledTaskState, redfish.InterruptedTaskState:
		return bmc.TaskFailed
	default:
		return bmc.TaskRunning
	}
}

func timeOf(text string) time.Time {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil || t.Year() < 1980 || t.Year() > 9998 {
		return time.Time{}
	}
	return t
}
