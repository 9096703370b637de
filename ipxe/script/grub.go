package script

import (
	"fmt"
	"net/url"
	"strings"
)

// grub collects the lines of a GRUB configuration.
type grub struct{ b strings.Builder }

func newGRUB(purpose string) *grub {
	s := &grub{}
	s.line("# Bedplate: %s", text(purpose))
	s.line("set timeout=0")
	return s
}

func (s *grub) bytes() []byte { return []byte(s.b.String()) }

func (s *grub) line(format string, args ...any) {
	fmt.Fprintf(&s.b, format+"\n", args...)
}

// say prints a line on the machine's console.
func (s *grub) say(format string, args ...any) {
	s.line("echo %s", quote("Bedplate: "+text(fmt.Sprintf(format, args...))))
}

// quote returns s as one word that GRUB takes as it is (GRUB manual, Quoting).
func quote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// NetMAC as the value of Agent's bedplate.mac= stands for the interface that GRUB
// itself was booted over; only GRUB knows it.
const NetMAC = "$net_default_mac"

// grubArg quotes a kernel argument. GRUB puts backslashes before quotes and
// backslashes when it hands arguments on (lib/cmdline.c), so those with such
// characters would reach Linux altered.
func grubArg(arg string) (string, error) {
	if name, ok := strings.CutSuffix(arg, "="+NetMAC); ok {
		return quote(name+"=") + NetMAC, nil
	}
	if strings.ContainsAny(arg, ` "'\`) {
		return "", fmt.Errorf("kernel argument %.80q %w: GRUB alters spaces, quotes and backslashes", arg, ErrValue)
	}
	return quote(arg), nil
}

// GRUB returns the configuration. Kernel and initramfs are fetched by path from
// the server that GRUB came from, over HTTP or TFTP as it did: Debian 12's
// signed image has no http module.
func (a Agent) GRUB() ([]byte, error) {
	if err := a.check(); err != nil {
		return nil, err
	}
	args := make([]string, len(a.Args))
	for i, arg := range a.Args {
		var err error
		if args[i], err = grubArg(arg); err != nil {
			return nil, err
		}
	}
	kernel, initramfs := urlPath(a.KernelURL), urlPath(a.InitramfsURL)
	s := newGRUB(a.purpose())
	s.say("%s.", a.purpose())
	s.line("set loaded=")
	s.line("for attempt in 1 2 3 4 %d; do", Attempts)
	s.line(`  if [ -z "$loaded" ]; then`)
	s.line("    if linux %s %s; then", quote(kernel), strings.Join(args, " "))
	s.line("      if initrd %s; then set loaded=1; fi", quote(initramfs))
	s.line("    fi")
	s.line(`    if [ -z "$loaded" ]; then`)
	s.line(`      echo "Bedplate: agent not received, attempt $attempt of %d. Trying again in $attempt s."`, Attempts)
	s.line("      sleep $attempt")
	s.line("    fi")
	s.line("  fi")
	s.line("done")
	s.line(`if [ -n "$loaded" ]; then boot; fi`)
	s.say("the agent could not be started: %s and %s not received in %d attempts, or refused.", kernel, initramfs, Attempts)
	s.say("To check: that the server is up, and that its kernel is signed by a key this machine trusts.")
	s.say("This machine restarts in 30 s.")
	s.line("sleep 30")
	s.line("reboot")
	return s.bytes(), nil
}

func hostOf(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return ""
	}
	return u.Host
}

func urlPath(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return ""
	}
	return u.Path
}

// loaders are the boot loaders of installed systems, below an EFI system
// partition. Those of distributions come first: the fallback, where there is a
// fbx64.efi beside it, writes boot entries and puts its own before the network's.
var loaders = []string{
	"/EFI/debian/shimx64.efi", "/EFI/ubuntu/shimx64.efi", "/EFI/fedora/shimx64.efi", "/EFI/redhat/shimx64.efi", "/EFI/centos/shimx64.efi",
	"/EFI/rocky/shimx64.efi", "/EFI/almalinux/shimx64.efi", "/EFI/opensuse/shim.efi", "/EFI/sles/shim.efi",
	"/EFI/Microsoft/Boot/bootmgfw.efi", "/EFI/BOOT/BOOTX64.EFI",
}

// leave starts the installed system's boot loader. Giving the machine back to
// its firmware would be simpler, but exit is a success to GRUB 2.06, whatever
// status it is given, and after a success OVMF 2022.11 shows its menu instead
// of trying the next boot option (UEFI 2.10 §3.1.7). Where no loader is found
// that is all that is left.
func (s *grub) leave() {
	s.line("for esp in (hd*,gpt*) (hd*,msdos*); do")
	s.line("  for loader in %s; do", strings.Join(loaders, " "))
	s.line("    if [ -f $esp$loader ]; then")
	s.line(`      echo "Bedplate: starting $esp$loader"`)
	// A loader finds the rest of itself on root's device, not on its own.
	s.line("      set root=$esp")
	s.line("      if chainloader $loader; then boot; fi")
	s.line("    fi")
	s.line("  done")
	s.line("done")
	s.say("no boot loader could be started; going on with the next device of the boot order.")
	s.line("exit 1")
}

// GRUB returns the configuration.
func (d Disk) GRUB() ([]byte, error) {
	s := newGRUB(d.purpose())
	s.say("%s.", d.purpose())
	s.leave()
	return s.bytes(), nil
}

// GRUB returns the configuration.
func (m Message) GRUB() ([]byte, error) {
	s := newGRUB("nothing to boot")
	for _, line := range m.Lines {
		s.say("%s", line)
	}
	s.line("sleep %d", messageSeconds)
	s.leave()
	return s.bytes(), nil
}
