package resource

import (
	"net/netip"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

func checkNetwork(s *pb.NetworkSpec, errs *FieldErrors) {
	prefix := checkCIDR(s.GetCidr(), errs)
	if gw, ok := checkIPv4("spec.gateway", s.GetGateway(), errs); ok && prefix.IsValid() {
		checkGateway("spec.gateway", gw, prefix, errs)
	}
	checkIPv4("spec.server_address", s.GetServerAddress(), errs)
	checkReference("spec.bmc_password_secret", s.GetBmcPasswordSecret(), errs)
	if !s.GetBmc() && (s.GetBmcUsername() != "" || s.GetBmcPasswordSecret() != "") {
		errs.add("spec.bmc", "false or missing: bmc_username and bmc_password_secret are for networks of BMCs")
	}
	for i, a := range s.GetNameservers() {
		checkAddress(joinIndex("spec.nameservers", i), a, errs)
	}
	for i, a := range s.GetNtpServers() {
		checkAddress(joinIndex("spec.ntp_servers", i), a, errs)
	}
	if d := s.GetDomain(); d != "" && !isDNSName(d) {
		errs.add("spec.domain", "%q: not a domain name", d)
	}
	for i, d := range s.GetSearchDomains() {
		if !isDNSName(d) {
			errs.add(joinIndex("spec.search_domains", i), "%q: not a domain name", d)
		}
	}
	// 68 is the least that RFC 2132 §5.1 allows for option 26.
	if s.GetMtu() != 0 && s.GetMtu() < 68 {
		errs.add("spec.mtu", "%d: less than 68", s.GetMtu())
	}
	checkDuration("spec.lease_time", s.GetLeaseTime(), errs)
	for i, r := range s.GetStaticRoutes() {
		checkRoute(joinIndex("spec.static_routes", i), r, errs)
	}
	checkPools(s.GetPools(), prefix, errs)
}

func checkCIDR(text string, errs *FieldErrors) netip.Prefix {
	p, err := netip.ParsePrefix(text)
	switch {
	case text == "":
		errs.add("spec.cidr", "missing")
	case err != nil || !p.Addr().Is4():
		errs.add("spec.cidr", "%q: not an IPv4 subnet such as 10.77.0.0/24", text)
	case p != p.Masked():
		errs.add("spec.cidr", "%s has bits after its prefix: write %s", p, p.Masked())
	case p.Bits() < 8 || p.Bits() > 31:
		errs.add("spec.cidr", "%s: only /8 to /31", p)
	default:
		return p
	}
	return netip.Prefix{}
}

func checkRoute(path string, r *pb.StaticRoute, errs *FieldErrors) {
	p, err := netip.ParsePrefix(r.GetDestination())
	if err != nil || !p.Addr().Is4() || p != p.Masked() {
		errs.add(path+".destination", "%q: not an IPv4 subnet such as 10.78.0.0/16", r.GetDestination())
	}
	checkAddress(path+".gateway", r.GetGateway(), errs)
}

func checkPools(pools []*pb.AddressRange, prefix netip.Prefix, errs *FieldErrors) {
	type span struct {
		start, end netip.Addr
		path       string
	}
	var spans []span
	for i, pool := range pools {
		path := joinIndex("spec.pools", i)
		start, ok1 := checkAddress(path+".start", pool.GetStart(), errs)
		end, ok2 := checkAddress(path+".end", pool.GetEnd(), errs)
		if !ok1 || !ok2 {
			continue
		}
		if end.Less(start) {
			errs.add(path+".end", "%s comes before the start, %s", end, start)
			continue
		}
		if prefix.IsValid() {
			checkPoolEnd(path+".start", start, prefix, errs)
			checkPoolEnd(path+".end", end, prefix, errs)
		}
		for _, s := range spans {
			if !s.end.Less(start) && !end.Less(s.start) {
				errs.add(path, "%s-%s overlaps %s", start, end, s.path)
				break
			}
		}
		spans = append(spans, span{start, end, path})
	}
}

func checkPoolEnd(path string, a netip.Addr, p netip.Prefix, errs *FieldErrors) {
	switch {
	case !p.Contains(a):
		errs.add(path, "%s is not in %s", a, p)
	case !isHost(a, p):
		errs.add(path, "%s: the first or last address of %s can't be a machine's", a, p)
	}
}
