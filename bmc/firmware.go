package bmc

import (
	"context"
	"io"
	"time"
)

// FirmwareComponent is one thing with a firmware of its own.
type FirmwareComponent struct {
	// ID is what FirmwareUpdate.Targets takes.
	ID        string
	Name      string
	Version   string
	Updatable bool
}

// FirmwareUpdate is what to install. Either URI or Image is set.
type FirmwareUpdate struct {
	// URI is where the BMC loads the image from, http or https (SimpleUpdate).
	URI string
	// Image is pushed to the BMC; Name and Size are the file's.
	Image io.Reader
	Name  string
	Size  int64
	// Targets are IDs of components. Empty: the BMC knows by the image.
	Targets []string
	// Version is what is installed afterwards, where that is known: some vendors
	// tell the end of an update by it.
	Version string
}

// TaskID names a task on a BMC; empty when the BMC was done at once.
type TaskID string

// TaskState is where a task is.
type TaskState string

// The states of tasks.
const (
	TaskRunning   TaskState = "running"
	TaskSucceeded TaskState = "succeeded"
	TaskFailed    TaskState = "failed"
)

// Task is the progress of a task on a BMC.
type Task struct {
	ID    TaskID
	State TaskState
	// Percent is -1 where the BMC doesn't say.
	Percent int
	// Message is the BMC's last word about it.
	Message string
	Start   time.Time
	End     time.Time
}

// Firmware is a BMC's part in firmware. Client.WaitTask waits for a task.
type Firmware interface {
	Firmware(ctx context.Context) ([]FirmwareComponent, error)
	// UpdateFirmware returns once the BMC has taken the image or the order.
	UpdateFirmware(ctx context.Context, u FirmwareUpdate) (TaskID, error)
	// Task returns ErrNotFound for a task that the BMC has forgotten, which many
	// do at the end of it or when they restart.
	Task(ctx context.Context, id TaskID) (Task, error)
}
