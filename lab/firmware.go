package lab

import "github.com/bedplate/bedplate/lab/board"

// prepareFirmware writes what a boot wants of the firmware's variables.
func prepareFirmware(dir string, m MachineSpec, s board.Setup) error { return nil }
