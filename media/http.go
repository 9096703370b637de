package media

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/bedplate/bedplate/images/iso"
	"github.com/bedplate/bedplate/machine"
	"github.com/bedplate/bedplate/trust"
)

// Prefix is the path prefix that Handler is to be mounted at.
const Prefix = "/media/"

// File names in URLs: BMCs tell a CD from a stick by them, and many take no
// other endings. The bytes are the same.
const (
	cdName    = "agent.iso"
	stickName = "agent.img"
)

const maxName = 253

// urlPath is /media/<machine>/<key>/agent.iso.
func urlPath(name machine.Name, key string) string {
	return Prefix + string(name) + "/" + key + "/" + cdName
}

// parsePath reads the path of a medium's URL.
func parsePath(path string) (name machine.Name, key, id string, ok bool) {
	f := strings.Split(strings.TrimPrefix(path, Prefix), "/")
	if !strings.HasPrefix(path, Prefix) || len(f) != 3 || f[0] == "" || len(f[0]) > maxName || (f[2] != cdName && f[2] != stickName) {
		return "", "", "", false
	}
	id, ok = trust.URLID(f[1])
	return machine.Name(f[0]), f[1], id, ok
}

// service is a medium that is being read.
type service struct {
	revision int64
	image    iso.Image
	part     iso.Part

	mu sync.Mutex
	// last is when it was last read; loaded says that this boot has read the
	// agent's system to its end.
	last   time.Time
	loaded bool
}

// maxServing bounds the media that are kept ready; more are made ready anew.
const maxServing = 512

// Handler returns the handler of Prefix.
func (s *Server) Handler() http.Handler { return http.HandlerFunc(s.serve) }

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	// The image holds a secret: it is for no cache between it and the BMC.
	w.Header().Set("Cache-Control", "private, no-store")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	h, v, err := s.find(r)
	if err == nil {
		err = s.send(w, r, h, v)
	}
	if err != nil {
		s.refuse(w, r, h, err)
	}
}

// errNotFound is told to those who don't know a medium's URL.
var errNotFound = errors.New("no such boot medium")

// find returns the medium that a request is for; with ErrGone the medium is
// returned as well.
func (s *Server) find(r *http.Request) (held, *service, error) {
	name, key, id, ok := parsePath(r.URL.Path)
	if !ok {
		return held{}, nil, errNotFound
	}
	h, err := s.get(r.Context(), name, id)
	if errors.Is(err, ErrGone) || err == nil && !s.cfg.Tokens.VerifyURLKey(key, h.token()) {
		return held{}, nil, errNotFound
	}
	if err != nil {
		return held{}, nil, err
	}
	if !h.good(s.cfg.Now()) {
		return h, nil, fmt.Errorf("it has expired: %w", ErrGone)
	}
	v, err := s.ready(h)
	return h, v, err
}

// ready returns what is needed to serve a medium.
func (s *Server) ready(h held) (*service, error) {
	s.mu.Lock()
	v := s.serving[h.id]
	s.mu.Unlock()
	if v != nil && v.revision == h.revision {
		return v, nil
	}
	image, err := iso.Load(s.cfg.Dir)
	if err != nil {
		return nil, err
	}
	if image.Inputs != h.Image {
		return nil, fmt.Errorf("the agent's system was built anew since: %w", ErrGone)
	}
	part, err := s.part(h)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.serving[h.id]; v != nil && v.revision == h.revision {
		return v, nil
	}
	for id := range s.serving {
		if len(s.serving) < maxServing {
			break
		}
		delete(s.serving, id)
	}
	v = &service{revision: h.revision, image: image, part: part}
	s.serving[h.id] = v
	return v, nil
}

func (s *Server) forget(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.serving, id)
}

// refuse answers a request that can't be served.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, h held, err error) {
	peer := peerOf(r)
	switch {
	case errors.Is(err, errNotFound):
		s.metrics.requests.WithLabelValues(resultNotFound).Inc()
		s.log.Info("boot medium not found", "ip", peer)
		http.Error(w, "404 "+err.Error(), http.StatusNotFound)
		return
	case errors.Is(err, ErrGone):
		s.metrics.requests.WithLabelValues(resultGone).Inc()
		http.Error(w, err.Error(), http.StatusGone)
	default:
		s.metrics.requests.WithLabelValues(resultError).Inc()
		http.Error(w, "the boot medium is not there; the server's log says why", http.StatusServiceUnavailable)
	}
	s.log.Warn("boot medium not given", "machine", h.name, "ip", peer, "err", err)
	s.observe(machine.Sighting{Machine: h.name, Address: peer, Event: "medium-refused", Detail: err.Error(), Err: true})
}

