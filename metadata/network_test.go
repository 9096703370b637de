package metadata

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bedplate/bedplate/machine"
)

func TestNetworkConfig(t *testing.T) {
	addr := netip.MustParseAddr
	mac := func(last byte) machine.MAC { return machine.MAC{0x52, 0x54, 0, 0x77, 0, last} }
	for _, c := range []struct {
		name string
		in   []StaticInterface
		want string
	}{
		{
			name: "an address with all that comes with it, and an interface that asks DHCP",
			in: []StaticInterface{
				{
					MAC: mac(1), Address: netip.MustParsePrefix("10.77.0.31/24"), Gateway: addr("10.77.0.1"), MTU: 9000,
					Nameservers: []netip.Addr{addr("10.77.0.2"), addr("10.77.0.3")}, Search: []string{"lab.example"},
					Routes: []StaticRoute{{netip.MustParsePrefix("10.0.0.0/8"), addr("10.77.0.4")}},
				},
				{MAC: machine.MAC{0x52, 0x54, 0, 0x12, 0, 2}}, // a number of base 60 in YAML 1.1, were it not quoted
			},
			want: `version: 2
ethernets:
    nic0:
        match:
            macaddress: 52:54:00:77:00:01
        set-name: nic0
        dhcp4: false
        mtu: 9000
        addresses:
            - 10.77.0.31/24
        routes:
            - to: 0.0.0.0/0
              via: 10.77.0.1
            - to: 10.0.0.0/8
              via: 10.77.0.4
        nameservers:
            addresses:
                - 10.77.0.2
                - 10.77.0.3
            search:
                - lab.example
    nic1:
        match:
            macaddress: "52:54:00:12:00:02"
        set-name: nic1
        dhcp4: true
        optional: true
`,
		},
		{
			name: "an address on a VLAN",
			in:   []StaticInterface{{MAC: mac(1), Address: netip.MustParsePrefix("10.77.0.31/24"), VLAN: 42}},
			want: `version: 2
ethernets:
    nic0:
        match:
            macaddress: 52:54:00:77:00:01
        set-name: nic0
        dhcp4: false
vlans:
    nic0.42:
        id: 42
        link: nic0
        dhcp4: false
        addresses:
            - 10.77.0.31/24
`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := NetworkConfig(c.in)
			if diff := cmp.Diff(c.want, string(got)); diff != "" || err != nil {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
}
