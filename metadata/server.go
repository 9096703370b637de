package metadata

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"github.com/bedplate/bedplate/machine"
)

const (
	nocloudPrefix   = "/nocloud/"
	ignitionPrefix  = "/ignition/"
	talosPrefix     = "/talos/"
	phoneHomePrefix = "/phone-home/"
	maxKey          = 128
)

// versions are the EC2 metadata versions that are answered, all alike: those that
// cloud-init asks for, and latest.
func versions() []string {
	return []string{"2009-04-04", "2016-09-02", "2018-09-24", "2021-03-23", "latest"}
}

// Prefixes are the path prefixes that Handler is to be mounted at.
func Prefixes() []string {
	prefixes := []string{nocloudPrefix, ignitionPrefix, talosPrefix, phoneHomePrefix}
	for _, v := range versions() {
		prefixes = append(prefixes, "/"+v+"/")
	}
	return prefixes
}

// Server answers machines that ask who they are. See New.
type Server struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
}

// New returns a server. The error says what is missing in cfg, or which metric
// is already registered.
func New(cfg Config) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, fmt.Errorf("registering metadata metrics: %w", err)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{cfg: cfg, log: cfg.Logger, metrics: m}, nil
}

// Handler returns the handler of all paths in Prefixes.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+nocloudPrefix+"{key}/{file}", s.serveNoCloud)
	mux.HandleFunc("GET "+ignitionPrefix+"{key}/config.ign", s.serveIgnition)
	mux.HandleFunc("GET "+talosPrefix+"{key}/config.yaml", s.serveTalos)
	mux.HandleFunc("POST "+phoneHomePrefix+"{key}", s.servePhoneHome)
	for _, v := range versions() {
		mux.HandleFunc("GET /"+v+"/{path...}", s.serveEC2)
	}
	mux.HandleFunc("PUT /latest/api/token", s.serveToken)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// What a machine may know of itself is for no cache between it and us.
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		mux.ServeHTTP(w, r)
	})
}

// peerOf returns the address at the other end of the connection; it never
// believes a header.
func peerOf(r *http.Request) netip.Addr {
	addr, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return addr.Addr().Unmap().WithZone("")
}

// base returns the base of URLs for the machine that asks.
func (s *Server) base(r *http.Request) string {
	if s.cfg.HTTPBase != nil {
		if base := s.cfg.HTTPBase(peerOf(r)); base != "" {
			return base
		}
	}
	addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return ""
	}
	local, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return ""
	}
	return "http://" + netip.AddrPortFrom(local.Addr().Unmap().WithZone(""), local.Port()).String()
}

// byKey returns the document of the key in the request's path, unless the request
// comes from an address that is another machine's.
func (s *Server) byKey(r *http.Request, kind string) (Document, bool) {
	key := r.PathValue("key")
	if key == "" || len(key) > maxKey {
		s.count(kind, resultRefused)
		return Document{}, false
	}
	doc, ok := s.cfg.Source.ByKey(key)
	if !ok {
		s.count(kind, resultNotFound)
		s.log.Info("metadata asked for with an unknown key", "ip", peerOf(r), "file", kind)
		return Document{}, false
	}
	peer := peerOf(r)
	if holder, ok := s.cfg.Source.ByAddress(peer); ok && holder.InstanceID != doc.InstanceID {
		s.count(kind, resultRefused)
		s.log.Warn("metadata asked for from another machine's address", "machine", doc.Machine, "ip", peer, "file", kind)
		s.observe(machine.Sighting{
			Machine: doc.Machine, Address: peer, Event: kind, Err: true,
			Detail: fmt.Sprintf("refused: %s is an address of %s", peer, holder.Machine),
		})
		return Document{}, false
	}
	return doc, true
}

// reply sends content that a machine asked for.
func (s *Server) reply(w http.ResponseWriter, r *http.Request, content []byte) {
	if w.Header().Get("Content-Type") == "" {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(content)))
	if r.Method != http.MethodHead {
		// The client is gone if this fails; it asks again.
		_, _ = w.Write(content)
	}
}

func (s *Server) count(kind, result string) {
	s.metrics.requests.WithLabelValues(kind, result).Inc()
}

// report counts, logs and observes an answered request.
func (s *Server) report(r *http.Request, doc Document, event, detail string) {
	s.count(event, resultOK)
	s.log.Info("metadata given", "machine", doc.Machine, "ip", peerOf(r), "file", event)
	s.observe(machine.Sighting{Machine: doc.Machine, Address: peerOf(r), Event: event, Detail: detail})
}

func (s *Server) observe(sighting machine.Sighting) {
	if s.cfg.Observer == nil {
		return
	}
	sighting.Time = s.cfg.Now()
	sighting.Source = machine.SourceMetadata
	s.cfg.Observer.Observe(sighting)
}

// line returns s without line ends, for lists of which each line is an item.
func line(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), " ")
}
