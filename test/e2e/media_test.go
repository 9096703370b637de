package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bedplate/bedplate/lab"
)

// mediumIn returns QEMU's arguments for a medium that comes before everything
// else in the boot order.
func mediumIn(kind, file string) []string {
	drive := "if=none,id=medium,format=raw,readonly=on,file=" + file
	switch kind {
	case "stick":
		return []string{"-device", "qemu-xhci", "-drive", drive, "-device", "usb-storage,id=tray,drive=medium,removable=on,bootindex=0"}
	case "usb-cd": // as BMCs show their virtual CDs to the machine
		return []string{"-device", "qemu-xhci", "-drive", drive + ",media=cdrom", "-device", "usb-storage,id=tray,drive=medium,bootindex=0"}
	default:
		return []string{"-drive", drive + ",media=cdrom", "-device", "ide-cd,id=tray,drive=medium,bootindex=0"}
	}
}

// mediaRig is a rack without any DHCP server, whose machines have their boot
// media in place but for the content.
func mediaRig(t *testing.T, machines ...lab.MachineSpec) *rig {
	t.Helper()
	r := newRack(t, lab.Spec{Networks: []lab.Network{{Quiet: true}}, Machines: machines})
	r.start("--no-first-network")
	return r
}

// mediumFile is where a machine's medium is, before there is a rig.
func mediumFile(t *testing.T) string { return filepath.Join(t.TempDir(), "medium.iso") }

// mediaYAML describes a machine that boots from a medium, with an address of its own.
func (r *rig) mediaYAML(name, address string) string {
	return strings.Replace(r.machineYAML(name, address), "spec:\n", "spec:\n  boot_method: virtual-media\n", 1)
}

// makeMedium writes the machine's medium.
func (r *rig) makeMedium(name, file string) {
	r.t.Helper()
	r.t.Log(strings.TrimSpace(r.must("machine", "media", name, "--out", file)))
}

// connects powers a machine on and returns how long it took until its agent was
// connected.
func (r *rig) connects(name string) time.Duration {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 5*time.Minute)
	defer cancel()
	serial := r.machine(name).Serial()
	start := time.Now()
	r.powerOn(name)
	if _, err := serial.WaitFor(ctx, regexp.MustCompile(`connected to the server as machine `+name)); err != nil {
		r.t.Fatal(err)
	}
	return time.Since(start)
}

// TestMedia boots machines of each firmware from each kind of medium, on a
// network where nobody answers DHCP.
func TestMedia(t *testing.T) {
	for _, c := range []struct {
		name, kind string
		firmware   lab.Firmware
	}{
		{"bios-cd", "cd", lab.BIOS},
		{"bios-stick", "stick", lab.BIOS},
		{"uefi-cd", "cd", lab.UEFI},
		{"uefi-stick", "stick", lab.UEFI},
		{"secure-cd", "cd", lab.UEFISecure},
		{"secure-usb-cd", "usb-cd", lab.UEFISecure},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !all() && c.name != "bios-stick" && c.name != "secure-cd" {
				t.Skip("SKIPPED: `make e2e-all` runs it; TestLife boots UEFI from a CD")
			}
			file := mediumFile(t)
			r := mediaRig(t, lab.MachineSpec{Name: c.name, Firmware: c.firmware, Args: mediumIn(c.kind, file), Boot: []string{"disk"}})
			r.apply(r.mediaYAML(c.name, "10.77.0.31/24"))
			r.makeMedium(c.name, file)
			t.Logf("%s: %.1f s from power-on to connected", c.name, r.connects(c.name).Seconds())
			r.waitState(2*time.Minute, "machine", c.name, "available", "failed")
			m := r.object("machine", c.name)
			if got := field(m, "status", "agent", "address"); got != "10.77.0.31" {
				t.Errorf("the agent's address is %q, want the one on the medium", got)
			}
			want := map[bool]string{true: "true", false: ""}[c.firmware == lab.UEFISecure]
			if got := field(m["status"], "inventory", "firmware", "secure_boot"); got != want {
				t.Errorf("Secure Boot is %q, want %q", got, want)
			}
			t.Run("a second boot of the same medium enrols again", func(t *testing.T) {
				r := r.in(t)
				before := field(r.object("machine", c.name), "status", "agent", "boot_id")
				if err := r.machine(c.name).PowerOff(t.Context()); err != nil {
					t.Fatal(err)
				}
				r.connects(c.name)
				if after := field(r.object("machine", c.name), "status", "agent", "boot_id"); after == before {
					t.Errorf("the boot is still %s", before)
				}
			})
			t.Run("a revoked one doesn't, and says so", func(t *testing.T) {
				r := r.in(t)
				r.must("machine", "media", c.name, "--revoke")
				r.saysOnBoot(c.name, `this boot medium is not good any more`)
			})
		})
	}
}

