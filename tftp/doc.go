// Package tftp serves boot files to firmware over TFTP (RFC 1350), read only.
// The protocol engine is github.com/pin/tftp/v3; this package adds what a
// service on a hostile network needs around it.
//
// A request goes through three gates before a byte is sent: its name is
// cleaned and confined (CleanName; names are looked up in Files and never in a
// file system), the number of transfers, in all and per client, is bounded, and
// the transfer is given a deadline that grows with the size of the file. A
// client that vanishes is sent six datagrams over about fifteen seconds, a
// client that acknowledges at a crawl is cut off at the deadline; either costs
// one socket and one goroutine until then. Write requests are refused.
//
// Options (RFC 2347): blksize (RFC 2348) is honoured up to
// Config.MaxBlockSize and the MTU of the interface, tsize (RFC 2349) always.
// Deviations, because the library cannot do it: timeout (RFC 2349) and
// windowsize (RFC 7440) are not acknowledged, which both RFCs permit, so the
// client falls back to its own timeout and to one block per acknowledgement;
// option names are compared in lower case only; every refusal carries error
// code 1 with the reason as text. OVMF 2022.11 asks for tsize=0, blksize=1468
// and windowsize=4, aborts with ERROR 8 once it has the size, and asks again:
// that is an "aborted" request in the metrics and a line at debug, no error.
//
// A Server is made by New, then bound by Listen, then run once by Run. After
// Listen, any goroutine may call Addr.
package tftp
