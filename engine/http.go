package engine

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"sort"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/bedplate/bedplate/ipxe"
	"github.com/bedplate/bedplate/media"
	"github.com/bedplate/bedplate/metadata"
)

// healthTimeout bounds what a health check waits for the store.
const healthTimeout = 2 * time.Second

// handler mounts everything that machines and monitors fetch over HTTP.
func (e *Engine) handler() http.Handler {
	mux := http.NewServeMux()
	for _, prefix := range ipxe.Prefixes() {
		mux.Handle(prefix, e.ipxe.Handler())
	}
	for _, prefix := range metadata.Prefixes() {
		mux.Handle(prefix, e.metadata.Handler())
	}
	mux.Handle(media.Prefix, e.media.Handler())
	mux.Handle("/images/", e.images.Handler(e.catalogue.digest, e.timeline))
	mux.Handle("/v2/", e.mirror)
	mux.Handle("/speed", newSpeed())
	mux.Handle("GET /metrics", promhttp.HandlerFor(e.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", e.healthz)
	mux.HandleFunc("GET /readyz", e.readyz)
	// A doubled slash must not be redirected: shim 16.1 does not follow.
	return ipxe.CleanPaths(mux)
}

// healthz says that the process and its store answer.
func (e *Engine) healthz(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), healthTimeout)
	defer cancel()
	if _, err := e.store.Revision(ctx); err != nil {
		http.Error(w, "store: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// readyz says that machines can be booted: everything has been read from the
// store, and the agent's system is there.
func (e *Engine) readyz(w http.ResponseWriter, r *http.Request) {
	var missing []string
	e.mu.Lock()
	for what := range e.waiting {
		missing = append(missing, "waiting for "+what)
	}
	e.mu.Unlock()
	sort.Strings(missing)
	for _, path := range []string{e.cfg.KernelPath(), e.cfg.InitramfsPath()} {
		if _, err := os.Stat(path); err != nil {
			missing = append(missing, err.Error()+": build it with `bedplate agentos build`")
		}
	}
	if len(missing) > 0 {
		http.Error(w, strings.Join(missing, "\n"), http.StatusServiceUnavailable)
		return
	}
	e.healthz(w, r)
}
