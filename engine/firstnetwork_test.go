package engine

import (
	"net/netip"
	"testing"
)

func TestUpperHalf(t *testing.T) {
	for _, tt := range []struct{ prefix, start, end string }{
		{"10.77.0.1/24", "10.77.0.128", "10.77.0.254"},
		{"10.77.0.200/24", "10.77.0.1", "10.77.0.127"},
		{"10.0.0.1/29", "10.0.0.4", "10.0.0.6"},
		{"172.16.5.4/22", "172.16.6.0", "172.16.7.254"},
	} {
		t.Run(tt.prefix, func(t *testing.T) {
			start, end, ok := upperHalf(netip.MustParsePrefix(tt.prefix))
			if !ok || start.String() != tt.start || end.String() != tt.end {
				t.Errorf("got %s-%s, %v; want %s-%s", start, end, ok, tt.start, tt.end)
			}
		})
	}
	t.Run("a subnet with no room gets no pool", func(t *testing.T) {
		if _, _, ok := upperHalf(netip.MustParsePrefix("10.0.0.1/30")); ok {
			t.Error("a /30 got a pool")
		}
	})
}
