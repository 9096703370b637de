package scan

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"time"
	"unicode"

	"github.com/bedplate/bedplate/bmc"
)

const (
	dialTimeout    = 2 * time.Second
	redfishTimeout = 15 * time.Second // BMCs take seconds for a TLS handshake
	maxRoot        = 64 << 10
	maxWord        = 128
)

// serviceRoot is what is read of a Redfish service root (DSP2046 ServiceRoot).
type serviceRoot struct {
	Type    string `json:"@odata.type"`
	Version string `json:"RedfishVersion"`
	Vendor  string
	Product string
	UUID    string

	pin string
}

// askRedfish reports whether the target has a Redfish service, and what its
// root says. Its certificate is not checked: nothing secret is sent, and who
// logs in later pins or checks it.
func askRedfish(ctx context.Context, t Target) (serviceRoot, bool) {
	port := t.Port
	if port == 0 {
		port = 443
	}
	ctx, cancel := context.WithTimeout(ctx, redfishTimeout)
	defer cancel()
	transport := &http.Transport{
		DialContext:     dialer.DialContext,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10}, //nolint:gosec // see above; old BMCs know no newer one
		Proxy:           nil, MaxResponseHeaderBytes: maxRoot, DisableKeepAlives: true,
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		if len(via) > 2 || r.URL.Host != via[0].URL.Host {
			return errors.New("redirected elsewhere")
		}
		return nil
	}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+netip.AddrPortFrom(t.Addr, port).String()+"/redfish/v1/", http.NoBody)
	if err != nil {
		return serviceRoot{}, false
	}
	r.Header.Set("Accept", "application/json")
	r.Header.Set("OData-Version", "4.0")
	answer, err := client.Do(r)
	if err != nil {
		return serviceRoot{}, false
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxRoot))
	if err != nil {
		return serviceRoot{}, false
	}
	root, ok := parseRoot(answer.StatusCode, body)
	if ok && answer.TLS != nil && len(answer.TLS.PeerCertificates) > 0 {
		root.pin = string(bmc.PinOf(answer.TLS.PeerCertificates[0]))
	}
	return root, ok
}

// parseRoot reads a service root. A service that wants a login even for it
// (some old ones) is told by what it answers instead: Redfish's extended error.
func parseRoot(code int, body []byte) (serviceRoot, bool) {
	var root serviceRoot
	if code == http.StatusUnauthorized || code == http.StatusForbidden {
		return root, strings.Contains(string(body), "@Message.ExtendedInfo")
	}
	if code != http.StatusOK || json.Unmarshal(body, &root) != nil {
		return serviceRoot{}, false
	}
	if root.Version == "" && !strings.Contains(root.Type, "ServiceRoot") {
		return serviceRoot{}, false
	}
	for _, word := range []*string{&root.Vendor, &root.Product, &root.UUID} {
		*word = clean(*word)
	}
	return root, true
}

// clean is a word from the network as it may be shown.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	if r := []rune(s); len(r) > maxWord {
		s = string(r[:maxWord])
	}
	return strings.TrimSpace(s)
}
