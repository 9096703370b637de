package script

import (
	"fmt"
	"strings"
)

// First is the script that every machine gets from DHCP, the same for all: it
// asks for the machine's own with what iPXE knows of the machine.
type First struct {
	// URL is where the machine's own script comes from, without a query.
	URL string
}

// identity is what the machine's own script is asked for with. netX is the
// interface that was booted over; the others help when that one is not on record.
const identity = "mac=${netX/mac:hexhyp}&mac=${net0/mac:hexhyp}&mac=${net1/mac:hexhyp}&mac=${net2/mac:hexhyp}&mac=${net3/mac:hexhyp}" +
	"&uuid=${uuid}&serial=${serial:uristring}&arch=${buildarch}&platform=${platform}"

// IPXE returns the script. When no script can be had it gives the machine back
// to its firmware, so that a machine whose server is away boots its own disk.
func (f First) IPXE() ([]byte, error) {
	if err := checkURL(f.URL); err != nil {
		return nil, err
	}
	s := newIPXE("asks for this machine's own script")
	// --replace: the status of the machine's script is iPXE's own. Without it
	// the exit of a machine that is to boot its disk would count as a failure here.
	s.try("script", "boot script", fmt.Sprintf("chain --replace --timeout %d %s?%s", fetchTimeout, f.URL, identity), "no_script")
	s.line("exit 0")
	s.label("no_script")
	s.say("no boot script from %s.", f.URL)
	s.say("The server is down, cannot be reached, or is told to ignore this machine.")
	s.say("To check: `bedplate machine list`, the server's log, a firewall before its HTTP port.")
	s.say("This machine goes on with the next device of its boot order.")
	s.leave()
	return s.bytes(), nil
}

// leave gives the machine back to its firmware: under UEFI with a failure, as
// firmware shows its menu after a success instead of trying the next boot
// option; under BIOS with a success, as iPXE tries every other interface first
// after a failure.
func (s *ipxe) leave() {
	s.line("iseq ${platform} efi && exit 1 ||")
	s.line("exit 0")
}

// Agent boots the in-memory agent.
type Agent struct {
	// Machine is the machine's name for messages. Empty: an unknown machine, to be discovered.
	Machine string
	// KernelURL and InitramfsURL are where the agent's system comes from. GRUB
	// takes their paths from the server it came from itself.
	KernelURL, InitramfsURL string
	// Args are the kernel's arguments; each must pass CheckArg.
	Args []string
}

// initrdName is what the initramfs is called in iPXE. A kernel with an EFI stub
// finds it by this name in its initrd= argument; under BIOS that does nothing.
const initrdName = "initramfs"

func (a Agent) purpose() string {
	if a.Machine == "" {
		return "boots the agent to discover this machine"
	}
	return fmt.Sprintf("boots the agent on machine %s", a.Machine)
}

func (a Agent) check() error {
	for _, u := range []string{a.KernelURL, a.InitramfsURL} {
		if err := checkURL(u); err != nil {
			return err
		}
	}
	return checkArgs(a.Args)
}

// IPXE returns the script. A machine whose agent cannot be fetched starts over
// after half a minute, so that it comes back when the server does.
func (a Agent) IPXE() ([]byte, error) {
	if err := a.check(); err != nil {
		return nil, err
	}
	s := newIPXE(a.purpose())
	s.say("%s.", a.purpose())
	// Whatever was fetched before, this script's own ancestors included, would
	// be joined to the initramfs.
	s.line("imgfree ||")
	s.try("kernel", "kernel", fmt.Sprintf("kernel --timeout %d %s initrd=%s %s", fetchTimeout, a.KernelURL, initrdName, strings.Join(a.Args, " ")), "no_kernel")
	s.try("initramfs", "initramfs", fmt.Sprintf("initrd --timeout %d --name %s %s", fetchTimeout, initrdName, a.InitramfsURL), "no_initramfs")
	s.line("boot ||")
	s.say("the agent's kernel could not be started.")
	s.say("Secure Boot refuses kernels that iPXE loads: turn it off, or boot this machine with the shim.")
	s.line("goto restart")
	s.label("no_kernel")
	s.unreceived("kernel", a.KernelURL)
	s.line("goto restart")
	s.label("no_initramfs")
	s.unreceived("initramfs", a.InitramfsURL)
	s.label("restart")
	s.say("This machine restarts in 30 s.")
	s.sleep(30)
	s.line("reboot")
	return s.bytes(), nil
}

func (s *ipxe) unreceived(what, url string) {
	s.say("the %s could not be fetched from %s in %d attempts.", what, url, Attempts)
	s.say("To check: that the server is up, that `curl -I %s` answers from this network, and the machine's memory.", url)
}

// Disk boots the machine's own disk, at once.
type Disk struct {
	// Machine is the machine's name for messages.
	Machine string
}

func (d Disk) purpose() string { return fmt.Sprintf("machine %s boots its own disk", d.Machine) }

// IPXE returns the script.
func (d Disk) IPXE() ([]byte, error) {
	s := newIPXE(d.purpose())
	s.say("%s.", d.purpose())
	s.line("iseq ${platform} efi && exit 1 ||")
	s.line("sanboot --no-describe --drive 0x80 ||")
	s.say("the first disk cannot be booted; going on with the next device of the boot order.")
	s.line("exit 0")
	return s.bytes(), nil
}

// Message shows lines on the console, then gives the machine back to its firmware.
type Message struct {
	// Lines are shown as they are, but for characters a console script cannot hold.
	Lines []string
}

// messageSeconds is how long a message stands before the firmware goes on.
const messageSeconds = 10

// IPXE returns the script.
func (m Message) IPXE() ([]byte, error) {
	s := newIPXE("nothing to boot")
	for _, line := range m.Lines {
		s.say("%s", line)
	}
	s.sleep(messageSeconds)
	s.leave()
	return s.bytes(), nil
}
