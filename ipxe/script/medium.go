package script

import (
	"fmt"
	"regexp"
	"strings"
)

// Medium boots the agent from the boot medium that GRUB itself came from. It is
// for GRUB alone.
type Medium struct {
	// Machine is the machine's name for messages.
	Machine string
	// Kernel and Initrds are paths on the medium.
	Kernel  string
	Initrds []string
	// Args are the kernel's arguments; each must pass CheckArg.
	Args []string
	// Console is the machine's serial console as the kernel names it, such as
	// ttyS0,115200n8. Under BIOS GRUB talks there too; UEFI does so by itself.
	Console string
}

var serialPattern = regexp.MustCompile(`^ttyS([0-3])(?:,([0-9]{3,7}))?`)

// GRUB returns the script. It returns to the medium's own configuration when the
// agent can't be started.
func (m Medium) GRUB() ([]byte, error) {
	if err := checkArgs(m.Args); err != nil {
		return nil, err
	}
	args := make([]string, len(m.Args))
	for i, arg := range m.Args {
		var err error
		if args[i], err = grubArg(arg); err != nil {
			return nil, err
		}
	}
	s := newGRUB(fmt.Sprintf("boots the agent on machine %s from a medium", m.Machine))
	if found := serialPattern.FindStringSubmatch(m.Console); found != nil {
		speed := found[2]
		if speed == "" {
			speed = "9600"
		}
		s.line(`if [ "$grub_platform" = pc ]; then`)
		s.line("  if serial --unit=%s --speed=%s; then terminal_output console serial; fi", found[1], speed)
		s.line("fi")
	}
	s.say("boots the agent on machine %s. Over a BMC this can take some minutes.", m.Machine)
	initrds := make([]string, len(m.Initrds))
	for i, path := range m.Initrds {
		initrds[i] = quote(path)
	}
	s.line("if linux %s %s; then", quote(m.Kernel), strings.Join(args, " "))
	s.line("  if initrd %s; then boot; fi", strings.Join(initrds, " "))
	s.line("fi")
	s.say("the agent could not be started from this medium.")
	s.say("To check: that the medium is still inserted, and that its kernel is signed by a key this machine trusts.")
	return s.bytes(), nil
}
