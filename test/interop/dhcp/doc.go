// Package dhcp has the tests of the DHCP service against foreign peers: ISC
// dhclient and BusyBox udhcpc as clients, dnsmasq as the other server of a network
// in proxy mode and as the holder of port 67, ISC dhcrelay and dnsmasq as relay agents.
//
// Each test builds its own network of namespaces and runs the service in a
// process of its own inside one of them. They need root, and run when
// BEDPLATE_E2E is 1.
package dhcp
