package vendor

import (
	"fmt"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strconv"
	"strings"

	"github.com/bmc-toolbox/bmclib/v2/providers/asrockrack"
	"github.com/bmc-toolbox/bmclib/v2/providers/dell"
	"github.com/bmc-toolbox/bmclib/v2/providers/intelamt"
	"github.com/bmc-toolbox/bmclib/v2/providers/openbmc"
	"github.com/bmc-toolbox/bmclib/v2/providers/redfish"
	"github.com/bmc-toolbox/bmclib/v2/providers/supermicro"
	"github.com/go-logr/logr"
	"github.com/jacobweinstock/registrar"

	"github.com/bedplate/bedplate/bmc"
)

// The providers, by the names that spec.bmc.driver has.
const (
	Dell       = "dell"
	Supermicro = "supermicro"
	ASRockRack = "asrockrack"
	OpenBMC    = "openbmc"
	AMT        = "amt"
	// Gofish is bmclib's own Redfish provider, for any vendor's.
	Gofish = "gofish"
)

// Names returns every provider, in the order of their documentation.
func Names() []string { return []string{Dell, Supermicro, ASRockRack, OpenBMC, AMT, Gofish} }

// Of returns the provider of a manufacturer as machines' firmware and FRUs
// write it; empty if there is none.
func Of(manufacturer string) string {
	m := strings.ToLower(strings.NewReplacer(" ", "", "-", "", "_", "").Replace(manufacturer))
	switch {
	case strings.HasPrefix(m, "dell"):
		return Dell
	case strings.HasPrefix(m, "supermicro"), strings.HasPrefix(m, "supermicrocomputer"):
		return Supermicro
	case strings.HasPrefix(m, "asrockrack"):
		return ASRockRack
	}
	return ""
}

// The ports of Intel AMT, with and without TLS (IANA amt-soap-https, amt-soap-http).
const (
	amtPort      = 16993
	amtPlainPort = 16992
)

// defaultPort returns where a provider's BMCs listen.
func defaultPort(name string, t bmc.Target) uint16 {
	switch {
	case name == AMT && t.TLS.Plaintext:
		return amtPlainPort
	case name == AMT:
		return amtPort
	case t.TLS.Plaintext:
		return 80
	}
	return 443
}

// register puts the provider into a registry of its own. The client is what it
// has been given; nil where it makes its own.
func (d *Driver) register(t bmc.Target) (*registrar.Registry, error) {
	registry := registrar.NewRegistry()
	add := func(protocol string, features registrar.Features, provider any) {
		registry.Register(d.name, protocol, features, nil, provider)
	}
	host, port, err := t.HostPort(defaultPort(d.name, t))
	if err != nil {
		return nil, err
	}
	if d.name == Supermicro || d.name == AMT {
		if err := d.bridged(t, host, port); err != nil {
			return nil, err
		}
	} else if err := d.direct(); err != nil {
		return nil, err
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	text := strconv.Itoa(int(port))
	if t.TLS.Plaintext {
		host = "http://" + host
	}
	switch d.name {
	case Dell:
		add(dell.ProviderProtocol, dell.Features, dell.New(host, t.Username, t.Password, logr.Discard(), dell.WithHttpClient(d.http), dell.WithPort(text)))
	case Gofish:
		add(redfish.ProviderProtocol, redfish.Features, redfish.New(host, t.Username, t.Password, logr.Discard(), redfish.WithHttpClient(d.http), redfish.WithPort(text), redfish.WithSystemName(t.System)))
	case OpenBMC:
		add(openbmc.ProviderProtocol, openbmc.Features, openbmc.New(host, t.Username, t.Password, logr.Discard(), openbmc.WithHttpClient(d.http), openbmc.WithPort(text)))
	case ASRockRack:
		add(asrockrack.ProviderProtocol, asrockrack.Features, asrockrack.NewWithOptions(host+":"+text, t.Username, t.Password, logr.Discard(), asrockrack.WithHTTPClient(d.http)))
	case Supermicro:
		add(supermicro.ProviderProtocol, supermicro.Features, supermicro.NewClient("http://127.0.0.1", t.Username, t.Password, logr.Discard(), supermicro.WithPort(strconv.Itoa(d.bridge.port))))
	case AMT:
		add(intelamt.ProviderProtocol, intelamt.Features, intelamt.New("127.0.0.1", t.Username, t.Password, intelamt.WithPort(uint32(d.bridge.port))))
	default:
		return nil, fmt.Errorf("%q is no vendor driver: use one of %s", d.name, strings.Join(Names(), ", "))
	}
	return registry, nil
}

// direct makes the http.Client of providers that take one.
func (d *Driver) direct() error {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return fmt.Errorf("making a store for cookies: %w", err)
	}
	d.http = &http.Client{Transport: d.wire.transport(), Jar: jar}
	return nil
}

// bridged starts the bridge of providers that take none.
func (d *Driver) bridged(t bmc.Target, host string, port uint16) (err error) {
	origin := &url.URL{Scheme: "https", Host: net.JoinHostPort(host, strconv.Itoa(int(port)))}
	switch {
	case t.TLS.Plaintext:
		origin.Scheme = "http"
	case port == 443:
		origin.Host = strings.TrimSuffix(origin.Host, ":443")
	}
	d.bridge, err = newBridge(d.wire, origin)
	return err
}
