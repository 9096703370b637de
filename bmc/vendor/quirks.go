package vendor

import (
	"strings"

	"github.com/bedplate/bedplate/bmc"
)

// This file has what github.com/bmc-toolbox/bmclib/v2 v2.3.5 does otherwise than
// its words say, and what is made of it. bmc/redfish/quirks.go has what its
// Redfish wrapper lacks, on which the providers dell, openbmc, supermicro and
// gofish rest, and why Bedplate's own Redfish driver comes first.
//
//   - providers/supermicro NewClient ignores the http.Client of its options and
//     makes one that checks no certificate; github.com/jacobweinstock/iamt, below
//     the AMT provider, has no option for one at all: the bridge.
//   - providers/supermicro sends its cookies only where they were set with the
//     name SID, which its boards mark as Secure: insecureCookies.
//   - providers/supermicro tries a wrong password twice, in base64 and plain. So
//     two logins of ours are four of a board's.
//   - providers/supermicro reads and writes BIOS settings by the vendor's program
//     `sum`, which it looks for in PATH, where coreutils have another one of that
//     name: these aren't offered; the Redfish driver does them.
//   - providers/openbmc knows an OpenBMC by its web page, which it asks for without
//     the port: the wire goes to the target whatever is asked for.
//   - providers/asrockrack sends user and password in a form without escaping them:
//     a password with & or % in it is refused by the board.
//   - github.com/jacobweinstock/iamt sends what was refused once more, since the
//     nonce may have been too old: two logins of a wrong password are four.
//   - providers/dell asks for OEM data of every task that it is asked about.
//   - internal/redfishwrapper sets the timeout of its http.Client to what the
//     context of the login had left, for good: Driver.do takes it away.
//   - bmc.SetPowerStateFromInterfaces takes a false without an error for a
//     failure, which SystemPowerOff of the wrapper returns when the BMC has
//     accepted it: acceptedSoft.
//   - "reset" of the wrapper is PowerCycle, and where that is refused a shutdown of
//     ten seconds; "cycle" is ForceRestart, which is what a reset is: powerWord.

// acceptedSoft reports whether the error of a soft shutdown is the wrapper's
// false without an error.
func acceptedSoft(err error) bool {
	return err != nil && strings.Contains(err.Error(), ", failed to set power state")
}

// powerWord is the provider's word for an action.
func (d *Driver) powerWord(a bmc.PowerAction) (string, bool) {
	switch {
	case d.name == AMT && (a == bmc.ActionSoft || a == bmc.ActionReset):
		return "", false // it has on, off and a power cycle
	case a == bmc.ActionReset && d.name != ASRockRack:
		return "cycle", true
	}
	return a.String(), true
}
