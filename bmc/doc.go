// Package bmc talks to baseboard management controllers: power, boot device,
// virtual media, inventory, sensors, event log, firmware, BIOS settings, Secure
// Boot, users and the serial console.
//
// A Driver is what one protocol can do (package redfish: DSP0266 and the schemas
// of DSP2046; package ipmi: IPMI 2.0 over LAN). It does what it is told and
// reports what it was told. A Client adds what BMCs can't be trusted with: it
// asks again after each change, waits within bounds, and returns an error that
// says what was wanted and what was found (ErrIgnored, *PowerError).
//
// A Pool opens, keeps and closes sessions, and is what the rest of the server
// uses: one session a BMC, one call at a time on it, a bound on calls in all,
// backoff between tries, and a circuit a BMC that opens when it fails again and
// again. A slow, lying or dead BMC costs a bounded number of goroutines and
// nothing to the others.
//
// A BMC is trusted by its certificate: pinned, signed by a CA, or pinned on
// first contact; the Pool reports that pin so that it can be kept. Passwords are
// never part of an error, a log line or the text of a Target.
//
// What this package does not do: it keeps nothing on disk, makes no decisions
// about machines, and starts no calls of its own except to log idle sessions
// out. Drivers and Clients are used by one goroutine at a time, Pools by any
// number.
package bmc
