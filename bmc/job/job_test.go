package job_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bedplate/bedplate/bmc"
	"github.com/bedplate/bedplate/bmc/bmctest"
	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/resource/claim"
)

func TestController_Operations(t *testing.T) {
	t.Run("operations are done in order, and the machine's status says what came of it", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *rack) {
			f := r.machine("web-1")
			defer r.start()()
			r.job("j", "web-1", boot("network"), power("on"))
			j := r.succeeded("j")
			if f.Power() != bmc.PowerOn || r.status("web-1").GetPower() != pb.PowerState_POWER_ON {
				t.Errorf("power is %s, on record %s", f.Power(), r.status("web-1").GetPower())
			}
			want := []string{"network once", "on: machine was off and is on"}
			got := []string{j.Status.Operations[0].Result, j.Status.Operations[1].Result}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("results (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff([]string{"power-on"}, r.sightingsOf("web-1")); diff != "" {
				t.Errorf("the timeline (-want +got):\n%s", diff)
			}
		})
	})
	t.Run("a machine that is on stays as it is", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *rack) {
			f := r.machine("web-1")
			f.SetPower(bmc.PowerOn)
			defer r.start()()
			r.job("j", "web-1", power("on"))
			r.succeeded("j")
			if len(f.Actions()) != 0 {
				t.Errorf("the BMC was asked for %v", f.Actions())
			}
		})
	})
	t.Run("the agent's medium is inserted without its token being seen", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *rack) {
			f := r.machine("web-1")
			defer r.start()()
			r.job("j", "web-1", &pb.Operation{Operation: &pb.Operation_InsertMedia{InsertMedia: &pb.MediaOperation{}}})
			j := r.succeeded("j")
			if got := f.MediaImage(bmc.MediaCD); got != "http://server/media/t0ken/web-1.iso" {
				t.Errorf("inserted is %q", got)
			}
			if got := r.status("web-1").GetMedia(); got != "the agent's system" {
				t.Errorf("the status has %q", got)
			}
			f.SetFaults(bmctest.Faults{IgnoreMedia: true})
			r.job("k", "web-1", &pb.Operation{Operation: &pb.Operation_EjectMedia{EjectMedia: &pb.MediaOperation{}}})
			k := r.ended("k")
			if k.Status.State != pb.JobState_JOB_FAILED {
				t.Errorf("a medium that stays is %s", k.Status.State)
			}
			for _, j := range []*pb.Job{j, k} {
				if strings.Contains(j.String(), "t0ken") {
					t.Errorf("the token is in the job: %s", j)
				}
			}
			if all := strings.Join(r.events, "\n"); strings.Contains(all, "t0ken") {
				t.Errorf("the token is in the events: %s", all)
			}
		})
	})
	t.Run("as a stick it has another name, and what was ejected is taken back", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *rack) {
			f := r.machine("web-1")
			defer r.start()()
			usb := &pb.MediaOperation{Kind: "usb"}
			r.job("j", "web-1", &pb.Operation{Operation: &pb.Operation_InsertMedia{InsertMedia: usb}})
			r.succeeded("j")
			if got := f.MediaImage(bmc.MediaUSB); got != "http://server/media/t0ken/web-1.img" {
				t.Errorf("inserted is %q", got)
			}
			if len(r.ejected) != 0 {
				t.Errorf("taken back before: %q", r.ejected)
			}
			r.job("k", "web-1", &pb.Operation{Operation: &pb.Operation_EjectMedia{EjectMedia: usb}})
			r.succeeded("k")
			if diff := cmp.Diff([]string{"web-1"}, r.ejected); diff != "" {
				t.Errorf("taken back (-want +got):\n%s", diff)
			}
		})
	})
	t.Run("an operating system that doesn't shut down loses its power when its grace is over", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *rack) {
			f := r.machine("web-1")
			f.SetPower(bmc.PowerOn)
			f.SetFaults(bmctest.Faults{IgnoreSoft: true})
			defer r.start()()
			op := power("soft")
			op.GetPower().Grace = "2m"
			r.job("j", "web-1", op)
			started := time.Now()
			r.succeeded("j")
			if f.Power() != bmc.PowerOff || time.Since(started) < 2*time.Minute || time.Since(started) > 3*time.Minute {
				t.Errorf("after %s its power is %s", time.Since(started), f.Power())
			}
		})
	})
	t.Run("firmware is followed by its task, with progress on record, until the version is there", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *rack) {
			f := r.machine("web-1")
			defer r.start()()
			r.job("j", "web-1", &pb.Operation{Operation: &pb.Operation_Firmware{Firmware: &pb.FirmwareOperation{Component: "bios", Url: "http://mirror/bios.bin"}}})
			time.Sleep(time.Minute)
			synctest.Wait()
			if got := r.get("j").Status.Operations[0].Task; got != "1" {
				t.Fatalf("the task on record is %q", got)
			}
			f.Finish("")
			r.succeeded("j")
		})
	})
	t.Run("BIOS settings that the BMC forgets are a failure that says so", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *rack) {
			r.machine("web-1").SetFaults(bmctest.Faults{IgnoreBIOS: true})
			defer r.start()()
			r.job("j", "web-1", &pb.Operation{Operation: &pb.Operation_Bios{Bios: &pb.BIOSOperation{Attributes: map[string]string{"ProcCores": "4"}}}})
			j := r.ended("j")
			if !strings.Contains(j.Status.Cause, "ProcCores=8") || !strings.Contains(j.Status.Cause, bmc.ErrIgnored.Error()) {
				t.Errorf("the cause is %q", j.Status.Cause)
			}
		})
	})
}

