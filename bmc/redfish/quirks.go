package redfish

import (
	"context"
	"net/http"
	"strings"

	"github.com/stmcginnis/gofish/redfish"

	"github.com/bedplate/bedplate/bmc"
)

// This file has what services do otherwise than the schemas say, and why the
// libraries of the field are used for their words and not for their requests.
//
// github.com/stmcginnis/gofish v0.20.0:
//   - It decodes whole resources strictly: a number in Redundancy@odata.count,
//     which is what the schema wants, makes the ComputerSystem unreadable, as the
//     field is a string there.
//   - Its client has one context for its life, so a call can't have a deadline of
//     its own; it closes every connection unless it made the http.Client itself
//     (req.Close), which costs a TLS handshake a request.
//   - Its errors have the whole body of the answer, in which services repeat the
//     property that was wrong: a password.
//
// github.com/bmc-toolbox/bmclib/v2 v2.3.5, internal/redfishwrapper:
//   - SystemPowerOff, which is "soft", returns false and no error when the BMC has
//     accepted it.
//   - "reset" is PowerCycle, with a graceful shutdown of ten seconds where that is
//     refused; "cycle" is ForceRestart, which a machine that is off refuses.
//   - Inventory and BIOS settings know four paths of systems and six of chassis;
//     elsewhere they are empty without an error.
//   - UserCreate writes into free slots only, which services without slots haven't got.
//   - Every call first reads the session; every request opens a connection.
//   - Its transports don't verify certificates unless they are given CAs; the
//     provider for Supermicro makes its own http.Client, so a pin can't be held there.

// insertBodies returns the ways to insert an image, the schema's first: services
// refuse parameters that their action doesn't list, and some want the protocol by
// name. bmclib and python3-sushy try a second body for the same reason.
func insertBodies(v virtualMedia, kind bmc.MediaKind, image string) []map[string]any {
	protocol := redfish.HTTPTransferProtocolType
	if strings.HasPrefix(image, "https:") {
		protocol = redfish.HTTPSTransferProtocolType
	}
	named := map[string]any{
		"Image": image, "TransferProtocolType": protocol, "TransferMethod": redfish.StreamTransferMethod,
	}
	if len(v.MediaTypes) > 1 {
		named["MediaType"] = mediaType(v, kind)
	}
	return []map[string]any{
		{"Image": image, "Inserted": true, "WriteProtected": true},
		named,
		{"Image": image},
	}
}

// mediaType returns the device's own word for a kind.
func mediaType(v virtualMedia, kind bmc.MediaKind) redfish.VirtualMediaType {
	for _, t := range v.MediaTypes {
		if (t == redfish.CDMediaType || t == redfish.DVDMediaType) == (kind == bmc.MediaCD) {
			return t
		}
	}
	return redfish.CDMediaType
}

// noSessions reports whether a service won't give sessions, but may let basic
// authentication in: it has none, or all are taken. BMCs have room for few, and a
// client that was killed leaves its own until the service's timeout. RAC0218 is
// iDRAC's message for that.
func noSessions(a *answer) bool {
	switch a.status {
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return true
	}
	return a.asError(func(s string) string { return s }).has("SessionLimitExceeded", "RAC0218", "CreateLimitReachedForResource")
}

// placeholders are what firmware has where nobody wrote the real thing.
var placeholders = []string{
	"to be filled by o.e.m.", "default string", "system serial number", "not specified", "none", "n/a", "na", "null", "unknown",
	"0123456789", "123456789", "empty", "not available", "not applicable", "oem", "chassis serial number",
}

// known returns s without blanks, or nothing where it is a placeholder.
func known(s string) string {
	s = strings.TrimSpace(s)
	low := strings.ToLower(s)
	for _, p := range placeholders {
		if low == p {
			return ""
		}
	}
	if strings.Trim(s, "0 -.") == "" || strings.Trim(low, "f-") == "" && len(s) > 8 {
		return ""
	}
	return s
}

// isDell reports whether the machine is Dell's.
func (s *system) isDell() bool { return strings.HasPrefix(strings.ToLower(s.Manufacturer), "dell") }

// freeSlot returns an account that nobody uses. Dell iDRAC has a fixed number of
// them, made or deleted by writing their properties; the first is not to be used
// (bmclib says the same).
func freeSlot(all []account) (account, bool) {
	for _, a := range all {
		if a.UserName == "" && a.ID != "1" && a.ID != "0" {
			return a, true
		}
	}
	return account{}, false
}

// emptySlot frees an account that can't be deleted: first its rights, then its name.
func (d *Driver) emptySlot(ctx context.Context, a account) error {
	if err := d.patch(ctx, a.Path, map[string]any{"Enabled": false, "RoleId": "None"}); err != nil {
		return err
	}
	return d.patch(ctx, a.Path, map[string]any{"UserName": ""})
}

// inserted reports whether there is a medium in the device. Supermicro's keep
// the image's address after it was ejected and say NotConnected
// (ansible-collections/community.general, pull request 7470).
func (v virtualMedia) inserted() bool {
	return v.ConnectedVia != string(redfish.NotConnectedConnectedVia) && (v.Inserted || v.Image != "")
}
