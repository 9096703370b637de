package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bedplate/bedplate/lab"
)

// testTime is how long the tests of one machine may take, short as they are
// set, while another machine is tested on the same two cores.
const testTime = 10 * time.Minute

// TestHardware runs the built-in template test on two small machines at once,
// which measure the network between them. A switch's neighbour is heard
// meanwhile.
func TestHardware(t *testing.T) {
	r := newRack(t, lab.Spec{Machines: []lab.MachineSpec{
		{Name: "a", CPUs: 2, Memory: 512 << 20, Disks: []lab.DiskSpec{{Bus: "virtio", Size: 1 << 30}, {Bus: "nvme", Size: 1 << 30}}},
		{Name: "b", CPUs: 1, Memory: 512 << 20, Disks: []lab.DiskSpec{{Bus: "ahci", Size: 1 << 30}, {Bus: "scsi", Size: 1 << 30}}},
	}})
	if os.Geteuid() == 0 {
		r.lldpd("tap0")
	}
	r.start()
	address := map[string]string{"a": "10.77.0.31", "b": "10.77.0.32"}
	used := r.useDisk("b", 1)
	for _, name := range []string{"a", "b"} {
		r.apply(r.machineYAML(name, address[name]+"/24"))
		r.powerOn(name)
	}
	for _, name := range []string{"a", "b"} {
		r.waitState(installTime, "machine", name, "available", "failed")
		r.must("workflow", "run", "test", "--machine", name, "--name", "test-"+name,
			"-i", "duration=20s", "-i", "network_duration=2s", "-i", `peers=["10.77.0.31", "10.77.0.32"]`)
	}
	for _, name := range []string{"a", "b"} {
		r.waitState(testTime, "workflow", "test-"+name, "succeeded", "failed", "cancelled")
	}
	t.Run("every CPU computes right", func(t *testing.T) {
		got := r.in(t).results("test-a", "cpu")
		for _, key := range []string{"cpu0 operations", "cpu1 operations", "cpu sha256", "cpu float64_matrix"} {
			got.positive(t, key)
		}
	})
	t.Run("most of the memory of a machine with 512 MB is tested, and the agent lives on", func(t *testing.T) {
		got := r.in(t).results("test-a", "memory")
		got.positive(t, "memory write")
		got.positive(t, "memory read")
		got.is(t, "memory faults", "0")
		if v := got["memory tested"]; number(v["value"]) < 100<<20 {
			t.Errorf("only %v bytes were tested", v["value"])
		}
	})
	t.Run("disks of each kind are read, the empty ones written to", func(t *testing.T) {
		for machine, disks := range map[string][]string{"a": {"A-D0", "A-D1"}, "b": {"B-D0"}} {
			got := r.in(t).results("test-"+machine, "disk")
			for _, d := range disks {
				for _, measure := range []string{"sequential_read", "random_read", "read_latency_p99", "sequential_write"} {
					got.positive(t, d+" "+measure)
				}
				got.is(t, d+" read_errors", "0")
				got.is(t, d+" write_faults", "0")
			}
		}
		r.in(t).results("test-a", "disk").is(t, "A-D1 smart_healthy", "1")
		r.in(t).results("test-b", "disk").is(t, "B-D0 smart_healthy", "1")
	})
	t.Run("a disk that holds something is not touched", func(t *testing.T) {
		r := r.in(t)
		r.results("test-b", "disk").is(t, "B-D1 write_test", "0")
		for _, name := range []string{"a", "b"} {
			if err := r.machine(name).PowerOff(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if now := r.readDisk("b", 1); now != used {
			t.Error("the disk was changed")
		}
		for _, at := range [][2]string{{"a", "0"}, {"a", "1"}, {"b", "0"}} {
			if now := r.readDisk(at[0], int(at[1][0]-'0')); strings.Trim(now, "\x00") != "" {
				t.Errorf("disk %s of %s holds what the test wrote", at[1], at[0])
			}
		}
	})
	t.Run("both ends measured the network between them", func(t *testing.T) {
		for _, pair := range [][2]string{{"a", "b"}, {"b", "a"}} {
			got := r.in(t).results("test-"+pair[0], "network")
			for _, measure := range []string{"peer_send", "peer_receive", "peer_latency_p50"} {
				got.positive(t, "eth0/"+pair[1]+" "+measure)
			}
			got.is(t, "eth0/"+pair[1]+" peer_corrupt", "0")
			got.positive(t, "eth0/server server_receive")
			got.positive(t, "eth0/server server_send")
			got.is(t, "eth0 link", "1")
		}
	})
	t.Run("the switch's port is in the inventory", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("lldpd needs root")
		}
		r := r.in(t)
		r.eventually(time.Minute, "a has a neighbour", func() error {
			nic := first(r.object("machine", "a")["status"].(map[string]any)["inventory"], "nics")
			if got := field(nic, "lldp", "system_name"); got != "leaf-1" {
				return fmt.Errorf("its NIC is %v", nic)
			}
			if got := field(nic, "lldp", "port_description"); got != "rack 3 unit 7" {
				return fmt.Errorf("the port is %q", got)
			}
			return nil
		})
	})
}

