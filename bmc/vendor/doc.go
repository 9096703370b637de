// Package vendor is the driver of package bmc for what vendors have besides
// Redfish and IPMI: it wraps the providers of github.com/bmc-toolbox/bmclib/v2
// (Dell, Supermicro, ASRock Rack, OpenBMC, Intel AMT, and its generic Redfish
// one, gofish) behind the contract of package bmc.
//
// Which provider a session has is said by whoever opens it; none is guessed,
// and one refuses a BMC that isn't its vendor's with bmc.ErrUnsupported. What a
// provider lacks is bmc.ErrUnsupported as well.
//
// The providers make requests by themselves, without contexts and some with
// TLS that checks nothing. So none of them has a way of its own to the network:
// all connections are those of a wire, which goes to the BMC and nowhere else,
// checks the certificate as Target.TLS says, ends with the call that it was made
// in, and bounds what is read. Two providers, supermicro and amt, insist on an
// http.Client of their own; they speak plain HTTP to a bridge on the loopback
// interface, which is one end of the wire and lives as long as the session. A
// provider's panic is an error of its BMC.
//
// What the providers do otherwise than their words say is in quirks.go.
package vendor
