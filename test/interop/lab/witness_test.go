package lab

import (
	"context"
	"io"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/bedplate/bedplate/lab"
)

// TestWitnesses has Debian's tools drive a machine, all in one boot of a rack.
func TestWitnesses(t *testing.T) {
	r := newRack(t, lab.MachineSpec{
		Name: "m", Memory: 256 << 20, Serial: "SN-4711", Disks: []lab.DiskSpec{{Size: 8 << 20}, {Bus: "nvme", Size: 16 << 20}}, NICs: []lab.NICSpec{{Network: "far"}},
	})
	r.images["/cd.iso"] = disc("this is the disc", nil)
	t.Run("ipmitool", func(t *testing.T) { r.in(t).witnessIPMI() })
	t.Run("ipmitool hears and types on the console", func(t *testing.T) { r.in(t).witnessSOL() })
	t.Run("sushy", func(t *testing.T) { r.in(t).witnessSushy() })
	t.Run("redfishtool", func(t *testing.T) { r.in(t).witnessRedfishtool() })
}

func (r *rack) witnessIPMI() {
	r.tool("ipmitool")
	want := func(out string, words ...string) {
		r.t.Helper()
		for _, w := range words {
			if !strings.Contains(out, w) {
				r.t.Errorf("%q is not in:\n%s", w, out)
			}
		}
	}
	m := r.machine("m")
	want(r.ipmi("m", "power", "status"), "Chassis Power is off")
	want(r.ipmi("m", "-C", "3", "chassis", "bootdev", "cdrom"), "Set Boot Device to cdrom")
	want(r.ipmi("m", "-C", "17", "chassis", "bootparam", "get", "5"), "Boot Flag Valid", "Options apply to only next boot", "Force Boot from CD/DVD")
	want(r.ipmi("m", "power", "on"), "Up/On")
	r.eventually("the machine is on", m.On)
	want(r.ipmi("m", "chassis", "bootparam", "get", "5"), "Boot Flag Invalid")
	want(r.ipmi("m", "chassis", "bootdev", "pxe", "options=persistent"), "Set Boot Device to pxe")
	want(r.ipmi("m", "chassis", "bootparam", "get", "5"), "Options apply to all future boots", "Force PXE")
	want(r.ipmi("m", "power", "reset"), "Reset")
	want(r.ipmi("m", "chassis", "bootdev", "none"), "none")
	want(r.ipmi("m", "mc", "info"), "IPMI Version              : 2.0", "FRU Inventory Device")
	want(r.ipmi("m", "mc", "guid"), m.Spec().UUID)
	want(r.ipmi("m", "fru", "print"), "Product Serial        : SN-4711", "Product Manufacturer  : Bedplate")
	want(r.ipmi("m", "sdr"), "CPU Temp         | 46 degrees C      | ok", "12.06 Volts")
	want(r.ipmi("m", "sel", "elist"), "Initiated by power up")
	want(r.ipmi("m", "sel", "clear"), "Clearing SEL")
	want(r.ipmi("m", "dcmi", "power", "reading"), "116 Watts")
	want(r.ipmi("m", "user", "list", "1"), "admin", "ADMINISTRATOR")
	r.ipmi("m", "user", "set", "name", "4", "ops")
	r.ipmi("m", "user", "set", "password", "4", "a password")
	r.ipmi("m", "channel", "setaccess", "1", "4", "ipmi=on", "link=on", "privilege=4")
	r.ipmi("m", "user", "enable", "4")
	b := m.Spec().BMC
	want(r.must("ipmitool", "-I", "lanplus", "-H", b.Address, "-U", "ops", "-P", "a password", "power", "status"), "Chassis Power is on")
	want(r.ipmi("m", "power", "off"), "Down/Off")
	r.eventually("the machine is off", func() bool { return !m.On() })
	if out, err := r.run("ipmitool", "-I", "lanplus", "-H", b.Address, "-U", "admin", "-P", "wrong", "power", "status"); err == nil {
		r.t.Errorf("a wrong password was taken: %s", out)
	}
}

// eventually waits for what follows an answer within moments.
func (r *rack) eventually(what string, ok func() bool) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			r.t.Fatalf("not within a minute: %s", what)
		}
	}
}

