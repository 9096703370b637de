package medium

import (
	"bytes"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func good() Config {
	return Config{
		Version: Version, Machine: "r1", Server: "10.9.0.1:8444", HTTP: "http://10.9.0.1:8080", Token: "bpm_x",
		CA: "sha256:" + strings.Repeat("0", 64),
		Interfaces: []Interface{
			{
				MAC: "52:54:00:77:00:01", Address: netip.MustParsePrefix("10.9.0.31/24"), Gateway: netip.MustParseAddr("10.9.0.1"),
				Nameservers: []netip.Addr{netip.MustParseAddr("10.9.0.2")}, Search: []string{"lab.example"}, VLAN: 42, MTU: 9000,
				Routes: []Route{{To: netip.MustParsePrefix("10.0.0.0/8"), Via: netip.MustParseAddr("10.9.0.3")}},
			},
			{MAC: "52:54:00:77:00:02"},
		},
	}
}

func TestConfig(t *testing.T) {
	t.Run("what was written is read", func(t *testing.T) {
		data, err := good().Marshal()
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse(data)
		if diff := cmp.Diff(good(), got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" || err != nil {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
	})
	t.Run("fields of a later version are passed over", func(t *testing.T) {
		data, err := good().Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(bytes.Replace(data, []byte("{"), []byte(`{"colour":"blue",`), 1)); err != nil {
			t.Error(err)
		}
	})
	t.Run("an address of any interface makes it static", func(t *testing.T) {
		c := good()
		if !c.Static() {
			t.Error("not static")
		}
		c.Interfaces = c.Interfaces[1:]
		if c.Static() {
			t.Error("static without an address")
		}
	})
}

func TestConfig_Refused(t *testing.T) {
	for name, alter := range map[string]func(*Config){
		"another version":                 func(c *Config) { c.Version = 2 },
		"no server":                       func(c *Config) { c.Server = "" },
		"a server without a port":         func(c *Config) { c.Server = "10.9.0.1" },
		"no URL":                          func(c *Config) { c.HTTP = "10.9.0.1:8080" },
		"a URL of another kind":           func(c *Config) { c.HTTP = "file:///etc" },
		"no digest":                       func(c *Config) { c.CA = "sha256:00" },
		"no token":                        func(c *Config) { c.Token = "" },
		"an interface without an address": func(c *Config) { c.Interfaces[0].MAC = "eth0" },
		"an interface twice":              func(c *Config) { c.Interfaces[1].MAC = "52-54-00-77-00-01" },
		"a multicast address":             func(c *Config) { c.Interfaces[0].Address = netip.MustParsePrefix("224.0.0.1/4") },
		"a gateway of another family":     func(c *Config) { c.Interfaces[0].Gateway = netip.MustParseAddr("fd00::1") },
		"a gateway without an address":    func(c *Config) { c.Interfaces[1].Gateway = netip.MustParseAddr("10.9.0.1") },
		"a route of another family":       func(c *Config) { c.Interfaces[0].Routes[0].Via = netip.MustParseAddr("fd00::1") },
		"VLAN 4095":                       func(c *Config) { c.Interfaces[0].VLAN = 4095 },
		"a tiny MTU":                      func(c *Config) { c.Interfaces[0].MTU = 68 },
		"a domain that is two lines":      func(c *Config) { c.Interfaces[0].Search = []string{"a\nnameserver 10.0.0.1"} },
		"an invalid name server":          func(c *Config) { c.Interfaces[0].Nameservers = []netip.Addr{{}} },
		"too many interfaces":             func(c *Config) { c.Interfaces = make([]Interface, maxInterfaces+1) },
	} {
		t.Run(name, func(t *testing.T) {
			c := good()
			alter(&c)
			if err := c.Check(); !errors.Is(err, ErrConfig) {
				t.Errorf("error %v, want ErrConfig", err)
			}
		})
	}
	t.Run("more bytes than the medium has room for", func(t *testing.T) {
		if _, err := Parse(make([]byte, MaxSize+1)); !errors.Is(err, ErrConfig) {
			t.Errorf("error %v", err)
		}
	})
}

func FuzzParse(f *testing.F) {
	data, err := good().Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"version":1}`))
	f.Add([]byte(`{"version":1,"interfaces":[{"mac":"52:54:00:77:00:01","address":"10.0.0.1/33"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Parse(b)
		if err != nil {
			if !errors.Is(err, ErrConfig) {
				t.Errorf("error %v is not ErrConfig", err)
			}
			return
		}
		again, err := c.Marshal()
		if errors.Is(err, ErrConfig) && len(b) > MaxSize/8 {
			return // escaped, it can be longer than it was
		}
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if got, err := Parse(again); err != nil || len(got.Interfaces) != len(c.Interfaces) || got.Token != c.Token {
			t.Errorf("read again: %+v, %v", got, err)
		}
	})
}
