// Package erasure makes, signs and verifies the record of a machine's erasure: a
// JSON document that stands by itself and can be checked years later without
// a server.
//
// # Format
//
//	{"record": {...}, "signature": {"algorithm": "ed25519", "value": base64,
//	 "certificates": [base64 DER, ...], "sums": {path: hexadecimal, ...}}}
//
// The record is what Record describes. What is signed is the line
//
//	bedplate erasure record v1
//
// with its end of line, and after it the record in the canonical form of
// RFC 8785 (JSON Canonicalization Scheme): no blanks, members ordered by name,
// numbers as whole numbers. So a document may be indented or reordered and is
// still the same; a changed, added or removed member is not. Every number in a
// record is a whole number below 2^53.
//
// The certificates are that of the key and the CA's. A verifier trusts the
// SHA-256 of one of the two: the CA's certificate, or the key's
// SubjectPublicKeyInfo. The sums say which member was changed, when one was:
// for each object or list, by its JSON pointer, the first two octets of the
// SHA-256 of each member's canonical form. They are no part of what makes a
// record valid.
//
// # Verification rule
//
// A record proves that a machine is erased if its signature is right, the
// certificate is trusted and was valid at the record's time, it names the
// machine that was expected, and the record says that each of its devices is
// erased and verified, with no problem left.
//
// FromWorkflow takes nothing on trust from the machine: what an agent reports is
// bounded, checked for being possible, and held against the machine's
// inventory. The package does no I/O, and its functions may be called from
// several goroutines at once.
package erasure

import (
	"slices"
	"time"
)

// Schema is the version of the record's format.
const Schema = "bedplate.erasure/v1"

// Record is what a document says.
type Record struct {
	Schema string `json:"schema"`
	// ID is the name of the Erasure resource that holds the document.
	ID string `json:"id"`
	// Time is when the record was made, in UTC.
	Time     time.Time `json:"time"`
	Machine  Machine   `json:"machine"`
	Workflow Workflow  `json:"workflow"`
	// Operator is who asked for the erasure: the name of a token, or `system`.
	Operator string `json:"operator"`
	Server   Server `json:"server"`
	// Agent is the version of the agent.
	Agent    string   `json:"agent_version"`
	Devices  []Device `json:"devices"`
	TPM      TPM      `json:"tpm"`
	Firmware Firmware `json:"firmware"`
	// OK: every device is erased and verified, and nothing else is wrong.
	OK bool `json:"ok"`
	// Level is the lowest of the devices', clear or purge; empty unless OK.
	Level string `json:"level"`
	// Problems are what is wrong, for people.
	Problems []string `json:"problems"`
}

// Machine is which machine it was.
type Machine struct {
	Name         string `json:"name"`
	UID          string `json:"uid"`
	UUID         string `json:"uuid"`
	Serial       string `json:"serial"`
	Manufacturer string `json:"manufacturer"`
	Product      string `json:"product"`
}

// Workflow is what erased it.
type Workflow struct {
	Name     string `json:"name"`
	UID      string `json:"uid"`
	Template string `json:"template"`
	Instance string `json:"instance"`
	// Run counts from 1.
	Run   int64     `json:"run"`
	State string    `json:"state"`
	Start time.Time `json:"start_time"`
	End   time.Time `json:"end_time"`
}

// Server is who made the record.
type Server struct {
	Version string `json:"version"`
	// CADigest is `sha256:` and the digest of the CA's certificate.
	CADigest string `json:"ca_digest"`
}

// Device is one disk.
type Device struct {
	Path      string `json:"path"`
	Name      string `json:"name"`
	Model     string `json:"model"`
	Serial    string `json:"serial"`
	WWN       string `json:"wwn"`
	Firmware  string `json:"firmware"`
	Bus       string `json:"bus"`
	SizeBytes int64  `json:"size_bytes"`
	// Method that erased it, and its level: clear or purge.
	Method string `json:"method"`
	Level  string `json:"level"`
	// Then is a method that came after, so that the first could be verified.
	Then string `json:"then"`
	// Resumed: the method was begun by an earlier boot of the machine.
	Resumed    bool    `json:"resumed"`
	Tried      []Tried `json:"tried"`
	NotOffered string  `json:"not_offered"`
	// Hidden is what the disk hides, in words; empty: nothing was found.
	Hidden     string    `json:"hidden"`
	Start      time.Time `json:"start_time"`
	DurationMS int64     `json:"duration_ms"`
	// LogPage is the disk's own record in hexadecimal: NVMe log page 81h.
	LogPage      string       `json:"log_page"`
	Verification Verification `json:"verification"`
	OK           bool         `json:"ok"`
	Error        string       `json:"error"`
}

