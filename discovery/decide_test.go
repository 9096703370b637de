package discovery

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// words is an Evaluator for rules whose expressions are plain words: `yes`,
// `no`, `fail`, or `=` and a text.
type words struct{}

func (words) Match(expression string, _ *pb.Machine) (bool, error) {
	switch expression {
	case "", "yes":
		return true, nil
	case "no":
		return false, nil
	}
	return false, errors.New("index out of bounds: 3")
}

func (words) Text(expression string, _ *pb.Machine) (string, error) {
	text, ok := strings.CutPrefix(expression, "=")
	if !ok {
		return "", errors.New("no such key")
	}
	return text, nil
}

func rule(name string, priority int32, spec *pb.RuleSpec) *pb.Rule {
	spec.Priority = priority
	return &pb.Rule{Metadata: &pb.Metadata{Name: name}, Spec: spec}
}

func stranger() *pb.Machine {
	return &pb.Machine{Metadata: &pb.Metadata{Name: "m-525400770009"}, Status: &pb.MachineStatus{Inventory: &pb.Inventory{
		Bmc: &pb.BMCInfo{Present: true, Address: "10.0.0.9"},
	}}}
}

func TestDecide(t *testing.T) {
	all := &pb.RuleSpec{
		Action: "accept", Name: "=Node 7XK2", Pool: "compute", Rack: "=leaf-12\n",
		Labels: map[string]string{"vendor": "=Dell Inc., (US)", "empty": "= "},
		Bmc:    &pb.BMC{Username: "root", PasswordSecret: "bmcs"},
	}
	for _, tt := range []struct {
		name  string
		rules []*pb.Rule
		want  Decision
		err   string
	}{
		{"without rules a person decides", nil, Decision{Action: None, Reason: "no rule matches it"}, ""},
		{"a rule that doesn't match is passed over", []*pb.Rule{rule("a", 9, &pb.RuleSpec{Match: "no", Action: "refuse"})}, Decision{Action: None, Reason: "no rule matches it"}, ""},
		{"what is accepted gets all that the rule gives", []*pb.Rule{rule("a", 0, all)}, Decision{
			Action: Accept, Rule: "a", Reason: "rule/a accepts it", Name: "node-7xk2", Pool: "compute", Rack: "leaf-12",
			Labels: map[string]string{"vendor": "Dell_Inc.___US_"},
			BMC:    &pb.BMC{Address: "10.0.0.9", Username: "root", PasswordSecret: "bmcs"},
		}, ""},
		{"the highest priority decides", []*pb.Rule{
			rule("a", 1, &pb.RuleSpec{Action: "accept"}), rule("b", 2, &pb.RuleSpec{Action: "refuse", Reason: "no GPUs here"}),
		}, Decision{Action: Refuse, Rule: "b", Reason: "no GPUs here"}, ""},
		{"of equals the first by name", []*pb.Rule{
			rule("b", 1, &pb.RuleSpec{Action: "accept"}), rule("a", 1, &pb.RuleSpec{Action: "refuse"}),
		}, Decision{Action: Refuse, Rule: "a", Reason: "rule/a refuses it"}, ""},
		{"a rule that can't be evaluated holds up those below it", []*pb.Rule{
			rule("a", 2, &pb.RuleSpec{Match: "fail", Action: "refuse"}), rule("b", 1, &pb.RuleSpec{Action: "accept"}),
		}, Decision{
			Action: None, Rule: "a", Reason: "rule/a can't be evaluated on it: spec.match: index out of bounds: 3",
			Errors: map[string]string{"a": "spec.match: index out of bounds: 3"},
		}, "rule/a: spec.match: index out of bounds: 3"},
		{"but not those above it", []*pb.Rule{
			rule("a", 1, &pb.RuleSpec{Match: "fail", Action: "refuse"}), rule("b", 2, &pb.RuleSpec{Action: "accept"}),
		}, Decision{Action: Accept, Rule: "b", Reason: "rule/b accepts it"}, ""},
		{"a name that can't be made accepts nothing", []*pb.Rule{rule("a", 0, &pb.RuleSpec{Action: "accept", Name: "=node-"})}, Decision{
			Action: None, Rule: "a",
			Reason: `rule/a can't be evaluated on it: spec.name: "node-" can't be a name: a part that it is made of is empty on this machine`,
			Errors: map[string]string{"a": `spec.name: "node-" can't be a name: a part that it is made of is empty on this machine`},
		}, "rule/a: spec.name"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Decide(tt.rules, stranger(), words{})
			if diff := cmp.Diff(tt.want, got, protocmp.Transform()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if (err != nil) != (tt.err != "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("err = %v, want %q", err, tt.err)
			}
		})
	}
	t.Run("a machine whose BMC isn't known gets none", func(t *testing.T) {
		m := stranger()
		m.Status.Inventory.Bmc = nil
		got, _ := Decide([]*pb.Rule{rule("a", 0, all)}, m, words{})
		if got.BMC != nil {
			t.Errorf("BMC = %v", got.BMC)
		}
	})
	t.Run("the rules keep their order", func(t *testing.T) {
		rules := []*pb.Rule{rule("a", 1, &pb.RuleSpec{Match: "no"}), rule("b", 2, &pb.RuleSpec{Match: "no"})}
		if _, err := Decide(rules, stranger(), words{}); err != nil || rules[0].GetMetadata().GetName() != "a" {
			t.Errorf("%v, %v", rules, err)
		}
	})
}

