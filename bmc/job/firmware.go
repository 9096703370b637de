package job

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
	"time"

	"github.com/bedplate/bedplate/bmc"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/store"
)

const (
	// versionWait is how long a new version may take to show.
	versionWait = 5 * time.Minute
	// maxFirmware bounds an image that the server fetches to push it.
	maxFirmware = 1 << 30
)

// firmware updates firmware. A task that is on record is followed, whatever
// has become of the server that began it.
func (c *Controller) firmware(ctx context.Context, a *attempt, op *pb.FirmwareOperation) (string, error) {
	task := bmc.TaskID(a.status().GetTask())
	if task != "" {
		return c.followUpdate(ctx, a, op, task)
	}
	had, targets, err := c.firmwareVersion(ctx, a.machine, op)
	if err != nil {
		return "", err
	}
	if op.GetVersion() != "" && had == op.GetVersion() {
		return had + " is there already", nil
	}
	if a.cut {
		return "", permanent(errors.New("the server was restarted while the BMC was given the image: whether it has taken it is not known, and it was not given it again; see `bedplate machine firmware list " +
			a.machine.Metadata.Name + "`, and create the job again if the version is still the old one"))
	}
	if task, err = c.beginUpdate(ctx, a, op, targets); err != nil {
		return "", err
	}
	if task == "" {
		task = doneAtOnce
	}
	err = c.amend(ctx, a, func(j *pb.Job) []store.Op {
		j.Status.Operations[a.op].Task = string(task)
		return nil
	})
	if err != nil {
		return "", permanent(fmt.Errorf("the BMC has taken the image, but its task %s could not be put on record: %w", task, err))
	}
	return c.followUpdate(ctx, a, op, task)
}

// firmwareVersion returns the present version of the component and the BMC's
// name of it. Without a component it is the version that is wanted, if any has it.
func (c *Controller) firmwareVersion(ctx context.Context, m *pb.Machine, op *pb.FirmwareOperation) (version string, targets []string, err error) {
	var all []bmc.FirmwareComponent
	err = c.do(ctx, m, func(ctx context.Context, b *bmc.Client) (err error) {
		all, err = b.Firmware(ctx)
		return err
	})
	if err != nil {
		return "", nil, err
	}
	var names []string
	for _, f := range all {
		if op.GetComponent() == "" && f.Version == op.GetVersion() {
			return f.Version, nil, nil
		}
		if strings.EqualFold(f.ID, op.GetComponent()) || strings.EqualFold(f.Name, op.GetComponent()) {
			return f.Version, []string{f.ID}, nil
		}
		names = append(names, f.ID)
	}
	if op.GetComponent() == "" {
		return "another one", nil, nil
	}
	return "", nil, permanent(fmt.Errorf("the BMC has no firmware %q: it has %s", op.GetComponent(), strings.Join(names, ", ")))
}

// beginUpdate gives the BMC the image, or tells it where to get it. Only what
// the BMC has refused is tried again: an update mustn't be begun twice.
func (c *Controller) beginUpdate(ctx context.Context, a *attempt, op *pb.FirmwareOperation, targets []string) (bmc.TaskID, error) {
	update := bmc.FirmwareUpdate{URI: op.GetUrl(), Targets: targets, Version: op.GetVersion()}
	if op.GetPush() {
		image, err := c.fetch(ctx, op.GetUrl(), op.GetDigest())
		if err != nil {
			return "", err
		}
		defer image.close()
		update = bmc.FirmwareUpdate{Image: image.file, Name: image.name, Size: image.size, Targets: targets, Version: op.GetVersion()}
	}
	var task bmc.TaskID
	asked := false
	err := c.do(ctx, a.machine, func(ctx context.Context, b *bmc.Client) (err error) {
		asked = true
		task, err = b.UpdateFirmware(ctx, update)
		return err
	})
	if err == nil || !asked || errors.Is(err, bmc.ErrBusy) || !bmc.Transient(err) {
		return task, err
	}
	return "", permanent(fmt.Errorf("the BMC was given the order, and no answer came: whether it updates is not known, see `bedplate machine firmware list %s`: %w", a.machine.Metadata.Name, err))
}

