// Package trust holds the keys that a Bedplate server is known by and what is
// made from them: the certificate authority and the certificates it signs for
// the server and for agents, the one-time tokens that a machine boots with,
// API tokens, the keys of metadata URLs, and the encryption of secrets.
//
// Everything that has to outlive the process is a file in one directory, made
// at first start, mode 0600, written beside its name, synced and renamed:
//
//	ca.key      the CA's private key and its certificate (PEM)
//	ca.crt      the certificate alone, for people to copy; made again if lost
//	hmac.key    32 random bytes in hexadecimal; boot and media tokens, metadata keys
//	secrets.key an age X25519 identity; secrets in the store
//	erasure.key the Ed25519 key that signs erasure records (PEM)
//
// A boot token is URL-safe text that fits a kernel command line: `bpb_` and
// the base64url form of
//
//	0      1         5        13     19          len-16      len
//	+------+---------+--------+------+-----------+-----------+
//	| 0x01 | expiry  | random | MAC  | machine   | HMAC-     |
//	|      | seconds | id     |      | name      | SHA-256   |
//	+------+---------+--------+------+-----------+-----------+
//
// with the expiry as big-endian Unix time, no name for a machine that is yet to
// be discovered, and the HMAC cut to its first 16 octets.
//
// A media token, which a boot medium enrols with, is `bpm_` and
//
//	0      1         5        13          len-16      len
//	+------+---------+--------+-----------+-----------+
//	| 0x01 | expiry  | medium | machine   | HMAC-     |
//	|      | seconds | id     | name      | SHA-256   |
//	+------+---------+--------+-----------+-----------+
//
// The key in the medium's URL is an HMAC over the same with another key, so that
// a URL in somebody's log is no token, and a token no URL.
//
// The package does not listen, dial or keep tokens: who may use one, and that
// a boot token is used once, is decided where it is redeemed. Time and
// randomness are passed in. All types may be used by any number of goroutines.
package trust