// Tried is a method that failed, and why.
type Tried struct {
	Method string `json:"method"`
	Error  string `json:"error"`
}

// Verification is how the disk was read back.
type Verification struct {
	// Kind is sample, full or none.
	Kind    string `json:"kind"`
	Samples int64  `json:"samples"`
	// Seed is what the sampled places were made from.
	Seed      string `json:"seed"`
	BytesRead int64  `json:"bytes_read"`
	// Result is what was found: zeros, ones, random, or changed.
	Result string `json:"result"`
}

// TPM is what became of the TPM. Asked is false where the workflow has no
// step that clears one.
type TPM struct {
	Asked   bool   `json:"asked"`
	Present bool   `json:"present"`
	Version int64  `json:"version"`
	Method  string `json:"method"`
	Cleared bool   `json:"cleared"`
}

// Firmware is what became of the firmware's variables. Asked is false where the
// workflow has no step that resets them.
type Firmware struct {
	Asked   bool     `json:"asked"`
	Kind    string   `json:"kind"`
	Removed []string `json:"removed"`
	// MOKKeys are enrolled machine owner keys, which software can't remove.
	MOKKeys int64 `json:"mok_keys"`
}

// Levels of NIST SP 800-88r1 §2.5.
const (
	Clear = "clear"
	Purge = "purge"
)

// levels says what each method is good for. The enhanced security erase of ATA
// and the overwrites of ATA and SCSI are a purge on magnetic disks alone, and so
// may be either.
var levels = map[string][]string{
	"nvme-sanitize-crypto": {Purge}, "nvme-sanitize-block": {Purge}, "nvme-sanitize-overwrite": {Purge},
	"nvme-format-crypto": {Clear}, "nvme-format-user": {Clear},
	"ata-sanitize-crypto": {Purge}, "ata-sanitize-block": {Purge}, "ata-sanitize-overwrite": {Purge, Clear},
	"ata-erase-enhanced": {Purge, Clear}, "ata-erase": {Clear},
	"scsi-sanitize-crypto": {Purge}, "scsi-sanitize-block": {Purge}, "scsi-sanitize-overwrite": {Purge, Clear},
	"secure-discard": {Clear}, "discard": {Clear}, "overwrite": {Clear},
}

// buses says which disks a method is for; the others are for all.
var buses = map[string][]string{"nvme": {"nvme"}, "ata": {"sata"}, "scsi": {"sas", "scsi"}}

// problems returns what is wrong with a device on its own.
func (d Device) problems() []string {
	var out []string
	say := func(text string) { out = append(out, d.String()+": "+text) }
	if !d.OK {
		say("not erased: " + orElse(d.Error, "no reason is given"))
		return out
	}
	if !slices.Contains(levels[d.Method], d.Level) {
		say("it says that it is erased by " + quote(d.Method) + ", level " + quote(d.Level) + ", which there isn't")
	}
	if v := d.Verification; (v.Kind != "sample" && v.Kind != "full") || v.BytesRead <= 0 || v.BytesRead > d.SizeBytes && v.Kind == "full" {
		say("not verified")
	} else if !slices.Contains([]string{"zeros", "ones", "random", "changed"}, v.Result) {
		say("verified, with a result that there isn't: " + quote(v.Result))
	} else if v.Kind == "full" && v.BytesRead != d.SizeBytes {
		say("not every byte was verified, although it says so")
	}
	if d.Error != "" {
		say("it says that it is erased, and gives an error: " + d.Error)
	}
	return out
}

// String names the device for people.
func (d Device) String() string {
	id := orElse(d.Serial, d.WWN)
	if id == "" {
		return d.Name
	}
	return d.Name + " (" + id + ")"
}

// level returns the lowest level of all devices.
func (r *Record) level() string {
	if len(r.Devices) == 0 {
		return ""
	}
	for _, d := range r.Devices {
		if d.Level != Purge {
			return d.Level
		}
	}
	return Purge
}

func orElse(s, otherwise string) string {
	if s != "" {
		return s
	}
	return otherwise
}

func quote(s string) string { return "`" + s + "`" }
