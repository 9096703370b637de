// Package plan holds the meaning of a template: Graph is the order of its
// steps, Run is how far a workflow has come through them. Both server and
// agent use it, the agent to decide what to do next and the server to judge
// what the agent says it did, so that the two can't disagree.
//
// The rules:
//   - A step without `needs` follows the one before it in the list.
//   - A step is ready when every step that it needs has succeeded or was
//     skipped by its own `if`.
//   - Once a step has failed for good nothing new starts except on_failure;
//     what runs already runs to its end, then on_failure's steps run in order,
//     whatever becomes of each.
//   - A workflow has succeeded only if every step succeeded or was skipped by
//     its `if`.
//
// The package does no I/O and reads no clock: `now` is passed in. A Graph
// doesn't change and may be shared; a Run belongs to one goroutine.
package plan

import (
	"fmt"
	"slices"
	"strings"
	"time"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/workflow/action"
)

// Limits and defaults of times in a template.
const (
	DefaultTimeout        = 6 * time.Hour
	DefaultMachineTimeout = 30 * time.Minute
	DefaultBackoff        = time.Second
	MaxBackoff            = 5 * time.Minute
	MaxDuration           = 30 * 24 * time.Hour
	// MaxInterruptions is how often a step may be cut off by restarts of the
	// machine before it fails, however its retries are set.
	MaxInterruptions = 10
)

// Graph is the order of a template's steps. It doesn't change.
type Graph struct {
	nodes   []node
	index   map[string]int
	timeout time.Duration
	main    int  // nodes[:main] are steps, the rest on_failure
	ordered bool // no circle: upstream is known
}

type node struct {
	id       string
	field    string
	step     *pb.Step
	action   action.Action
	needs    []int
	upstream []bool
	timeout  time.Duration
	backoff  time.Duration
	retries  int
}

// NewGraph reads a template. The error is a Problems: unknown actions, bad
// durations, ids that are used twice, needs that lead nowhere or in a circle.
func NewGraph(t *pb.TemplateSpec) (*Graph, error) {
	g, problems := Check(t)
	if len(problems) > 0 {
		return nil, problems
	}
	return g, nil
}

// Check is NewGraph for those who look for further problems: the Graph is
// there even when it has some, to be looked at but not run.
func Check(t *pb.TemplateSpec) (*Graph, Problems) {
	var problems Problems
	g := &Graph{main: len(t.GetSteps()), index: map[string]int{}}
	g.timeout = duration(&problems, "spec.timeout", t.GetTimeout(), DefaultTimeout)
	for i, s := range t.GetSteps() {
		g.add(&problems, fmt.Sprintf("spec.steps[%d]", i), s)
	}
	for i, s := range t.GetOnFailure() {
		g.add(&problems, fmt.Sprintf("spec.on_failure[%d]", i), s)
	}
	g.nameSteps(&problems)
	g.link(&problems)
	if cycle := g.cycle(); cycle != nil {
		problems.Add(g.nodes[cycle[0]].field+".needs", 0, "steps need each other in a circle: %s; remove one of these needs", g.path(cycle))
		return g, problems
	}
	g.close()
	return g, problems
}

func (g *Graph) add(problems *Problems, field string, s *pb.Step) {
	n := node{field: field, step: s, id: s.GetId()}
	a, ok := action.Lookup(s.GetUses())
	if !ok {
		problems.Add(field+".uses", 0, "there is no action %q; the actions are %s", s.GetUses(), strings.Join(action.Names(), ", "))
	}
	n.action = a
	n.timeout = duration(problems, field+".timeout", s.GetTimeout(), max(a.DefaultTimeout, time.Second))
	n.retries = int(min(s.GetRetries().GetMax(), 100))
	n.backoff = duration(problems, field+".retries.backoff", s.GetRetries().GetBackoff(), DefaultBackoff)
	g.nodes = append(g.nodes, n)
}

func duration(problems *Problems, field, text string, otherwise time.Duration) time.Duration {
	if text == "" {
		return otherwise
	}
	d, err := ParseDuration(text)
	if err != nil {
		problems.Add(field, 0, "%v", err)
		return otherwise
	}
	return d
}

// ParseDuration reads a duration such as 90s, 20m or 2h30m: above 0 and at
// most MaxDuration.
func ParseDuration(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 || d > MaxDuration {
		return 0, fmt.Errorf("%q is not a duration between 1ns and %s, such as 90s, 20m or 2h30m", text, "720h")
	}
	return d, nil
}

// nameSteps gives an id to each step that has none and finds those used twice.
func (g *Graph) nameSteps(problems *Problems) {
	for i, n := range g.nodes {
		if n.id == "" {
			continue
		}
		if first, taken := g.index[n.id]; taken {
			problems.Add(n.field+".id", 0, "the id %q is taken by %s; give this step another", n.id, g.nodes[first].field)
			continue
		}
		g.index[n.id] = i
	}
	for i := range g.nodes {
		n := &g.nodes[i]
		if n.id != "" {
			continue
		}
		n.id = g.freeID(i)
		g.index[n.id] = i
	}
}

// freeID makes image_write_2 of the second step, which uses image.write.
func (g *Graph) freeID(i int) string {
	base := strings.NewReplacer(".", "_", "-", "_").Replace(g.nodes[i].step.GetUses())
	id := fmt.Sprintf("%s_%d", base, i+1)
	if i >= g.main {
		id = fmt.Sprintf("on_failure_%s_%d", base, i-g.main+1)
	}
	for {
		if _, taken := g.index[id]; !taken {
			return id
		}
		id += "_"
	}
}

