package hardware

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWatch(t *testing.T) {
	root := kernel(t, map[string]string{
		"sys/devices/system/edac/mc/mc0/ce_count":                             "10\n",
		"sys/devices/system/edac/mc/mc0/ue_count":                             "0\n",
		"sys/devices/system/edac/mc/mc0/dimm1/dimm_ce_count":                  "10\n",
		"sys/devices/system/edac/mc/mc0/dimm1/dimm_label":                     "DIMM_B2\n",
		"sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count":    "5\n",
		"sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count": "5\n",
		"sys/class/thermal/thermal_zone0/temp":                                "41000\n",
		"sys/class/hwmon/hwmon1/temp2_input":                                  "63500\n",
		"sys/class/hwmon/hwmon1/temp3_input":                                  "-128000\n", // a sensor that isn't connected
		"proc/interrupts":                                                     "           CPU0       CPU1\n  0:  44 0  IO-APIC  2-edge timer\nMCE:          0          1   Machine check exceptions\nMCP:  9 9  Machine check polls\n",
		"dev/kmsg":                                                            "4,1,5,-;mce: [Hardware Error]: from before the test\n",
	})
	s := newService(t, Config{Root: root})
	w := s.watch()
	write(t, root, map[string]string{
		"sys/devices/system/edac/mc/mc0/ce_count":                          "13\n",
		"sys/devices/system/edac/mc/mc0/ue_count":                          "1\n",
		"sys/devices/system/edac/mc/mc0/dimm1/dimm_ce_count":               "13\n",
		"sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "7\n",
		"sys/class/thermal/thermal_zone0/temp":                             "91000\n",
		"proc/interrupts":                                                  "MCE:          2          1   Machine check exceptions\n",
	})
	appendTo(t, filepath.Join(root, "dev/kmsg"),
		"6,2,90,-;eth0: link up\n3,3,91,-;EDAC MC0: 3 CE memory read error on DIMM_B2\n SUBSYSTEM=edac\n")
	rep := &recorder{}
	var got []string
	for _, r := range w.stop(rep) {
		line := r.subject + " " + r.measure + " " + trimFloat(r.value)
		if r.bad {
			line += " bad"
		}
		if r.message != "" {
			line += ": " + r.message
		}
		got = append(got, line)
	}
	want := []string{
		"memory edac_corrected 3: mc0/dimm1 (DIMM_B2): 3",
		"memory edac_uncorrected 1 bad",
		"cpu machine_checks 2 bad: the processor reported errors of the hardware; see the kernel's log",
		"cpu throttled 2",
		"machine temperature_max 91",
		"machine kernel_hardware_errors 1: EDAC MC0: 3 CE memory read error on DIMM_B2",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("results (-want +got):\n%s", diff)
	}
}

func TestWatch_Nothing(t *testing.T) {
	s := newService(t, Config{Root: t.TempDir()})
	for _, r := range s.watch().stop(&recorder{}) {
		if r.bad || r.value != 0 {
			t.Errorf("a machine without counters has %s %s: %v", r.subject, r.measure, r.value)
		}
	}
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func FuzzRecordText(f *testing.F) {
	f.Add("6,1234,5678,-;eth0: link up")             // priority, sequence, time, flags; text
	f.Add(" SUBSYSTEM=net")                          // a key of the record before
	f.Add("3,1,2,c;mce: [Hardware Error]: \\x0aCPU") // continued, with an escaped newline
	f.Fuzz(func(t *testing.T, line string) {
		text, ok := recordText(line)
		if !ok && text != "" {
			t.Errorf("%q is no record and has the text %q", line, text)
		}
	})
}
