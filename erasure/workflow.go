package erasure

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// Actions whose outputs a record is made of.
const (
	actionErase    = "disk.erase"
	actionTPM      = "tpm.clear"
	actionFirmware = "firmware.reset"
)

// NotErased is the error of a record whose machine doesn't count as erased.
type NotErased struct{ Problems []string }

// Error names the problems.
func (e *NotErased) Error() string { return strings.Join(e.Problems, "; ") }

// FromWorkflow makes the record of a workflow that has ended, of the outputs of
// its steps and the machine's inventory. operator is who asked for it; now is
// the record's time. Server is left for the caller to fill in.
//
// The error is nil only if every disk of the inventory is erased and verified.
// It is a *NotErased where the machine's report makes sense, and wraps
// ErrOutputs where it doesn't: nothing of what that step reports is then in the
// record. Either comes with the record that says so, and in neither case may
// the machine be given to somebody else. Only the workflow of another machine
// makes no record.
func FromWorkflow(m *pb.Machine, w *pb.Workflow, operator string, now time.Time) (*Record, error) {
	if m.GetMetadata().GetName() == "" || w.GetSpec().GetMachine() != m.GetMetadata().GetName() {
		return nil, fmt.Errorf("making erasure record: workflow %s is of machine %q, not %q", w.GetMetadata().GetName(), w.GetSpec().GetMachine(), m.GetMetadata().GetName())
	}
	r := &Record{
		Schema: Schema, ID: recordID(m, w), Time: now.UTC().Truncate(time.Second), Machine: machineOf(m), Workflow: workflowOf(w),
		Operator: operator, Agent: m.GetStatus().GetAgent().GetVersion(), Devices: []Device{}, Firmware: Firmware{Removed: []string{}}, Problems: []string{},
	}
	lies := r.takeAll(w)
	r.judge(m, w)
	switch {
	case lies != nil:
		return r, lies
	case !r.OK:
		return r, &NotErased{Problems: r.Problems}
	}
	return r, nil
}

// takeAll reads what the steps report. What can't be true is a problem of the
// record in its place.
func (r *Record) takeAll(w *pb.Workflow) error {
	var lies error
	for _, s := range w.GetStatus().GetSteps() {
		if s.GetOnFailure() || s.GetState() == pb.StepState_STEP_SKIPPED {
			continue
		}
		if err := r.take(s); err != nil {
			r.problem("%v", err)
			lies = errors.Join(lies, err)
		}
	}
	if err := r.distinct(); err != nil {
		r.Devices = []Device{}
		r.problem("%v", err)
		lies = errors.Join(lies, err)
	}
	return lies
}

// recordID is the name of the resource that holds the record. It is made of
// the workflow's end, so that one run has one record, however often it is made.
func recordID(m *pb.Machine, w *pb.Workflow) string {
	const suffix = "-20060102-150405"
	name := m.GetMetadata().GetName()
	name = name[:min(len(name), 253-len(suffix))]
	return strings.TrimRight(name, "-.") + timeOf(w.GetStatus().GetEndTime()).Format(suffix)
}

func machineOf(m *pb.Machine) Machine {
	s := m.GetStatus().GetInventory().GetSystem()
	return Machine{
		Name: m.GetMetadata().GetName(), UID: m.GetMetadata().GetUid(), UUID: orElse(s.GetUuid(), m.GetSpec().GetUuid()), Serial: orElse(s.GetSerial(), m.GetSpec().GetSerial()),
		Manufacturer: s.GetManufacturer(), Product: s.GetProduct(),
	}
}

func workflowOf(w *pb.Workflow) Workflow {
	return Workflow{
		Name: w.GetMetadata().GetName(), UID: w.GetMetadata().GetUid(), Template: w.GetSpec().GetTemplate(), Instance: w.GetSpec().GetInstance(),
		Run: int64(w.GetStatus().GetRun()), State: stateName(w.GetStatus().GetState()), Start: timeOf(w.GetStatus().GetStartTime()), End: timeOf(w.GetStatus().GetEndTime()),
	}
}

func stateName(s pb.WorkflowState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "WORKFLOW_"))
}

func timeOf(t *timestamppb.Timestamp) time.Time { return t.AsTime().UTC().Truncate(time.Second) }

// take reads one step's outputs. Of several that clear the TPM or reset the
// firmware the last one counts.
func (r *Record) take(s *pb.StepStatus) error {
	switch s.GetUses() {
	case actionErase:
		if len(s.GetOutputs()) == 0 {
			return nil // It never got that far: no device is on record.
		}
		d, err := devices(s.GetId(), s.GetOutputs())
		if err != nil {
			return err
		}
		r.Devices = append(r.Devices, d...)
	case actionTPM:
		o := &reader{where: "step " + s.GetId(), fields: s.GetOutputs()}
		r.TPM = TPM{Asked: true, Present: o.bool("present"), Version: o.whole("version"), Method: o.text("method"), Cleared: o.bool("cleared")}
		if o.err != nil {
			r.TPM = TPM{Asked: true}
		}
		return o.err
	case actionFirmware:
		o := &reader{where: "step " + s.GetId(), fields: s.GetOutputs()}
		r.Firmware = Firmware{Asked: true, Kind: o.text("firmware"), Removed: o.texts("removed", maxRemoved), MOKKeys: o.whole("mok_keys")}
		if o.err != nil {
			r.Firmware = Firmware{Asked: true, Removed: []string{}}
		}
		return o.err
	}
	return nil
}