// send serves the image, whole or in parts.
func (s *Server) send(w http.ResponseWriter, r *http.Request, h held, v *service) error {
	m, err := v.image.Open(v.part)
	if err != nil {
		s.forget(h.id)
		if errors.Is(err, iso.ErrMissing) {
			return fmt.Errorf("%w: %w", err, ErrGone)
		}
		return err
	}
	defer m.Close() //nolint:errcheck // read only
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("ETag", `"`+h.Image[:16]+"-"+h.id+`"`)
	s.metrics.requests.WithLabelValues(resultOK).Inc()
	if r.Method == http.MethodHead {
		http.ServeContent(w, r, "", h.Made, m)
		return nil
	}
	s.begins(r, h, v)
	start := s.cfg.Now()
	c := &counter{ResponseWriter: w}
	http.ServeContent(c, r, "", h.Made, m)
	s.metrics.bytes.Add(float64(c.n))
	s.ends(r, h, v, span(w.Header().Get("Content-Range"), c.n), s.cfg.Now().Sub(start))
	return nil
}

// span returns the part of the image that a response has carried: from the
// Content-Range header as far as bytes were sent. Without one it begins at 0.
func span(contentRange string, sent int64) iso.Region {
	var from, to, size int64
	if _, err := fmt.Sscanf(contentRange, "bytes %d-%d/%d", &from, &to, &size); err != nil {
		from = 0
	}
	return iso.Region{Offset: from, Size: sent}
}

// counter counts what is sent through a response.
type counter struct {
	http.ResponseWriter
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n += int64(n)
	return n, err
}

// ReadFrom is io.ReaderFrom.
func (c *counter) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(c.ResponseWriter, r)
	c.n += n
	return n, err
}

// Unwrap is for http.ResponseController.
func (c *counter) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// quiet is after how long without a read the next one counts as another boot.
const quiet = 2 * time.Minute

// begins reports the first read of a boot, or of a download.
func (s *Server) begins(r *http.Request, h held, v *service) {
	now := s.cfg.Now()
	v.mu.Lock()
	first := v.last.IsZero() || now.Sub(v.last) > quiet
	v.last = now
	if first {
		v.loaded = false
	}
	v.mu.Unlock()
	if first {
		s.log.Info("boot medium read", "machine", h.name, "ip", peerOf(r))
		s.observe(machine.Sighting{Machine: h.name, Address: peerOf(r), Event: "medium", Detail: fmt.Sprintf("%d bytes", v.image.Image.Size)})
	}
}

// ends reports that all of the image was sent in one go, which is a BMC that
// fetches it before anything boots, or that the end of the agent's system was
// read, which is a machine that is about to start it.
func (s *Server) ends(r *http.Request, h held, v *service, sent iso.Region, took time.Duration) {
	now, size := s.cfg.Now(), v.image.Image.Size
	last := v.image.Initramfs.End() - 1
	v.mu.Lock()
	v.last = now
	report := !v.loaded && sent.Offset <= last && last < sent.End()
	v.loaded = v.loaded || report
	v.mu.Unlock()
	event, detail := "medium-loaded", "agent's system read"
	if sent.Offset == 0 && sent.Size == size {
		event, detail, report = "medium-complete", fmt.Sprintf("%d bytes in %.2f s", size, took.Seconds()), true
	}
	if report {
		s.log.Info("boot medium sent", "machine", h.name, "ip", peerOf(r), "dur", took)
		s.observe(machine.Sighting{Machine: h.name, Address: peerOf(r), Event: event, Detail: detail})
	}
}

func (s *Server) observe(what machine.Sighting) {
	if s.cfg.Observer == nil || what.Machine == "" {
		return
	}
	what.Time, what.Source = s.cfg.Now(), machine.SourceHTTP
	s.cfg.Observer.Observe(what)
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
