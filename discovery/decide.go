// Package discovery decides what becomes of machines that made themselves
// known: which Rule holds for one, and what that makes of it. It does no I/O
// but Rename's, which moves a machine to another name in one transaction.
//
// Evaluating expressions is an Evaluator's business, so that this package
// knows nothing of their language. What an expression makes of a machine's own
// words (its serial number, its switch's name) is made fit for where it goes,
// or refused: a machine says of itself what it likes.
package discovery

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"

	"google.golang.org/protobuf/proto"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
)

// Evaluator evaluates the expressions of rules. It bounds what they cost.
type Evaluator interface {
	// Match reports whether an expression says yes to m. The empty one does.
	Match(expression string, m *pb.Machine) (bool, error)
	// Text returns the text that an expression makes of m.
	Text(expression string, m *pb.Machine) (string, error)
}

// Action is what becomes of a machine.
type Action string

// The actions.
const (
	// None: no rule holds for it, or one couldn't be evaluated. A person decides.
	None   Action = "none"
	Accept Action = "accept"
	Refuse Action = "refuse"
)

// Decision is what the rules make of one machine.
type Decision struct {
	Action Action
	// Rule is the name of the one that decided; with None, of the one that
	// couldn't be evaluated, if it was that.
	Rule string
	// Reason is for people, in one sentence.
	Reason string
	// Name is a valid resource name; empty: it keeps its own. Whether another
	// machine has it is the caller's to find out.
	Name string
	// Labels to add to the machine's own.
	Labels map[string]string
	Pool   string
	Rack   string
	// BMC is the rule's access with the address that the machine's inventory
	// has; nil where either is missing.
	BMC *pb.BMC
	// Errors says why rules couldn't be evaluated, by their names.
	Errors map[string]string
}

// Decide returns what the rules make of m: the one with the highest priority
// that matches decides, of equals the first by name. A rule that can't be
// evaluated on m holds up the decision, also of the rules below it: nothing
// else would keep a machine out that a broken rule was to refuse. The error
// then says which and why, as Errors and Reason do.
func Decide(rules []*pb.Rule, m *pb.Machine, eval Evaluator) (Decision, error) {
	for _, r := range ordered(rules) {
		yes, err := eval.Match(r.GetSpec().GetMatch(), m)
		if err != nil {
			return failed(r, "spec.match", err)
		}
		if yes {
			return apply(r, m, eval)
		}
	}
	return Decision{Action: None, Reason: "no rule matches it"}, nil
}

// ordered returns the rules in the order in which they are asked.
func ordered(rules []*pb.Rule) []*pb.Rule {
	rules = slices.Clone(rules)
	slices.SortFunc(rules, func(a, b *pb.Rule) int {
		return cmp.Or(cmp.Compare(b.GetSpec().GetPriority(), a.GetSpec().GetPriority()), cmp.Compare(a.GetMetadata().GetName(), b.GetMetadata().GetName()))
	})
	return rules
}

// Unseen returns the rules that decide first, up to the first one whose match
// looks at more of a machine than the fields that are known, such as
// machine.bmc.address: these can decide on a machine that hasn't been asked.
func Unseen(rules []*pb.Rule, known ...string) []*pb.Rule {
	rules = ordered(rules)
	for i, r := range rules {
		match := r.GetSpec().GetMatch()
		for _, field := range known {
			match = strings.ReplaceAll(match, field, "")
		}
		if strings.Contains(match, "machine") {
			return rules[:i]
		}
	}
	return rules
}

// failed is the decision when a rule could not be evaluated.
func failed(r *pb.Rule, field string, err error) (Decision, error) {
	name := r.GetMetadata().GetName()
	text := cut(fmt.Sprintf("%s: %v", field, err), maxReason)
	reason := fmt.Sprintf("rule/%s can't be evaluated on it: %s", name, text)
	return Decision{Action: None, Rule: name, Reason: reason, Errors: map[string]string{name: text}}, fmt.Errorf("rule/%s: %s: %w", name, field, err)
}