// results are the rows of one step, by subject and measure.
type results map[string]map[string]any

func (r *rig) results(workflow, step string) results {
	r.t.Helper()
	got := results{}
	for _, s := range r.object("workflow", workflow)["status"].(map[string]any)["steps"].([]any) {
		if field(s, "id") != step {
			continue
		}
		outputs, _ := s.(map[string]any)["outputs"].(map[string]any)
		list, _ := outputs["results"].([]any)
		for _, v := range list {
			row := v.(map[string]any)
			got[fmt.Sprint(row["subject"], " ", row["measure"])] = row
		}
	}
	var lines []string
	for key, row := range got {
		lines = append(lines, fmt.Sprintf("%s = %v %v %v", key, row["value"], row["unit"], row["message"]))
	}
	slices.Sort(lines)
	r.t.Logf("%s of %s:\n%s", step, workflow, strings.Join(lines, "\n"))
	return got
}

func number(v any) float64 {
	f, _ := v.(float64)
	return f
}

func (g results) positive(t *testing.T, key string) {
	t.Helper()
	if row := g[key]; number(row["value"]) <= 0 || row["ok"] != true {
		t.Errorf("%s is %v", key, row)
	}
}

func (g results) is(t *testing.T, key, want string) {
	t.Helper()
	if row := g[key]; row == nil || fmt.Sprint(row["value"]) != want {
		t.Errorf("%s is %v, want %s", key, row, want)
	}
}

// useDisk puts something in the middle of a machine's disk and returns all of it.
func (r *rig) useDisk(machine string, i int) string {
	r.t.Helper()
	f, err := os.OpenFile(r.diskPath(machine, i), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		r.t.Fatal(err)
	}
	defer f.Close()
	const size = 1 << 30
	_, err = f.WriteAt([]byte("somebody's data"), size/4+4711)
	if err := errors.Join(err, f.Truncate(size)); err != nil {
		r.t.Fatal(err)
	}
	return r.readDisk(machine, i)
}

func (r *rig) diskPath(machine string, i int) string {
	return filepath.Join(r.dir, "lab", machine, fmt.Sprintf("disk%d.raw", i))
}

func (r *rig) readDisk(machine string, i int) string {
	r.t.Helper()
	b, err := os.ReadFile(r.diskPath(machine, i))
	if err != nil {
		r.t.Fatal(err)
	}
	return string(b)
}

// lldpd runs a switch's LLDP on a machine's cable: Debian's lldpd.
func (r *rig) lldpd(tap string) {
	r.t.Helper()
	if _, err := exec.LookPath("lldpd"); err != nil {
		r.t.Fatal("lldpd is missing: run `make e2e`, which installs it")
	}
	socket := filepath.Join("/run", fmt.Sprintf("bedplate-lldpd-%d.sock", os.Getpid())) // its user can't enter the test's folder
	cmd := exec.Command("lldpd", "-d", "-u", socket, "-I", tap, "-S", "leaf-1")
	if err := r.ns.Start(cmd); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
		os.Remove(socket)
	})
	r.eventually(20*time.Second, "lldpd answers", func() error {
		for _, args := range [][]string{
			{"configure", "system", "hostname", "leaf-1"},
			{"configure", "ports", tap, "lldp", "portdescription", "rack 3 unit 7"},
		} {
			ctl := exec.Command("lldpcli", append([]string{"-u", socket}, args...)...)
			if out, err := ctl.CombinedOutput(); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
		}
		return nil
	})
}