func TestController_Faults(t *testing.T) {
	t.Run("a BMC that is away for a while is tried again", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *rack) {
			f := r.machine("web-1")
			f.SetFaults(bmctest.Faults{Dead: true})
			defer r.start()()
			r.job("j", "web-1", power("on"))
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			j := r.get("j")
			if op := j.Status.Operations[0]; op.Attempts == 0 || op.Error == "" {
				t.Errorf("after two minutes: %v", j.Status)
			}
			f.SetFaults(bmctest.Faults{})
			r.succeeded("j")
		})
	})
	t.Run("a dead BMC fails its job when its time is over, and the jobs of others are done at once", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *rack) {
			r.machine("dead").SetFaults(bmctest.Faults{Dead: true})
			r.machine("web-1")
			defer r.start()()
			r.job("d", "dead", power("on"))
			r.job("j", "web-1", power("on"))
			r.succeeded("j")
			d := r.ended("d")
			if d.Status.State != pb.JobState_JOB_FAILED || !strings.Contains(d.Status.Cause, "does not answer") {
				t.Errorf("the dead one is %s: %s", d.Status.State, d.Status.Cause)
			}
			if took := d.Status.EndTime.AsTime().Sub(d.Status.StartTime.AsTime()); took > 16*time.Minute {
				t.Errorf("it took %s", took)
			}
			if !r.status("dead").GetCircuitOpen() || r.status("dead").GetError() == "" {
				t.Errorf("its status doesn't say so: %v", r.status("dead"))
			}
		})
	})
	t.Run("a refused password is not tried again", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *rack) {
			f := r.machine("web-1", func(m *pb.Machine) { m.Spec.Bmc.Username = "nobody" })
			defer r.start()()
			r.job("j", "web-1", power("on"))
			j := r.ended("j")
			if logins, _, _, _ := f.Counts(); logins != 1 || j.Status.State != pb.JobState_JOB_FAILED {
				t.Errorf("%d logins, %s: %s", logins, j.Status.State, j.Status.Cause)
			}
		})
	})
	t.Run("a BMC that ignores what it accepts is found out", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *rack) {
			r.machine("web-1").SetFaults(bmctest.Faults{IgnorePower: true})
			defer r.start()()
			r.job("j", "web-1", power("on"), boot("disk"))
			j := r.ended("j")
			if j.Status.State != pb.JobState_JOB_FAILED || !strings.Contains(j.Status.Cause, "wanted on, found off") {
				t.Errorf("%s: %s", j.Status.State, j.Status.Cause)
			}
			if got := j.Status.Operations[1].GetState(); got != pb.JobState_JOB_CANCELLED {
				t.Errorf("what comes after it is %s", got)
			}
			if !slices.ContainsFunc(r.events, func(e string) bool { return strings.HasPrefix(e, "JobFailed Machine/web-1") }) {
				t.Errorf("the machine's events don't tell of it: %q", r.events)
			}
		})
	})
}

