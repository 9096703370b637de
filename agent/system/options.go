package system

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/bedplate/bedplate/machine"
	"github.com/bedplate/bedplate/machine/medium"
)

// Options are the agent's kernel arguments, bedplate.*, or what a boot medium
// says in their place.
type Options struct {
	// Server is HOST:PORT of the agents' gRPC port (bedplate.server).
	Server string
	// HTTP is the base URL of the server's HTTP port (bedplate.http).
	HTTP string
	// Token is the one-time token of this boot (bedplate.token).
	Token string
	// CA is the SHA-256 of the DER of the server's CA certificate (bedplate.ca=sha256:HEX).
	CA [sha256.Size]byte
	// MAC is the interface that the machine was booted over (bedplate.mac); zero when not given.
	MAC machine.MAC
	// Static is the address to use instead of DHCP (bedplate.ip); its Address is invalid when not given.
	Static StaticAddress
	// Debug asks for more on the console (bedplate.debug).
	Debug bool
	// Modules are to be loaded whatever the hardware says (bedplate.modules=a,b).
	Modules []string
	// Interfaces are those that a boot medium knows.
	Interfaces []medium.Interface
	// Medium is set when the machine was booted from one.
	Medium bool
}

// StaticAddress is bedplate.ip=ADDRESS/PREFIX,GATEWAY[,DNS]; the gateway may be empty.
type StaticAddress struct {
	Address     netip.Prefix
	Gateway     netip.Addr
	Nameservers []netip.Addr
}

// ParseOptions reads the bedplate.* arguments from the text of /proc/cmdline.
// The error names every argument that is missing or wrong; what could be read
// is returned with it.
func ParseOptions(cmdline string) (Options, error) {
	args := parseCmdline(cmdline)
	var o Options
	var errs []error
	check := func(name string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("kernel argument %s: %w", name, err))
		}
	}
	o.Server = args["bedplate.server"]
	_, _, err := net.SplitHostPort(o.Server)
	check("bedplate.server", err)
	o.HTTP = strings.TrimSuffix(args["bedplate.http"], "/")
	if !strings.HasPrefix(o.HTTP, "http://") && !strings.HasPrefix(o.HTTP, "https://") {
		check("bedplate.http", errors.New("not an http:// URL"))
	}
	if o.Token = args["bedplate.token"]; o.Token == "" {
		check("bedplate.token", errors.New("missing"))
	}
	o.CA, err = parseDigest(args["bedplate.ca"])
	check("bedplate.ca", err)
	return o, errors.Join(append(errs, o.parseLocal(args))...)
}

// ParseMedium reads the configuration of a boot medium, and from the text of
// /proc/cmdline the arguments that are about this machine alone: bedplate.mac,
// ip, debug and modules. Where the server is, and what to enrol with, is the
// medium's to say.
func ParseMedium(cmdline string, config []byte) (Options, error) {
	o := Options{Medium: true}
	err := o.parseLocal(parseCmdline(cmdline))
	c, err2 := medium.Parse(config)
	if err2 != nil {
		return o, errors.Join(err, err2)
	}
	o.Server, o.HTTP, o.Token, o.Interfaces = c.Server, strings.TrimSuffix(c.HTTP, "/"), c.Token, c.Interfaces
	o.CA, err2 = parseDigest(c.CA)
	return o, errors.Join(err, err2)
}

// parseLocal reads the arguments that are about this machine alone.
func (o *Options) parseLocal(args map[string]string) error {
	var errs []error
	var err error
	if s := args["bedplate.mac"]; s != "" {
		if o.MAC, err = machine.ParseMAC(s); err != nil {
			errs = append(errs, fmt.Errorf("kernel argument bedplate.mac: %w", err))
		}
	}
	if s := args["bedplate.ip"]; s != "" {
		if o.Static, err = parseStatic(s); err != nil {
			errs = append(errs, fmt.Errorf("kernel argument bedplate.ip: %w", err))
		}
	}
	_, o.Debug = args["bedplate.debug"]
	if s := args["bedplate.modules"]; s != "" {
		o.Modules = strings.Split(s, ",")
	}
	return errors.Join(errs...)
}

func parseDigest(s string) (d [sha256.Size]byte, err error) {
	h, ok := strings.CutPrefix(s, "sha256:")
	if !ok || len(h) != hex.EncodedLen(len(d)) {
		return d, errors.New("not sha256: and 64 hexadecimal digits")
	}
	if _, err := hex.Decode(d[:], []byte(h)); err != nil {
		return d, fmt.Errorf("parsing digest: %w", err)
	}
	return d, nil
}

func parseStatic(s string) (StaticAddress, error) {
	f := strings.Split(s, ",")
	var a StaticAddress
	var err error
	if a.Address, err = netip.ParsePrefix(f[0]); err != nil {
		return a, fmt.Errorf("parsing address: %w", err)
	}
	if len(f) > 1 && f[1] != "" {
		if a.Gateway, err = netip.ParseAddr(f[1]); err != nil {
			return a, fmt.Errorf("parsing gateway: %w", err)
		}
	}
	for _, s := range f[min(2, len(f)):] {
		n, err := netip.ParseAddr(s)
		if err != nil {
			return a, fmt.Errorf("parsing name server: %w", err)
		}
		a.Nameservers = append(a.Nameservers, n)
	}
	return a, nil
}

// parseCmdline splits as the kernel does: at white space outside double
// quotes; the last of several equal names counts.
func parseCmdline(s string) map[string]string {
	args := map[string]string{}
	quoted := false
	fields := strings.FieldsFunc(s, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return !quoted && (r == ' ' || r == '\t' || r == '\n' || r == 0)
	})
	for _, f := range fields {
		name, value, _ := strings.Cut(strings.ReplaceAll(f, `"`, ""), "=")
		args[name] = value
	}
	return args
}
