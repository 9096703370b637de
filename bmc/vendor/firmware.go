package vendor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bmc-toolbox/bmclib/v2/constants"
	"github.com/bmc-toolbox/common"

	"github.com/bedplate/bedplate/bmc"
)

// verifyPoll is the pause between two questions whether an upload was verified,
// verifyTime how long that may take.
const (
	verifyPoll = 5 * time.Second
	verifyTime = 15 * time.Minute
)

// Firmware returns the versions that the provider's inventory has, with the
// library's names of components as IDs.
func (d *Driver) Firmware(ctx context.Context) ([]bmc.FirmwareComponent, error) {
	got, err := d.device(ctx)
	if err != nil {
		return nil, err
	}
	var out []bmc.FirmwareComponent
	add := func(id, name string, f *common.Firmware, updatable bool) {
		if v := installed(f); v != "" {
			out = append(out, bmc.FirmwareComponent{ID: id, Name: name, Version: v, Updatable: updatable})
		}
	}
	if got.BIOS != nil {
		add(common.SlugBIOS, "System BIOS", got.BIOS.Firmware, d.installs())
	}
	if got.BMC != nil {
		add(common.SlugBMC, "Management controller", got.BMC.Firmware, d.installs())
	}
	for i, n := range bounded(got.NICs) {
		add(common.SlugNIC+strconv.Itoa(i), strings.TrimSpace(n.Vendor+" "+n.Model), n.Firmware, false)
	}
	for i, c := range bounded(got.StorageControllers) {
		add(common.SlugStorageController+strconv.Itoa(i), strings.TrimSpace(c.Vendor+" "+c.Model), c.Firmware, false)
	}
	return out, nil
}

// installs reports whether the provider updates firmware at all.
func (d *Driver) installs() bool { return d.name != AMT && d.name != Gofish }

// UpdateFirmware uploads the image and begins its installation, in the steps
// that the provider has for the component. It returns when the BMC installs it.
func (d *Driver) UpdateFirmware(ctx context.Context, u bmc.FirmwareUpdate) (bmc.TaskID, error) {
	switch {
	case !d.installs():
		return "", bmc.Unsupported(d.name, "firmware update")
	case u.Image == nil:
		return "", d.unsupported("firmware update", errNoImage)
	}
	component, err := d.component(u.Targets)
	if err != nil {
		return "", err
	}
	steps, err := get(ctx, d, "asking for the steps of a firmware update", func(ctx context.Context) ([]constants.FirmwareInstallStep, error) {
		return d.client.FirmwareInstallSteps(ctx, component)
	})
	if err != nil {
		return "", err
	}
	if err := d.mayInstall(ctx, component, steps); err != nil {
		return "", err
	}
	file, done, err := imageFile(u.Image)
	if err != nil {
		return "", err
	}
	defer done()
	id, err := d.install(ctx, component, steps, file)
	if err != nil {
		return "", err
	}
	return task{provider: d.name, component: component, version: u.Version, id: id}.text(), nil
}

// component is the library's word for what is to be updated.
func (d *Driver) component(targets []string) (string, error) {
	for _, t := range targets {
		up := strings.ToUpper(t)
		switch {
		case strings.Contains(up, "BIOS"), strings.Contains(up, "UEFI"):
			return common.SlugBIOS, nil
		case strings.Contains(up, "BMC"), strings.Contains(up, "IDRAC"), strings.Contains(up, "MANAGER"):
			return common.SlugBMC, nil
		}
	}
	return "", fmt.Errorf("%s: firmware update: say what the image is for: component BIOS or BMC", d.name)
}

// mayInstall refuses an update of a machine that has to be off and isn't.
func (d *Driver) mayInstall(ctx context.Context, component string, steps []constants.FirmwareInstallStep) error {
	if !slices.Contains(steps, constants.FirmwareInstallStepPowerOffHost) {
		return nil
	}
	state, err := d.PowerState(ctx)
	if err == nil && state != bmc.PowerOff {
		err = fmt.Errorf("%s: the %s is updated while the machine is off, and it is %s: put the operation power off before this one", d.name, component, state)
	}
	return err
}

// install goes through the steps up to the one that only waits.
func (d *Driver) install(ctx context.Context, component string, steps []constants.FirmwareInstallStep, file *os.File) (id string, err error) {
	for _, step := range steps {
		switch step {
		case constants.FirmwareInstallStepUpload:
			id, err = get(ctx, d, "uploading firmware", func(ctx context.Context) (string, error) { return d.client.FirmwareUpload(ctx, component, file) })
		case constants.FirmwareInstallStepUploadStatus:
			err = d.verified(ctx, component, id)
		case constants.FirmwareInstallStepInstallUploaded:
			upload := id
			id, err = get(ctx, d, "installing firmware", func(ctx context.Context) (string, error) {
				return d.client.FirmwareInstallUploaded(ctx, component, upload)
			})
		case constants.FirmwareInstallStepUploadInitiateInstall:
			id, err = get(ctx, d, "uploading firmware", func(ctx context.Context) (string, error) {
				return d.client.FirmwareInstallUploadAndInitiate(ctx, component, file)
			})
		}
		if err != nil {
			return "", err
		}
	}
	return id, nil
}

