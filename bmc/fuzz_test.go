package bmc_test

import (
	"strings"
	"testing"

	"github.com/bedplate/bedplate/bmc"
)

func FuzzParsePin(f *testing.F) {
	f.Add("sha256:" + strings.Repeat("0a", 32))
	f.Add("sha256 Fingerprint=" + strings.TrimSuffix(strings.Repeat("AB:", 32), ":"))
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := bmc.ParsePin(text)
		if err != nil {
			return
		}
		again, err := bmc.ParsePin(string(p))
		if err != nil || again != p {
			t.Errorf("%q is pin %q, which is %q, %v", text, p, again, err)
		}
		if p != "" && len(p) != len("sha256:")+64 {
			t.Errorf("%q is pin %q", text, p)
		}
	})
}

func FuzzTarget_HostPort(f *testing.F) {
	for _, s := range []string{"10.0.8.11", "10.0.8.11:8443", "https://bmc.example/", "[fd77::1]:443", "fd77::1", "bmc:0", "a@b", "http://x/y", ":443", "[]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, address string) {
		host, port, err := bmc.Target{Address: address}.HostPort(443)
		if err != nil {
			return
		}
		if host == "" || port == 0 || strings.ContainsAny(host, "/@?# ") {
			t.Errorf("%q is host %q, port %d", address, host, port)
		}
	})
}
