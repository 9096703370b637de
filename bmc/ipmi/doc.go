// Package ipmi is the driver of package bmc for IPMI 2.0 over LAN (RMCP+, IPMI
// specification 2.0 rev. 1.1 §13), on github.com/bougou/go-ipmi: no program
// besides is needed.
//
// It has power, boot device, inventory from the FRU data, sensors from the SDR
// repository, the system event log, users and the serial console (SOL). IPMI has
// no virtual media, BIOS settings, Secure Boot, firmware update, HTTP boot or
// addresses of the machine's own interfaces; those return bmc.ErrUnsupported.
//
// Sessions use cipher suite 17 (HMAC-SHA256, AES-CBC-128) or else 3 (HMAC-SHA1),
// never one without encryption. RAKP gives anyone who knows a user's name a hash
// of its password to try passwords on, which no setting changes: keep IPMI on a
// management network, and passwords long. There is no certificate, so no pin.
package ipmi
