package images

import (
	"errors"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bedplate/bedplate/machine"
)

// Names finds the digest of the content that an image of that name has.
type Names func(name string) (digest string, ok bool)

// Observer is told which machine fetches what. It must not block.
type Observer interface{ Observe(machine.Sighting) }

// Handler serves content: the last element of the path is an image's name, or
// a digest. It answers GET and HEAD, with ranges and If-Range by ETag, which
// is the digest. It sets no write deadline: a transfer takes as long as it takes.
func (s *Store) Handler(names Names, seen Observer) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "images are only read here", http.StatusMethodNotAllowed)
			return
		}
		name := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
		digest := name
		if !strings.HasPrefix(name, "sha256:") {
			var ok bool
			if digest, ok = names(name); !ok {
				http.Error(w, "no image "+strconv.Quote(name)+" has content here: import it with `bedplate image import`", http.StatusNotFound)
				return
			}
		}
		s.serve(w, r, name, digest, seen)
	})
}

func (s *Store) serve(w http.ResponseWriter, r *http.Request, name, digest string, seen Observer) {
	f, content, err := s.Get(digest)
	if err != nil {
		code := http.StatusInternalServerError
		if errors.Is(err, ErrNotFound) {
			code = http.StatusNotFound
		}
		s.log.Warn("serving an image", "image", name, "err", err)
		http.Error(w, err.Error(), code)
		return
	}
	defer f.Close()
	if seen != nil && r.Method == http.MethodGet {
		sighting := machine.Sighting{Source: machine.SourceHTTP, Event: "image", Detail: name + " " + r.Header.Get("Range")}
		if peer, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
			sighting.Address = peer.Addr().Unmap()
		}
		seen.Observe(sighting)
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("ETag", strconv.Quote(content.Digest))
	s.metrics.served.Inc()
	http.ServeContent(w, r, "", time.Time{}, f)
}

type metrics struct {
	imported prometheus.Counter
	served   prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) metrics {
	m := metrics{
		imported: prometheus.NewCounter(prometheus.CounterOpts{Name: "bedplate_images_imported_bytes_total", Help: "Bytes of image content that were stored."}),
		served:   prometheus.NewCounter(prometheus.CounterOpts{Name: "bedplate_images_requests_total", Help: "Requests for image content, ranges counted one by one."}),
	}
	if reg != nil {
		reg.MustRegister(m.imported, m.served)
	}
	return m
}
