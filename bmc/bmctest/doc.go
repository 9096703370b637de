// Package bmctest has the conformance suite that every driver of package bmc
// runs, and a BMC in memory for tests of what uses one.
//
// The suite (Run) holds a driver against a virtual BMC and compares what it
// reports with what happened there, as the BMC's own owner sees it (Machine).
// The BMC in memory (Fake) is a driver without a protocol, honest unless told
// otherwise: each of its faults is one that real BMCs have.
package bmctest
