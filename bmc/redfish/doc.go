// Package redfish is the driver of package bmc for Redfish (DSP0266 1.x), over
// HTTPS.
//
// It goes by what a service says of itself: links, allowed values, action
// targets; never by paths that one vendor has. Resources are read leniently: a
// property of another type than the schema (DSP8010) has stays empty and the
// rest is used. What vendors do otherwise than the schema is in quirks.go, each
// with where it was seen.
//
// One session (DSP0266 §13.3.4) is opened at Dial, with basic authentication where
// a service has no sessions or none left. A session that the BMC has dropped is
// opened anew once, and the request that met that is sent again: the BMC has
// refused it, so nothing was done twice. Requests have a timeout of their own,
// answers a largest size, and no request leaves the BMC's own address, whatever
// link or redirect says so.
//
// github.com/stmcginnis/gofish gives the schema's words and reads its errors. Its
// client and its resources are not used, and neither is the Redfish provider of
// github.com/bmc-toolbox/bmclib, for reasons that quirks.go gives.
package redfish