// saysOnBoot resets the machine and waits for words on its console.
func (r *rig) saysOnBoot(name, pattern string) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 5*time.Minute)
	defer cancel()
	serial := r.machine(name).Serial()
	if err := r.machine(name).Reset(ctx); err != nil {
		r.t.Fatal(err)
	}
	if _, err := serial.WaitFor(ctx, regexp.MustCompile(pattern)); err != nil {
		r.t.Fatal(err)
	}
}

// qmp has QEMU carry out a command.
func (r *rig) qmp(name, command string, arguments map[string]any) {
	r.t.Helper()
	// Paths of sockets may have 108 bytes only.
	dir, err := os.Open(r.machine(name).Dir())
	if err != nil {
		r.t.Fatal(err)
	}
	defer dir.Close()
	conn, err := net.Dial("unix", fmt.Sprintf("/proc/self/fd/%d/qmp.sock", dir.Fd()))
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		r.t.Fatal(err)
	}
	answers := bufio.NewScanner(conn)
	for _, c := range []any{map[string]any{"execute": "qmp_capabilities"}, map[string]any{"execute": command, "arguments": arguments}} {
		data, err := json.Marshal(c)
		if err != nil {
			r.t.Fatal(err)
		}
		if _, err := conn.Write(append(data, '\n')); err != nil {
			r.t.Fatal(err)
		}
	}
	for returned := 0; returned < 2 && answers.Scan(); {
		if strings.Contains(answers.Text(), `"error"`) {
			r.t.Fatalf("%s: %s", command, answers.Text())
		}
		if strings.Contains(answers.Text(), `"return"`) {
			returned++
		}
	}
}

// TestMedia_Install takes a machine in a network without DHCP from its medium to
// a login on the installed system, which has the machine's address.
func TestMedia_Install(t *testing.T) {
	if !all() {
		t.Skip("SKIPPED: `make e2e-all` runs it; TestLife installs one from a medium that its BMC inserts")
	}
	file := mediumFile(t)
	r := mediaRig(t, lab.MachineSpec{Name: "m", Firmware: lab.UEFI, Args: mediumIn("cd", file), Boot: []string{"disk"}})
	r.importDebian()
	r.apply(r.mediaYAML("m", "10.77.0.31/24"))
	r.makeMedium("m", file)
	r.connects("m")
	r.waitState(2*time.Minute, "machine", "m", "available", "failed")
	// The agent is in memory: nothing reads the medium any more.
	r.qmp("m", "eject", map[string]any{"id": "tray", "force": true})
	r.apply(r.instanceYAML("m"))

	r.waitState(installTime, "instance", "m", "active", "failed")
	r.proves("m", "10.77.0.31")
	r.hasGiven("10.77.0.31")
}

