package e2e

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bedplate/bedplate/lab"
	"github.com/bedplate/bedplate/lab/board"
)

// bmcFaults are what a BMC can have, each on a machine of its own. ends is the
// state that the machine comes to all the same; says is in the cause of those
// that fail.
var bmcFaults = []struct{ machine, fault, ends, says string }{
	{"slow", "slow=2s", "available", ""},
	{"dropped", "dropped-sessions", "available", ""},
	{"ejects", "media-ejects-itself", "available", ""},    // it boots from the network
	{"ignores", "boot-override-ignored", "available", ""}, // the network is first in its order anyway
	{"lies", "wrong-power-state", "failed", "power"},
	{"errors", "error", "failed", "500"},
	{"locked", "unauthorized", "failed", "password"},
	{"dead", "dead", "failed", "answer"},
}

// TestBMCFaults takes a machine to available with each fault of its BMC. It
// ends right, or says why and goes on when the fault has gone; and none stays
// in a state past its deadline.
func TestBMCFaults(t *testing.T) {
	spec := lab.Spec{Name: "faults"}
	var names []string
	for _, f := range bmcFaults {
		names = append(names, f.machine)
		spec.Machines = append(spec.Machines, lab.MachineSpec{
			Name: f.machine, Firmware: lab.BIOS, Memory: 768 << 20, Disks: []lab.DiskSpec{{Size: 64 << 20}}, BMC: lab.BMCSpec{Faults: []string{f.fault}},
		})
	}
	r := newRig(t, spec)
	manifest := "apiVersion: bedplate/v1\nkind: Pool\nmetadata: {name: default}\nspec: {boot_timeout: 5m, boot_attempts: 1}\n---\n" + r.passwordList(names...)
	for _, name := range names {
		manifest += strings.Replace(r.bmcYAML(name, ""), "rotate_password: true", "rotate_password: false", 1)
	}
	r.apply(manifest)
	r.together(names, func(r *rig, name string) {
		f := bmcFaults[slices.Index(names, name)]
		r.eventually(15*time.Minute, fmt.Sprintf("with %s %s is %s", f.fault, name, f.ends), func() error { return r.cameTo(name, f.ends, f.says) })
	})
	for i, f := range bmcFaults {
		if f.ends != "failed" {
			continue
		}
		if out := r.must("machine", "explain", f.machine); !strings.Contains(out, "What to do") {
			t.Errorf("explain gives no advice:\n%s", out)
		}
		fault, err := board.ParseFault(f.fault)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.machine(names[i]).BMC().Board().SetFault(t.Context(), fault, false); err != nil {
			t.Fatal(err)
		}
		// A pause that the server makes with a BMC is cut short by a person, and a
		// password that was refused is tried again. Its life may go on by that alone.
		_, _ = r.run("machine", "bmc", "status", f.machine, "--retry")
		if out, err := r.run("machine", "retry", f.machine); err != nil && !strings.Contains(out+err.Error(), "nothing of its life has failed") {
			t.Fatalf("machine retry %s: %v\n%s", f.machine, err, out)
		}
	}
	r.together(names, func(r *rig, name string) { r.waitState(15*time.Minute, "machine", name, "available") })
}

// cameTo reports whether the machine is in that state, and fails the test when
// it is in any past its deadline.
func (r *rig) cameTo(name, state, says string) error {
	r.t.Helper()
	o := r.object("machine", name)
	cause := field(o, "status", "cause")
	if d := field(o, "status", "deadline"); d != "" {
		at, err := time.Parse(time.RFC3339Nano, d)
		if err == nil && time.Since(at) > 30*time.Second {
			r.t.Fatalf("it is %s %s past its deadline: %s", field(o, "status", "state"), time.Since(at).Round(time.Second), cause)
		}
	}
	if field(o, "status", "state") != state {
		return fmt.Errorf("it is %s: %s", field(o, "status", "state"), cause)
	}
	if !strings.Contains(strings.ToLower(cause), says) {
		return errors.New("the cause is " + cause)
	}
	return nil
}
