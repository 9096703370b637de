package bmc_test

import (
	"testing"

	"github.com/bedplate/bedplate/bmc/bmctest"
)

// everything are all capabilities.
var everything = []bmctest.Capability{
	bmctest.Login, bmctest.Power, bmctest.NMI, bmctest.Boot, bmctest.HTTPBoot, bmctest.VirtualMedia, bmctest.Identity, bmctest.Inventory,
	bmctest.Sensors, bmctest.HealthReport, bmctest.EventLog, bmctest.Firmware, bmctest.Update, bmctest.BIOS, bmctest.SecureBoot,
	bmctest.Users, bmctest.Console, bmctest.Manager,
}

func TestFake(t *testing.T) {
	bmctest.Run(t, func(*testing.T) bmctest.Setup {
		f := bmctest.NewFake("admin", target.Password)
		return f.Setup(target, f.Dial)
	}, everything...)
}
