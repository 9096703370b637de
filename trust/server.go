package trust

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	serverValidity = 90 * 24 * time.Hour
	// serverRenewal is how long before its end a certificate is made again.
	serverRenewal = 30 * 24 * time.Hour
	// maxServerNames bounds the names of one certificate, and so its size on the wire.
	maxServerNames = 128
)

// ServerCertificate is the server's own certificate. It lives in memory only:
// clients trust the CA, so a new one at every start harms nobody. It is made
// again when its names change and 30 days before its end.
type ServerCertificate struct {
	ca *CA

	mu      sync.Mutex
	names   []string
	addrs   []netip.Addr
	current *tls.Certificate // with Leaf set
}

// NewServerCertificate returns a certificate for these names and addresses.
func (ca *CA) NewServerCertificate(names []string, addrs []netip.Addr) (*ServerCertificate, error) {
	s := &ServerCertificate{ca: ca}
	if err := s.SetNames(names, addrs); err != nil {
		return nil, err
	}
	return s, nil
}

// SetNames replaces the names and addresses that the certificate is for. Order
// and repetition don't matter; nothing is made if they are the same as before.
func (s *ServerCertificate) SetNames(names []string, addrs []netip.Addr) error {
	names, addrs = slices.Clone(names), slices.Clone(addrs)
	for i := range addrs {
		addrs[i] = addrs[i].Unmap().WithZone("")
	}
	slices.Sort(names)
	slices.SortFunc(addrs, netip.Addr.Compare)
	names, addrs = slices.Compact(names), slices.Compact(addrs)
	if len(names)+len(addrs) > maxServerNames {
		return fmt.Errorf("making server certificate: %d names and addresses, at most %d: name fewer interfaces", len(names)+len(addrs), maxServerNames)
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != nil && slices.Equal(names, s.names) && slices.Equal(addrs, s.addrs) {
		return nil
	}
	cert, err := s.ca.signServer(names, addrs)
	if err != nil {
		return err
	}
	s.names, s.addrs, s.current = names, addrs, cert
	return nil
}

// Get is a tls.Config.GetCertificate. The address of ours that the client
// connected to is added to the certificate's names if it isn't among them
// (an interface may get its address after the server has started). It is an
// address of this host, so a client can't make it name anything else.
func (s *ServerCertificate) Get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	local := localAddr(hello)
	s.mu.Lock()
	defer s.mu.Unlock()
	addrs := s.addrs
	if local.IsValid() && !slices.Contains(addrs, local) && len(s.names)+len(addrs) < maxServerNames {
		addrs = append(slices.Clone(addrs), local)
		slices.SortFunc(addrs, netip.Addr.Compare)
	}
	fresh := s.ca.now().Before(s.current.Leaf.NotAfter.Add(-serverRenewal))
	if fresh && len(addrs) == len(s.addrs) {
		return s.current, nil
	}
	cert, err := s.ca.signServer(s.names, addrs)
	if err != nil {
		return nil, err
	}
	s.addrs, s.current = addrs, cert
	return cert, nil
}

// TLS returns a configuration for listeners: TLS 1.3, HTTP/2 and HTTP/1.1.
func (s *ServerCertificate) TLS() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		GetCertificate: s.Get,
		NextProtos:     []string{"h2", "http/1.1"},
		Time:           s.ca.now,
	}
}

// AgentTLS returns a configuration for the agents' port: as TLS, and a client
// certificate, where one is given, must be this CA's. Whether there was one is
// for the caller to check with PeerAgent: enrolment is done without.
func (s *ServerCertificate) AgentTLS() *tls.Config {
	config := s.TLS()
	config.ClientAuth = tls.VerifyClientCertIfGiven
	config.ClientCAs = s.ca.Pool()
	return config
}

// localAddr returns the address of ours that the client connected to.
func localAddr(hello *tls.ClientHelloInfo) netip.Addr {
	if hello == nil || hello.Conn == nil {
		return netip.Addr{}
	}
	tcp, ok := hello.Conn.LocalAddr().(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return tcp.AddrPort().Addr().Unmap().WithZone("")
}

// signServer makes a key and a certificate for it. The chain has the CA's
// certificate in it, so that a client that knows only its digest can pin it.
func (ca *CA) signServer(names []string, addrs []netip.Addr) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), ca.rand)
	if err != nil {
		return nil, fmt.Errorf("making server key: %w", err)
	}
	serial, err := newSerial(ca.rand)
	if err != nil {
		return nil, err
	}
	now := ca.now()
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "Bedplate server"},
		NotBefore:             now.Add(-clockSlack),
		NotAfter:              minTime(now.Add(serverValidity), ca.cert.NotAfter),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		DNSNames:              names,
	}
	for _, a := range addrs {
		template.IPAddresses = append(template.IPAddresses, a.AsSlice())
	}
	der, err := x509.CreateCertificate(ca.rand, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		return nil, fmt.Errorf("signing server certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("reading server certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der, ca.cert.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

func minTime(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
