package system

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/bedplate/bedplate/machine"
	"github.com/bedplate/bedplate/machine/medium"
)

func TestParseMedium(t *testing.T) {
	nics := []medium.Interface{{MAC: "52:54:00:77:00:01", Address: netip.MustParsePrefix("10.9.0.31/24"), VLAN: 42}}
	config, err := medium.Config{
		Machine: "web-1", Server: "10.9.0.1:8444", HTTP: "http://10.9.0.1:8080/", Token: "bpm_x", CA: "sha256:" + strings.Repeat("00", 32), Interfaces: nics,
	}.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	opts := cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})
	t.Run("the medium says where the server is, the command line what is about the machine alone", func(t *testing.T) {
		got, err := ParseMedium("quiet bedplate.debug bedplate.modules=a bedplate.mac=52:54:00:77:00:01 bedplate.server=evil:1 bedplate.token=stolen bedplate.http=http://evil", config)
		want := Options{
			Server: "10.9.0.1:8444", HTTP: "http://10.9.0.1:8080", Token: "bpm_x", Interfaces: nics, Medium: true,
			MAC: machine.MAC{0x52, 0x54, 0, 0x77, 0, 1}, Debug: true, Modules: []string{"a"},
		}
		if diff := cmp.Diff(want, got, opts); diff != "" || err != nil {
			t.Errorf("%v, options (-want +got):\n%s", err, diff)
		}
	})
	t.Run("a medium that can't be read is an error, but a wish for more on the console is heard", func(t *testing.T) {
		got, err := ParseMedium("bedplate.debug", config[1:])
		if !errors.Is(err, medium.ErrConfig) || !got.Debug {
			t.Errorf("%+v, %v", got, err)
		}
	})
	t.Run("so is a wrong argument", func(t *testing.T) {
		if _, err := ParseMedium("bedplate.ip=x", config); err == nil || !strings.Contains(err.Error(), "bedplate.ip") {
			t.Error(err)
		}
	})
}
