package expression

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/structpb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/workflow/action"
	"github.com/bedplate/bedplate/workflow/plan"
)

var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func mustValue(t testing.TB, v any) *structpb.Value {
	t.Helper()
	out, err := structpb.NewValue(v)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func step(t testing.TB, id, uses string, with map[string]any) *pb.Step {
	t.Helper()
	s := &pb.Step{Id: id, Uses: uses, With: map[string]*structpb.Value{}}
	for k, v := range with {
		s.With[k] = mustValue(t, v)
	}
	return s
}

// problems returns what Check says, as field@offset: message.
func problems(t testing.TB, spec *pb.TemplateSpec) []string {
	t.Helper()
	err := Check(spec)
	if err == nil {
		return nil
	}
	var list plan.Problems
	if !errors.As(err, &list) {
		t.Fatalf("Check returned %T: %v", err, err)
	}
	var out []string
	for _, p := range list {
		out = append(out, fmt.Sprintf("%s@%d: %s", p.Field, p.Offset, p.Message))
	}
	return out
}

func TestCheck(t *testing.T) {
	inputs := map[string]*pb.Input{"image": {Required: true}, "count": {Type: "int"}, "wipe-first": {Type: "bool"}}
	select1 := func(t *testing.T) *pb.Step { return step(t, "disk", "disk.select", nil) }
	tests := []struct {
		name  string
		steps func(t *testing.T) []*pb.Step
		want  []string
	}{
		{"an unknown input is named, with its place in the text", func(t *testing.T) []*pb.Step {
			return []*pb.Step{select1(t), step(t, "w", "image.write", map[string]any{"image": "x-${{ inputs.imgae }}", "disk": "/dev/vda"})}
		}, []string{`spec.steps[1].with.image@12: the template has no input "imgae"; there are count, image, ` + "`wipe-first`"}},
		{"an unknown step", func(t *testing.T) []*pb.Step {
			return []*pb.Step{select1(t), step(t, "w", "image.write", map[string]any{"image": "x", "disk": "${{ steps.dsk.outputs.path }}"})}
		}, []string{`spec.steps[1].with.disk@9: there is no step "dsk"; there are disk, w`}},
		{"an unknown output", func(t *testing.T) []*pb.Step {
			return []*pb.Step{select1(t), step(t, "w", "image.write", map[string]any{"image": "x", "disk": "${{ steps.disk.outputs.pth }}"})}
		}, []string{`spec.steps[1].with.disk@22: step "disk" has no output "pth"; there are name, path, serial, size, wwn`}},
		{"an output without outputs", func(t *testing.T) []*pb.Step {
			return []*pb.Step{select1(t), step(t, "w", "image.write", map[string]any{"image": "x", "disk": "${{ steps.disk.path }}"})}
		}, []string{`spec.steps[1].with.disk@14: a step has no "path"; write steps.disk.outputs.NAME`}},
		{"a step that runs later", func(t *testing.T) []*pb.Step {
			return []*pb.Step{step(t, "w", "image.write", map[string]any{"image": "x", "disk": "${{ steps.disk.outputs.path }}"}), select1(t)}
		}, []string{`spec.steps[0].with.disk@4: step "disk" is not certain to have run before this one; add it to needs`}},
		{"a step of another branch", func(t *testing.T) []*pb.Step {
			a, b := step(t, "a", "noop", nil), step(t, "w", "image.write", map[string]any{"image": "x", "disk": "${{ steps.disk.outputs.path }}"})
			b.Needs = []string{"a"}
			d := select1(t)
			d.Needs = []string{"a"}
			return []*pb.Step{a, d, b}
		}, []string{`spec.steps[2].with.disk@4: step "disk" is not certain to have run before this one; add it to needs`}},
		{"a field that a machine doesn't have", func(t *testing.T) []*pb.Step {
			s := step(t, "n", "noop", nil)
			s.If = `${{ machine.inventory.cpu.cores > 3 }}`
			return []*pb.Step{s}
		}, []string{"spec.steps[0].if@21: machine.inventory has no field \"cpu\"; there are architecture, baseboard, bios, bmc, chassis, collect_time, disks, firmware, kernel, memory, neighbours_time, nics, pci_devices, processors, system, tpm, warnings"}},
		{"a field of an element of a list", func(t *testing.T) []*pb.Step {
			s := step(t, "n", "noop", nil)
			s.If = `machine.inventory.disks.exists(d, d.sizes > 3)`
			return []*pb.Step{s}
		}, []string{`spec.steps[0].if@35: there is no field "sizes" here`}},
		{"a wrong type from an expression", func(t *testing.T) []*pb.Step {
			return []*pb.Step{step(t, "w", "file.write", map[string]any{"device": "/dev/vda1", "path": "/x", "content": "", "uid": "${{ inputs.image }}"})}
		}, []string{"spec.steps[0].with.uid@3: the expression is string, int is wanted"}},
		{"a wrong type of a literal", func(t *testing.T) []*pb.Step {
			return []*pb.Step{step(t, "w", "file.write", map[string]any{"device": "/dev/vda1", "path": "/x", "content": "", "mode": 420})}
		}, []string{"spec.steps[0].with.mode@0: int is given, string is wanted; put it in quotes"}},
		{"types that don't go together", func(t *testing.T) []*pb.Step {
			s := step(t, "n", "noop", nil)
			s.If = `inputs.image == inputs.count`
			return []*pb.Step{s}
		}, []string{`spec.steps[0].if@13: "==" can't be used with (string, int)`}},
		{"an if that is no bool", func(t *testing.T) []*pb.Step {
			s := step(t, "n", "noop", nil)
			s.If = `${{ inputs.image }}`
			return []*pb.Step{s}
		}, []string{"spec.steps[0].if@3: the expression is string, an if wants bool"}},
		{"an unknown action and an unknown with at once", func(t *testing.T) []*pb.Step {
			return []*pb.Step{step(t, "n", "nop", nil), step(t, "m", "noop", map[string]any{"x": 1})}
		}, []string{`spec.steps[0].uses@0: there is no action "nop"; the actions are ` + strings.Join(action.Names(), ", "),
			`spec.steps[1].with.x@0: noop has no input "x"; it has none`}},
		{"missing inputs", func(t *testing.T) []*pb.Step {
			return []*pb.Step{step(t, "w", "image.write", nil)}
		}, []string{"spec.steps[0].with.disk@0: image.write needs this input: Disk to write to.", "spec.steps[0].with@0: image.write needs one of image or url"}},
		{"two inputs of which one will do", func(t *testing.T) []*pb.Step {
			return []*pb.Step{step(t, "w", "disk.wipe", map[string]any{"disk": "/dev/vda", "disks": []any{"/dev/vdb"}})}
		}, []string{"spec.steps[0].with.disks@0: disk.wipe takes only one of disk or disks"}},
		{"a key deep in a list", func(t *testing.T) []*pb.Step {
			return []*pb.Step{step(t, "p", "disk.partition", map[string]any{"disk": "/dev/vda", "partitions": []any{map[string]any{"name": "a", "size": "1GiB"}, map[string]any{"sise": "1GB"}}})}
		}, []string{`spec.steps[0].with.partitions[1].sise@0: there is no "sise" here; there are name, size, type, label, uuid, bootable`}},
		{"a size that is none", func(t *testing.T) []*pb.Step {
			return []*pb.Step{step(t, "d", "disk.select", map[string]any{"min_size": "20 gigs"})}
		}, []string{`spec.steps[0].with.min_size@0: "20 gigs" is not a size such as 20GB, 512MiB or 4096`}},
		{"a hint with a mistake", func(t *testing.T) []*pb.Step {
			return []*pb.Step{step(t, "d", "disk.select", map[string]any{"hint": `disk.sise > 100*GB`})}
		}, []string{`spec.steps[0].with.hint@4: disk has no field "sise"; there are bus, by_id, discard, firmware_version, logical_block_size, model, name, path, pci_address, physical_block_size, read_only, removable, rotational, serial, size, size_bytes, smart, type, vendor, wwn`}},
		{"a value that is not one of the allowed", func(t *testing.T) []*pb.Step {
			return []*pb.Step{step(t, "d", "machine.reboot", map[string]any{"boot": "bios"})}
		}, []string{`spec.steps[0].with.boot@0: "bios" is not one of agent or disk`}},
		{"a list in a text", func(t *testing.T) []*pb.Step {
			s := step(t, "c", "command", map[string]any{"command": []any{"echo", "all ${{ machine.addresses }}"}})
			return []*pb.Step{s}
		}, []string{"spec.steps[0].with.command[1]@7: the expression is list(string), which can't stand in a text; use toJSON() or join()"}},
		{"an expression without end", func(t *testing.T) []*pb.Step {
			return []*pb.Step{step(t, "c", "command", map[string]any{"command": []any{"${{ 'a }}' "}})}
		}, []string{"spec.steps[0].with.command[0]@0: this ${{ has no }}; to write ${{ itself, double the dollar: $${{"}},
		{"a syntax error after characters of several bytes", func(t *testing.T) []*pb.Step {
			s := step(t, "n", "noop", nil)
			s.If = `${{ "äöü" == inputs.image && }}`
			return []*pb.Step{s}
		}, []string{`spec.steps[0].if@32: syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}`}},
		{"all secrets at once", func(t *testing.T) []*pb.Step {
			return []*pb.Step{step(t, "c", "command", map[string]any{"command": []any{"${{ toJSON(secrets) }}"}})}
		}, []string{`spec.steps[0].with.command[0]@11: say which secret, as in secrets.NAME.KEY or secrets["NAME"].KEY`}},
		{"a container without an image, an image without a container", func(t *testing.T) []*pb.Step {
			n := step(t, "n", "noop", nil)
			n.Image = "x"
			n.Env = map[string]string{"A": "b"}
			return []*pb.Step{step(t, "c", "container", nil), n}
		}, []string{"spec.steps[0].image@0: a container step needs an image", "spec.steps[1].image@0: image is for container steps; noop takes its inputs in with", "spec.steps[1].env@0: noop takes no env"}},
		{"failure outside on_failure", func(t *testing.T) []*pb.Step {
			return []*pb.Step{step(t, "c", "command", map[string]any{"command": []any{"${{ failures.error }}"}})}
		}, []string{`spec.steps[0].with.command[0]@4: there is no variable or function "failures"`}},
		{"names with dashes and everything that is right", func(t *testing.T) []*pb.Step {
			d := step(t, "my-disk", "disk.select", map[string]any{"hint": `disk.type == "nvme" && disk.size > 100*GB`, "min_size": "${{ 20*GB }}"})
			w := step(t, "", "image.write", map[string]any{"image": "${{ inputs.image }}", "disk": "${{ steps.`my-disk`.outputs.path }}"})
			w.If = "inputs.`wipe-first` && machine.labels.rack == 'r1' && machine.inventory.memory.usable_bytes / 2 > 4*GiB"
			f := step(t, "f", "file.write", map[string]any{"disk": "${{ steps.image_write_2.outputs.disk }}", "partition": "${{ images[inputs.image].root_partition }}", "path": "/etc/x", "content": "$${{ ${{ secrets.web.key }} ${{ secrets['other-one'].pw }}", "uid": "${{ inputs.count }}"})
			return []*pb.Step{d, w, f}
		}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := problems(t, &pb.TemplateSpec{Inputs: inputs, Steps: tt.steps(t)})
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCheck_OnFailure(t *testing.T) {
	spec := func(guard string) *pb.TemplateSpec {
		c := step(t, "c", "command", map[string]any{"command": []any{"wipe", "${{ steps.disk.outputs.path }}", "${{ failure.step }}: ${{ failure.error }}"}})
		c.If = guard
		return &pb.TemplateSpec{Steps: []*pb.Step{step(t, "disk", "disk.select", nil)}, OnFailure: []*pb.Step{c}}
	}
	t.Run("outputs of the steps are not certain", func(t *testing.T) {
		want := []string{"spec.on_failure[0].with.command[1]@4: step \"disk\" may not have run when on_failure runs; put `if: has(steps.disk.outputs)` on this step"}
		if diff := cmp.Diff(want, problems(t, spec(""))); diff != "" {
			t.Errorf("problems (-want +got):\n%s", diff)
		}
	})
	t.Run("has() makes them certain", func(t *testing.T) {
		for _, guard := range []string{"has(steps.disk.outputs)", "${{ has(steps.disk.outputs.path) }}"} {
			if got := problems(t, spec(guard)); got != nil {
				t.Errorf("%s: %q", guard, got)
			}
		}
	})
}

func bound(t *testing.T, spec *pb.TemplateSpec, p *pb.Plan) (*Bound, *plan.Run) {
	t.Helper()
	tmpl, err := Compile(spec)
	if err != nil {
		t.Fatal(err)
	}
	return tmpl.Bind(p), plan.New(tmpl.Graph(), 1)
}

func succeed(t *testing.T, run *plan.Run, id string, outputs map[string]any) {
	t.Helper()
	c := run.Start(id)
	if err := run.Apply(c, "b1", now); err != nil {
		t.Fatal(err)
	}
	values := map[string]*structpb.Value{}
	for k, v := range outputs {
		values[k] = mustValue(t, v)
	}
	if err := run.Apply(&pb.StepChange{Step: id, State: pb.StepState_STEP_SUCCEEDED, Attempt: c.Attempt, Outputs: values}, "b1", now); err != nil {
		t.Fatal(err)
	}
}

func TestBound_Call(t *testing.T) {
	machine := &pb.Machine{
		Metadata: &pb.Metadata{Name: "web-1", Labels: map[string]string{"rack": "r1"}},
		Spec:     &pb.MachineSpec{Hostname: "web"},
		Status:   &pb.MachineStatus{State: pb.MachineState_AVAILABLE, Inventory: &pb.Inventory{Memory: &pb.Memory{UsableBytes: 8 << 30}, Disks: []*pb.Disk{{Name: "vda", SizeBytes: 20e9}}}},
	}
	facts, err := MachineFacts(machine)
	if err != nil {
		t.Fatal(err)
	}
	instance, err := InstanceFacts(&pb.Instance{Metadata: &pb.Metadata{Name: "i"}, Spec: &pb.InstanceSpec{SshKeys: []string{"k1", "k2"}, UserData: "#cloud-config"}})
	if err != nil {
		t.Fatal(err)
	}
	images, err := structpb.NewStruct(map[string]any{"debian": map[string]any{"digest": "sha256:aa", "root_partition": 3}})
	if err != nil {
		t.Fatal(err)
	}
	spec := &pb.TemplateSpec{
		Inputs: map[string]*pb.Input{"image": {}, "n": {Type: "int"}, "tags": {Type: "list"}, "unset": {}},
		Steps: []*pb.Step{
			step(t, "disk", "disk.select", map[string]any{"min_size": "20GB"}),
			{Id: "skip", Uses: "inventory", If: `machine.labels.burnin == "true"`},
			{Id: "c", Uses: "container", Image: "reg/${{ inputs.image }}:1", Args: []string{"--n=${{ inputs.n + 1 }}", "${{ machine.spec.hostname }}", "$${{ x }}"},
				Env: map[string]string{"PW": "${{ secrets.db.password }}", "KEYS": "${{ instance.spec.ssh_keys.join(',') }}"},
				With: map[string]*structpb.Value{
					"privileged": mustValue(t, "${{ machine.inventory.disks.exists(d, d.size_bytes > 10*GB) && !has(steps.skip.outputs) }}"),
					"mounts":     mustValue(t, []any{map[string]any{"source": "${{ steps.disk.outputs.path }}", "target": "/d", "read_only": true}}),
				}},
			step(t, "f", "file.write", map[string]any{"disk": "${{ steps.disk.outputs.path }}", "partition": "${{ images[inputs.image].root_partition }}", "path": "/x", "content": "${{ toJSON({'t': inputs.tags, 'size': steps.disk.outputs.size, 'u': inputs.unset, 'l': machine.labels}) }}"}),
			step(t, "bad", "file.write", map[string]any{"disk": "${{ steps.skip.outputs.disks > 0 ? 'a' : 'b' }}", "path": "/x", "content": "${{ secrets.other.key }}"}),
		},
	}
	b, run := bound(t, spec, &pb.Plan{
		Machine: facts, Instance: instance, Images: images,
		Inputs:  map[string]*structpb.Value{"image": mustValue(t, "debian"), "n": mustValue(t, 4), "tags": mustValue(t, []any{"a", 1})},
		Secrets: map[string]*pb.SecretValues{"db": {Data: map[string]string{"password": "hunter2"}}},
	})
	ctx := context.Background()
	call, err := b.Call(ctx, "disk", run)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]any{"min_size": int64(20e9)}, call.With); diff != "" {
		t.Errorf("disk (-want +got):\n%s", diff)
	}
	succeed(t, run, "disk", map[string]any{"path": "/dev/vda", "size": 20e9})
	if yes, err := b.If(ctx, "skip", run); yes || err != nil {
		t.Errorf("an absent label made if %v, %v", yes, err)
	}
	if err := run.Apply(&pb.StepChange{Step: "skip", State: pb.StepState_STEP_SKIPPED}, "b1", now); err != nil {
		t.Fatal(err)
	}
	call, err = b.Call(ctx, "c", run)
	if err != nil {
		t.Fatal(err)
	}
	want := Call{
		With:  map[string]any{"privileged": true, "mounts": []any{map[string]any{"source": "/dev/vda", "target": "/d", "read_only": true}}},
		Env:   map[string]string{"PW": "hunter2", "KEYS": "k1,k2"},
		Image: "reg/debian:1", Args: []string{"--n=5", "web", "${{ x }}"},
	}
	if diff := cmp.Diff(want, call); diff != "" {
		t.Errorf("c (-want +got):\n%s", diff)
	}
	call, err = b.Call(ctx, "f", run)
	if err != nil {
		t.Fatal(err)
	}
	wantWith := map[string]any{"disk": "/dev/vda", "partition": int64(3), "path": "/x", "content": `{"l":{"rack":"r1"},"size":20000000000,"t":["a",1],"u":""}`}
	if diff := cmp.Diff(wantWith, call.With); diff != "" {
		t.Errorf("f (-want +got):\n%s", diff)
	}
	_, err = b.Call(ctx, "bad", run)
	for _, text := range []string{`evaluating with.disk: step "skip" has no outputs: it was skipped or has not succeeded`, "evaluating with.content: no such key: other"} {
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("bad: %v; want %q in it", err, text)
		}
	}
}

func TestBound_WithInventory(t *testing.T) {
	spec := &pb.TemplateSpec{Steps: []*pb.Step{step(t, "w", "disk.wipe", map[string]any{"disks": "${{ machine.inventory.disks.filter(d, d.size_bytes > 1*GB).map(d, d.path) }}"})}}
	facts, err := MachineFacts(&pb.Machine{Metadata: &pb.Metadata{Name: "m"}})
	if err != nil {
		t.Fatal(err)
	}
	b, run := bound(t, spec, &pb.Plan{Machine: facts})
	for _, want := range [][]any{{}, {"/dev/vda"}} {
		call, err := b.Call(context.Background(), "w", run)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(map[string]any{"disks": want}, call.With); diff != "" {
			t.Errorf("with (-want +got):\n%s", diff)
		}
		b = b.WithInventory(&pb.Inventory{Disks: []*pb.Disk{{Path: "/dev/vda", SizeBytes: 2e9}, {Path: "/dev/vdb", SizeBytes: 1e6}}})
	}
}

func TestSelector(t *testing.T) {
	m := &pb.Machine{Metadata: &pb.Metadata{Name: "a", Labels: map[string]string{"rack": "r1"}}, Status: &pb.MachineStatus{Inventory: &pb.Inventory{Memory: &pb.Memory{UsableBytes: 70e9}}}}
	for text, want := range map[string]bool{
		`machine.labels.rack == "r1" && machine.inventory.memory.usable_bytes > 64*GB`: true,
		`machine.labels.zone == "a"`:                                false,
		`has(machine.labels.zone)`:                                  false,
		`"rack" in machine.labels`:                                  true,
		`machine.inventory.tpm.present`:                             false,
		`machine.inventory.disks.exists(disk, disk.size_bytes > 1)`: false,
	} {
		got, err := EvalSelector(context.Background(), text, m)
		if err != nil || got != want {
			t.Errorf("%s: %v, %v; want %v", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		`machine.label.rack == "r1"`: `machine has no field "label"; there are addresses, annotations, bmc, inventory, labels, name, spec, state, uid, warm`,
		`machine.name`:               "the expression is string, bool is wanted",
		``:                           "the expression is empty",
		`secrets.a.b == ""`:          `there is no variable or function "secrets"`,
	} {
		if err := CheckSelector(text); err == nil || err.Error() != want {
			t.Errorf("%s: %v; want %s", text, err, want)
		}
	}
	d := &pb.Disk{Name: "nvme0n1", Type: "nvme", SizeBytes: 120e9}
	if ok, err := EvalDiskHint(context.Background(), `disk.size > 100*GB && disk.type == "nvme" && !disk.rotational`, d); !ok || err != nil {
		t.Errorf("hint: %v, %v", ok, err)
	}
	t.Run("cost is bounded", func(t *testing.T) {
		long := `[1,2,3,4,5,6,7,8,9,10].all(a, [1,2,3,4,5,6,7,8,9,10].all(b, [1,2,3,4,5,6,7,8,9,10].all(c, [1,2,3,4,5,6,7,8,9,10].all(d, [1,2,3,4,5,6,7,8,9,10].all(e, [1,2,3,4,5,6,7,8,9,10].all(f, disk.size + a + b + c + d + e + f > 0))))))`
		if _, err := EvalDiskHint(context.Background(), long, d); err == nil {
			t.Error("a million rounds were evaluated")
		}
	})
}

func TestInputs(t *testing.T) {
	spec := &pb.TemplateSpec{Inputs: map[string]*pb.Input{
		"image": {Required: true, Description: "Name of the image."}, "n": {Type: "int", Default: mustValue(t, 3)}, "list": {Type: "list"},
	}}
	t.Run("defaults are filled in", func(t *testing.T) {
		got, err := Inputs(spec, map[string]*structpb.Value{"image": mustValue(t, "debian")})
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != 2 || got["n"].GetNumberValue() != 3 {
			t.Errorf("got %v", got)
		}
	})
	t.Run("every mistake is named", func(t *testing.T) {
		_, err := Inputs(spec, map[string]*structpb.Value{"n": mustValue(t, 1.5), "list": mustValue(t, "x"), "more": mustValue(t, 1)})
		want := "spec.inputs.list: text is given, list is wanted\nspec.inputs.more: the template has no input \"more\"; there are image, list, n\nspec.inputs.n: double is given, int is wanted\nspec.inputs.image: the template needs this input: Name of the image."
		if err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	})
}

func FuzzSplit(f *testing.F) {
	for _, s := range []string{"", "${{ a }}", "x$${{ y }} ${{ {'a': {'b': 1}} }}", "${{ '}}' }}", "${{ r'\\' }}", "${{ \"\"\" \" }} \"\"\" }}", "${{", "$$${{a}}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		parts, err := split(s)
		if err != nil {
			return
		}
		for _, p := range parts {
			if p.offset < 0 || p.offset+len(p.text) > len(s) && p.expr {
				t.Fatalf("part %+v is outside of %q", p, s)
			}
			if p.expr && s[p.offset:p.offset+len(p.text)] != p.text {
				t.Fatalf("part %+v isn't what %q has there", p, s)
			}
		}
	})
}

func FuzzCompile(f *testing.F) {
	for _, s := range []string{"${{ inputs.a }}", "${{ machine.labels['a-b'] + 1 }}", "${{ steps.x.outputs.path.size() > 3 ? [1] : [] }}", "${{ secrets.a.b }}${{ images }}", "${{ {1: {2: 3}} }}", "${{ machine.inventory.disks.map(d, d.name) }}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		spec := &pb.TemplateSpec{Inputs: map[string]*pb.Input{"a": {}}, Steps: []*pb.Step{
			{Id: "x", Uses: "disk.select"},
			{Id: "c", Uses: "container", Image: "i", Args: []string{s}, If: s},
		}}
		tmpl, err := Compile(spec)
		var list plan.Problems
		if errors.As(err, &list) {
			for _, p := range list {
				if p.Offset < 0 || p.Offset > len(s) {
					t.Fatalf("%+v points outside of %q", p, s)
				}
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		run := plan.New(tmpl.Graph(), 1)
		b := tmpl.Bind(&pb.Plan{})
		_, _ = b.Call(context.Background(), "c", run)
		_, _ = b.If(context.Background(), "c", run)
	})
}