// witnessSOL listens with ipmitool while the log goes on and somebody else
// listens, too; what ipmitool types reaches iPXE's command line.
func (r *rack) witnessSOL() {
	r.tool("ipmitool")
	m := r.machine("m")
	b := m.Spec().BMC
	ctx, cancel := context.WithTimeout(r.t.Context(), 2*time.Minute)
	defer cancel()
	// script gives it the terminal that it insists on.
	cmd := exec.CommandContext(ctx, "script", "-qfec", "ipmitool -I lanplus -H "+b.Address+" -U "+b.Username+" -P "+b.Password+" sol activate", "/dev/null")
	keys, err := cmd.StdinPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	heard := &transcript{}
	cmd.Stdout, cmd.Stderr = heard, heard
	if err := r.ns.Start(cmd); err != nil {
		r.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() { cancel(); <-ended }()
	r.eventually("ipmitool listens", func() bool { return heard.has(`SOL Session operational`) })
	serial := m.Serial()
	r.override("m", "Pxe", "Once", "")
	r.reset("m", "On")
	r.eventually("ipmitool hears iPXE", func() bool { return heard.has(`Press Ctrl-B for the iPXE command line`) })
	r.says(serial, `Press Ctrl-B for the iPXE command line`)
	if _, err := io.WriteString(keys, "\x02"); err != nil {
		r.t.Fatal(err)
	}
	r.eventually("iPXE asks for a command", func() bool { return heard.has(`iPXE>`) })
	if _, err := io.WriteString(keys, "echo by ${manufacturer}\r"); err != nil {
		r.t.Fatal(err)
	}
	r.eventually("iPXE has done it", func() bool { return heard.has(`by Bedplate`) })
	r.says(serial, `by Bedplate`)
	r.reset("m", "ForceOff")
}

func (r *rack) witnessSushy() {
	if out, err := r.run("/usr/bin/python3", "-c", "import sushy"); err != nil {
		r.t.Skipf("SKIPPED: apt-get install python3-sushy: %s", out)
	}
	b := r.machine("m").Spec().BMC
	serial := r.machine("m").Serial()
	out := r.must("/usr/bin/python3", "testdata/drive.py", "https://"+b.Address, b.Username, b.Password, r.url+"/cd.iso")
	r.says(serial, biosCD)
	r.reset("m", "ForceOff")
	if !regexp.MustCompile(`(?m)^done$`).MatchString(out) {
		r.t.Errorf("sushy said: %s", out)
	}
}

func (r *rack) witnessRedfishtool() {
	r.tool("redfishtool")
	b := r.machine("m").Spec().BMC
	tool := func(args ...string) string {
		r.t.Helper()
		return r.must("redfishtool", append([]string{"-r", b.Address, "-u", b.Username, "-p", b.Password, "-S", "Always"}, args...)...)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"root"}, `"Vendor": "Bedplate"`},
		{[]string{"Systems", "-I", "1", "reset", "On"}, ``},
		{[]string{"Systems", "-I", "1"}, `"PowerState": "On"`},
		{[]string{"Systems", "-I", "1", "setBootOverride", "Once", "Pxe"}, ``},
		{[]string{"Systems", "-I", "1"}, `"BootSourceOverrideTarget": "Pxe"`},
		{[]string{"Systems", "-I", "1", "setAssetTag", "rack 7"}, ``},
		{[]string{"Systems", "-I", "1", "setIndicatorLed", "Blinking"}, ``},
		{[]string{"Systems", "-I", "1", "EthernetInterfaces", "-i", "nic0"}, strings.ToLower(r.machine("m").Spec().MAC)},
		{[]string{"Systems", "-I", "1", "Processors", "list"}, `1`},
		{[]string{"Systems", "-I", "1", "Logs", "list"}, `SEL`},
		{[]string{"Chassis", "-I", "1", "Thermal"}, `"ReadingCelsius": 46`},
		{[]string{"Chassis", "-I", "1", "Power"}, `"PowerConsumedWatts": 116`},
		{[]string{"Managers", "-I", "1", "NetworkProtocol"}, `"HTTPS"`},
		{[]string{"AccountService", "adduser", "web", "secret7", "Operator"}, ``},
		{[]string{"AccountService", "Accounts", "list"}, `web`},
		{[]string{"AccountService", "setpassword", "web", "secret8"}, ``},
		{[]string{"AccountService", "deleteuser", "web"}, ``},
		{[]string{"SessionService", "Sessions"}, `"Members"`},
		{[]string{"Systems", "-I", "1", "reset", "ForceOff"}, ``},
		{[]string{"Systems", "-I", "1"}, `"PowerState": "Off"`},
	} {
		if out := tool(c.args...); !strings.Contains(out, c.want) {
			r.t.Errorf("redfishtool %s: %q is not in:\n%s", strings.Join(c.args, " "), c.want, out)
		}
	}
}
