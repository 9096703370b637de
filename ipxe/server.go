package ipxe

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path"
	"strings"

	"github.com/bedplate/bedplate/machine"
)

// The paths that are served.
const (
	bootPrefix    = "/boot/"
	firstPath     = "/ipxe/boot.ipxe"
	scriptPath    = "/ipxe/script"
	grubPath      = "/grub/grub.cfg"
	grubPrefix    = "/grub/"
	kernelPath    = "/agent/kernel"
	initramfsPath = "/agent/initramfs"
)

// Prefixes are the path prefixes that Handler is to be mounted at.
func Prefixes() []string { return []string{bootPrefix, "/ipxe/", grubPrefix, "/agent/"} }

// Server answers what boots. See New.
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
		return nil, fmt.Errorf("registering ipxe metrics: %w", err)
	}
	if cfg.Unknown == nil {
		cfg.Unknown = func(netip.Addr) UnknownPolicy { return UnknownIgnore }
	}
	if cfg.KernelArgs == nil {
		cfg.KernelArgs = []string{"quiet"}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{cfg: cfg, log: cfg.Logger, metrics: m}, nil
}

// Handler returns the handler of all paths in Prefixes. It cleans doubled slashes
// itself; a ServeMux in front of it answers them with a redirection that shim and
// firmware do not follow, unless it stands behind CleanPaths.
func (s *Server) Handler() http.Handler { return CleanPaths(http.HandlerFunc(s.serve)) }

// CleanPaths hands requests on with a clean path, where http.ServeMux would
// redirect: shim asks for `<directory of its own URL>//grubx64.efi` and takes a
// redirection for a failure.
func CleanPaths(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		clean := path.Clean("/" + strings.TrimLeft(r.URL.Path, "/"))
		if clean != "/" && strings.HasSuffix(r.URL.Path, "/") {
			clean += "/"
		}
		if clean == r.URL.Path {
			next.ServeHTTP(w, r)
			return
		}
		r2 := new(http.Request)
		*r2 = *r
		u := *r.URL
		u.Path, u.RawPath = clean, ""
		r2.URL = &u
		next.ServeHTTP(w, r2)
	})
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
		return
	}
	switch p := r.URL.Path; {
	case p == firstPath:
		s.serveFirst(w, r)
	case p == scriptPath:
		s.serveScript(w, r)
	case p == grubPath:
		s.serveGRUB(w, r)
	case p == kernelPath:
		s.serveAgentFile(w, r, "kernel", s.cfg.KernelPath)
	case p == initramfsPath:
		s.serveAgentFile(w, r, "initramfs", s.cfg.InitramfsPath)
	case strings.HasPrefix(p, bootPrefix):
		s.serveBootFile(w, r, strings.TrimPrefix(p, bootPrefix))
	default:
		http.NotFound(w, r)
	}
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

// localOf returns the address that the connection came in on.
func localOf(r *http.Request) netip.AddrPort {
	addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return netip.AddrPort{}
	}
	local, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(local.Addr().Unmap().WithZone(""), local.Port())
}

// askerOf returns who asks over HTTP.
func (s *Server) askerOf(r *http.Request) asker {
	local := localOf(r)
	a := asker{peer: peerOf(r), local: local.Addr()}
	if s.cfg.HTTPBase != nil {
		a.base = s.cfg.HTTPBase(a.peer)
	}
	if a.base == "" && local.IsValid() {
		a.base = "http://" + local.String()
	}
	return a
}

// observe reports a sighting; the time is filled in here.
func (s *Server) observe(sighting machine.Sighting) {
	if s.cfg.Observer == nil {
		return
	}
	sighting.Time = s.cfg.Now()
	s.cfg.Observer.Observe(sighting)
}
