package timeline

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bedplate/bedplate/machine"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// seen is a sighting so many seconds after the start.
func seen(second float64, source machine.Source, event, detail string) machine.Sighting {
	return machine.Sighting{Time: start.Add(time.Duration(second * float64(time.Second))), Source: source, Event: event, Detail: detail}
}

// lines prints the phases as `name from..to`.
func (t *track) lines() []string {
	var out []string
	for _, p := range t.phases {
		from := p.StartTime.AsTime().Sub(start).Seconds()
		line := fmt.Sprintf("%s %g..", p.Name, from)
		if p.EndTime != nil {
			line += fmt.Sprint(p.EndTime.AsTime().Sub(start).Seconds())
		}
		if p.Error != "" {
			line += " failed: " + p.Error
		}
		out = append(out, line)
	}
	return out
}

func TestPhases(t *testing.T) {
	for _, tt := range []struct {
		name string
		seen []machine.Sighting
		want []string
	}{
		{
			name: "a BIOS machine from power-on to its installed system",
			seen: []machine.Sighting{
				seen(0, machine.SourceLab, "power-on", ""),
				seen(3, machine.SourceDHCP, "DISCOVER", ""), seen(3.1, machine.SourceDHCP, "OFFER", ""),
				seen(3.2, machine.SourceDHCP, "REQUEST", ""), seen(3.3, machine.SourceDHCP, "ACK", ""),
				seen(3.5, machine.SourceTFTP, "RRQ", "undionly.kpxe"), seen(4, machine.SourceTFTP, "complete", "undionly.kpxe"),
				seen(4.2, machine.SourceDHCP, "DISCOVER", "iPXE"), seen(4.4, machine.SourceDHCP, "ACK", "iPXE"),
				seen(5, machine.SourceHTTP, "script", "agent"), seen(5.2, machine.SourceHTTP, "kernel", ""),
				seen(6, machine.SourceHTTP, "initramfs-complete", ""),
				seen(9, machine.SourceDHCP, "DISCOVER", "agent"), seen(9.1, machine.SourceDHCP, "ACK", "agent"),
				seen(10, machine.SourceAgent, "connected", ""),
				seen(10.1, machine.SourceAgent, "step-start", "write image.write"), seen(20, machine.SourceAgent, "step-end", "write"),
				seen(20.5, machine.SourceAgent, "leaving", "disk"),
				seen(24, machine.SourceDHCP, "DISCOVER", ""), seen(24.2, machine.SourceDHCP, "ACK", ""),
				seen(25, machine.SourceHTTP, "script", "disk"),
				seen(40, machine.SourceMetadata, "meta-data", ""), seen(45, machine.SourceMetadata, "phone-home", ""),
			},
			want: []string{
				"firmware 0..3", "dhcp 3..3.3", "boot file 3.3..4", "ipxe 4..5", "kernel and initramfs 5..6", "agent start 6..10",
				"step write 10.1..20", "reboot 20.5..24", "dhcp 24..24.2", "boot file 24.2..25", "operating system boot 25..40", "first boot configuration 40..45",
			},
		},
		{
			name: "a machine that waited and passes its firmware by",
			seen: []machine.Sighting{
				seen(0, machine.SourceAgent, "step-start", "reboot boot.kexec"), seen(1, machine.SourceAgent, "step-end", "reboot"), seen(1, machine.SourceAgent, "leaving-by-kexec", "disk"),
				seen(6, machine.SourceDHCP, "DISCOVER", ""), seen(6.1, machine.SourceDHCP, "ACK", ""),
				seen(9, machine.SourceMetadata, "meta-data", ""), seen(12, machine.SourceMetadata, "phone-home", ""),
			},
			want: []string{"step reboot 0..1", "kexec 1..9", "first boot configuration 9..12"},
		},
		{
			name: "a kernel that was jumped to and did not come up",
			seen: []machine.Sighting{
				seen(1, machine.SourceAgent, "leaving-by-kexec", "disk"),
				seen(31, machine.SourceDHCP, "DISCOVER", ""), seen(32, machine.SourceDHCP, "ACK", ""), seen(33, machine.SourceTFTP, "RRQ", "undionly.kpxe"),
				seen(34, machine.SourceTFTP, "complete", "undionly.kpxe"), seen(35, machine.SourceHTTP, "script", "disk"),
			},
			want: []string{"kexec 1..33", "boot file 33..34", "ipxe 34..35", "operating system boot 35.."},
		},
		{
			name: "a firmware that already is iPXE goes from DHCP to the script",
			seen: []machine.Sighting{
				seen(0, machine.SourceDHCP, "DISCOVER", "iPXE"), seen(1, machine.SourceDHCP, "ACK", "iPXE"), seen(2, machine.SourceHTTP, "script", "agent"),
			},
			want: []string{"dhcp 0..1", "boot file 1..2", "kernel and initramfs 2.."},
		},
		{
			name: "a failed step says so",
			seen: []machine.Sighting{
				seen(1, machine.SourceAgent, "step-start", "write image.write"), seen(2, machine.SourceAgent, "step-failed", "write wrong digest"),
			},
			want: []string{"step write 1..2 failed: wrong digest"},
		},
		{
			name: "a step that says twice that it runs is one phase",
			seen: []machine.Sighting{
				seen(1, machine.SourceAgent, "step-start", "reboot machine.reboot"), seen(1.5, machine.SourceAgent, "step-start", "reboot machine.reboot"), seen(2, machine.SourceAgent, "step-end", "reboot"),
			},
			want: []string{"step reboot 1..2"},
		},
		{
			name: "a lease renewed by the running system begins no boot",
			seen: []machine.Sighting{
				seen(1, machine.SourceMetadata, "phone-home", ""), seen(2, machine.SourceDHCP, "REQUEST", ""), seen(2, machine.SourceDHCP, "ACK", ""),
			},
			want: nil,
		},
		{
			name: "a reset in the middle begins again with the firmware",
			seen: []machine.Sighting{
				seen(1, machine.SourceHTTP, "script", "agent"), seen(2, machine.SourceLab, "reset", ""), seen(5, machine.SourceDHCP, "DISCOVER", ""),
			},
			want: []string{"kernel and initramfs 1..2", "firmware 2..5", "dhcp 5.."},
		},
		{
			name: "a boot medium that a BMC passes on piece by piece",
			seen: []machine.Sighting{
				seen(0, machine.SourceBMC, "power-on", ""), seen(4, machine.SourceHTTP, "medium", "1 byte"),
				seen(30, machine.SourceHTTP, "medium-loaded", ""), seen(40, machine.SourceAgent, "connected", ""),
			},
			want: []string{"firmware 0..4", "boot medium 4..30", "agent start 30..40"},
		},
		{
			name: "a boot medium that a BMC fetches before the machine has power",
			seen: []machine.Sighting{
				seen(0, machine.SourceHTTP, "medium", "1 byte"), seen(9, machine.SourceHTTP, "medium-complete", ""),
				seen(10, machine.SourceBMC, "power-on", ""), seen(40, machine.SourceAgent, "connected", ""),
			},
			want: []string{"boot medium 0..9", "firmware 10..40"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tr := &track{last: map[machine.Source]machine.Sighting{}}
			for _, s := range tt.seen {
				tr.apply(s)
			}
			if diff := cmp.Diff(tt.want, tr.lines()); diff != "" {
				t.Errorf("phases (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPhases_Bounded(t *testing.T) {
	tr := &track{last: map[machine.Source]machine.Sighting{}}
	for i := range 10 * maxPhases {
		tr.apply(seen(float64(i), machine.SourceLab, "reset", ""))
	}
	if got := len(tr.phases); got != maxPhases {
		t.Errorf("a machine that resets for ever has %d phases on record, want %d", got, maxPhases)
	}
}
