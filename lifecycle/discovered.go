package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/bedplate/bedplate/discovery"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/resource/claim"
	"github.com/bedplate/bedplate/store"
)

// listenTime is how long an agent may take to hear the switches at its ports:
// they speak every 30 s (802.1AB §9.2.5.7), and links come up late.
const listenTime = 90 * time.Second

// tooEarly reports whether an agent may still be listening for LLDP, and until when.
func tooEarly(m *pb.Machine, v view) (until time.Time, early bool) {
	s := m.GetStatus()
	if s.GetInventory().GetNeighboursTime() != nil || !connected(m) {
		return time.Time{}, false
	}
	until = s.GetInspectTime().AsTime().Add(listenTime)
	return until, v.now.Before(until)
}

// discovered is a machine that made itself known. Once its hardware is read
// the rules decide on it; where none does it stays apart until a person does.
func (c *Controller) discovered(m *pb.Machine, v view, s standing) decision {
	if m.GetMetadata().GetAnnotations()[AnnotationDiscovered] == FoundByBMC {
		return c.found(m, v, s)
	}
	d := apart(m, s)
	if m.GetStatus().GetInventory() == nil {
		d.nextAction, d.nextBoot = "the agent is reading its hardware", pb.NextBoot_AGENT
		return d
	}
	rules := c.ruleList()
	if at, early := tooEarly(m, v); early && wantNeighbours(rules) {
		d.nextAction, d.nextBoot, d.again = "the agent listens for the switches at its ports; then the rules decide on it", pb.NextBoot_AGENT, at
		return d
	}
	c.rule(m, m, rules, &d)
	return d
}

// rule has the rules decide on a machine by the facts, which are those of the
// machine as far as they are known.
func (c *Controller) rule(m, facts *pb.Machine, rules []*pb.Rule, d *decision) {
	r, err := c.cfg.Decide(rules, facts)
	if err != nil {
		d.cause += "; " + r.Reason
		d.noteRule(c.rules[r.Rule], func(s *pb.RuleStatus) { s.Error = "on machine/" + m.Metadata.Name + ": " + r.Errors[r.Rule] })
	}
	switch r.Action {
	case discovery.Refuse:
		d.state, d.cause = pb.MachineState_QUARANTINED, "refused by rule "+r.Rule
		if r.Reason != "" {
			d.cause += ": " + r.Reason
		}
		d.edit = also(d.edit, func(m *pb.Machine) { m.Status.Rule = r.Rule })
		if m.GetStatus().GetState() != d.state || m.GetStatus().GetRule() != r.Rule {
			d.noteRule(c.rules[r.Rule], func(s *pb.RuleStatus) { s.Refused, s.Error = s.Refused+1, "" })
		}
	case discovery.Accept:
		d.state, d.cause, d.nextAction = pb.MachineState_ENROLLED, "accepted by rule "+r.Rule, "its hardware is looked at"
		d.edit = also(d.edit, func(m *pb.Machine) { accept(m, r) })
		d.accepts = &r
		d.noteRule(c.rules[r.Rule], func(s *pb.RuleStatus) { s.Accepted, s.Error = s.Accepted+1, "" })
	}
}

// apart is a discovered machine that a person has to decide on.
func apart(m *pb.Machine, s standing) decision {
	d := decision{standing: s}
	d.state, d.cause = pb.MachineState_DISCOVERED, "it booted on a network that discovers machines"
	if m.GetMetadata().GetAnnotations()[AnnotationDiscovered] == FoundByBMC {
		d.cause = "its BMC was found"
	}
	d.nextBoot = pb.NextBoot_DISK
	d.nextAction = "accept it: `bedplate machine accept " + m.GetMetadata().GetName() + "`"
	return d
}

// wantNeighbours reports whether a rule looks at what LLDP tells, so that it
// has to wait for that.
func wantNeighbours(rules []*pb.Rule) bool {
	for _, r := range rules {
		s := r.GetSpec()
		texts := []string{s.GetMatch(), s.GetName(), s.GetRack()}
		for _, l := range s.GetLabels() {
			texts = append(texts, l)
		}
		if strings.Contains(strings.Join(texts, " "), "lldp") {
			return true
		}
	}
	return false
}

