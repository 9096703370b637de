package storage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/bedplate/bedplate/agent/disk/input"
	"github.com/bedplate/bedplate/agent/step"
	"github.com/bedplate/bedplate/layout"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// The phases of the action.
const (
	// phaseCheck finds disks, plans, and looks into what is kept. Nothing is written.
	phaseCheck = "check"
	// phaseMake makes everything and leaves it active.
	phaseMake = "make"
	// phaseConfigure writes what is there into the installed system.
	phaseConfigure = "configure"
	// phaseApply is make, then configure.
	phaseApply = "apply"
)

// stopTime bounds the deactivation of everything, which goes on when a step is cancelled.
const stopTime = 2 * time.Minute

// runner is one run of the action. It belongs to one goroutine.
type runner struct {
	*Service
	req      step.Request
	rep      step.Reporter
	layout   *layout.Layout
	phase    string
	hint     string
	keys     map[string]string
	readOnly bool

	// paths are those of the declared disks.
	paths map[string]string
	disks map[string]Disk
	// device is the path of each part that is there by now.
	device   map[*layout.Node]string
	keyFiles map[string][]byte
	recovery []any
	last     []string
}

func (s *Service) apply(ctx context.Context, req step.Request, rep step.Reporter) (step.Result, error) {
	r := &runner{Service: s, req: req, rep: rep, device: map[*layout.Node]string{}, keyFiles: map[string][]byte{}}
	if err := r.read(); err != nil {
		return step.Result{}, err
	}
	outputs, err := r.run(ctx)
	if err != nil {
		return step.Result{LastOutput: r.last}, err
	}
	return step.Result{Outputs: outputs}, nil
}

// read takes the inputs apart.
func (r *runner) read() error {
	in := input.Of(r.req.With)
	r.phase = in.Choice("phase", phaseApply, phaseCheck, phaseMake, phaseConfigure)
	r.hint = in.String("root_disk")
	spec, err := parse(in.Value("layout"))
	if err != nil {
		in.Fail("layout", "%w", err)
	}
	if r.keys, err = passphrases(in.Value("keys")); err != nil {
		in.Fail("keys", "%w", err)
	}
	if spec != nil {
		var problems []layout.Problem
		r.layout, problems = layout.Read(spec)
		for _, p := range problems {
			in.Fail("layout."+p.Path, "%s", p.Message)
		}
		for i, e := range spec.GetEncryption() {
			if name := e.GetKeySecret(); name != "" && r.keys[name] == "" {
				in.Fail(fmt.Sprintf("layout.encryption[%d].key_secret", i), "secret %q has no value under the key `passphrase`, or wasn't given to this step: keys: ${{ instance.keys }}", name)
			}
			if _, err := parseRecipients(e.GetRecoveryRecipients()); err != nil {
				in.Fail(fmt.Sprintf("layout.encryption[%d]", i), "%w", err)
			}
		}
	}
	return in.Err()
}

// parse reads a declaration as it comes from an expression.
func parse(v any) (*pb.StorageSpec, error) {
	if v == nil {
		return nil, errors.New("is required")
	}
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	spec := &pb.StorageSpec{}
	if err := protojson.Unmarshal(b, spec); err != nil {
		return nil, fmt.Errorf("it is no storage declaration: %w", err)
	}
	return spec, nil
}

func passphrases(v any) (map[string]string, error) {
	out := map[string]string{}
	m, ok := v.(map[string]any)
	if v != nil && !ok {
		return nil, errors.New("wants a map of passphrases by the name of their secret")
	}
	for name, text := range m {
		s, ok := text.(string)
		if !ok {
			return nil, fmt.Errorf("the value of %s is no text", name)
		}
		out[name] = s
	}
	return out, nil
}

func (r *runner) run(ctx context.Context) (map[string]any, error) {
	all, err := r.Disks(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing disks: %w", err)
	}
	found, err := Find(r.layout, all, r.hint, r.Match)
	if err != nil {
		return nil, err
	}
	r.paths = map[string]string{}
	for name, d := range found {
		r.paths[name] = d.GetPath()
	}
	if err := r.stopAll(ctx); err != nil {
		return nil, err
	}
	if err := r.survey(ctx, found); err != nil {
		return nil, err
	}
	ops, err := Plan(Request{Layout: r.layout, Disks: r.disks, ImageToCome: r.phase == phaseCheck, ImageRoot: r.imageRoot(), Made: r.phase == phaseConfigure})
	if err != nil {
		return nil, err
	}
	for _, op := range ops {
		r.say("plan: %s", op.Text)
	}
	outputs, err := r.carryOut(ctx, ops)
	if err != nil || r.phase != phaseMake {
		// What stays active after a failure would be in the way of the next try.
		after, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
		defer cancel()
		err = errors.Join(err, r.stopAll(after))
	}
	if err != nil {
		return nil, err
	}
	return outputs, nil
}

