package bmc

import "context"

// ManagerInfo is the BMC itself.
type ManagerInfo struct {
	Model           string
	FirmwareVersion string
	// Protocols are the ways in that the BMC offers, in lower case: redfish, ipmi, ssh, kvmip, …
	Protocols []string
}

// Manager is the BMC itself.
type Manager interface {
	ManagerInfo(ctx context.Context) (ManagerInfo, error)
	// ResetManager restarts the BMC, not the machine. The session is lost with it
	// and the BMC is away for some minutes.
	ResetManager(ctx context.Context) error
}