func TestController_Queue(t *testing.T) {
	t.Run("jobs of one machine run one after another", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *rack) {
			f := r.machine("web-1")
			f.SetFaults(bmctest.Faults{Delay: time.Second})
			for i := range 5 {
				r.job(fmt.Sprintf("j%d", i), "web-1", power([]string{"on", "off"}[i%2]))
				time.Sleep(time.Millisecond)
			}
			defer r.start()()
			time.Sleep(500 * time.Millisecond)
			synctest.Wait()
			if j := r.get("j4"); !strings.Contains(j.GetStatus().GetCause(), "came before it") {
				t.Errorf("the last one says %q", j.GetStatus().GetCause())
			}
			var before time.Time
			for i := range 5 {
				j := r.succeeded(fmt.Sprintf("j%d", i))
				if j.Status.StartTime.AsTime().Before(before) {
					t.Errorf("%s began before the one before it ended", j.Metadata.Name)
				}
				before = j.Status.EndTime.AsTime()
			}
			if _, _, _, atOnce := f.Counts(); atOnce != 1 {
				t.Errorf("%d calls at once", atOnce)
			}
		})
	})
	t.Run("a cancelled job ends before its next operation", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *rack) {
			f := r.machine("web-1")
			f.SetFaults(bmctest.Faults{Delay: 5 * time.Second})
			defer r.start()()
			r.job("j", "web-1", boot("network"), power("on"))
			time.Sleep(time.Second)
			_, err := resource.Update(t.Context(), r.db, "j", func(j *pb.Job) error { j.Status.CancelRequested = true; return nil })
			if err != nil {
				t.Fatal(err)
			}
			j := r.ended("j")
			if j.Status.State != pb.JobState_JOB_CANCELLED || j.Status.Operations[0].State != pb.JobState_JOB_SUCCEEDED || f.Power() != bmc.PowerOff {
				t.Errorf("it is %v", j.Status)
			}
		})
	})
	t.Run("a job of a machine that has gone fails", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *rack) {
			defer r.start()()
			r.job("j", "web-1", power("on"))
			if j := r.ended("j"); j.Status.State != pb.JobState_JOB_FAILED || !strings.Contains(j.Status.Cause, "gone") {
				t.Errorf("%s: %s", j.Status.State, j.Status.Cause)
			}
		})
	})
	t.Run("no more operations are under way than there may be", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *rack) {
			r.cfg.Concurrency = 3
			for i := range 12 {
				name := fmt.Sprintf("web-%02d", i)
				r.machine(name).SetFaults(bmctest.Faults{Delay: 10 * time.Second})
				r.job("j-"+name, name, boot("disk"))
			}
			defer r.start()()
			for range 20 {
				time.Sleep(3 * time.Second)
				synctest.Wait()
				n := 0
				for i := range 12 {
					if r.get(fmt.Sprintf("j-web-%02d", i)).GetStatus().GetState() == pb.JobState_JOB_RUNNING {
						n++
					}
				}
				if n > 3 {
					t.Fatalf("%d are under way", n)
				}
			}
			for i := range 12 {
				r.succeeded(fmt.Sprintf("j-web-%02d", i))
			}
		})
	})
	t.Run("of the jobs that have ended the newest are kept", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *rack) {
			r.cfg.Keep = 3
			r.machine("web-1")
			defer r.start()()
			for i := range 8 {
				r.job(fmt.Sprintf("j%d", i), "web-1", boot("disk"))
				time.Sleep(10 * time.Second)
			}
			synctest.Wait()
			all, _, err := resource.All[*pb.Job](t.Context(), r.db)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, j := range all {
				names = append(names, j.Metadata.Name)
			}
			if diff := cmp.Diff([]string{"j5", "j6", "j7"}, names); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	})
}

func TestController_PowerBudget(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rack) {
		r.cfg.PowerBudget, r.cfg.PowerInterval = 2, 10*time.Second
		inRack := func(rack string) func(*pb.Machine) {
			return func(m *pb.Machine) { m.Spec.Rack = rack }
		}
		for i := range 7 {
			r.machine(fmt.Sprintf("a-%d", i), inRack("a"))
			r.job(fmt.Sprintf("a-%d", i), fmt.Sprintf("a-%d", i), power("on"))
			time.Sleep(time.Millisecond)
		}
		r.machine("b-0", inRack("b"))
		r.job("b-0", "b-0", power("on"))
		stop := r.start()
		synctest.Wait()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if got, want := r.get("a-5").GetStatus().GetCause(), "waits for its turn: rack a powers on 2 machines at a time, and the next after 10s"; got != want {
			t.Errorf("the cause is %q, want %q", got, want)
		}
		if j := r.get("b-0"); j.GetStatus().GetState() != pb.JobState_JOB_SUCCEEDED {
			t.Errorf("another rack's job is %s: %s", j.GetStatus().GetState(), j.GetStatus().GetCause())
		}
		stop() // the turns that were given count after a restart, too
		defer r.start()()
		var starts []time.Time
		for i := range 7 {
			starts = append(starts, r.succeeded(fmt.Sprintf("a-%d", i)).Status.Operations[0].StartTime.AsTime())
		}
		for i := range starts {
			if i > 0 && starts[i].Before(starts[i-1]) {
				t.Errorf("machine %d was powered on before machine %d, which had waited longer", i, i-1)
			}
			if i > 1 && starts[i].Sub(starts[i-2]) < 10*time.Second {
				t.Errorf("machines %d to %d were powered on within %s", i-2, i, starts[i].Sub(starts[i-2]))
			}
		}
	})
}

