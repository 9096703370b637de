package images

import (
	"errors"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bedplate/bedplate/images/chunk"
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
		switch {
		case strings.HasSuffix(r.URL.Path, "/images/chunks/"+name):
			s.serveChunk(w, r, name)
			return
		case strings.HasSuffix(r.URL.Path, "/images/indexes/"+name):
			s.serveIndex(w, r, name, seen)
			return
		}
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
	if d, err := chunk.ParseDigest(digest); err == nil && s.chunks.knows(d) {
		s.serveDisk(w, r, name, d, seen)
		return
	}
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
	observe(r, name, seen)
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("ETag", strconv.Quote(content.Digest))
	s.metrics.served.Inc()
	http.ServeContent(w, r, "", time.Time{}, f)
}

// observe tells that a machine fetches an image.
func observe(r *http.Request, name string, seen Observer) {
	if seen == nil || r.Method != http.MethodGet {
		return
	}
	sighting := machine.Sighting{Source: machine.SourceHTTP, Event: "image", Detail: name + " " + r.Header.Get("Range")}
	if peer, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		sighting.Address = peer.Addr().Unmap()
	}
	seen.Observe(sighting)
}

type metrics struct {
	imported prometheus.Counter
	served   prometheus.Counter
	chunks   prometheus.Counter
	sent     prometheus.Counter
	used     prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) metrics {
	m := metrics{
		imported: prometheus.NewCounter(prometheus.CounterOpts{Name: "bedplate_images_imported_bytes_total", Help: "Bytes of image content that were stored."}),
		served:   prometheus.NewCounter(prometheus.CounterOpts{Name: "bedplate_images_requests_total", Help: "Requests for image content, ranges counted one by one."}),
		chunks:   prometheus.NewCounter(prometheus.CounterOpts{Name: "bedplate_images_chunk_requests_total", Help: "Requests for chunks of images."}),
		sent:     prometheus.NewCounter(prometheus.CounterOpts{Name: "bedplate_images_chunk_sent_bytes_total", Help: "Bytes of chunks that were sent, as stored."}),
		used:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "bedplate_images_store_used_bytes", Help: "What the image store takes on disk."}),
	}
	if reg != nil {
		reg.MustRegister(m.imported, m.served, m.chunks, m.sent, m.used)
	}
	return m
}