// TestMedia_Stranger boots one machine's medium in another machine.
func TestMedia_Stranger(t *testing.T) {
	file := mediumFile(t)
	r := mediaRig(t,
		lab.MachineSpec{Name: "mine", Args: mediumIn("cd", file), Boot: []string{"disk"}},
		lab.MachineSpec{Name: "theirs"})
	r.apply(r.mediaYAML("theirs", "10.77.0.32/24"))
	r.makeMedium("theirs", file)
	r.powerOn("mine")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	want := fmt.Sprintf(`this machine has the interfaces %s; addresses are given for %s`, r.machine("mine").Spec().MAC, r.machine("theirs").Spec().MAC)
	if _, err := r.machine("mine").Serial().WaitFor(ctx, regexp.MustCompile(want)); err != nil {
		t.Fatal(err)
	}
}

// TestMedia_VLAN boots a machine whose server is on a VLAN of its port, and
// reads what it sends: the bridge has no such VLAN, nor does every host's kernel.
func TestMedia_VLAN(t *testing.T) {
	file := mediumFile(t)
	r := mediaRig(t, lab.MachineSpec{Name: "m", Args: mediumIn("cd", file), Boot: []string{"disk"}})
	r.apply(strings.Replace(r.mediaYAML("m", "10.77.0.31/24"), `"10.77.0.31/24"`, `"10.77.0.31/24", vlan: 42`, 1))
	r.makeMedium("m", file)
	fd := r.listen("br0")
	serial := r.machine("m").Serial()
	r.powerOn("m")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if _, err := serial.WaitFor(ctx, regexp.MustCompile(`vlan\d+\.42 \(`+r.machine("m").Spec().MAC+`\): address 10\.77\.0\.31/24, given beforehand`)); err != nil {
		t.Fatal(err)
	}
	mac, err := net.ParseMAC(r.machine("m").Spec().MAC)
	if err != nil {
		t.Fatal(err)
	}
	r.eventually(time.Minute, "a packet of the machine on VLAN 42", func() error {
		tag, err := nextTag(fd, mac)
		if err == nil && tag != 42 {
			t.Fatalf("a packet of the machine on VLAN %d", tag)
		}
		return err
	})
}

// listen returns a socket that hears everything on an interface of the lab.
func (r *rig) listen(iface string) (fd int) {
	r.t.Helper()
	if err := r.ns.Do(func() error {
		link, err := net.InterfaceByName(iface)
		if err != nil {
			return err
		}
		all := uint16(unix.ETH_P_ALL)<<8 | uint16(unix.ETH_P_ALL)>>8
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all)); err != nil {
			return err
		}
		return errors.Join(
			unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Index}),
			unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}),
		)
	}); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// nextTag returns the VLAN of the next packet from a MAC address; the kernel has
// taken the tag out of the packet and says it beside it (packet(7)).
func nextTag(fd int, from net.HardwareAddr) (int, error) {
	packet, beside := make([]byte, 2048), make([]byte, 256)
	for range 1000 {
		n, oob, _, _, err := unix.Recvmsg(fd, packet, beside, 0)
		if err != nil {
			return 0, err
		}
		if n < 14 || !bytes.Equal(packet[6:12], from) {
			continue
		}
		messages, err := unix.ParseSocketControlMessage(beside[:oob])
		if err != nil {
			return 0, err
		}
		for _, m := range messages {
			if m.Header.Level != unix.SOL_PACKET || m.Header.Type != unix.PACKET_AUXDATA || len(m.Data) < 20 {
				continue
			}
			// struct tpacket_auxdata: status, len, snaplen, mac, net, vlan_tci, vlan_tpid.
			if status := binary.NativeEndian.Uint32(m.Data); status&unix.TP_STATUS_VLAN_VALID != 0 {
				return int(binary.NativeEndian.Uint16(m.Data[16:]) & 0xfff), nil
			}
		}
		if packet[12] == 0x81 && packet[13] == 0 && n >= 16 {
			return int(binary.BigEndian.Uint16(packet[14:]) & 0xfff), nil
		}
	}
	return 0, errors.New("none among a thousand")
}
