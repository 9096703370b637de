package metadata

import (
	"context"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"time"
)

const (
	// maxReport bounds what a machine may send; three host keys are 2 KB.
	maxReport = 64 << 10
	maxFields = 32
	maxField  = 8 << 10
	// phoneHomeTimeout bounds the time for a report to be made durable.
	phoneHomeTimeout = 10 * time.Second
)

// servePhoneHome hears that a machine's first boot is done.
func (s *Server) servePhoneHome(w http.ResponseWriter, r *http.Request) {
	const kind = "phone-home"
	doc, ok := s.byKey(r, kind)
	if !ok {
		http.NotFound(w, r)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxReport)
	if err := r.ParseForm(); err != nil {
		s.count(kind, resultRefused)
		s.log.Info("report of a first boot not readable", "machine", doc.Machine, "ip", peerOf(r), "err", err)
		http.Error(w, "want an application/x-www-form-urlencoded body of at most 64 KiB", http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), phoneHomeTimeout)
	defer cancel()
	if err := s.cfg.PhoneHome(ctx, r.PathValue("key"), peerOf(r), reportFields(r.PostForm)); err != nil {
		s.count(kind, resultError)
		s.log.Error("report of a first boot not kept", "machine", doc.Machine, "ip", peerOf(r), "err", err)
		http.Error(w, "the report could not be kept; try again", http.StatusServiceUnavailable)
		return
	}
	s.report(r, doc, kind, "first boot done")
	s.reply(w, r, []byte("heard\n"))
}

// reportFields returns the first value of each field, within bounds. cloud-init
// says N/A for what it does not have.
func reportFields(form url.Values) map[string]string {
	fields := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(form)) {
		values := form[name]
		if len(name) > 64 || len(values) == 0 || len(values[0]) > maxField || values[0] == "N/A" || len(fields) >= maxFields {
			continue
		}
		fields[name] = values[0]
	}
	return fields
}