func TestName(t *testing.T) {
	for in, want := range map[string]string{
		"node-7XK2LM3": "node-7xk2lm3", "  Web 1  ": "web-1", "rack/3: U12": "rack-3-u12", "a--b__c": "a-b-c",
		"host.example.net": "host.example.net", "ÄB": "b", "x" + strings.Repeat("y", 62): "x" + strings.Repeat("y", 62),
		"": "", " ": "", "-": "", "node-": "", "-7": "", "a.": "", "a..b": "", "///": "", "x" + strings.Repeat("y", 63): "",
		strings.Repeat("abcdefg.", 40) + "z": "",
	} {
		got, err := Name(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("Name(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
}

func FuzzName(f *testing.F) {
	for _, s := range []string{"node-7XK2", "a..b", "\xff\xfe", "日本", "a.-b", strings.Repeat("a", 300)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		name, err := Name(text)
		if err != nil {
			return
		}
		if again, err := Name(name); err != nil || again != name {
			t.Errorf("%q becomes %q, and that %q, %v", text, name, again, err)
		}
		d, _ := Decide([]*pb.Rule{rule("a", 0, &pb.RuleSpec{Action: "accept", Rack: "=" + text, Labels: map[string]string{"k": "=" + text}})}, stranger(), words{})
		if len(d.Rack) > 4*maxRack || len(d.Labels["k"]) > maxLabel {
			t.Errorf("%s", fmt.Sprint(d))
		}
	})
}

func TestUnseen(t *testing.T) {
	rule := func(name string, priority int32, match string) *pb.Rule {
		return &pb.Rule{Metadata: &pb.Metadata{Name: name}, Spec: &pb.RuleSpec{Priority: priority, Match: match}}
	}
	rules := []*pb.Rule{
		rule("others", 0, ""),
		rule("r650", 5, `machine.inventory.system.product == "R650"`),
		rule("pdus", 9, `machine.bmc.mac.startsWith("00:c0:b7")`),
		rule("vendor", 7, `machine.bmc.vendor != "Dell"`),
	}
	for name, tt := range map[string]struct {
		known []string
		want  []string
	}{
		"only those before the first that looks at more": {[]string{"machine.bmc.mac"}, []string{"pdus"}},
		"more where more is known":                       {[]string{"machine.bmc.mac", "machine.bmc.vendor"}, []string{"pdus", "vendor"}},
		"none where nothing is":                          {nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, r := range Unseen(rules, tt.known...) {
				got = append(got, r.GetMetadata().GetName())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
