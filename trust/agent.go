package trust

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/bedplate/bedplate/machine"
)

const (
	agentValidity = 24 * time.Hour
	// maxRequestBytes bounds a certificate request; one for P-256 has some 250.
	maxRequestBytes = 8 << 10
	// maxCommonName is ub-common-name of RFC 5280 appendix A.1.
	maxCommonName = 64

	agentScheme = "bedplate"
	agentHost   = "machine"
)

var (
	// machineNamePattern is the one of Metadata.name: no slash, so it can stand in a URI path.
	machineNamePattern = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)
	bootIDPattern      = regexp.MustCompile(`^[0-9a-f]{16,64}$`)
)

// ErrNoAgent means that a peer has not shown an agent's certificate: it has to
// enrol first.
var ErrNoAgent = errors.New("peer has no agent certificate")

// Agent is who an agent's certificate says it is: one machine in one boot.
type Agent struct {
	Machine machine.Name
	// BootID is random per boot, hexadecimal.
	BootID string
}

// uri returns the identity as the certificate carries it.
func (a Agent) uri() *url.URL {
	return &url.URL{Scheme: agentScheme, Host: agentHost, Path: "/" + string(a.Machine) + "/boot/" + a.BootID}
}

// check refuses what could be read back as somebody else.
func (a Agent) check() error {
	if !machineNamePattern.MatchString(string(a.Machine)) {
		return fmt.Errorf("%q is no machine name", a.Machine)
	}
	if !bootIDPattern.MatchString(a.BootID) {
		return fmt.Errorf("boot id %q is not 16 to 64 lower-case hexadecimal digits", a.BootID)
	}
	return nil
}

// AgentRequest is a checked PKCS #10 certificate request of an agent.
type AgentRequest struct {
	// KeyDigest is `sha256:` and the SHA-256 of the public key (its
	// SubjectPublicKeyInfo). A boot token may be used again by the same key only.
	KeyDigest string
	key       any
}

// ParseAgentRequest reads a certificate request and checks that its sender
// holds the key. Only the key is taken from it; names in it are passed over.
func ParseAgentRequest(der []byte) (*AgentRequest, error) {
	if len(der) > maxRequestBytes {
		return nil, fmt.Errorf("certificate request has %d bytes, at most %d", len(der), maxRequestBytes)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("reading certificate request: %w", err)
	}
	switch key := csr.PublicKey.(type) {
	case *ecdsa.PublicKey:
		if bits := key.Curve.Params().BitSize; bits < 256 || bits > 384 {
			return nil, fmt.Errorf("certificate request has an ECDSA key of %d bits: use P-256", bits)
		}
	case ed25519.PublicKey:
	default:
		return nil, fmt.Errorf("certificate request has a %T: use ECDSA P-256", csr.PublicKey)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("checking certificate request: %w", err)
	}
	sum := sha256.Sum256(csr.RawSubjectPublicKeyInfo)
	return &AgentRequest{KeyDigest: digestPrefix + hex.EncodeToString(sum[:]), key: csr.PublicKey}, nil
}

// SignAgent returns a client certificate for the agent, valid for 24 hours,
// and the CA's after it, both DER.
func (ca *CA) SignAgent(req *AgentRequest, agent Agent) ([][]byte, error) {
	if err := agent.check(); err != nil {
		return nil, fmt.Errorf("signing agent certificate: %w", err)
	}
	serial, err := newSerial(ca.rand)
	if err != nil {
		return nil, err
	}
	now := ca.now()
	name := string(agent.Machine)
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: name[:min(len(name), maxCommonName)]},
		NotBefore:             now.Add(-clockSlack),
		NotAfter:              minTime(now.Add(agentValidity), ca.cert.NotAfter),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{agent.uri()},
	}
	der, err := x509.CreateCertificate(ca.rand, template, ca.cert, req.key, ca.key)
	if err != nil {
		return nil, fmt.Errorf("signing agent certificate: %w", err)
	}
	return [][]byte{der, ca.cert.Raw}, nil
}

// PeerAgent returns who the peer of a connection is. The connection's
// configuration must have been made by AgentTLS: an identity is read from a
// verified certificate only.
func PeerAgent(state tls.ConnectionState) (Agent, error) {
	if len(state.VerifiedChains) == 0 || len(state.VerifiedChains[0]) == 0 {
		return Agent{}, ErrNoAgent
	}
	return agentOf(state.VerifiedChains[0][0])
}

// agentOf reads the identity that SignAgent wrote.
func agentOf(cert *x509.Certificate) (Agent, error) {
	if len(cert.URIs) != 1 {
		return Agent{}, fmt.Errorf("%w: %d URIs in its certificate", ErrNoAgent, len(cert.URIs))
	}
	u := cert.URIs[0]
	parts := strings.Split(u.Path, "/") // "", name, "boot", id
	if u.Scheme != agentScheme || u.Host != agentHost || len(parts) != 4 || parts[2] != "boot" {
		return Agent{}, fmt.Errorf("%w: its certificate is for %s", ErrNoAgent, u.Redacted())
	}
	agent := Agent{Machine: machine.Name(parts[1]), BootID: parts[3]}
	if err := agent.check(); err != nil {
		return Agent{}, fmt.Errorf("%w: %v", ErrNoAgent, err)
	}
	return agent, nil
}
