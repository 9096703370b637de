package shell

import "strings"

// NoCommand is the command of a shell that is the console itself.
const NoCommand = "-"

// commands get the console from vendors' shells, as their manuals have it. None
// was tried on the hardware: spec.bmc.console_command comes first.
var commands = []struct{ manufacturer, command string }{
	{"hp", "VSP"},                          // iLO user guide, virtual serial port
	{"dell", "console com2"},               // iDRAC user's guide, redirecting the console by SSH
	{"supermicro", "start /system1/sol1"},  // SMASH (DSP0217): the target of serial over LAN is started
	{"super micro", "start /system1/sol1"}, // the same, as older boards write it
	{"lenovo", "console 1"},                // XCC user's guide, command console
}

// CommandOf returns what gets the console from the shell of a manufacturer's
// BMC; empty where that isn't known.
func CommandOf(manufacturer string) string {
	m := strings.ToLower(strings.TrimSpace(manufacturer))
	for _, c := range commands {
		if strings.HasPrefix(m, c.manufacturer) {
			return c.command
		}
	}
	return ""
}
