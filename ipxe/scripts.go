package ipxe

import (
	"net/http"
	"net/netip"

	"github.com/bedplate/bedplate/ipxe/script"
	"github.com/bedplate/bedplate/machine"
)

// serveFirst answers with the script that asks for the machine's own.
func (s *Server) serveFirst(w http.ResponseWriter, r *http.Request) {
	content, err := script.First{URL: s.askerOf(r).base + scriptPath}.IPXE()
	if err != nil {
		s.log.Error("first script not made", "err", err)
		http.Error(w, "the first script could not be made: "+err.Error(), http.StatusInternalServerError)
		return
	}
	writeScript(w, r, content)
}

// serveScript answers with the script of the machine that the query names.
func (s *Server) serveScript(w http.ResponseWriter, r *http.Request) {
	a := s.askerOf(r)
	q := parseQuery(r.URL.Query())
	a.mac = q.mac()
	var d decision
	m, known := q.find(s.cfg.Machines)
	switch {
	case known:
		a.mac = bootMAC(q.macs, m)
		d = s.forKnown(a, m)
	case q.empty():
		s.metrics.scripts.WithLabelValues("ipxe", resultNameless).Inc()
		http.Error(w, "say who asks: mac=, uuid= or serial=", http.StatusBadRequest)
		return
	default:
		d = s.forUnknown(a)
	}
	s.answer(w, r, a, d, "ipxe")
}

// bootMAC returns the interface that a known machine was booted over, as far as
// its query says: the first MAC address that is on record, or else the first.
func bootMAC(macs []machine.MAC, m machine.Machine) machine.MAC {
	for _, mac := range macs {
		if _, ok := m.InterfaceByMAC(mac); ok {
			return mac
		}
	}
	if len(macs) > 0 {
		return macs[0]
	}
	return machine.MAC{}
}

// serveGRUB answers with the configuration of the machine at the peer's address.
func (s *Server) serveGRUB(w http.ResponseWriter, r *http.Request) {
	a := s.askerOf(r)
	d := s.decideGRUB(&a)
	s.answer(w, r, a, d, "grub")
}

// decideGRUB decides for a GRUB, of which only the address is known.
func (s *Server) decideGRUB(a *asker) decision {
	a.grub = true
	m, ok := s.cfg.Machines.ByAddress(a.peer)
	if !ok {
		return s.forUnknown(*a)
	}
	a.mac = macOf(m, a.peer)
	return s.forKnown(*a, m)
}

// macOf returns the interface of m that has an address by reservation; zero when
// the address comes from a pool and m has several.
func macOf(m machine.Machine, addr netip.Addr) machine.MAC {
	for _, i := range m.Interfaces {
		if i.Address.IsValid() && i.Address.Addr() == addr {
			return i.MAC
		}
	}
	if len(m.Interfaces) == 1 {
		return m.Interfaces[0].MAC
	}
	return machine.MAC{}
}

// render writes a decision's program for a boot loader. When that fails, the
// machine gets the reason on its console instead, and the decision says so.
func (s *Server) render(d *decision, loader string) ([]byte, error) {
	write := func() ([]byte, error) {
		if loader == "grub" {
			return d.program.GRUB()
		}
		return d.program.IPXE()
	}
	content, err := write()
	if err == nil {
		return content, nil
	}
	*d = s.failed(*d, err)
	return write()
}

// record counts a decision, logs it and reports it.
func (s *Server) record(a asker, d decision, loader string, source machine.Source) {
	s.metrics.scripts.WithLabelValues(loader, d.result).Inc()
	log := s.log.With("machine", d.machine, "mac", a.mac, "ip", a.peer, "action", d.result)
	event := "script"
	if loader == "grub" {
		event = "grub.cfg"
	}
	bad := d.result == resultError || d.result == resultForeign
	if bad {
		log.Warn("boot script refused", "err", d.detail)
	} else {
		log.Info("boot script given")
	}
	s.observe(machine.Sighting{Source: source, Machine: d.machine, MAC: a.mac, Address: a.peer, Event: event, Detail: d.detail, Err: bad})
}

// answer sends what was decided.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, a asker, d decision, loader string) {
	if d.program == nil {
		s.record(a, d, loader, machine.SourceHTTP)
		http.Error(w, "unknown machine", http.StatusNotFound)
		return
	}
	content, err := s.render(&d, loader)
	if err != nil {
		// A message is made of checked text, so this is not reached.
		s.log.Error("boot script not made", "err", err)
		http.Error(w, "the boot script could not be made", http.StatusInternalServerError)
		return
	}
	if r.Method == http.MethodGet {
		s.record(a, d, loader, machine.SourceHTTP)
	}
	writeScript(w, r, content)
}
