package redfish

import "context"

// serialConsole is which ways the system's serial console can be had (since
// ComputerSystem 1.13).
type serialConsole struct {
	IPMI consoleService
	SSH  consoleService
}

type consoleService struct {
	ServiceEnabled bool
	Port           uint16
	// Command is what to say once connected, where SSH doesn't lead to the
	// console at once.
	Command string `json:"ConsoleEntryCommand"`
	Shared  bool   `json:"SharedWithManagerCLI"`
}

// ConsoleWays says which ways to the serial console the service offers. Redfish
// itself has none.
func (d *Driver) ConsoleWays(ctx context.Context) (ipmi, ssh bool, err error) {
	s, err := d.system(ctx)
	if err != nil {
		return false, false, err
	}
	return s.SerialConsole.IPMI.ServiceEnabled, s.SerialConsole.SSH.ServiceEnabled, nil
}

// SSHConsole says where the service offers the serial console by SSH, and what
// gets it from the shell there; zero values where it doesn't say.
func (d *Driver) SSHConsole(ctx context.Context) (port uint16, command string, err error) {
	s, err := d.system(ctx)
	if err != nil || !s.SerialConsole.SSH.ServiceEnabled {
		return 0, "", err
	}
	return s.SerialConsole.SSH.Port, s.SerialConsole.SSH.Command, nil
}
