package timeline

import (
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// The phases of a boot, in the order they come.
const (
	PhaseFirmware   = "firmware"
	PhaseDHCP       = "dhcp"
	PhaseBootFile   = "boot file"
	PhaseIPXE       = "ipxe"
	PhaseHTTP       = "kernel and initramfs"
	PhaseMedium     = "boot medium"
	PhaseAgentStart = "agent start"
	PhaseReboot     = "reboot"
	PhaseKexec      = "kexec"
	PhaseOSBoot     = "operating system boot"
	PhaseFirstBoot  = "first boot configuration"
	stepPrefix      = "step "
)

// track is one machine's record. At most one phase of the boot chain is open
// at a time; steps are open beside it.
type track struct {
	phases []*pb.Phase
	last   map[machine.Source]machine.Sighting
	dirty  bool
}

// apply brings the record up to date with s and returns the phases that began or ended.
func (t *track) apply(s machine.Sighting) []*pb.Phase {
	t.last[s.Source] = s
	if s.Source == machine.SourceAgent && (s.Event == "step" || strings.HasPrefix(s.Event, "step-")) {
		return t.applyStep(s)
	}
	return t.move(transition(t.open(), s), s)
}

// transition returns the phase that s begins when `now` is open; "" when s
// changes nothing, and "-" when it only ends the open one.
func transition(now string, s machine.Sighting) string {
	switch s.Source {
	case machine.SourceLab, machine.SourceBMC:
		if s.Event == "power-on" || s.Event == "reset" {
			return PhaseFirmware
		}
		if s.Event == "power-off" {
			return "-"
		}
	case machine.SourceDHCP:
		return transitionDHCP(now, s.Event)
	case machine.SourceTFTP:
		if s.Event == "grub.cfg" {
			return transitionHTTP(now, s)
		}
		return transitionFile(now, s.Event)
	case machine.SourceHTTP:
		return transitionHTTP(now, s)
	case machine.SourceAgent:
		switch s.Event {
		case "connected":
			return "-"
		case "leaving":
			return PhaseReboot
		case "leaving-by-kexec":
			return PhaseKexec
		}
	case machine.SourceMetadata:
		return transitionMetadata(now, s.Event)
	}
	return ""
}

func transitionDHCP(now, event string) string {
	switch now {
	case "":
		// A REQUEST alone is a running system that renews its lease.
		if event == "DISCOVER" {
			return PhaseDHCP
		}
	case PhaseFirmware, PhaseReboot:
		if event == "DISCOVER" || event == "REQUEST" {
			return PhaseDHCP
		}
	case PhaseKexec:
		// What asks for an address is the kernel that was jumped to: the agent again,
		// or the installed system. Had the jump failed, the firmware's boot file would show it.
	case PhaseDHCP:
		if event == "ACK" {
			return PhaseBootFile
		}
	}
	return ""
}

func transitionFile(now, event string) string {
	switch {
	case event == "complete":
		return PhaseIPXE
	case event == "RRQ" && now != PhaseBootFile:
		return PhaseBootFile
	}
	return ""
}

func transitionHTTP(now string, s machine.Sighting) string {
	switch s.Event {
	case "boot-file":
		return PhaseIPXE
	case "script", "grub.cfg":
		if strings.HasPrefix(s.Detail, "agent") || strings.HasPrefix(s.Detail, "discover") {
			return PhaseHTTP
		}
		if strings.HasPrefix(s.Detail, "disk") {
			return PhaseOSBoot
		}
	case "initramfs-complete", "medium-loaded":
		return PhaseAgentStart
	case "medium":
		return PhaseMedium
	case "medium-complete":
		// A BMC that fetches all of it does so before the machine has power, or
		// the firmware is under way meanwhile.
		if now == PhaseMedium {
			return "-"
		}
	}
	return ""
}

func transitionMetadata(now, event string) string {
	switch {
	case event == "phone-home":
		return "-"
	case now == PhaseOSBoot || now == PhaseReboot || now == PhaseKexec || now == PhaseDHCP || now == PhaseBootFile || now == PhaseIPXE:
		return PhaseFirstBoot
	}
	return ""
}

// open returns the name of the boot chain's open phase, or "".
func (t *track) open() string {
	if p := t.openPhase(); p != nil {
		return p.Name
	}
	return ""
}

func (t *track) openPhase() *pb.Phase {
	for i := len(t.phases) - 1; i >= 0; i-- {
		if p := t.phases[i]; p.EndTime == nil && !strings.HasPrefix(p.Name, stepPrefix) {
			return p
		}
	}
	return nil
}

// move ends the open phase and begins the next.
func (t *track) move(next string, s machine.Sighting) []*pb.Phase {
	if next == "" {
		return nil
	}
	var changed []*pb.Phase
	if p := t.openPhase(); p != nil {
		finish(p, s.Time)
		changed = append(changed, p)
	}
	t.dirty = true
	if next != "-" {
		changed = append(changed, t.begin(next, s.Time, s.Detail))
	}
	return changed
}

func (t *track) begin(name string, at time.Time, detail string) *pb.Phase {
	p := &pb.Phase{Name: name, StartTime: timestamppb.New(at), Detail: detail}
	t.phases = append(t.phases, p)
	if len(t.phases) > maxPhases {
		t.phases = t.phases[len(t.phases)-maxPhases:]
	}
	return p
}

// applyStep opens or closes the phase of a step. The events are step-start,
// step-end and step-failed; the detail begins with the step's id.
func (t *track) applyStep(s machine.Sighting) []*pb.Phase {
	id, rest, _ := strings.Cut(s.Detail, " ")
	name := stepPrefix + id
	t.dirty = true
	p := t.openStep(name)
	switch {
	case s.Event == "step-start" && p == nil:
		return []*pb.Phase{t.begin(name, s.Time, rest)}
	case s.Event == "step-start" || p == nil:
		return nil // told twice: a step that leaves says so when it begins and when it goes
	}
	finish(p, s.Time)
	if s.Event == "step-failed" {
		p.Error = rest
	}
	return []*pb.Phase{p}
}

func (t *track) openStep(name string) *pb.Phase {
	for i := len(t.phases) - 1; i >= 0; i-- {
		if p := t.phases[i]; p.Name == name && p.EndTime == nil {
			return p
		}
	}
	return nil
}
