package bmc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bedplate/bedplate/bmc"
	"github.com/bedplate/bedplate/bmc/bmctest"
	"github.com/bedplate/bedplate/bmc/ipmi"
)

// chassis is what ipmi_sim calls to see and set power and boot device. The
// machine is a folder: a file for its power, one for its boot device.
const chassis = `#!/bin/sh
S=%s; shift; op=$1; shift
case $op in
get) for p in "$@"; do case $p in
  power) [ -e $S/on ] && echo power:1 || echo power:0;;
  boot) echo boot:$(cat $S/boot 2>/dev/null || echo default);;
  *) exit 1;; esac; done;;
set) while [ $# -gt 0 ]; do p=$1; v=$2; shift 2; case $p in
  power) [ $v = 1 ] && touch $S/on || rm -f $S/on;;
  reset) ;; shutdown) rm -f $S/on;; boot) echo $v >$S/boot;; identify) shift;; *) exit 1;; esac; done;;
*) exit 1;; esac
`

const lanConf = `name "sim"
set_working_mc 0x20
  startlan 1
    addr 127.0.0.1 %d
    priv_limit admin
    allowed_auths_callback none md2 md5 straight
    allowed_auths_user none md2 md5 straight
    allowed_auths_operator none md2 md5 straight
    allowed_auths_admin none md2 md5 straight
    guid 67452301ab89efcd0123456789abcdef
  endlan
  chassis_control "%s 0x20"
  sol "telnet:%s" 115200
  user 2 true "admin" "%s" admin 10 none md2 md5 straight
`

// simEmu has FRU data, a SEL with one entry, and a temperature of 41 °C.
const simEmu = `mc_setbmc 0x20
mc_add 0x20 0 has-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr
sel_enable 0x20 50 0x0a
sel_add 0x20 0x02 0 0 0 0 0x20 0 4 1 0x30 0x01 0x59 41 40
mc_add_fru_data 0x20 0 %d file 0 "%s"
sensor_add 0x20 0 0x30 1 1
sensor_set_event_support 0x20 0 0x30 enable scanning per-state 000000000000000 000000000000000 000000000000000 000000000000000
sensor_set_value 0x20 0 0x30 41 0
main_sdr_add 0x20 %s
mc_enable 0x20
`

const simPassword = "s3cret-pass"

// startSim starts ipmi_sim and returns how to log in.
func startSim(t *testing.T) (bmc.Target, string) {
	t.Helper()
	if _, err := exec.LookPath("ipmi_sim"); err != nil {
		if os.Getenv("BEDPLATE_E2E") == "1" {
			t.Fatal("ipmi_sim is not installed: make e2e-deps")
		}
		t.Skip("SKIPPED: ipmi_sim is not installed (Debian package openipmi)")
	}
	dir := t.TempDir()
	port := freePort(t)
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	fru := string(bmctest.FRU(bmc.Identity{Manufacturer: "Acme", Product: "Box", Serial: "SN1"}))
	script := write("chassis", fmt.Sprintf(chassis, dir), 0o755)
	lan := write("lan.conf", fmt.Sprintf(lanConf, port, script, serialPort(t), simPassword), 0o644)
	emu := write("sim.emu", fmt.Sprintf(simEmu, len(fru), write("fru", fru, 0o644), words(bmctest.SensorRecord("CPU Temp"))), 0o644)
	if err := os.Mkdir(filepath.Join(dir, "state"), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "ipmi_sim", "-c", lan, "-f", emu, "-s", filepath.Join(dir, "state"), "-n")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("ipmi_sim said:\n%s", &out)
		}
	})
	target := bmc.Target{Address: fmt.Sprintf("127.0.0.1:%d", port), Protocol: bmc.ProtocolIPMI, Username: "admin", Password: simPassword}
	awaitSim(t, target)
	return target, dir
}

// awaitSim waits until the simulator answers.
func awaitSim(t *testing.T, target bmc.Target) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		d, err := ipmi.Dial(ctx, target)
		if err == nil {
			_ = d.Close(ctx)
			return
		}
		// While it starts it doesn't answer, or says that it has no sessions to give.
		if ctx.Err() != nil {
			t.Fatalf("ipmi_sim: %v", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	return conn.LocalAddr().(*net.UDPAddr).Port
}

// serialPort is a machine's serial port behind telnet, which echoes.
func serialPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(conn, conn); _ = conn.Close() }()
		}
	}()
	return l.Addr().String()
}

func words(b []byte) string {
	var parts []string
	for _, v := range b {
		parts = append(parts, fmt.Sprintf("0x%02x", v))
	}
	return strings.Join(parts, " ")
}

func TestIPMISim(t *testing.T) {
	bmctest.Run(t, func(t *testing.T) bmctest.Setup {
		target, dir := startSim(t)
		return bmctest.Setup{
			Target: target, Dial: dialer.Dial, Soft: true, Echo: true,
			Identity: bmc.Identity{Serial: "SN1", Manufacturer: "Acme", Product: "Box"},
			// ipmi_sim drops the flags for UEFI and for always, and answers "none" for a disk.
			Devices: []bmc.BootDevice{},
			Machine: bmctest.Machine{Power: func() bmc.PowerState {
				if _, err := os.Stat(filepath.Join(dir, "on")); err != nil {
					return bmc.PowerOff
				}
				return bmc.PowerOn
			}},
		}
	}, bmctest.Login, bmctest.Power, bmctest.Identity, bmctest.Inventory, bmctest.Sensors, bmctest.HealthReport, bmctest.EventLog,
		bmctest.Firmware, bmctest.Console)
}

func TestIPMISim_Boot(t *testing.T) {
	target, dir := startSim(t)
	d, err := ipmi.Dial(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close(context.Background()) }()
	t.Run("the machine is told to boot from the network", func(t *testing.T) {
		if err := d.RequestBoot(t.Context(), bmc.BootOverride{Device: bmc.BootNetwork}); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join(dir, "boot")); err != nil || strings.TrimSpace(string(got)) != "pxe" {
			t.Errorf("boot device is %q, %v", got, err)
		}
	})
	t.Run("what the simulator drops is found out", func(t *testing.T) {
		c := bmc.NewClient(d, bmc.Wait{Poll: 10 * time.Millisecond, ReadBack: 50 * time.Millisecond}, time.Now)
		err := c.SetBoot(t.Context(), bmc.BootOverride{Device: bmc.BootNetwork, Mode: bmc.ModeUEFI, Persistent: true})
		if !errors.Is(err, bmc.ErrIgnored) {
			t.Errorf("error is %v, want bmc.ErrIgnored", err)
		}
	})
}
