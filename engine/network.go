package engine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"github.com/bedplate/bedplate/dhcp"
	"github.com/bedplate/bedplate/dhcp/lease"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
)

// listTimeout bounds the look at what networks there are before they are served.
const listTimeout = 10 * time.Second

// listenDHCP binds the DHCP ports of the networks on record, so that a port
// which somebody else holds ends the start and not only a line in the log. A
// network that can't be served for another reason, such as an interface that
// isn't there, doesn't keep the others from being served: it is warned of.
func (e *Engine) listenDHCP() error {
	ctx, cancel := context.WithTimeout(context.Background(), listTimeout)
	defer cancel()
	known, _, err := resource.All[*pb.Network](ctx, e.db)
	if err != nil {
		return fmt.Errorf("listing networks: %w", err)
	}
	var list []dhcp.Network
	for _, n := range known {
		// One that is wrong is reported when the networks are fed.
		if v, err := networkValue(n); err == nil {
			list = append(list, v)
		}
	}
	if err := e.dhcp.SetNetworks(list); err != nil {
		e.log.Warn("serving networks", "err", err)
	}
	err = e.dhcp.Listen()
	if err == nil || errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM) {
		return err
	}
	e.log.Warn("serving networks", "err", err)
	// All are set again, and served as far as it goes, when they are fed.
	if err := e.dhcp.SetNetworks(nil); err != nil {
		return err
	}
	return e.dhcp.Listen()
}

var (
	modes = map[pb.DHCPMode]dhcp.Mode{
		pb.DHCPMode_FULL: dhcp.Full, pb.DHCPMode_PROXY: dhcp.Proxy, pb.DHCPMode_RELAY: dhcp.Relay, pb.DHCPMode_OFF: dhcp.Off,
		pb.DHCPMode_DHCP_MODE_UNSPECIFIED: dhcp.Full,
	}
	unknowns = map[pb.UnknownMachines]dhcp.Unknown{
		pb.UnknownMachines_IGNORE: dhcp.Ignore, pb.UnknownMachines_DISCOVER: dhcp.Discover, pb.UnknownMachines_REFUSE: dhcp.Refuse,
		pb.UnknownMachines_UNKNOWN_MACHINES_UNSPECIFIED: dhcp.UnknownDefault,
	}
)

// networkValue returns a Network as the DHCP service wants it.
func networkValue(n *pb.Network) (dhcp.Network, error) {
	s := n.GetSpec()
	cidr, err := netip.ParsePrefix(s.GetCidr())
	if err != nil {
		return dhcp.Network{}, fmt.Errorf("network %s: spec.cidr: %w", n.GetMetadata().GetName(), err)
	}
	v := dhcp.Network{
		Name: n.GetMetadata().GetName(), CIDR: cidr.Masked(), Mode: modes[s.GetDhcpMode()],
		Interfaces: s.GetInterfaces(), Nameservers: addrs(s.GetNameservers()), NTPServers: addrs(s.GetNtpServers()),
		Domain: s.GetDomain(), SearchDomains: s.GetSearchDomains(), MTU: uint16(s.GetMtu()),
		Unknown: unknowns[s.GetUnknownMachines()], DisableProbe: s.GetDisableProbe(),
	}
	if s.GetBmc() && v.Unknown != dhcp.Ignore {
		// BMCs get an address. A machine that boots there by mistake is told so.
		v.Unknown = dhcp.Refuse
	}
	if a, err := netip.ParseAddr(s.GetGateway()); err == nil {
		v.Gateway = a
	}
	if a, err := netip.ParseAddr(s.GetServerAddress()); err == nil {
		v.ServerAddress = a
	}
	if d, err := time.ParseDuration(s.GetLeaseTime()); err == nil {
		v.LeaseTime = d
	}
	for _, p := range s.GetPools() {
		start, err1 := netip.ParseAddr(p.GetStart())
		end, err2 := netip.ParseAddr(p.GetEnd())
		if err1 == nil && err2 == nil {
			v.Pools = append(v.Pools, lease.Range{Start: start, End: end})
		}
	}
	for _, r := range s.GetStaticRoutes() {
		to, err1 := netip.ParsePrefix(r.GetDestination())
		via, err2 := netip.ParseAddr(r.GetGateway())
		if err1 == nil && err2 == nil {
			v.Routes = append(v.Routes, dhcp.Route{Destination: to, Gateway: via})
		}
	}
	return v, v.Validate()
}