// imageRoot is the number of the root partition that the workflow's images name.
func (r *runner) imageRoot() int {
	for _, i := range r.req.Images {
		if m, ok := i.(map[string]any); ok {
			if n := input.Of(m).Int("root_partition", 0); n > 0 {
				return int(n)
			}
		}
	}
	return 0
}

// carryOut does what the phase is about.
func (r *runner) carryOut(ctx context.Context, ops []Operation) (map[string]any, error) {
	if r.phase == phaseCheck {
		r.readOnly = true
		ops = slices.DeleteFunc(slices.Clone(ops), func(op Operation) bool { return op.Verb != Open && op.Verb != Compare })
	}
	for i, op := range ops {
		r.rep.Progress(int64(i), int64(len(ops)), "operations", op.Text)
		if err := r.do(ctx, op); err != nil {
			if op.Node.Path != "" {
				return nil, fmt.Errorf("%s: %s: %w", op.Node.Path, op.Text, err)
			}
			return nil, fmt.Errorf("%s: %w", op.Text, err)
		}
	}
	r.rep.Progress(int64(len(ops)), int64(len(ops)), "operations", "")
	outputs := r.outputs()
	if r.phase == phaseApply || r.phase == phaseConfigure {
		if err := r.configure(ctx); err != nil {
			return nil, err
		}
	}
	return outputs, nil
}

// do carries out one operation.
func (r *runner) do(ctx context.Context, op Operation) error {
	type act struct {
		verb Verb
		kind layout.Kind
	}
	f := map[act]func(context.Context, Operation) error{
		{Clear, layout.Disk}: r.clearDisk,
		{Table, layout.Disk}: r.freshTable,
		{Add, layout.Disk}:   r.addPartitions,
		{Compare, layout.Disk}: func(ctx context.Context, op Operation) error {
			return r.nodes(ctx, r.disks[op.Node.Name].Path, op.Places)
		},
		{Finish, layout.Disk}:        r.unmark,
		{Make, layout.Raid}:          r.makeRaid,
		{Open, layout.Raid}:          r.openRaid,
		{Make, layout.Encryption}:    r.makeCrypt,
		{Open, layout.Encryption}:    r.openCrypt,
		{Make, layout.VolumeGroup}:   r.makeGroup,
		{Open, layout.VolumeGroup}:   r.openGroup,
		{Make, layout.LogicalVolume}: r.makeVolume,
		{Make, layout.Filesystem}:    r.makeFilesystem,
		{Compare, layout.Filesystem}: r.compareFilesystem,
	}[act{op.Verb, op.Node.Kind}]
	if f == nil {
		return fmt.Errorf("nothing knows how to %s a %s", op.Verb, op.Node.Kind)
	}
	if op.Verb == Finish {
		unix.Sync() // The mark goes last.
	}
	return f(ctx, op)
}

func (r *runner) outputs() map[string]any {
	devices, disks := map[string]any{}, map[string]any{}
	for n, path := range r.device {
		devices[n.Name] = path
	}
	for name, path := range r.paths {
		disks[name] = path
	}
	kept := []any{}
	for _, n := range r.layout.Of(layout.Disk) {
		if n.Keep {
			kept = append(kept, n.Name)
		}
	}
	mounts := []any{}
	for _, n := range r.layout.Of(layout.Filesystem) {
		f := r.layout.Spec.Filesystems[n.Index]
		if f.GetPath() != "" {
			mounts = append(mounts, map[string]any{"device": f.GetDevice(), "path": f.GetPath(), "type": f.GetType()})
		}
	}
	root := ""
	if n := r.layout.RootDevice(); n != nil {
		root = r.device[n]
	}
	return map[string]any{
		"root_disk": r.paths[layout.Root], "root": root, "disks": maps.Clone(disks), "devices": devices,
		"kept": kept, "mounts": mounts, "recovery": append([]any{}, r.recovery...),
	}
}