func (g *Graph) link(problems *Problems) {
	for i := range g.nodes {
		n := &g.nodes[i]
		switch {
		case i >= g.main && len(n.step.GetNeeds()) > 0:
			problems.Add(n.field+".needs", 0, "steps of on_failure run in the order of the list; remove needs")
		case len(n.step.GetNeeds()) == 0 && i > 0 && i != g.main:
			n.needs = []int{i - 1}
		}
		for j, need := range n.step.GetNeeds() {
			k, ok := g.index[need]
			if !ok || k >= g.main {
				problems.Add(fmt.Sprintf("%s.needs[%d]", n.field, j), 0, "there is no step %q; the steps are %s", need, strings.Join(g.MainIDs(), ", "))
				continue
			}
			n.needs = append(n.needs, k)
		}
	}
}

// cycle returns the nodes of one circle of needs, the first repeated at the
// end, or nil.
func (g *Graph) cycle() []int {
	const unseen, open, done = 0, 1, 2
	state := make([]int, len(g.nodes))
	var stack []int
	var visit func(int) []int
	visit = func(i int) []int {
		state[i] = open
		stack = append(stack, i)
		for _, k := range g.nodes[i].needs {
			if state[k] == open {
				return append(slices.Clone(stack[slices.Index(stack, k):]), k)
			}
			if state[k] == unseen {
				if found := visit(k); found != nil {
					return found
				}
			}
		}
		stack = stack[:len(stack)-1]
		state[i] = done
		return nil
	}
	for i := range g.nodes {
		if state[i] == unseen {
			if found := visit(i); found != nil {
				return found
			}
		}
	}
	return nil
}

func (g *Graph) path(nodes []int) string {
	names := make([]string, len(nodes))
	for i, k := range nodes {
		names[i] = g.nodes[k].id
	}
	return strings.Join(names, " → ")
}

// close works out which steps are certain to be over before each one.
func (g *Graph) close() {
	g.ordered = true
	for _, i := range g.order() {
		n := &g.nodes[i]
		n.upstream = make([]bool, len(g.nodes))
		for _, k := range n.needs {
			n.upstream[k] = true
			for j, up := range g.nodes[k].upstream {
				n.upstream[j] = n.upstream[j] || up
			}
		}
	}
}

// order returns the nodes so that each comes after what it needs, and else in
// the order of the list.
func (g *Graph) order() []int {
	seen := make([]bool, len(g.nodes))
	var order []int
	var visit func(int)
	visit = func(i int) {
		if seen[i] {
			return
		}
		seen[i] = true
		for _, k := range g.nodes[i].needs {
			visit(k)
		}
		order = append(order, i)
	}
	for i := range g.nodes {
		visit(i)
	}
	return order
}

// IDs returns the id of every step, on_failure's at the end.
func (g *Graph) IDs() []string {
	ids := make([]string, len(g.nodes))
	for i, n := range g.nodes {
		ids[i] = n.id
	}
	return ids
}

// MainIDs returns the ids of the steps that aren't on_failure's.
func (g *Graph) MainIDs() []string { return g.IDs()[:g.main] }

// Order returns the ids in an order in which the steps could run, on_failure's
// left out.
func (g *Graph) Order() []string {
	var ids []string
	for _, i := range g.order() {
		if i < g.main {
			ids = append(ids, g.nodes[i].id)
		}
	}
	return ids
}

// Timeout is the template's for the whole workflow.
func (g *Graph) Timeout() time.Duration { return g.timeout }

// Node is one step of a Graph.
type Node struct {
	ID string
	// Field is where the template has it, such as spec.steps[2].
	Field string
	// Step is the template's; not to be changed.
	Step      *pb.Step
	Action    action.Action
	Needs     []string
	OnFailure bool
	// Timeout is for one attempt.
	Timeout time.Duration
	Retries int
}

// Node returns the step with that id.
func (g *Graph) Node(id string) (Node, bool) {
	i, ok := g.index[id]
	if !ok {
		return Node{}, false
	}
	n := g.nodes[i]
	out := Node{ID: n.id, Field: n.field, Step: n.step, Action: n.action, OnFailure: i >= g.main, Timeout: n.timeout, Retries: n.retries}
	for _, k := range n.needs {
		out.Needs = append(out.Needs, g.nodes[k].id)
	}
	return out, true
}

// Upstream reports whether step `before` is certain to be over when step `id`
// starts. In a Graph with a circle nothing is certain, and the answer is true.
func (g *Graph) Upstream(id, before string) bool {
	i, ok := g.index[id]
	k, found := g.index[before]
	return !g.ordered || ok && found && g.nodes[i].upstream[k]
}

// retriesInterrupted reports whether a step that a restart of the machine cut
// off is to run again.
func (n node) retriesInterrupted() bool {
	switch n.step.GetOnInterrupt() {
	case "retry":
		return true
	case "fail":
		return false
	default:
		return n.action.Idempotent
	}
}

// MustNotRunTwice reports whether a step may start only once its STEP_RUNNING
// is on the server's record.
func (n Node) MustNotRunTwice() bool {
	return !node{step: n.Step, action: n.Action}.retriesInterrupted()
}

// wait is the time before the attempt after so many failed ones.
func (n node) wait(failed int) time.Duration {
	d := n.backoff
	for i := 1; i < failed && d < MaxBackoff; i++ {
		d *= 2
	}
	if n.backoff > MaxBackoff {
		return n.backoff
	}
	return min(d, MaxBackoff)
}
