// Package dhcp is the DHCPv4 service: addresses and boot information for
// machines, as the network's DHCP server, beside another one (ProxyDHCP), or
// behind relay agents.
//
// It follows RFC 2131 and 2132, RFC 3046 and 3527 (relay agents), RFC 3011
// (subnet selection), RFC 5107 (server identifier override), RFC 8357 (relay
// source port), RFC 6842 (client identifier in replies), RFC 3397, 3442 and
// 4578, and PXE 2.1 §2.2. Deviations:
//
//   - A client is known by its Ethernet address, not by option 61 (RFC 2131
//     §4.2): see lease.ClientOf.
//   - A client that renews an address nobody has a record of, in a network and
//     range of ours, gets it: a lost store must not cut running systems off
//     (§4.3.2 leaves the choice for RENEWING and REBINDING; INIT-REBOOT is
//     met with silence as it says).
//   - Requested lease times (option 51) are not looked at: the network has one.
//   - No BOOTP (messages without option 53), no option overload (52), no
//     authentication (90), no FORCERENEW, no DHCPv6.
//
// The parts: policy (request to outcome: pure, takes now), lease (who has which
// address: pure), pxe (what a boot client is told: pure), sockets and frames,
// and the Server, which moves packets between them:
//
//	socket ──▶ reader ──▶ queue of one worker ──▶ policy ──▶ Leases.Put ──▶ socket
//	(one a port and interface)   (by client)         │  ▲
//	                                           probe ▼  │ answer, or 250 ms
//	                                                 ICMP echo
//
// Concurrency: one reader per socket, a fixed number of workers; all messages of
// one client go through the same worker, in order, so that a slow write of one
// lease holds up few others and never a reader. A queue that is full drops
// packets, and counts them. One mutex per network covers its pool; it is never
// held across I/O. An ACK is sent after the lease is durable; an offer is held
// in memory only.
package dhcp