// TestController_Crash kills the server at every transaction, before and after
// it is durable, and starts it again.
func TestController_Crash(t *testing.T) {
	for _, tt := range []struct {
		name       string
		operations []*pb.Operation
		on         bool
		// most is how often each action may have been asked for.
		most map[bmc.PowerAction]int
		// unknown: the job may say that it can't know.
		unknown bool
	}{
		{"boot device and power on", []*pb.Operation{boot("network"), power("on")}, false, map[bmc.PowerAction]int{bmc.ActionOn: 1}, false},
		{"power off", []*pb.Operation{power("off")}, true, map[bmc.PowerAction]int{bmc.ActionOff: 1}, false},
		{"power cycle", []*pb.Operation{boot("network"), power("cycle")}, true, map[bmc.PowerAction]int{bmc.ActionOff: 1, bmc.ActionOn: 1}, true},
		{"reset", []*pb.Operation{power("reset")}, true, map[bmc.PowerAction]int{bmc.ActionReset: 1}, true},
		{"NMI", []*pb.Operation{power("nmi")}, true, map[bmc.PowerAction]int{bmc.ActionNMI: 1}, true},
		{"inventory", []*pb.Operation{{Operation: &pb.Operation_Inventory{Inventory: &pb.InventoryOperation{}}}}, false, nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for at := 1; at <= 12; at++ {
				for _, durable := range []bool{false, true} {
					inBubble(t, func(t *testing.T, r *rack) {
						f := r.machine("web-1")
						if tt.on {
							f.SetPower(bmc.PowerOn)
						}
						r.job("j", "web-1", tt.operations...)
						r.store.crashAt(at, durable)
						stop := r.start()
						time.Sleep(time.Minute)
						stop()
						r.store.crashAt(0, false)
						defer r.start()()
						j := r.ended("j")
						for action, most := range tt.most {
							n := 0
							for _, a := range f.Actions() {
								if a == action {
									n++
								}
							}
							if n > most {
								t.Errorf("crash at %d (durable: %t): %s was asked for %d times", at, durable, action, n)
							}
						}
						switch {
						case j.Status.State == pb.JobState_JOB_SUCCEEDED:
						case tt.unknown && strings.Contains(j.Status.Cause, "restarted"):
						default:
							t.Errorf("crash at %d (durable: %t): %s: %s", at, durable, j.Status.State, j.Status.Cause)
						}
					})
				}
			}
		})
	}
}

