package script

import (
	"fmt"
	"strings"
)

// Attempts is how often each fetch is tried.
const Attempts = 5

// fetchTimeout is how long iPXE waits for the next bytes of a download, in
// milliseconds, before the attempt counts as failed.
const fetchTimeout = 30000

// ipxe collects the lines of an iPXE script. Its methods are the only place
// where command names are spelled.
type ipxe struct{ b strings.Builder }

func newIPXE(purpose string) *ipxe {
	s := &ipxe{}
	s.line("#!ipxe")
	s.line("# Bedplate: %s", text(purpose))
	return s
}

func (s *ipxe) bytes() []byte { return []byte(s.b.String()) }

func (s *ipxe) line(format string, args ...any) {
	fmt.Fprintf(&s.b, format+"\n", args...)
}

// say prints a line on the machine's console.
func (s *ipxe) say(format string, args ...any) {
	s.line("echo Bedplate: %s", text(fmt.Sprintf(format, args...)))
}

func (s *ipxe) label(name string) { s.line(":%s", name) }

// sleep waits. `|| ` keeps a key press of Ctrl-C from ending the script.
func (s *ipxe) sleep(seconds int) { s.line("sleep %d ||", seconds) }

// try runs command, which must have been checked, up to Attempts times. It goes
// on with the next line when it succeeded and to the label failed when not.
// name makes the labels and what describes the thing on the console.
func (s *ipxe) try(name, what, command, failed string) {
	s.line("set attempt:int32 0")
	s.label(name)
	s.line("%s && goto %s_done ||", command, name)
	s.line("inc attempt")
	s.line("iseq ${attempt} %d && goto %s ||", Attempts, failed)
	// ${attempt} has to be expanded here, so this line is not made by say.
	s.line("echo Bedplate: %s not received, attempt ${attempt} of %d. Trying again in ${attempt} s.", text(what), Attempts)
	s.line("sleep ${attempt} ||")
	s.line("goto %s", name)
	s.label(name + "_done")
}
