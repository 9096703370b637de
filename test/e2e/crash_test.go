package e2e

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bedplate/bedplate/lab"
)

// TestCrash kills the server and the machine in the middle of things. Each
// time the same workflow ends well, with every attempt on record and nothing
// done twice.
func TestCrash(t *testing.T) {
	r := newRig(t, lab.Spec{Machines: []lab.MachineSpec{{Name: "m1"}}})
	r.importDebian()
	r.apply(r.machineYAML("m1", "10.77.0.31/24"))
	r.powerOn("m1")
	r.waitState(installTime, "machine", "m1", "available", "failed")

	// The sub-tests go on where the one before ended, and share the server.
	t.Run("the server is killed between two steps", func(t *testing.T) {
		r := r.in(t)
		steps, want := "", map[string][]string{}
		for i := range 12 {
			steps += fmt.Sprintf("\n  - {id: look%d, uses: inventory}", i)
			want[fmt.Sprintf("look%d", i)] = []string{"succeeded"}
		}
		steps += "\n  - {id: gate, uses: approval}\n  - {id: after, uses: noop}\n"
		want["gate"], want["after"] = []string{"succeeded"}, []string{"succeeded"}
		r.apply(template("steps", steps))
		r.must("workflow", "run", "steps", "--machine", "m1", "--name", "steps")
		// Once while the agent goes through the first steps, with the server away.
		r.eventually(time.Minute, "two steps are done", func() error {
			if n := len(r.attempts("steps")); n < 3 {
				return fmt.Errorf("%d have begun", n)
			}
			return nil
		})
		r.crash("m1")
		r.start()
		r.waitState(2*time.Minute, "workflow", "steps", "waiting_for_approval", "failed", "succeeded")
		// Once while nothing runs.
		r.crash("m1")
		r.start()
		r.must("workflow", "approve", "steps")
		r.waitState(2*time.Minute, "workflow", "steps", "succeeded", "failed")
		if diff := cmp.Diff(want, r.attempts("steps")); diff != "" {
			t.Errorf("attempts (-want +got):\n%s", diff)
		}
		r.wantOnce("steps")
	})
	t.Run("the server is killed in the middle of image.write", func(t *testing.T) {
		r := r.in(t)
		r.limit("m1", "40mbit")
		r.apply(r.instanceYAML("m1"))
		w := r.workflowOf("m1")
		r.midWrite(w)
		r.crash("m1")
		r.start()
		r.limit("m1", "")
		r.waitState(installTime, "instance", "m1", "active", "failed")
		r.proves("m1", "10.77.0.31")
		if got := field(r.object("workflow", w), "status", "state"); got != "succeeded" {
			t.Errorf("workflow %s is %s", w, got)
		}
		for step, got := range r.attempts(w) {
			if !slices.Equal(got, []string{"succeeded"}) && !slices.Equal(got, []string{"skipped"}) {
				t.Errorf("step %s: attempts %v, want one", step, got)
			}
		}
		r.wantOnce(w)
	})
	t.Run("the machine is reset in the middle of image.write", func(t *testing.T) {
		r := r.in(t)
		before := r.proves("m1", "10.77.0.31")
		r.must("workflow", "run", "install-image", "--machine", "m1", "--name", "again", "-i", "image=debian")
		r.limit("m1", "80mbit")
		r.press("m1")
		r.midWrite("again")
		r.press("m1")
		r.limit("m1", "")
		r.waitState(installTime, "workflow", "again", "succeeded", "failed")
		r.waitState(installTime, "instance", "m1", "active", "failed")
		r.eventually(3*time.Minute, "the new system answers", func() error {
			out, err := r.ssh("10.77.0.31", "cut -d' ' -f2 /etc/ssh/ssh_host_ed25519_key.pub")
			if err == nil && (out == before || out == "") {
				err = errors.New("the old one does")
			}
			return err
		})
		r.proves("m1", "10.77.0.31")
		r.wantInterrupted("again", "write")
		r.wantOnce("again")
	})
}

