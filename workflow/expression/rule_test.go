package expression

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

func discovered() *pb.Machine {
	return &pb.Machine{
		Metadata: &pb.Metadata{Name: "m-525400770009", Labels: map[string]string{"seen": "yes"}},
		Spec:     &pb.MachineSpec{Interfaces: []*pb.Interface{{Mac: "52:54:00:77:00:09"}}},
		Status: &pb.MachineStatus{Inventory: &pb.Inventory{
			System: &pb.System{Manufacturer: "Dell Inc.", Product: "PowerEdge R650", Serial: "7XK2LM3"},
			Memory: &pb.Memory{InstalledBytes: 256 << 30},
			Nics:   []*pb.NIC{{Name: "eno1", Lldp: &pb.LLDPNeighbour{SystemName: "leaf-12.dc1.example.net", PortId: "Ethernet7"}}},
			Disks:  []*pb.Disk{{Type: "nvme", SizeBytes: 1 << 40}},
		}},
	}
}

func TestCheckRule(t *testing.T) {
	for _, tt := range []struct {
		name string
		spec *pb.RuleSpec
		want string
	}{
		{"what is right", &pb.RuleSpec{
			Match:  `machine.inventory.system.product.contains("R650") && machine.inventory.memory.installed_bytes >= 128*GiB`,
			Name:   `"node-" + machine.inventory.system.serial.lowerAscii()`,
			Rack:   `machine.inventory.nics[0].lldp.system_name.split(".")[0]`,
			Labels: map[string]string{"vendor": `machine.inventory.system.manufacturer`},
		}, ""},
		{"an empty rule", &pb.RuleSpec{}, ""},
		{"a field that isn't there", &pb.RuleSpec{Match: `machine.inventory.sytem.product == "x"`},
			`spec.match: character 18: machine.inventory has no field "sytem"`},
		{"a place on a later line", &pb.RuleSpec{Match: "true &&\n  machine.stat == 'x'"},
			`spec.match: line 2, character 10: machine has no field "stat"`},
		{"a match that is text", &pb.RuleSpec{Match: `"yes"`}, `spec.match: character 1: the expression is string, bool is wanted`},
		{"a name that is a number", &pb.RuleSpec{Name: `machine.inventory.disks.size()`},
			`spec.name: character 1: the expression is int, string is wanted; string() makes one of it`},
		{"a label without its quotes", &pb.RuleSpec{Labels: map[string]string{"role": "worker"}},
			`spec.labels.role: character 1: there is no variable or function "worker"`},
		{"an empty label", &pb.RuleSpec{Labels: map[string]string{"a/b": ""}}, `spec.labels["a/b"]: missing`},
		{"a syntax error", &pb.RuleSpec{Match: `machine.name ==`}, `spec.match: character 16: syntax error`},
		{"several at once", &pb.RuleSpec{Match: "nope", Rack: "1"}, "\nspec.rack: character 1: the expression is int"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := CheckRule(tt.spec)
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error is\n%v\nwant in it\n%s", err, tt.want)
			}
		})
	}
}

func TestRuleEvaluator(t *testing.T) {
	var r RuleEvaluator
	for _, tt := range []struct{ text, want string }{
		{`"node-" + machine.inventory.system.serial.lowerAscii()`, "node-7xk2lm3"},
		{`machine.inventory.nics[0].lldp.system_name.split(".")[0]`, "leaf-12"},
		{`machine.spec.interfaces[0].mac.replace(":", "")`, "525400770009"},
		{`machine.spec.interfaces[0].mac.replace(":", "-", 2)`, "52-54-00:77:00:09"},
		{`machine.inventory.system.serial.substring(3)`, "2LM3"},
		{`["a", machine.name].join("-")`, "a-m-525400770009"},
		{`["a", "b"].join()`, "ab"},
		{`machine.labels.absent`, ""},
		{`machine.inventory.bmc.address`, ""},
	} {
		got, err := r.Text(tt.text, discovered())
		if err != nil || got != tt.want {
			t.Errorf("%s: %q, %v; want %q", tt.text, got, err, tt.want)
		}
	}
	t.Run("matches are yes or no", func(t *testing.T) {
		got := map[string]bool{}
		for _, text := range []string{"", `machine.inventory.disks.exists(d, d.type == "nvme")`, `machine.inventory.memory.installed_bytes > 1*TiB`} {
			yes, err := r.Match(text, discovered())
			if err != nil {
				t.Fatal(err)
			}
			got[text] = yes
		}
		want := map[string]bool{"": true, `machine.inventory.disks.exists(d, d.type == "nvme")`: true, `machine.inventory.memory.installed_bytes > 1*TiB`: false}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
	t.Run("what isn't there is an error", func(t *testing.T) {
		if _, err := r.Text(`machine.inventory.nics[4].name`, discovered()); err == nil {
			t.Error("no error")
		}
	})
	t.Run("an expression that is used as both is told apart", func(t *testing.T) {
		if _, err := r.Match(`machine.name`, discovered()); err == nil {
			t.Error("text is taken for yes")
		}
	})
}

// A rule must not take the server down, whatever the machine says of itself.
func TestRuleEvaluator_Bounds(t *testing.T) {
	var r RuleEvaluator
	m := discovered()
	m.Status.Inventory.System.Serial = strings.Repeat("a", 1<<20)
	t.Run("texts are cut", func(t *testing.T) {
		got, err := r.Text(`machine.inventory.system.serial`, m)
		if err != nil || len(got) != maxRuleText {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	})
	grow := `machine.inventory.system.serial`
	for range 20 {
		grow += `.replace("a", "aaaaaaaaaaaaaaaa")`
	}
	for what, text := range map[string]string{
		"replace":          grow,
		"replace of empty": strings.ReplaceAll(grow, `"a", `, `"", `),
		"join":             `machine.inventory.system.serial.split("").join(machine.inventory.system.serial)`,
		"loops":            `machine.inventory.system.serial.split("").all(a, machine.inventory.system.serial.split("").all(b, machine.inventory.system.serial.split("").all(c, a == b && b == c))) ? "y" : "n"`,
	} {
		t.Run(what+" ends in an error", func(t *testing.T) {
			if got, err := r.Text(text, m); err == nil {
				t.Errorf("%d bytes", len(got))
			}
		})
	}
	t.Run("code that is kept is bounded", func(t *testing.T) {
		for i := range maxRuleCode + 10 {
			if _, err := r.Text(`"`+strings.Repeat("x", i+1)+`"`, m); err != nil {
				t.Fatal(err)
			}
		}
		if len(r.code) > maxRuleCode {
			t.Errorf("%d are kept", len(r.code))
		}
	})
}

func FuzzCheckRule(f *testing.F) {
	for _, s := range []string{"", "true", `machine.name`, `"node-" + machine.inventory.system.serial.lowerAscii()`, `machine.inventory.disks.exists(d, d.size_bytes > 1*TB)`, "machine.labels[\"x\"].replace('a', 'b')", "\xff", "machine\n.nope"} {
		f.Add(s)
	}
	var r RuleEvaluator
	f.Fuzz(func(t *testing.T, text string) {
		bad := CheckRule(&pb.RuleSpec{Name: text})
		got, err := r.Text(text, discovered())
		if text != "" && bad != nil && err == nil {
			t.Errorf("refused, but evaluates to %q: %v", got, bad)
		}
	})
}
