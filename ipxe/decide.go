package ipxe

import (
	"fmt"
	"net/netip"

	"github.com/bedplate/bedplate/ipxe/script"
	"github.com/bedplate/bedplate/machine"
)

// asker is who asks for a script, and from where.
type asker struct {
	peer netip.Addr
	// local is the address that the request came in on; invalid by TFTP.
	local netip.Addr
	base  string
	// mac is the interface booted over; zero when unknown.
	mac machine.MAC
	// grub has the boot loader fill in the interface when mac is zero.
	grub bool
}

// program is a script before its language is chosen.
type program interface {
	IPXE() ([]byte, error)
	GRUB() ([]byte, error)
}

// decision is what a machine is told.
type decision struct {
	result  string
	machine machine.Name
	detail  string
	// program is nil for a machine that is ignored.
	program program
}

// forKnown decides for a machine on record.
func (s *Server) forKnown(a asker, m machine.Machine) decision {
	switch m.Boot {
	case machine.BootAgent:
		return s.agentFor(a, m)
	case machine.BootNothing:
		return decision{
			result: resultMessage, machine: m.Name, detail: "nothing to boot",
			program: script.Message{Lines: []string{
				fmt.Sprintf("machine %s is to boot nothing.", m.Name),
				fmt.Sprintf("To see why: bedplate machine explain %s", m.Name),
			}},
		}
	default:
		if d, ok := s.live(a, m); ok {
			return d
		}
		return decision{result: resultDisk, machine: m.Name, detail: "disk", program: script.Disk{Machine: string(m.Name)}}
	}
}

// live has a machine boot the system that it runs in memory, if it has one. The
// script holds the instance's secret URLs, so it is for the machine alone.
func (s *Server) live(a asker, m machine.Machine) (decision, bool) {
	if s.cfg.Live == nil {
		return decision{}, false
	}
	l, ok, err := s.cfg.Live(m, a.base)
	switch {
	case err != nil:
		return s.failed(decision{machine: m.Name}, err), true
	case !ok:
		return decision{}, false
	}
	if d, foreign := s.foreign(a, m); foreign {
		return d, true
	}
	l.Machine, l.Args = string(m.Name), append(ConsoleArgs(m.Console), l.Args...)
	return decision{result: resultLive, machine: m.Name, detail: "live system " + l.Image, program: l}, true
}

// agentFor has a known machine boot the agent, if it asks from its own address.
func (s *Server) agentFor(a asker, m machine.Machine) decision {
	if d, foreign := s.foreign(a, m); foreign {
		return d
	}
	return s.agent(a, m, resultAgent)
}

// foreign refuses what only the machine itself may have to who asks from an
// address that isn't the machine's.
func (s *Server) foreign(a asker, m machine.Machine) (decision, bool) {
	if holder, ok := s.holder(a.peer); (ok && holder != m.Name) || (!ok && s.cfg.StrictAddress != nil && s.cfg.StrictAddress(a.peer)) {
		return decision{
			result: resultForeign, machine: m.Name, detail: fmt.Sprintf("refused: %s is not an address of %s", a.peer, m.Name),
			program: script.Message{Lines: []string{
				fmt.Sprintf("%s is not an address of machine %s.", a.peer, m.Name),
				fmt.Sprintf("To see what was seen of it: bedplate machine explain %s", m.Name),
			}},
		}, true
	}
	return decision{}, false
}

// forUnknown decides for a machine that is not on record.
func (s *Server) forUnknown(a asker) decision {
	switch s.cfg.Unknown(a.peer) {
	case UnknownDiscover:
		if holder, ok := s.holder(a.peer); ok {
			return decision{
				result: resultForeign, detail: fmt.Sprintf("refused: %s is an address of %s", a.peer, holder),
				program: script.Message{Lines: []string{fmt.Sprintf("%s is an address of another machine.", a.peer)}},
			}
		}
		if a.mac.IsZero() {
			return decision{
				result: resultNameless, detail: "refused: no MAC address",
				program: script.Message{Lines: []string{"this machine did not say its MAC address and cannot be discovered."}},
			}
		}
		return s.agent(a, machine.Machine{}, resultDiscover)
	case UnknownRefuse:
		return decision{
			result: resultRefused, detail: "refused: unknown machine",
			program: script.Message{Lines: []string{
				fmt.Sprintf("this machine (%s) is not known here, and unknown machines are refused.", a.mac),
				"To enrol it, apply a Machine with this MAC address.",
			}},
		}
	default:
		return decision{result: resultIgnored, detail: "unknown machine ignored"}
	}
}

func (s *Server) holder(peer netip.Addr) (machine.Name, bool) {
	m, ok := s.cfg.Machines.ByAddress(peer)
	return m.Name, ok
}

// agent has a machine boot the agent with a token of its own. The zero Machine
// is an unknown one.
func (s *Server) agent(a asker, m machine.Machine, result string) decision {
	d := decision{result: result, machine: m.Name, detail: result}
	token, err := s.cfg.Tokens.BootToken(m.Name, a.mac)
	if err != nil {
		return s.failed(d, fmt.Errorf("making boot token: %w", err))
	}
	for _, arg := range m.KernelArgs {
		if err := script.CheckArg(arg); err != nil {
			return s.failed(d, fmt.Errorf("%w: alter it in the machine's kernelArgs", err))
		}
	}
	d.program = script.Agent{
		Machine:      string(m.Name),
		KernelURL:    a.base + kernelPath,
		InitramfsURL: a.base + initramfsPath,
		Args:         s.args(a, m, token),
	}
	return d
}

// args are the agent's kernel arguments. Of equal names the last counts, so a
// machine's own arguments cannot turn the agent to another server.
func (s *Server) args(a asker, m machine.Machine, token string) []string {
	args := append([]string(nil), s.cfg.KernelArgs...)
	args = append(args, ConsoleArgs(m.Console)...)
	args = append(args, m.KernelArgs...)
	args = append(args,
		"bedplate.server="+s.cfg.AgentAddress(a.peer, a.local),
		"bedplate.http="+a.base,
		"bedplate.token="+token,
		"bedplate.ca="+s.cfg.CADigest,
	)
	switch {
	case !a.mac.IsZero():
		args = append(args, "bedplate.mac="+a.mac.String())
	case a.grub:
		args = append(args, "bedplate.mac="+script.NetMAC)
	}
	return args
}

// DefaultConsole is the serial console of machines that name none.
const DefaultConsole = "ttyS0,115200n8"

// ConsoleArgs names the screen and the serial console, of which the kernel makes
// the last /dev/console.
func ConsoleArgs(console string) []string {
	if console == "" {
		console = DefaultConsole
	}
	return []string{"console=tty0", "console=" + console}
}

// failed is a decision that could not be carried out: the machine says so on its
// console and goes on with its boot order.
func (s *Server) failed(d decision, err error) decision {
	name := string(d.machine)
	if name == "" {
		name = "this machine"
	}
	d.result, d.detail = resultError, err.Error()
	d.program = script.Message{Lines: []string{fmt.Sprintf("the boot script of %s could not be made: %v", name, err)}}
	return d
}