// crash kills the server with kill -9 and returns when the machine has noticed.
func (r *rig) crash(name string) {
	r.t.Helper()
	serial := r.machine(name).Serial()
	r.kill()
	ctx, cancel := context.WithTimeout(r.t.Context(), 2*time.Minute)
	defer cancel()
	if _, err := serial.WaitFor(ctx, regexp.MustCompile(`connection to the server lost`)); err != nil {
		r.t.Fatal(err)
	}
}

// press presses a machine's reset button.
func (r *rig) press(name string) {
	r.t.Helper()
	if err := r.machine(name).Reset(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

// limit makes what a machine receives as slow as that; "" lifts it.
func (r *rig) limit(name, rate string) {
	r.t.Helper()
	tap := -1
	for i, m := range r.lab.Machines() {
		if m.Name() == name {
			tap = i
		}
	}
	args := []string{"qdisc", "del", "dev", "tap" + strconv.Itoa(tap), "root"}
	if rate != "" {
		args = []string{"qdisc", "replace", "dev", "tap" + strconv.Itoa(tap), "root", "tbf", "rate", rate, "burst", "128k", "latency", "200ms"}
	}
	cmd := exec.Command("tc", args...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := r.ns.Run(cmd); err != nil {
		r.t.Fatalf("tc %v: %v\n%s", args, err, out.String())
	}
}

// midWrite waits until a workflow has written between a tenth and nine tenths of its image.
func (r *rig) midWrite(workflow string) {
	r.t.Helper()
	r.eventually(installTime, "workflow "+workflow+" is in the middle of image.write", func() error {
		s := r.step(workflow, "write")
		if state := field(s, "state"); state != "" && state != "pending" && state != "running" {
			r.t.Fatalf("step write is %s already", state)
		}
		done, _ := strconv.ParseFloat(field(s, "progress", "done"), 64)
		total, _ := strconv.ParseFloat(field(s, "progress", "total"), 64)
		switch {
		case total == 0 || done < total/10:
			return fmt.Errorf("%.0f of %.0f bytes", done, total)
		case done > total*9/10:
			r.t.Fatalf("%.0f of %.0f bytes: too late", done, total)
		}
		return nil
	})
}

// wantOnce checks that the beginning and the end of a workflow were reported once.
func (r *rig) wantOnce(workflow string) {
	r.t.Helper()
	out := r.must("event", "list", "--about", "workflow/"+workflow, "--no-headers")
	for _, reason := range []string{"Created", "Started", "Succeeded"} {
		if n := len(regexp.MustCompile(`\s`+reason+`\b`).FindAllString(out, -1)); n != 1 {
			r.t.Errorf("workflow %s has %d events %s, want 1:\n%s", workflow, n, reason, out)
		}
	}
}

// step returns the status of a workflow's step.
func (r *rig) step(workflow, id string) any {
	r.t.Helper()
	status, _ := r.object("workflow", workflow)["status"].(map[string]any)
	steps, _ := status["steps"].([]any)
	for _, s := range steps {
		if field(s, "id") == id {
			return s
		}
	}
	return nil
}

// wantInterrupted checks that a step has an attempt that the machine's restart
// ended and then one that succeeded, on different boots.
func (r *rig) wantInterrupted(workflow, id string) {
	r.t.Helper()
	s, _ := r.step(workflow, id).(map[string]any)
	attempts, _ := s["attempts"].([]any)
	if len(attempts) != 2 {
		r.t.Fatalf("step %s has %d attempts, want 2: %v", id, len(attempts), attempts)
	}
	one, two := attempts[0], attempts[1]
	if field(one, "state") != "failed" || field(one, "interrupted") != "true" || !strings.Contains(field(one, "error"), "machine restarted while the step ran") {
		r.t.Errorf("the first attempt is %v, want one interrupted by a restart", one)
	}
	if field(two, "state") != "succeeded" || field(two, "boot_id") == field(one, "boot_id") {
		r.t.Errorf("the second attempt is %v, want one that succeeded on another boot", two)
	}
}