// verified waits until the BMC has looked at what was uploaded.
func (d *Driver) verified(ctx context.Context, component, id string) error {
	ctx, cancel := context.WithTimeout(ctx, verifyTime)
	defer cancel()
	for {
		state, status, err := d.taskStatus(ctx, constants.FirmwareInstallStepUploadStatus, component, id, "")
		switch {
		case err != nil:
			return err
		case state == constants.Complete:
			return nil
		case state == constants.Failed:
			return fmt.Errorf("%s: the BMC doesn't take the image: %s", d.name, d.clean(status))
		}
		t := time.NewTimer(verifyPoll)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return fmt.Errorf("%s: waiting for the BMC to verify the image: %w", d.name, context.Cause(ctx))
		}
	}
}

func (d *Driver) taskStatus(ctx context.Context, step constants.FirmwareInstallStep, component, id, version string) (state constants.TaskState, status string, err error) {
	state, err = get(ctx, d, "firmware task "+id, func(ctx context.Context) (s constants.TaskState, err error) {
		s, status, err = d.client.FirmwareTaskStatus(ctx, step, component, id, version)
		return s, err
	})
	return state, status, err
}

// imageFile returns the image as the file that providers want.
func imageFile(image io.Reader) (*os.File, func(), error) {
	if f, ok := image.(*os.File); ok {
		return f, func() {}, nil
	}
	f, err := os.CreateTemp("", "bedplate-firmware-")
	if err != nil {
		return nil, nil, fmt.Errorf("keeping the firmware image: %w", err)
	}
	done := func() { _ = f.Close(); _ = os.Remove(f.Name()) }
	if _, err = io.Copy(f, image); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		done()
		return nil, nil, fmt.Errorf("keeping the firmware image: %w", err)
	}
	return f, done, nil
}

// task is what a TaskID of this driver says. Providers want the component and
// the version again when they are asked how an installation stands.
type task struct {
	provider, component, version, id string
}

// taskPrefix begins the TaskIDs of this package.
const taskPrefix = "vendor:"

func (t task) text() bmc.TaskID {
	return bmc.TaskID(taskPrefix + t.provider + ":" + t.component + ":" + url.QueryEscape(t.version) + ":" + t.id)
}

// parseTask reads a TaskID; false if it is not one of this package.
func parseTask(id bmc.TaskID) (task, bool) {
	rest, ok := strings.CutPrefix(string(id), taskPrefix)
	parts := strings.SplitN(rest, ":", 4)
	if !ok || len(parts) != 4 {
		return task{}, false
	}
	version, err := url.QueryUnescape(parts[2])
	return task{parts[0], parts[1], version, parts[3]}, err == nil
}

// TaskProvider returns the name of the provider that a TaskID is of; empty if
// it is none of this package's.
func TaskProvider(id bmc.TaskID) string {
	t, _ := parseTask(id)
	return t.provider
}

// Task asks how an installation stands. One that has ended is followed by the
// restart of the BMC where the provider says that it needs one.
func (d *Driver) Task(ctx context.Context, id bmc.TaskID) (bmc.Task, error) {
	t, ok := parseTask(id)
	if !ok || t.provider != d.name {
		return bmc.Task{}, fmt.Errorf("%s: task %s: %w", d.name, id, bmc.ErrNotFound)
	}
	state, status, err := d.taskStatus(ctx, constants.FirmwareInstallStepInstallStatus, t.component, t.id, t.version)
	if err != nil {
		return bmc.Task{}, err
	}
	out := bmc.Task{ID: id, State: bmc.TaskRunning, Percent: percent(status), Message: d.clean(status)}
	switch state {
	case constants.Complete:
		out.State, out.Percent = bmc.TaskSucceeded, 100
	case constants.PowerCycleHost:
		out.State, out.Message = bmc.TaskSucceeded, strings.TrimSpace("it takes effect when the machine is restarted. "+out.Message)
	case constants.Failed:
		out.State = bmc.TaskFailed
	}
	return out, d.afterwards(ctx, t, out.State)
}

// afterwards restarts the BMC where the provider's steps have that at their end.
func (d *Driver) afterwards(ctx context.Context, t task, state bmc.TaskState) error {
	step := constants.FirmwareInstallStepResetBMCPostInstall
	switch state {
	case bmc.TaskRunning:
		return nil
	case bmc.TaskFailed:
		step = constants.FirmwareInstallStepResetBMCOnInstallFailure
	}
	steps, err := get(ctx, d, "asking for the steps of a firmware update", func(ctx context.Context) ([]constants.FirmwareInstallStep, error) {
		return d.client.FirmwareInstallSteps(ctx, t.component)
	})
	if err != nil || !slices.Contains(steps, step) {
		return nil // what was installed is; that it can't be asked any more is no failure of it
	}
	if err := d.ResetManager(ctx); err != nil && !errors.Is(err, bmc.ErrUnreachable) {
		return fmt.Errorf("the BMC must be restarted after the update: %w", err)
	}
	return nil
}

var percentage = regexp.MustCompile(`(\d{1,3})\s*%`)

// percent finds how far it is in a provider's words; -1 if they don't say.
func percent(status string) int {
	if m := percentage.FindStringSubmatch(status); m != nil {
		if n, err := strconv.Atoi(m[1]); err == nil && n <= 100 {
			return n
		}
	}
	return -1
}