// TestController_Interrupted stops the server while the BMC is at work.
func TestController_Interrupted(t *testing.T) {
	for _, tt := range []struct {
		name   string
		after  time.Duration // of the start
		action string
		booted bool
		want   pb.JobState
		says   string
		power  bmc.PowerState
	}{
		{"power on is done again, by looking first", 3 * time.Second, "on", false, pb.JobState_JOB_SUCCEEDED, "", bmc.PowerOn},
		{"a cycle that was cut while the machine was off is completed", 8 * time.Second, "cycle", false, pb.JobState_JOB_SUCCEEDED, "became on", bmc.PowerOn},
		{"a cycle of which nothing is known is not repeated", time.Second, "cycle", false, pb.JobState_JOB_FAILED, "nothing says whether it was done", bmc.PowerOn},
		{"a reset after which the machine was seen to start was done", time.Second, "reset", true, pb.JobState_JOB_SUCCEEDED, "was seen to start", bmc.PowerOn},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rack) {
				f := r.machine("web-1")
				if tt.action != "on" {
					f.SetPower(bmc.PowerOn)
				}
				f.SetFaults(bmctest.Faults{Delay: 2 * time.Second})
				r.seen = func(machine.Name, time.Time) bool { return tt.booted }
				r.job("j", "web-1", power(tt.action))
				stop := r.start()
				synctest.Wait()
				time.Sleep(tt.after)
				stop()
				if j := r.get("j"); j.GetStatus().GetState() != pb.JobState_JOB_RUNNING {
					t.Fatalf("the server was stopped too late: %v", j.GetStatus())
				}
				defer r.start()()
				j := r.ended("j")
				op := j.Status.Operations[0]
				if j.Status.State != tt.want || !op.Interrupted || !strings.Contains(op.Result+op.Error, tt.says) || f.Power() != tt.power {
					t.Errorf("it is %s (interrupted: %t), power %s: %s%s", j.Status.State, op.Interrupted, f.Power(), op.Result, op.Error)
				}
			})
		})
	}
	t.Run("a firmware update is followed on by its task", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *rack) {
			f := r.machine("web-1")
			r.job("j", "web-1", &pb.Operation{Operation: &pb.Operation_Firmware{Firmware: &pb.FirmwareOperation{Component: "BIOS", Url: "http://mirror/bios.bin"}}})
			stop := r.start()
			time.Sleep(time.Minute)
			stop()
			defer r.start()()
			time.Sleep(time.Minute)
			f.Finish("")
			j := r.succeeded("j")
			if op := j.Status.Operations[0]; op.Task != "1" || !op.Interrupted {
				t.Errorf("it followed %v", op)
			}
		})
	})
	t.Run("a firmware update without a task on record is not begun again", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *rack) {
			r.machine("web-1").SetFaults(bmctest.Faults{Delay: 2 * time.Second})
			r.job("j", "web-1", &pb.Operation{Operation: &pb.Operation_Firmware{Firmware: &pb.FirmwareOperation{Component: "BIOS", Url: "http://mirror/bios.bin"}}})
			stop := r.start()
			synctest.Wait()
			time.Sleep(5 * time.Second)
			stop()
			defer r.start()()
			if j := r.ended("j"); j.Status.State != pb.JobState_JOB_FAILED || !strings.Contains(j.Status.Cause, "was not given it again") {
				t.Errorf("it is %s: %s", j.Status.State, j.Status.Cause)
			}
		})
	})
}

func TestController_Password(t *testing.T) {
	password := &pb.Operation{Operation: &pb.Operation_Password{Password: &pb.PasswordOperation{}}}
	t.Run("the BMC has a new password, and jobs log in with it", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *rack) {
			f := r.machine("web-1")
			stop := r.start()
			r.job("j", "web-1", password)
			r.succeeded("j")
			stop()
			if f.Password() == "secret" || len(f.Password()) != 16 || r.status("web-1").GetPasswordTime() == nil {
				t.Errorf("the password is %q, since %v", f.Password(), r.status("web-1").GetPasswordTime())
			}
			defer r.start()()
			r.job("k", "web-1", power("on"))
			r.succeeded("k")
		})
	})
	t.Run("a BMC that doesn't take it keeps the old one", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *rack) {
			f := r.machine("web-1")
			f.SetFaults(bmctest.Faults{IgnorePassword: true})
			defer r.start()()
			r.job("j", "web-1", password)
			if j := r.ended("j"); j.Status.State != pb.JobState_JOB_FAILED {
				t.Errorf("it is %s", j.Status.State)
			}
			f.SetFaults(bmctest.Faults{})
			r.job("k", "web-1", power("on"))
			r.succeeded("k")
		})
	})
	t.Run("a crash at any point leaves a server that can log in", func(t *testing.T) {
		for at := 1; at <= 12; at++ {
			for _, durable := range []bool{false, true} {
				inBubble(t, func(t *testing.T, r *rack) {
					f := r.machine("web-1")
					r.job("j", "web-1", password)
					r.store.crashAt(at, durable)
					stop := r.start()
					time.Sleep(time.Minute)
					stop()
					r.store.crashAt(0, false)
					defer r.start()()
					r.succeeded("j")
					if f.Password() == "secret" {
						t.Errorf("crash at %d (durable: %t): the BMC has its old password", at, durable)
					}
					r.job("k", "web-1", power("on"))
					r.succeeded("k")
				})
			}
		}
	})
}

