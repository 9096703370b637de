package e2e

import (
	"encoding/json"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bedplate/bedplate/lab"
)

// TestKilled kills the server with kill -9 as soon as each state of a machine's
// whole life is first seen, and once more at a random moment of it. The life
// ends right all the same: nothing is done twice, nothing stays past its deadline.
func TestKilled(t *testing.T) {
	r := newRig(t, lab.Spec{Name: "killed", Machines: []lab.MachineSpec{
		{Name: "m1", Firmware: lab.BIOS, Memory: 1 << 30, Disks: []lab.DiskSpec{{Bus: "virtio", Size: 1 << 30}}},
	}})
	r.importDebian()
	r.apply(`
apiVersion: bedplate/v1
kind: Pool
metadata: {name: default}
spec: {boot_timeout: 6m, tests: {tests: [cpu], duration: 3s}}
---
` + r.passwordList("m1") + r.bmcYAML("m1", ""))
	k := &killer{rig: r, name: "m1", killed: map[string]int{}}
	began := time.Now()
	k.until("available")
	r.apply(r.instanceYAML("m1"))
	k.until("active")
	r.proves("m1", r.addressOf("m1"))
	r.must("instance", "delete", "m1")
	k.again = true
	k.until("available")
	t.Logf("from a BMC's address to active and back in %s, the server killed %v", time.Since(began).Round(time.Second), k.killed)
	for _, state := range []string{"inspecting", "testing", "available", "provisioning", "active", "releasing"} {
		if k.killed[state] == 0 {
			t.Errorf("the server was not killed while the machine was %s: %v", state, slices.Sorted(maps.Keys(k.killed)))
		}
	}
	r.zeros("m1")
	r.erasureIsOnRecord("m1")
	r.wantNothingTwice("m1")
}

// killer follows a machine and kills the server in each of its states.
type killer struct {
	*rig
	name   string
	killed map[string]int
	// again: the state that is waited for was seen before, and has to be left first.
	again bool
}

// until follows the machine until it comes to the state, and fails the test
// when it fails, or stays anywhere past its deadline.
func (k *killer) until(want string) {
	k.t.Helper()
	for end := time.Now().Add(lifeTime); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		err := k.cameTo(k.name, want, "")
		state := k.state("machine", k.name)
		if state == "failed" || state == "quarantined" {
			k.t.Fatalf("it came to an end that it shouldn't: %v", err)
		}
		if k.again {
			k.again = state == want
			continue
		}
		if n := k.killed[state]; n < 2 {
			k.killed[state]++
			if n == 1 {
				wait := time.Duration(rand.IntN(8000)) * time.Millisecond
				k.t.Logf("%s: killed again after %s", state, wait)
				time.Sleep(wait)
			}
			k.kill()
			k.start()
		}
		if err == nil && k.killed[state] == 2 {
			return
		}
	}
	k.t.Fatalf("it never came to %s: %s", want, k.must("machine", "explain", k.name))
}

// list returns all resources of a kind.
func (r *rig) list(kind string) []any {
	r.t.Helper()
	var v any
	if err := json.Unmarshal([]byte(r.must("get", kind, "-o", "json")), &v); err != nil {
		r.t.Fatal(err)
	}
	switch v := v.(type) {
	case []any:
		return v
	case map[string]any:
		items, _ := v["items"].([]any)
		return items
	}
	return nil
}

// wantNothingTwice checks that each workflow and each job of a machine's life
// was made once and did its work once.
func (r *rig) wantNothingTwice(machine string) {
	r.t.Helper()
	made := map[string]int{}
	for _, wf := range r.list("workflows") {
		made[field(wf, "spec", "template")]++
		name := field(wf, "metadata", "name")
		if got := field(wf, "status", "state"); got != "succeeded" {
			r.t.Errorf("workflow %s is %s: %s", name, got, field(wf, "status", "cause"))
		}
		for step, attempts := range r.attempts(name) {
			if len(attempts) != 1 {
				r.t.Errorf("step %s of workflow %s: attempts %v, want one", step, name, attempts)
			}
		}
		r.wantOnce(name)
	}
	for _, template := range []string{"test", "install-image", "release"} {
		if made[template] != 1 {
			r.t.Errorf("%d workflows of template %s were made, want 1", made[template], template)
		}
	}
	jobs := map[string]int{}
	for _, j := range r.list("jobs") {
		labels := j.(map[string]any)["metadata"].(map[string]any)
		key := field(labels, "labels", "bedplate/purpose") + " for " + field(labels, "labels", "bedplate/for")
		jobs[key]++
		r.t.Logf("job %s (%s): %s: %s", field(labels, "name"), key, field(j, "status", "state"), field(j, "status", "cause"))
	}
	for key, n := range jobs {
		if n > 1 {
			r.t.Errorf("%d jobs were made: %s", n, key)
		}
	}
	changed := strings.Count(r.must("event", "list", "--about", "machine/"+machine, "--no-headers"), "PasswordChanged")
	if changed != 2 {
		r.t.Errorf("the BMC's password was changed %d times, want once at the first contact and once at release", changed)
	}
}
