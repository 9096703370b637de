package job

import (
	"fmt"
	"slices"
	"strings"
	"time"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// turns shares out the power budgets: of each power group at most budget
// machines are powered on within any interval. Who has waited longest comes
// first. The loop owns it.
type turns struct {
	budget   int
	interval time.Duration
	groups   map[string]*group
	// granted are the jobs that have their turn, and haven't used it up.
	granted map[string]bool
}

// group is one PDU or rack.
type group struct {
	// given is when the newest turns were given, oldest first.
	given []time.Time
	// waiting are the jobs that wait for one.
	waiting []waiter
}

type waiter struct {
	job   string
	since time.Time
}

func newTurns(budget int, interval time.Duration) turns {
	return turns{budget: budget, interval: interval, groups: map[string]*group{}, granted: map[string]bool{}}
}

// powerGroup names what feeds a machine; empty when nobody has said.
func powerGroup(m *pb.Machine) string {
	if g := m.GetSpec().GetPowerGroup(); g != "" {
		return "power group " + g
	}
	if r := m.GetSpec().GetRack(); r != "" {
		return "rack " + r
	}
	return ""
}

// powersOn reports whether an operation makes the machine draw its inrush current.
func powersOn(o *pb.Operation, m *pb.Machine) bool {
	switch o.GetPower().GetAction() {
	case "cycle":
		return true
	case "on":
		return m.GetStatus().GetBmc().GetPower() != pb.PowerState_POWER_ON
	}
	return false
}

// remember counts a turn that was given before the server was restarted.
func (t *turns) remember(m *pb.Machine, j *pb.Job) {
	for i, o := range j.GetSpec().GetOperations() {
		started := opStatus(j, i).GetStartTime()
		if action := o.GetPower().GetAction(); started == nil || action != "on" && action != "cycle" {
			continue
		}
		g := t.group(powerGroup(m))
		g.given = append(g.given, started.AsTime())
		slices.SortFunc(g.given, time.Time.Compare)
		g.given = g.given[max(0, len(g.given)-t.budget):]
	}
}

func (t *turns) group(name string) *group {
	if t.groups[name] == nil {
		t.groups[name] = &group{}
	}
	return t.groups[name]
}

// take reports whether the job has its turn now; if not, when to ask again.
func (t *turns) take(m *pb.Machine, j *pb.Job, now time.Time) (ok bool, again time.Time) {
	name := powerGroup(m)
	job := j.GetMetadata().GetName()
	if name == "" || t.granted[job] {
		return true, time.Time{}
	}
	g := t.group(name)
	place := g.place(waiter{job, j.GetMetadata().GetCreateTime().AsTime()})
	g.given = slices.DeleteFunc(g.given, func(at time.Time) bool { return !now.Before(at.Add(t.interval)) })
	if place < t.budget-len(g.given) {
		g.waiting = slices.Delete(g.waiting, place, place+1)
		g.given = append(g.given, now)
		t.granted[job] = true
		return true, time.Time{}
	}
	again = now.Add(t.interval)
	if len(g.given) > 0 {
		again = g.given[0].Add(t.interval)
	}
	return false, again
}

// place returns how many wait before w, which is added if it doesn't wait yet.
func (g *group) place(w waiter) int {
	i, found := slices.BinarySearchFunc(g.waiting, w, func(a, b waiter) int {
		if n := a.since.Compare(b.since); n != 0 {
			return n
		}
		return strings.Compare(a.job, b.job)
	})
	if !found {
		g.waiting = slices.Insert(g.waiting, i, w)
	}
	return i
}

// used says that a job's operation has been begun: the next one needs a turn of its own.
func (t *turns) used(job string) { delete(t.granted, job) }

// leave forgets a job that has ended or gone.
func (t *turns) leave(job string) {
	delete(t.granted, job)
	for name, g := range t.groups {
		g.waiting = slices.DeleteFunc(g.waiting, func(w waiter) bool { return w.job == job })
		if len(g.waiting) == 0 && len(g.given) == 0 {
			delete(t.groups, name)
		}
	}
}

// cause says what a job waits for.
func (t *turns) cause(m *pb.Machine) string {
	what := fmt.Sprintf("%d machines at a time, and the next after %s", t.budget, t.interval)
	if t.budget == 1 {
		what = fmt.Sprintf("one machine each %s", t.interval)
	}
	return "waits for its turn: " + powerGroup(m) + " powers on " + what
}
