package lab

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/bedplate/bedplate/lab/board"
	"github.com/bedplate/bedplate/lab/nvram"
)

// prepareFirmware writes what a boot wants of the firmware's variables. QEMU doesn't run.
func prepareFirmware(dir string, m MachineSpec, s board.Setup) error {
	if !m.Firmware.uefi() {
		return nil
	}
	file := filepath.Join(dir, m.Firmware.varsFile())
	vars, err := readVariables(file)
	if err != nil {
		return err
	}
	vars.Clear()
	switch {
	case s.Boot == board.BootBIOSSetup:
		vars.SetSetup()
	case s.Boot == board.BootHTTP && s.URI != "":
		vars.SetURI(s.URI)
	}
	if m.Firmware.secure() {
		if err := prepareSecureBoot(vars, s.SecureBoot); err != nil {
			return err
		}
	}
	image, err := vars.Image()
	if err != nil {
		return fmt.Errorf("writing UEFI variables: %w", err)
	}
	temp := file + ".new"
	if err := os.WriteFile(temp, image, 0o644); err != nil {
		return fmt.Errorf("writing UEFI variables: %w", err)
	}
	return os.Rename(temp, file)
}

func readVariables(file string) (*nvram.Store, error) {
	image, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading UEFI variables: %w", err)
	}
	vars, err := nvram.Parse(image)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", file, err)
	}
	return vars, nil
}

// prepareSecureBoot makes the changes in their order: keys, certificates, enforcement.
func prepareSecureBoot(vars *nvram.Store, c board.SecureBootChange) error {
	for _, reset := range c.Resets {
		var names []string
		if reset.Database != "" {
			names = []string{reset.Database}
		}
		switch reset.Kind {
		case board.DeleteAllKeys:
			vars.DeleteKeys(names...)
		case board.DeletePK:
			vars.DeleteKeys("PK")
		case board.ResetAllKeysToDefault:
			factory, err := readVariables(ovmfSecureVars)
			if err != nil {
				return err
			}
			vars.RestoreKeys(factory, names...)
		}
	}
	for _, e := range c.Enrolled {
		vars.Enrol(e.Database, e.Certificate)
	}
	if c.Enable != nil {
		vars.EnableSecureBoot(*c.Enable)
	}
	return nil
}

// SecureBoot reads the state of Secure Boot from the firmware's variables.
func (m *Machine) SecureBoot() (board.SecureBoot, error) {
	if !m.spec.Firmware.secure() {
		return board.SecureBoot{}, board.ErrNoSecureBoot
	}
	vars, err := readVariables(filepath.Join(m.dir, m.spec.Firmware.varsFile()))
	if err != nil {
		return board.SecureBoot{}, err
	}
	return secureBootOf(vars), nil
}

func secureBootOf(vars *nvram.Store) board.SecureBoot {
	s := board.SecureBoot{Databases: map[string][]board.Key{}}
	s.Enforced, s.SetupMode = vars.SecureBoot()
	for _, d := range nvram.Databases {
		s.Databases[d.Name] = nil
		for _, k := range vars.Signatures(d.Name) {
			s.Databases[d.Name] = append(s.Databases[d.Name], board.Key{Certificate: k.Certificate, Hash: k.Hash})
		}
	}
	return s
}