func TestController_Inventory(t *testing.T) {
	inventory := &pb.Operation{Operation: &pb.Operation_Inventory{Inventory: &pb.InventoryOperation{}}}
	mac := machine.MAC{0x52, 0x54, 0, 0x77, 0, 1}
	id := bmc.Identity{UUID: "01234567-89ab-cdef-0123-456789abcdef", Serial: "FAKE1", Manufacturer: "Bedplate", Product: "Fake", MACs: []machine.MAC{mac}}
	discovered := func(r *rack, name string, change func(*pb.Machine)) {
		m := &pb.Machine{
			Metadata: &pb.Metadata{Name: name, Annotations: map[string]string{"bedplate/discovered": "true"}},
			Spec:     &pb.MachineSpec{Interfaces: []*pb.Interface{{Mac: mac.String()}, {Mac: "52:54:00:77:00:02"}}},
			Status:   &pb.MachineStatus{State: pb.MachineState_DISCOVERED, Inventory: &pb.Inventory{Kernel: "6.12"}, Agent: &pb.AgentStatus{BootId: "b1", KeyDigest: "k1"}},
		}
		change(m)
		if _, err := claim.Create(r.t.Context(), r.db, m); err != nil {
			r.t.Fatal(err)
		}
	}
	t.Run("a machine known by its BMC's address gets an identity", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *rack) {
			r.machine("web-1").SetIdentity(id)
			defer r.start()()
			r.job("j", "web-1", inventory)
			r.succeeded("j")
			m, err := resource.Get[*pb.Machine](t.Context(), r.db, "web-1")
			if err != nil {
				t.Fatal(err)
			}
			if m.Spec.Uuid != string(id.UUID) || m.Spec.Serial != "FAKE1" || m.Spec.Interfaces[0].Mac != mac.String() || m.Status.BmcInventory.GetSystem().GetSerial() != "FAKE1" {
				t.Errorf("it is %v", m)
			}
		})
	})
	t.Run("a machine that was discovered before turns out to be the same one", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *rack) {
			r.machine("web-1").SetIdentity(id)
			discovered(r, "m-525400770001", func(*pb.Machine) {})
			defer r.start()()
			r.job("j", "web-1", inventory)
			if got := r.succeeded("j").Status.Operations[0].Result; !strings.Contains(got, "merged") {
				t.Errorf("the result is %q", got)
			}
			all, _, err := resource.All[*pb.Machine](t.Context(), r.db)
			if err != nil || len(all) != 1 {
				t.Fatalf("there are %d machines, %v", len(all), err)
			}
			if m := all[0]; len(m.Spec.Interfaces) != 2 || m.Status.Inventory.GetKernel() != "6.12" || m.Status.Agent.GetBootId() != "b1" ||
				m.Metadata.Annotations[resource.AnnotationFormerName] != "m-525400770001" {
				t.Errorf("it is %v", m)
			}
		})
	})
	t.Run("a machine that is in use is never merged", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *rack) {
			r.machine("web-1").SetIdentity(id)
			discovered(r, "db-1", func(m *pb.Machine) {
				m.Metadata.Annotations, m.Status.State, m.Status.Instance = nil, pb.MachineState_ACTIVE, "db"
			})
			defer r.start()()
			r.job("j", "web-1", inventory)
			if j := r.ended("j"); j.Status.State != pb.JobState_JOB_FAILED || !strings.Contains(j.Status.Cause, "machine/db-1") {
				t.Errorf("it is %s: %s", j.Status.State, j.Status.Cause)
			}
		})
	})
	t.Run("a BMC that is another machine's is refused", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *rack) {
			r.machine("web-1", func(m *pb.Machine) { m.Spec.Serial = "OTHER" }).SetIdentity(id)
			defer r.start()()
			r.job("j", "web-1", inventory)
			if j := r.ended("j"); j.Status.State != pb.JobState_JOB_FAILED || !strings.Contains(j.Status.Cause, "another machine's") {
				t.Errorf("it is %s: %s", j.Status.State, j.Status.Cause)
			}
		})
	})
}

func TestController_Circuit(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rack) {
		f := r.machine("web-1")
		f.SetFaults(bmctest.Faults{Err: errors.Join(bmc.ErrUnreachable, errors.New("reset by peer"))})
		defer r.start()()
		r.job("j", "web-1", boot("disk"))
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		if s := r.status("web-1"); !s.GetCircuitOpen() || !strings.Contains(s.GetError(), "reset by peer") || s.GetRetryTime() == nil {
			t.Errorf("its status is %v", s)
		}
		f.SetFaults(bmctest.Faults{})
		r.succeeded("j")
		if s := r.status("web-1"); s.GetCircuitOpen() || s.GetError() != "" {
			t.Errorf("afterwards its status is %v", s)
		}
	})
}
