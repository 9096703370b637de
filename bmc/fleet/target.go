package fleet

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	"github.com/bedplate/bedplate/bmc"
	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// AnnotationBMCMAC is a machine's annotation with the MAC address of its BMC,
// where that is known: password lists go by it.
const AnnotationBMCMAC = "bedplate/bmc-mac"

// Annotations of a machine whose BMC was found: what it said of itself before
// anybody logged in.
const (
	AnnotationBMCVendor  = "bedplate/bmc-vendor"
	AnnotationBMCProduct = "bedplate/bmc-product"
)

// errNoPassword ends in what to do.
var errNoPassword = errors.New("no password for the BMC")

// Target returns where the machine's BMC is and how to log in to it. While the
// BMC's password is not certain (the server was stopped while it changed it),
// it finds out first which one works. A login that the BMC has refused isn't
// given out again: the error is a *RefusedError.
func (f *Fleet) Target(ctx context.Context, m *pb.Machine) (bmc.Target, error) {
	if err := f.refusal(ctx, m); err != nil {
		return bmc.Target{}, err
	}
	own, err := f.vault.password(ctx, m, f.settle)
	if errors.Is(err, bmc.ErrAuth) {
		f.refuse(ctx, m)
	}
	if err != nil {
		return bmc.Target{}, err
	}
	return f.targetWith(ctx, m, own)
}

// targetWith is Target with the password that the server has given the BMC;
// empty: it has its first one.
func (f *Fleet) targetWith(ctx context.Context, m *pb.Machine, own string) (bmc.Target, error) {
	spec := m.GetSpec().GetBmc()
	name := m.GetMetadata().GetName()
	if spec.GetAddress() == "" {
		return bmc.Target{}, fmt.Errorf("machine/%s %w", name, ErrNoBMC)
	}
	t := bmc.Target{Machine: machine.Name(name), Address: spec.GetAddress(), Username: spec.GetUsername(), Password: own, IPMIPort: uint16(spec.GetIpmiPort()), Driver: spec.GetDriver()}
	var err error
	if t.Protocol, err = bmc.ParseProtocol(spec.GetProtocol()); err != nil {
		return t, err
	}
	if t.TLS, err = f.tls(m); err != nil {
		return t, err
	}
	if spec.GetConsole() == "ssh" {
		t.SSH = f.ssh(m)
	}
	if own == "" {
		t.Password, err = f.firstPassword(ctx, m)
	}
	return t, err
}

// tls returns how the BMC's certificate is checked.
func (f *Fleet) tls(m *pb.Machine) (bmc.TLS, error) {
	spec := m.GetSpec().GetBmc()
	switch spec.GetTls() {
	case "insecure":
		return bmc.TLS{Insecure: true}, nil
	case "ca":
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM([]byte(spec.GetCaCertificate())) {
			return bmc.TLS{}, fmt.Errorf("machine/%s: spec.bmc.ca_certificate has no certificate in PEM", m.GetMetadata().GetName())
		}
		return bmc.TLS{Roots: roots}, nil
	}
	for _, text := range []string{spec.GetCertificateDigest(), string(f.unstoredPin(m.GetMetadata().GetName())), m.GetStatus().GetBmc().GetCertificateDigest()} {
		if text == "" {
			continue
		}
		pin, err := bmc.ParsePin(text)
		return bmc.TLS{Pin: pin}, err
	}
	return bmc.TLS{}, nil
}

// ssh returns how the machine's serial console is reached by SSH. The host key
// of the first contact is wanted from then on.
func (f *Fleet) ssh(m *pb.Machine) *bmc.SSH {
	spec, name := m.GetSpec().GetBmc(), m.GetMetadata().GetName()
	way := &bmc.SSH{Port: uint16(spec.GetSshPort()), Command: spec.GetConsoleCommand(), HostKey: spec.GetSshHostKey()}
	if way.HostKey == "" {
		way.HostKey = f.newest(m).GetStatus().GetBmc().GetSshHostKey()
	}
	way.Seen = func(fingerprint string) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if had := f.members[name]; had != nil {
			had.hostKey = fingerprint
		}
	}
	return way
}

// firstPassword returns the password that a person has given: the Secret's key
// `password`, or what it has for this one machine.
func (f *Fleet) firstPassword(ctx context.Context, m *pb.Machine) (string, error) {
	name, secret := m.GetMetadata().GetName(), m.GetSpec().GetBmc().GetPasswordSecret()
	if secret == "" {
		if m.GetSpec().GetBmc().GetUsername() == "" {
			return "", nil // a BMC that wants no login
		}
		return "", fmt.Errorf("machine/%s: %w: set spec.bmc.password_secret to a Secret that has it under the key password", name, errNoPassword)
	}
	values, _, err := f.cfg.Secret(ctx, secret)
	if err != nil {
		return "", fmt.Errorf("machine/%s: reading the BMC's password: %w", name, err)
	}
	if p, ok := pick(values, m); ok {
		return p, nil
	}
	return "", fmt.Errorf("machine/%s: %w: secret/%s has neither the key password nor one for its name, serial number, MAC or BMC address", name, errNoPassword, secret)
}

// pick returns the value for the machine out of a list of passwords: by its
// name, serial number, MAC address or the BMC's address, in this order, else
// the one that is for all.
func pick(values map[string]string, m *pb.Machine) (string, bool) {
	byKey := make(map[string]string, len(values))
	for k, v := range values {
		byKey[normal(k)] = v
	}
	for _, id := range identifiers(m) {
		if v, ok := byKey[normal(id)]; ok && id != "" {
			return v, true
		}
	}
	v, ok := values["password"]
	return v, ok
}

// identifiers are the words that a list may know the machine by.
func identifiers(m *pb.Machine) []string {
	ids := []string{m.GetMetadata().GetName(), m.GetSpec().GetSerial()}
	inv := m.GetStatus().GetInventory()
	ids = append(ids, m.GetMetadata().GetAnnotations()[AnnotationBMCMAC], inv.GetBmc().GetMac(),
		inv.GetSystem().GetSerial(), m.GetStatus().GetBmcInventory().GetSystem().GetSerial(), inv.GetChassis().GetSerial())
	for _, nic := range m.GetSpec().GetInterfaces() {
		ids = append(ids, nic.GetMac())
	}
	return append(ids, m.GetSpec().GetBmc().GetAddress())
}

// normal is a word without case and without what MAC addresses are divided by.
func normal(s string) string {
	if mac, err := machine.ParseMAC(strings.ReplaceAll(s, "_", ":")); err == nil {
		return mac.String()
	}
	return strings.ToLower(strings.TrimSpace(s))
}
