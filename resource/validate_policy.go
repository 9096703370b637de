package resource

import (
	"crypto/x509"
	"encoding/pem"
	"net"
	"net/netip"
	"net/url"
	"strconv"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

func checkBMC(path string, b *pb.BMC, errs *FieldErrors) {
	if b.GetAddress() != "" && !isHostPort(b.GetAddress()) {
		errs.add(path+".address", "%q: not a host name or address, with or without a port", b.GetAddress())
	}
	checkReference(path+".password_secret", b.GetPasswordSecret(), errs)
	switch pem := b.GetCaCertificate(); {
	case b.GetTls() == "ca" && pem == "":
		errs.add(path+".ca_certificate", "missing: the CA that signs the BMC's certificate, in PEM")
	case pem != "" && b.GetTls() != "ca":
		errs.add(path+".ca_certificate", "given without %s.tls: ca", path)
	case pem != "" && !isCertificates(pem):
		errs.add(path+".ca_certificate", "not certificates in PEM")
	}
	if b.GetCertificateDigest() != "" && b.GetTls() != "" && b.GetTls() != "pin" {
		errs.add(path+".certificate_digest", "given with tls: %s, which doesn't use it", b.GetTls())
	}
}

// isHostPort reports whether s is a name or address, with or without a port.
func isHostPort(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host, port = s, "1"
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return false
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	return isDNSName(host)
}

func isCertificates(text string) bool {
	rest := []byte(text)
	found := false
	for {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			return found
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return false
		}
		found = true
	}
}

func checkPool(s *pb.PoolSpec, errs *FieldErrors) {
	checkDuration("spec.boot_timeout", s.GetBootTimeout(), errs)
	checkDuration("spec.tests.duration", s.GetTests().GetDuration(), errs)
	checkReference("spec.tests.template", s.GetTests().GetTemplate(), errs)
	for i, l := range s.GetTests().GetLimits() {
		path := joinIndex("spec.tests.limits", i)
		switch {
		case l.Min == nil && l.Max == nil:
			errs.add(path, "has neither min nor max")
		case l.Min != nil && l.Max != nil && l.GetMin() > l.GetMax():
			errs.add(path, "min %g is above max %g", l.GetMin(), l.GetMax())
		}
	}
	seen := map[string]bool{}
	for i, h := range s.GetHooks() {
		path := joinIndex("spec.hooks", i)
		if seen[h.GetName()] {
			errs.add(path+".name", "%q is given twice", h.GetName())
		}
		seen[h.GetName()] = true
		checkURL(path+".url", h.GetUrl(), errs)
		checkDuration(path+".timeout", h.GetTimeout(), errs)
		checkReference(path+".token_secret", h.GetTokenSecret(), errs)
	}
}

func checkURL(path, text string, errs *FieldErrors) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		errs.add(path, "%q: not an http or https URL", text)
	}
}

// maxLabelKey is what meta.proto allows the keys of metadata.labels.
const maxLabelKey = 253

func checkRule(s *pb.RuleSpec, errs *FieldErrors) {
	if s.GetAction() == "" {
		errs.add("spec.action", "missing: accept or refuse")
	}
	checkReference("spec.pool", s.GetPool(), errs)
	for _, k := range sortedKeys(s.GetLabels()) {
		if !isLabelText(k) || k == "" || len(k) > maxLabelKey {
			errs.add(joinKey("spec.labels", k), "not a label's key: at most %d bytes without spaces, commas, parentheses, = and !", maxLabelKey)
		}
	}
	if s.Bmc != nil {
		checkBMC("spec.bmc", s.GetBmc(), errs)
		if s.GetBmc().GetAddress() != "" {
			errs.add("spec.bmc.address", "a rule can't give it: it is read from each machine")
		}
	}
	if s.GetAction() == "refuse" && (s.GetName() != "" || s.GetPool() != "" || s.GetRack() != "" || len(s.GetLabels()) > 0 || s.Bmc != nil) {
		errs.add("spec.action", "a refused machine gets no name, pool, rack, labels or bmc")
	}
}

func checkJob(s *pb.JobSpec, errs *FieldErrors) {
	checkReference("spec.machine", s.GetMachine(), errs)
	checkDuration("spec.timeout", s.GetTimeout(), errs)
	for i, o := range s.GetOperations() {
		checkOperation(joinIndex("spec.operations", i), o, errs)
	}
}

func checkOperation(path string, o *pb.Operation, errs *FieldErrors) {
	switch op := o.GetOperation().(type) {
	case nil:
		errs.add(path, "does nothing: set one of its fields")
	case *pb.Operation_Power:
		checkDuration(path+".power.grace", op.Power.GetGrace(), errs)
		if op.Power.GetGrace() != "" && op.Power.GetAction() != "soft" {
			errs.add(path+".power.grace", "only with action soft")
		}
		checkGiven(path+".power.action", op.Power.GetAction(), errs)
	case *pb.Operation_BootDevice:
		checkGiven(path+".boot_device.device", op.BootDevice.GetDevice(), errs)
		if u := op.BootDevice.GetUri(); u != "" {
			checkURL(path+".boot_device.uri", u, errs)
			if op.BootDevice.GetDevice() != "http" {
				errs.add(path+".boot_device.uri", "only with device http")
			}
		}
	case *pb.Operation_InsertMedia:
		if u := op.InsertMedia.GetUrl(); u != "" {
			checkURL(path+".insert_media.url", u, errs)
		}
	case *pb.Operation_Firmware:
		checkURL(path+".firmware.url", op.Firmware.GetUrl(), errs)
		if op.Firmware.GetPush() && op.Firmware.GetDigest() == "" {
			errs.add(path+".firmware.digest", "missing: with push the server checks the image before it sends it")
		}
	case *pb.Operation_Bios:
		if len(op.Bios.GetAttributes()) == 0 && !op.Bios.GetReset_() {
			errs.add(path+".bios", "changes nothing: give attributes, or reset")
		}
	case *pb.Operation_SecureBoot:
		if op.SecureBoot.GetState() == "" && op.SecureBoot.GetResetKeys() == "" {
			errs.add(path+".secure_boot", "changes nothing: give state or reset_keys")
		}
	}
}

func checkGiven(path, text string, errs *FieldErrors) {
	if text == "" {
		errs.add(path, "missing")
	}
}
