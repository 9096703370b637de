package lab

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/bedplate/bedplate/lab/board"
)

// This file is how a BMC drives its machine: a Machine is a board.Machine.

// SetNext says how the next boot goes, whoever causes it. A machine that runs
// is told at once: the boot order by its monitor, because firmware reads it
// anew at each reset; and where that doesn't do, its next reset starts a new QEMU.
func (m *Machine) SetNext(ctx context.Context, s board.Setup) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.run.next = s
	if !m.On() {
		return nil
	}
	return m.applyNext(ctx)
}

func (m *Machine) applyNext(ctx context.Context) error {
	restart := m.needsRestart()
	err := commands(ctx, m.dir, func(q *qmp) error {
		if restart != m.run.restart {
			action := "reset"
			if restart {
				action = "shutdown"
			}
			if err := q.execute("set-action", map[string]string{"reboot": action}); err != nil {
				return err
			}
			m.run.restart = restart
		}
		return m.applyOrder(q)
	})
	if err != nil {
		return fmt.Errorf("setting up the next boot of %s: %w", m.spec.Name, err)
	}
	return nil
}

// needsRestart reports whether the next boot wants another command line, or
// firmware variables that can only be written while QEMU doesn't run.
func (m *Machine) needsRestart() bool {
	was, next := m.run.setup, m.run.next
	return !maps.Equal(was.Settings, next.Settings) || was.BIOSVersion != next.BIOSVersion || !next.SecureBoot.Empty() ||
		next.Boot == board.BootBIOSSetup || next.Boot == board.BootHTTP && next.URI != "" ||
		m.spec.Firmware.uefi() && pxe4(m.spec.Firmware, was) != pxe4(m.spec.Firmware, next)
}

// applyOrder tells a running QEMU the boot order. QEMU makes the list that
// firmware reads from it at each reset.
func (m *Machine) applyOrder(q *qmp) error {
	order := bootOrder(m.spec, m.run.next.Boot, m.run.media)
	devices := []string{nicDevice(0)}
	for i := range m.spec.Disks {
		devices = append(devices, diskDevice(i))
	}
	if m.spec.hasMedia() {
		devices = append(devices, cdDevice)
	}
	if m.run.media[board.USB].File != "" {
		devices = append(devices, usbDevice(m.run.usb))
		order[usbDevice(m.run.usb)] = order[usbAny]
	}
	set := func(device string, at int) error {
		return q.execute("qom-set", map[string]any{"path": "/machine/peripheral/" + device, "property": "bootindex", "value": at})
	}
	// No two may have one place even for a moment.
	for _, d := range devices {
		if err := set(d, -1); err != nil {
			return err
		}
	}
	for _, d := range devices {
		if order[d] == 0 {
			continue
		}
		if err := set(d, order[d]); err != nil {
			return err
		}
	}
	return nil
}

// SetMedia puts a file into a virtual drive, or takes it out.
func (m *Machine) SetMedia(ctx context.Context, d board.Drive, medium board.Medium) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.run.media == nil {
		m.run.media = map[board.Drive]board.Medium{}
	}
	was := m.run.media[d]
	m.run.media[d] = medium
	if !m.On() {
		return nil
	}
	err := commands(ctx, m.dir, func(q *qmp) error {
		if d == board.CD {
			return changeCD(q, medium)
		}
		if err := m.changeUSB(ctx, q, was, medium); err != nil {
			return err
		}
		return m.applyOrder(q)
	})
	if err != nil {
		m.run.media[d] = was
		return fmt.Errorf("changing the medium in drive %s of %s: %w", d, m.spec.Name, err)
	}
	return nil
}

func changeCD(q *qmp, medium board.Medium) error {
	if medium.File == "" {
		return q.execute("eject", map[string]any{"id": cdDevice, "force": true})
	}
	return q.execute("blockdev-change-medium", map[string]any{
		"id": cdDevice, "filename": medium.File, "format": "raw", "read-only-mode": "read-only", "force": true,
	})
}

// changeUSB pulls the virtual stick, or plugs in another.
func (m *Machine) changeUSB(ctx context.Context, q *qmp, was, medium board.Medium) error {
	if was.File != "" {
		if err := q.execute("device_del", map[string]string{"id": usbDevice(m.run.usb)}); err != nil {
			return err
		}
		if err := untilDone(ctx, func() error {
			return q.execute("blockdev-del", map[string]string{"node-name": usbDrive(m.run.usb)})
		}); err != nil {
			return err
		}
	}
	if medium.File == "" {
		return nil
	}
	m.run.usb++
	if err := q.execute("blockdev-add", map[string]any{
		"driver": "raw", "node-name": usbDrive(m.run.usb), "read-only": !medium.Writable,
		"file": map[string]string{"driver": "file", "filename": medium.File},
	}); err != nil {
		return err
	}
	return q.execute("device_add", map[string]any{
		"driver": "usb-storage", "bus": "usbhost.0", "id": usbDevice(m.run.usb), "drive": usbDrive(m.run.usb), "removable": true,
	})
}

// untilDone tries again for a moment: a device is gone a little after it was pulled.
func untilDone(ctx context.Context, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, qmpDeadline/2)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

// Hardware is what the machine is made of.
func (m *Machine) Hardware() board.Hardware { return hardware(m.spec) }

func hardware(s MachineSpec) board.Hardware {
	h := board.Hardware{
		Name: s.Name, Manufacturer: manufacturer, Model: product, Serial: s.Serial, UUID: s.UUID, AssetTag: s.Name,
		UEFI: s.Firmware.uefi(), SecureBoot: s.Firmware.secure(), TPM: s.TPM, CPUs: s.CPUs, CPUModel: "QEMU Virtual CPU", Memory: int64(s.Memory), BIOSVersion: biosVersion,
		NICs: []board.NIC{{Name: nicDevice(0), MAC: s.MAC, Model: s.NIC}},
	}
	for i, n := range s.NICs {
		h.NICs = append(h.NICs, board.NIC{Name: nicDevice(i + 1), MAC: n.MAC, Model: n.Model})
	}
	for i, d := range s.Disks {
		h.Disks = append(h.Disks, board.Disk{Name: diskDevice(i), Serial: diskSerial(s, i), Model: "QEMU " + d.Bus + " disk", Bus: d.Bus, Size: int64(d.Size)})
	}
	return h
}