// apply works out what the rule that matched makes of m.
func apply(r *pb.Rule, m *pb.Machine, eval Evaluator) (Decision, error) {
	spec, name := r.GetSpec(), r.GetMetadata().GetName()
	if spec.GetAction() == string(Refuse) {
		return Decision{Action: Refuse, Rule: name, Reason: cmp.Or(spec.GetReason(), "rule/"+name+" refuses it")}, nil
	}
	d := Decision{Action: Accept, Rule: name, Reason: "rule/" + name + " accepts it", Pool: spec.GetPool(), BMC: bmcOf(spec, m)}
	var err error
	if text := spec.GetName(); text != "" {
		if d.Name, err = evaluate(eval, text, m, Name); err != nil {
			return failed(r, "spec.name", err)
		}
	}
	if text := spec.GetRack(); text != "" {
		if d.Rack, err = evaluate(eval, text, m, rack); err != nil {
			return failed(r, "spec.rack", err)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(spec.GetLabels())) {
		value, err := evaluate(eval, spec.GetLabels()[key], m, labelValue)
		if err != nil {
			return failed(r, "spec.labels."+key, err)
		}
		if value == "" {
			continue
		}
		if d.Labels == nil {
			d.Labels = map[string]string{}
		}
		d.Labels[key] = value
	}
	return d, nil
}

func evaluate(eval Evaluator, text string, m *pb.Machine, fit func(string) (string, error)) (string, error) {
	s, err := eval.Text(text, m)
	if err != nil {
		return "", err
	}
	return fit(s)
}

// bmcOf returns how the machine's BMC is reached, if its address is known.
func bmcOf(spec *pb.RuleSpec, m *pb.Machine) *pb.BMC {
	address := m.GetStatus().GetInventory().GetBmc().GetAddress()
	if spec.Bmc == nil || address == "" || address == "0.0.0.0" {
		return nil
	}
	bmc := proto.Clone(spec.GetBmc()).(*pb.BMC)
	bmc.Address = address
	return bmc
}

// Bounds of what a rule makes.
const (
	// maxName is for one DNS label, as names become host names (RFC 1035 §2.3.4).
	maxName   = 63
	maxLabel  = 253
	maxRack   = 128
	maxReason = 512
)

// Name makes a resource name of text, such as a serial number or a host name:
// in lower case, with a dash for what can't stand in a name. Text that isn't
// there at one of its ends ("node-" and nothing after it) is an error, since
// every machine without it would get the same name.
func Name(text string) (string, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return "", fmt.Errorf("it gives no name: what it is made of is empty on this machine")
	}
	if strings.ContainsAny(text[:1]+text[len(text)-1:], "-._") {
		return "", fmt.Errorf("%q can't be a name: a part that it is made of is empty on this machine", cut(text, maxName))
	}
	var out strings.Builder
	for _, c := range strings.ToLower(text) {
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '.':
			out.WriteRune(c)
		case !strings.HasSuffix(out.String(), "-"):
			out.WriteByte('-')
		}
	}
	name := strings.Trim(out.String(), "-.")
	for part := range strings.SplitSeq(name, ".") {
		if len(part) > maxName {
			return "", fmt.Errorf("%q can't be a name: it has %d characters, at most %d between dots", cut(part, maxName), len(part), maxName)
		}
		if !resource.ValidName(part) {
			return "", fmt.Errorf("%q can't be a name: between dots it needs letters or digits", cut(text, maxName))
		}
	}
	if !resource.ValidName(name) {
		return "", fmt.Errorf("%q can't be a name: it has %d characters, at most 253", cut(name, maxName), len(name))
	}
	return name, nil
}

// labelValue makes a label's value: without what selectors can't have in it.
func labelValue(text string) (string, error) {
	text = strings.TrimSpace(text)
	text = strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) || !unicode.IsPrint(r) || strings.ContainsRune(",()=!", r) {
			return '_'
		}
		return r
	}, text)
	if len(text) > maxLabel {
		return "", fmt.Errorf("the label's value has %d bytes, at most %d", len(text), maxLabel)
	}
	return text, nil
}

// rack makes the text of spec.rack.
func rack(text string) (string, error) {
	text = strings.TrimSpace(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text))
	if len(text) > maxRack {
		return "", fmt.Errorf("the rack has %d bytes, at most %d", len(text), maxRack)
	}
	return text, nil
}

// cut keeps text to n bytes.
func cut(text string, n int) string {
	if len(text) <= n {
		return text
	}
	return strings.ToValidUTF8(text[:n-len("…")], "") + "…"
}