// noteRule has a rule's status changed with the decision, if that changes it.
func (d *decision) noteRule(r *pb.Rule, change func(*pb.RuleStatus)) {
	if r == nil {
		return
	}
	next := cloneOf(r)
	if next.Status == nil {
		next.Status = &pb.RuleStatus{}
	}
	if change(next.Status); !proto.Equal(next, r) {
		d.rule = next
	}
}

// accept writes what a rule says into the machine.
func accept(m *pb.Machine, r discovery.Decision) {
	delete(m.Metadata.Annotations, AnnotationDiscovered)
	m.Status.Rule = r.Rule
	for k, val := range r.Labels {
		if m.Metadata.Labels == nil {
			m.Metadata.Labels = map[string]string{}
		}
		m.Metadata.Labels[k] = val
	}
	m.Spec.Pool = orText(m.Spec.GetPool(), r.Pool)
	m.Spec.Rack = orText(m.Spec.GetRack(), r.Rack)
	if r.BMC != nil {
		access := cloneOf(r.BMC)
		if m.Spec.Bmc != nil {
			proto.Merge(access, m.Spec.Bmc) // what it was found with counts
		}
		m.Spec.Bmc = access
	}
}

// enlist records that a rule accepts a machine. Where another machine has the
// name that the rule makes it keeps its own; where another one has its BMC it
// stays apart. Its cause says so.
func (c *Controller) enlist(ctx context.Context, m *pb.Machine, d decision) error {
	if name := d.accepts.Name; name != "" && name != m.Metadata.Name {
		err := c.rename(ctx, m, d, name)
		if !errors.Is(err, resource.ErrExists) && !errors.Is(err, discovery.ErrInUse) {
			return c.apartIfTaken(ctx, m, d, err)
		}
		d.cause += fmt.Sprintf("; it keeps its name: %v", err)
		d.ops = append(d.ops, c.cfg.Event("Machine", m.Metadata.Name, "NotRenamed", fmt.Sprintf("rule %s: %v", d.accepts.Rule, err), true))
	}
	return c.apartIfTaken(ctx, m, d, c.claimAnd(ctx, m, d))
}

// apartIfTaken records, if err says that another machine has what the rule
// gives this one, that it waits for a person.
func (c *Controller) apartIfTaken(ctx context.Context, m *pb.Machine, d decision, err error) error {
	var taken *resource.FieldErrors
	if !errors.As(err, &taken) {
		return err
	}
	waits := apart(m, standingOf(m))
	waits.cause += fmt.Sprintf("; rule %s accepts it, but %v", d.accepts.Rule, err)
	waits.nextAction = "change the rule, or what is in its way; or " + waits.nextAction
	return c.record(ctx, m, waits)
}

// claimAnd records a decision that may claim something, such as a BMC's address.
func (c *Controller) claimAnd(ctx context.Context, m *pb.Machine, d decision) error {
	claims, err := claim.Plan(ctx, c.cfg.DB, m, withDecision(m, d, c.cfg.Now()))
	if err != nil {
		return err
	}
	d.compares = append(d.compares, claims.Compares...)
	d.ops = append(d.ops, claims.Ops...)
	return c.record(ctx, m, d)
}

// rename records a decision that gives the machine another name. The watch
// brings the machine under it.
func (c *Controller) rename(ctx context.Context, m *pb.Machine, d decision, name string) error {
	from := m.Metadata.Name
	next := withDecision(m, d, c.cfg.Now())
	apply := func(now *pb.Machine) error {
		if now.GetMetadata().GetResourceVersion() != m.GetMetadata().GetResourceVersion() {
			return store.ErrConflict // it was decided on another version
		}
		proto.Reset(now)
		proto.Merge(now, next)
		return nil
	}
	ops := []store.Op{
		c.cfg.Event("Machine", from, "Renamed", "rule "+d.accepts.Rule+" names it "+name, false),
		c.cfg.Event("Machine", name, "Renamed", "rule "+d.accepts.Rule+" names it so; it was "+from, false),
		c.cfg.Event("Machine", name, "StateChanged", stateName(next.Status.State)+": "+d.cause, false),
	}
	var compares []store.Compare
	if d.rule != nil {
		compares, ops = append(compares, resource.Unchanged(d.rule)), append(ops, resource.Put(d.rule))
	}
	if err := discovery.Rename(ctx, c.cfg.DB, from, name, apply, compares, ops); err != nil {
		return err
	}
	c.metrics.moved(m, next, c.cfg.Now())
	delete(c.machines, from)
	return nil
}
