package e2e

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"testing"
	"time"

	"github.com/bedplate/bedplate/lab"
)

// TestDiscover boots a machine that nobody has described, under each policy
// for such machines.
func TestDiscover(t *testing.T) {
	r := newRig(t, lab.Spec{Machines: []lab.MachineSpec{{Name: "stranger", Serial: "STRANGE-1"}}})
	spec := r.machine("stranger").Spec()
	name := "m-525400770001"
	console := func(t *testing.T, pattern string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		defer cancel()
		m := r.machine("stranger")
		serial := m.Serial()
		if err := m.PowerOff(ctx); err != nil {
			t.Fatal(err)
		}
		if err := m.PowerOn(ctx); err != nil {
			t.Fatal(err)
		}
		got, err := serial.WaitFor(ctx, regexp.MustCompile(pattern))
		if err != nil {
			t.Fatal(err)
		}
		return got[0]
	}
	t.Run("ignored, it gets no answer at all", func(t *testing.T) {
		r.in(t).unknownMachines("ignore")
		if got := console(t, `Nothing to boot|net0: 10\.77\.\S+`); got != "Nothing to boot" {
			t.Errorf("it got %q", got)
		}
	})
	t.Run("refused, it gets an address and says why it boots nothing", func(t *testing.T) {
		r.in(t).unknownMachines("refuse")
		console(t, `(?s)net0: 10\.77\.0\..*52:54:00:77:00:01\) is not known here, and unknown machin\s*es are refused.*apply a Machine with this MAC address`)
		if out, err := r.in(t).run("get", "machine", name); err == nil {
			t.Errorf("a machine was made of it:\n%s", out)
		}
	})
	t.Run("discovered, it reports its hardware", func(t *testing.T) {
		r := r.in(t)
		r.unknownMachines("discover")
		console(t, `connected to the server as machine `+name)
		r.eventually(time.Minute, name+" has an inventory", func() error {
			if field(r.object("machine", name), "status", "inventory", "collect_time") == "" {
				return errors.New("none yet")
			}
			return nil
		})
		m := r.object("machine", name)
		inventory := m["status"].(map[string]any)["inventory"]
		disk, nic := first(inventory, "disks"), first(inventory, "nics")
		for what, got := range map[string][2]string{
			"state":         {"discovered", field(m, "status", "state")},
			"MAC address":   {spec.MAC, field(first(m["spec"], "interfaces"), "mac")},
			"UUID":          {spec.UUID, field(m, "spec", "uuid")},
			"serial number": {"STRANGE-1", field(inventory, "system", "serial")},
			"disk's serial": {"STRANGER-D0", field(disk, "serial")},
			"disk's size":   {fmt.Sprint(float64(spec.Disks[0].Size)), field(disk, "size_bytes")},
			"NIC":           {spec.MAC, field(nic, "mac")},
			"NIC's link":    {"true", field(nic, "link")},
			"firmware":      {"bios", field(inventory, "firmware", "mode")},
		} {
			if got[0] != got[1] {
				t.Errorf("%s is %q, want %q", what, got[1], got[0])
			}
		}
	})
	t.Run("until it is accepted, nothing is given to it", func(t *testing.T) {
		r := r.in(t)
		r.apply("apiVersion: bedplate/v1\nkind: Image\nmetadata: {name: any}\nspec: {url: http://192.0.2.1/any.raw}\n---\n" +
			"apiVersion: bedplate/v1\nkind: Instance\nmetadata: {name: any}\nspec: {image: any, selector: \"true\"}\n")
		r.waitState(time.Minute, "instance", "any", "pending")
		r.must("instance", "delete", "any", "--wait")
	})
	t.Run("accepted, it is available", func(t *testing.T) {
		r := r.in(t)
		r.must("machine", "accept", name)
		r.waitState(time.Minute, "machine", name, "available")
	})
}

// first returns the first element of a list in a resource.
func first(v any, list string) any {
	m, ok := v.(map[string]any)
	if !ok {
		return nil
	}
	l, ok := m[list].([]any)
	if !ok || len(l) == 0 {
		return nil
	}
	return l[0]
}

// unknownMachines sets the policy of the first network.
func (r *rig) unknownMachines(policy string) {
	r.t.Helper()
	r.apply(`
apiVersion: bedplate/v1
kind: Network
metadata: {name: br0}
spec:
  cidr: 10.77.0.0/24
  dhcp_mode: full
  interfaces: [br0]
  pools: [{start: 10.77.0.128, end: 10.77.0.254}]
  unknown_machines: ` + policy + "\n")
}
