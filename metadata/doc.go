// Package metadata tells an installed machine who it is, over HTTP, in the forms
// that cloud-init's NoCloud and Ec2 datasources and Ignition read, and hears when
// its first boot is done.
//
//	GET /nocloud/{key}/meta-data, user-data, vendor-data, network-config
//	GET /ignition/{key}/config.ign
//	GET /talos/{key}/config.yaml
//	POST /phone-home/{key}      cloud-init's phone_home, when the first boot is done
//	GET /latest/meta-data/...   EC2 style, by the peer's address; also under dates
//	GET /latest/user-data
//	GET /latest/network-config  not EC2's: cloud-init's network configuration, where there is one
//	PUT /latest/api/token       IMDSv2: any token is good, none is asked for
//
// A machine reads its own document only: by a key that no other machine has, or
// by the address of its connection; X-Forwarded-For is never read. A key that is
// used from an address known to be another machine's is refused. What Source
// does not know is 404, the same for wrong keys and wrong addresses.
//
// cloud-init 22.4 gives up on a NoCloud seed without user-data, and asks ten times
// more, a second apart, for anything that is 404. So user-data, vendor-data and
// network-config are empty rather than missing; an empty network-config leaves
// cloud-init with its fallback, DHCP on the interface that has a link. vendor-data
// has our phone_home. It goes under the user's own cloud-config, which wins; where
// that has a phone_home of its own, ours comes as a script instead, so that both
// are called.
//
// A Server is made by New and used by any number of goroutines; it starts none.
package metadata
