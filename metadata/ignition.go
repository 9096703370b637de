package metadata

import (
	"errors"
	"net/http"
	"net/url"

	"github.com/bedplate/bedplate/ignition"
)

// serveIgnition answers Ignition, and the agent that puts the answer on a disk.
func (s *Server) serveIgnition(w http.ResponseWriter, r *http.Request) {
	const kind = "config.ign"
	doc, ok := s.byKey(r, kind)
	if !ok {
		http.NotFound(w, r)
		return
	}
	content, err := ignitionConfig(doc, s.base(r)+phoneHomePrefix+r.PathValue("key"))
	var problems ignition.Problems
	if errors.As(err, &problems) { // not accepted by us any more, or stored by a newer server
		s.count(kind, resultError)
		s.log.Warn("metadata not made", "machine", doc.Machine, "file", kind, "err", err)
		http.Error(w, "spec.ignition of this machine's instance: "+err.Error(), http.StatusUnprocessableEntity)
		return
	}
	if err != nil {
		s.count(kind, resultError)
		s.log.Error("metadata not made", "machine", doc.Machine, "file", kind, "err", err)
		http.Error(w, "the server could not make this; its log says why", http.StatusInternalServerError)
		return
	}
	s.report(r, doc, kind, "Ignition")
	w.Header().Set("Content-Type", "application/json")
	s.reply(w, r, content)
}

// ignitionConfig is the user's configuration with what we add.
func ignitionConfig(doc Document, callURL string) ([]byte, error) {
	if u, err := url.Parse(callURL); err != nil || u.Host == "" {
		return nil, errors.New("the phone-home URL has no host: configure the HTTP base URL")
	}
	if doc.NetworkErr != nil {
		return nil, doc.NetworkErr
	}
	return ignition.Join(doc.Ignition, ignition.Additions{
		Files:    doc.NetworkFiles,
		Hostname: doc.fqdn(), User: doc.User, SSHKeys: doc.SSHKeys, KernelArguments: doc.KernelArguments,
		PhoneHomeURL: callURL, InstanceID: doc.InstanceID,
	})
}