// distinct refuses a report with one disk twice, or too many.
func (r *Record) distinct() error {
	if len(r.Devices) > maxDevices {
		return fmt.Errorf("%d disks: %w", len(r.Devices), ErrOutputs)
	}
	seen := map[string]bool{}
	for _, d := range r.Devices {
		if seen[d.Path] {
			return fmt.Errorf("disk %s is there twice: %w", d.Path, ErrOutputs)
		}
		seen[d.Path] = true
	}
	return nil
}

// judge finds every problem, and so the verdict.
func (r *Record) judge(m *pb.Machine, w *pb.Workflow) {
	if w.GetStatus().GetState() != pb.WorkflowState_SUCCEEDED {
		r.problem("workflow %s %s: %s", r.Workflow.Name, r.Workflow.State, orElse(w.GetStatus().GetCause(), "no cause is given"))
	}
	if !slices.ContainsFunc(w.GetStatus().GetSteps(), func(s *pb.StepStatus) bool {
		return s.GetUses() == actionErase && s.GetState() == pb.StepState_STEP_SUCCEEDED
	}) {
		r.problem("no step of workflow %s has erased disks", r.Workflow.Name)
	}
	for _, d := range r.Devices {
		r.Problems = append(r.Problems, d.problems()...)
	}
	r.cover(m.GetStatus().GetInventory())
	tpm := m.GetStatus().GetInventory().GetTpm().GetPresent() || r.TPM.Present
	if r.TPM.Asked && tpm && !r.TPM.Cleared {
		r.problem("the TPM is not cleared")
	}
	r.OK = len(r.Problems) == 0
	if r.OK {
		r.Level = r.level()
	}
}

func (r *Record) problem(format string, args ...any) {
	r.Problems = append(r.Problems, cut(fmt.Sprintf(format, args...)))
}

// cut bounds what comes from causes and names.
func cut(s string) string {
	if len(s) <= maxText {
		return s
	}
	return strings.ToValidUTF8(s[:maxText], "") + "…"
}

// cover has every fixed disk of the inventory be among the devices: by its
// world wide name or serial number, and with its size. What the agent says it
// has erased is not asked what else there is.
func (r *Record) cover(inventory *pb.Inventory) {
	if inventory == nil {
		r.problem("the machine has no inventory, so it can't be told whether every disk is erased")
		return
	}
	used := make([]bool, len(r.Devices))
	for _, disk := range inventory.GetDisks() {
		if disk.GetRemovable() {
			continue
		}
		i := r.match(disk, used)
		if i < 0 {
			r.problem("disk %s (%s) of the inventory is not among the erased", disk.GetName(), orElse(orElse(disk.GetSerial(), disk.GetWwn()), "no serial number"))
			continue
		}
		used[i] = true
		if d := r.Devices[i]; uint64(d.SizeBytes) != disk.GetSizeBytes() {
			r.problem("disk %s has %d bytes in the inventory, and %d were erased", disk.GetName(), disk.GetSizeBytes(), d.SizeBytes)
		}
	}
}

// match returns the device that is the disk; negative if there is none. One
// with the same name as well is taken first, for disks that can be reached twice.
func (r *Record) match(disk *pb.Disk, used []bool) int {
	found := -1
	for i, d := range r.Devices {
		if used[i] || !d.same(disk) {
			continue
		}
		if d.Name == disk.GetName() {
			return i
		}
		if found < 0 {
			found = i
		}
	}
	return found
}

// same reports whether a device is that disk: by the world wide name, else the
// serial number. A disk without either goes by its name.
func (d Device) same(disk *pb.Disk) bool {
	for _, pair := range [][2]string{{d.WWN, disk.GetWwn()}, {d.Serial, disk.GetSerial()}} {
		// The disk itself and the kernel may pad differently.
		if a, b := strings.Fields(pair[0]), strings.Fields(pair[1]); len(a)+len(b) > 0 {
			return slices.Equal(a, b)
		}
	}
	return d.Name == disk.GetName()
}

// Resource returns the resource that keeps a signed record.
func Resource(r *Record, document []byte) *pb.Erasure {
	return &pb.Erasure{
		Metadata: &pb.Metadata{Name: r.ID, Labels: map[string]string{LabelMachine: r.Machine.Name}},
		Status: &pb.ErasureStatus{
			Machine: r.Machine.Name, Serial: r.Machine.Serial, Workflow: r.Workflow.Name, Instance: r.Workflow.Instance, Operator: r.Operator,
			Time: timestamppb.New(r.Time), Ok: r.OK, Level: r.Level, Disks: uint32(len(r.Devices)), Problems: r.Problems, Document: string(document),
		},
	}
}

// LabelMachine is the label of an Erasure with the machine's name.
const LabelMachine = "bedplate/machine"
