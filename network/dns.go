package network

import "net/netip"

// DNS returns the name servers and search domains that are to be written with a
// link: its own, and with the first link that has a way out, or else an
// address, those of the whole machine. Many systems have no other place for them.
func DNS(c *Config, l *Link) ([]netip.Addr, []string) {
	if l != c.primary() {
		return l.Nameservers, l.Search
	}
	return appendNew(append([]netip.Addr(nil), c.Nameservers...), l.Nameservers), appendNew(append([]string(nil), c.Search...), l.Search)
}

// primary returns the link by which the machine reaches others; nil where it has none.
func (c *Config) primary() *Link {
	var addressed *Link
	for _, l := range c.Links {
		if l.Kind == Lo || !l.Addressed() {
			continue
		}
		if l.Gateway4.IsValid() || l.Gateway6.IsValid() {
			return l
		}
		if addressed == nil {
			addressed = l
		}
	}
	return addressed
}

// AllDNS returns the name servers and search domains of the machine and of all
// its links, for systems that have one list.
func (c *Config) AllDNS() ([]netip.Addr, []string) {
	servers, search := append([]netip.Addr(nil), c.Nameservers...), append([]string(nil), c.Search...)
	for _, l := range c.Links {
		servers, search = appendNew(servers, l.Nameservers), appendNew(search, l.Search)
	}
	return servers, search
}