// followUpdate waits for the BMC's task, which may outlast sessions and the
// BMC's own restart, and looks for the version that is wanted.
func (c *Controller) followUpdate(ctx context.Context, a *attempt, op *pb.FirmwareOperation, id bmc.TaskID) (string, error) {
	var last bmc.Task
	for id != "" && id != doneAtOnce {
		task, err := c.task(ctx, a, id)
		switch {
		case errors.Is(err, bmc.ErrNotFound) && op.GetVersion() == "":
			return "", permanent(fmt.Errorf("the BMC no longer knows task %s, so its end is not known: see `bedplate machine firmware list %s`, and give the operation's version to have it checked", id, a.machine.Metadata.Name))
		case errors.Is(err, bmc.ErrNotFound):
			id = ""
			continue
		case err != nil && !bmc.Transient(err) && !errors.Is(err, bmc.ErrCircuitOpen):
			return "", err
		case err == nil && task.State == bmc.TaskFailed:
			return "", permanent(fmt.Errorf("task %s failed: %s", id, task.Message))
		case err == nil && task.State == bmc.TaskSucceeded:
			last = task
			id = ""
			continue
		}
		if wait := sleep(ctx, c.cfg.TaskPause); wait != nil {
			return "", permanent(fmt.Errorf("the update had not ended when the job's time was over: task %s", id))
		}
	}
	if op.GetVersion() == "" {
		return strings.TrimSpace("the BMC reports success. " + last.Message), nil
	}
	return c.awaitVersion(ctx, a.machine, op)
}

// doneAtOnce stands for the task of a BMC that was done when it answered.
const doneAtOnce = bmc.TaskID("done")

// task asks for the task, and puts its progress on record in steps of 5 percent.
func (c *Controller) task(ctx context.Context, a *attempt, id bmc.TaskID) (bmc.Task, error) {
	var task bmc.Task
	err := c.do(ctx, a.machine, func(ctx context.Context, b *bmc.Client) (err error) {
		task, err = b.Task(ctx, id)
		return err
	})
	if err != nil {
		return task, err
	}
	if percent := uint32(max(task.Percent, 0)); percent >= a.status().GetProgress()+5 || percent == 100 && a.status().GetProgress() != 100 {
		err = c.amend(ctx, a, func(j *pb.Job) []store.Op {
			j.Status.Operations[a.op].Progress = percent
			return nil
		})
	}
	return task, err
}

// awaitVersion waits until the component has the version that is wanted.
func (c *Controller) awaitVersion(ctx context.Context, m *pb.Machine, op *pb.FirmwareOperation) (string, error) {
	end := c.cfg.Now().Add(versionWait)
	for {
		got, _, err := c.firmwareVersion(ctx, m, op)
		if err == nil && got == op.GetVersion() {
			return strings.TrimSpace(op.GetComponent() + " has version " + got), nil
		}
		if err != nil && !bmc.Transient(err) && !errors.Is(err, bmc.ErrCircuitOpen) {
			return "", err
		}
		if err == nil && !c.cfg.Now().Before(end) {
			return "", permanent(fmt.Errorf("the update ended, but the version is %s, not %s: does it take effect only after a restart of the machine?", got, op.GetVersion()))
		}
		if wait := sleep(ctx, c.cfg.TaskPause); wait != nil {
			return "", permanent(fmt.Errorf("the update ended, but the version could not be read before the job's time was over: %w", errors.Join(err, wait)))
		}
	}
}

// image is a firmware image in a temporary file.
type image struct {
	file *os.File
	name string
	size int64
}

func (i image) close() {
	_ = i.file.Close()
	_ = os.Remove(i.file.Name())
}

// fetch gets an image and checks it before a byte of it goes to a BMC.
func (c *Controller) fetch(ctx context.Context, from, digest string) (image, error) {
	u, err := url.Parse(from)
	if err != nil {
		return image{}, permanent(err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, from, http.NoBody)
	if err != nil {
		return image{}, permanent(err)
	}
	answer, err := c.cfg.HTTP.Do(request)
	if err != nil {
		return image{}, fmt.Errorf("fetching the firmware image: %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return image{}, fmt.Errorf("fetching the firmware image %s: %s", u.Redacted(), answer.Status)
	}
	file, err := os.CreateTemp("", "bedplate-firmware-")
	if err != nil {
		return image{}, fmt.Errorf("fetching the firmware image: %w", err)
	}
	out := image{file: file, name: path.Base(u.Path)}
	sum := sha256.New()
	out.size, err = io.Copy(io.MultiWriter(file, sum), io.LimitReader(answer.Body, maxFirmware+1))
	got := "sha256:" + hex.EncodeToString(sum.Sum(nil))
	switch {
	case err != nil:
		err = fmt.Errorf("fetching the firmware image: %w", err)
	case out.size > maxFirmware:
		err = permanent(fmt.Errorf("the firmware image is larger than %d MiB", maxFirmware>>20))
	case got != digest:
		err = permanent(fmt.Errorf("the firmware image has digest %s, not %s: nothing was sent to the BMC", got, digest))
	default:
		_, err = file.Seek(0, io.SeekStart)
	}
	if err != nil {
		out.close()
		return image{}, err
	}
	return out, nil
}
