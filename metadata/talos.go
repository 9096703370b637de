package metadata

import (
	"net/http"

	"github.com/bedplate/bedplate/talos"
)

// serveTalos answers Talos Linux, which asks for the URL that its kernel argument
// talos.config= names, and the agent that puts the answer on a disk.
func (s *Server) serveTalos(w http.ResponseWriter, r *http.Request) {
	const kind = "config.yaml"
	doc, ok := s.byKey(r, kind)
	if !ok {
		http.NotFound(w, r)
		return
	}
	content, err := talosConfig(doc)
	if err != nil {
		s.count(kind, resultError)
		s.log.Warn("metadata not made", "machine", doc.Machine, "file", kind, "err", err)
		http.Error(w, "spec.talos of this machine's instance: "+err.Error(), http.StatusUnprocessableEntity)
		return
	}
	s.report(r, doc, kind, "Talos")
	w.Header().Set("Content-Type", "application/yaml")
	s.reply(w, r, content)
}

// talosConfig is the user's configuration with what we add. Talos wants a host
// name without a domain, or a whole one; as everywhere it gets the latter.
func talosConfig(doc Document) ([]byte, error) {
	if doc.NetworkErr != nil {
		return nil, doc.NetworkErr
	}
	add := talos.Additions{Hostname: doc.fqdn()}
	for _, p := range doc.TalosNetwork {
		add.Patches = append(add.Patches, []byte(p))
	}
	return talos.Join(doc.Talos, doc.TalosPatches, add)
}
