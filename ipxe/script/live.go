package script

import (
	"errors"
	"fmt"
	"strings"
)

// Live boots the system of an instance that runs in memory.
type Live struct {
	// Machine is the machine's name for messages, Image what it boots.
	Machine, Image string
	// KernelURL and InitramfsURLs are where the system comes from. GRUB takes
	// their paths from the server it came from itself.
	KernelURL     string
	InitramfsURLs []string
	// Args are the kernel's arguments; each must pass CheckArg.
	Args []string
}

func (l Live) purpose() string {
	return fmt.Sprintf("machine %s boots %s in memory", l.Machine, l.Image)
}

func (l Live) check() error {
	for _, u := range append([]string{l.KernelURL}, l.InitramfsURLs...) {
		if err := checkURL(u); err != nil {
			return err
		}
	}
	return checkArgs(l.Args)
}

// IPXE returns the script. A machine whose system cannot be fetched starts over
// after half a minute, so that it comes back when the server does.
func (l Live) IPXE() ([]byte, error) {
	if err := l.check(); err != nil {
		return nil, err
	}
	s := newIPXE(l.purpose())
	s.say("%s.", l.purpose())
	s.line("imgfree ||") // as in Agent
	args := make([]string, 0, len(l.Args)+len(l.InitramfsURLs))
	for i := range l.InitramfsURLs {
		args = append(args, fmt.Sprintf("initrd=%s%d", initrdName, i))
	}
	args = append(args, l.Args...)
	s.try("kernel", "kernel", strings.TrimSpace(fmt.Sprintf("kernel --timeout %d %s %s", fetchTimeout, l.KernelURL, strings.Join(args, " "))), "no_kernel")
	for i, u := range l.InitramfsURLs {
		name := fmt.Sprintf("%s%d", initrdName, i)
		s.try(name, "initramfs", fmt.Sprintf("initrd --timeout %d --name %s %s", fetchTimeout, name, u), "no_"+name)
	}
	s.line("boot ||")
	s.say("the kernel of %s could not be started.", l.Image)
	s.say("Secure Boot refuses kernels that iPXE loads: turn it off, or boot this machine with the shim.")
	s.line("goto restart")
	s.label("no_kernel")
	s.unreceived("kernel", l.KernelURL)
	s.line("goto restart")
	for i, u := range l.InitramfsURLs {
		s.label(fmt.Sprintf("no_%s%d", initrdName, i))
		s.unreceived("initramfs", u)
		s.line("goto restart")
	}
	s.label("restart")
	s.say("This machine restarts in 30 s.")
	s.sleep(30)
	s.line("reboot")
	return s.bytes(), nil
}

// errElsewhere is about files that GRUB can't fetch: its signed builds have no
// client for other servers than the one they came from.
var errElsewhere = errors.New("GRUB fetches from the server that it came from alone: import the file")

// GRUB returns the configuration.
func (l Live) GRUB() ([]byte, error) {
	if err := l.check(); err != nil {
		return nil, err
	}
	args := make([]string, len(l.Args))
	for i, arg := range l.Args {
		var err error
		if args[i], err = grubArg(arg); err != nil {
			return nil, err
		}
	}
	var initrds []string
	for _, u := range l.InitramfsURLs {
		if hostOf(u) != hostOf(l.KernelURL) {
			return nil, fmt.Errorf("%.200q %w: %w", u, ErrValue, errElsewhere)
		}
		initrds = append(initrds, quote(urlPath(u)))
	}
	s := newGRUB(l.purpose())
	s.say("%s.", l.purpose())
	s.line("set loaded=")
	s.line("for attempt in 1 2 3 4 %d; do", Attempts)
	s.line(`  if [ -z "$loaded" ]; then`)
	s.line("    if linux %s %s; then", quote(urlPath(l.KernelURL)), strings.Join(args, " "))
	if len(initrds) > 0 {
		s.line("      if initrd %s; then set loaded=1; fi", strings.Join(initrds, " "))
	} else {
		s.line("      set loaded=1")
	}
	s.line("    fi")
	s.line(`    if [ -z "$loaded" ]; then`)
	s.line(`      echo "Bedplate: system not received, attempt $attempt of %d. Trying again in $attempt s."`, Attempts)
	s.line("      sleep $attempt")
	s.line("    fi")
	s.line("  fi")
	s.line("done")
	s.line(`if [ -n "$loaded" ]; then boot; fi`)
	s.say("%s could not be started: not received in %d attempts, or refused.", l.Image, Attempts)
	s.say("To check: that the server is up, and that its kernel is signed by a key this machine trusts.")
	s.say("This machine restarts in 30 s.")
	s.line("sleep 30")
	s.line("reboot")
	return s.bytes(), nil
}
