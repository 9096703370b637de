package metadata

import (
	"net/http"

	"go.yaml.in/yaml/v3"
)

// serveNoCloud answers cloud-init's NoCloud datasource, whose seed URL is
// {base}/nocloud/{key}/.
func (s *Server) serveNoCloud(w http.ResponseWriter, r *http.Request) {
	file := r.PathValue("file")
	switch file {
	case "meta-data", "user-data", "vendor-data", "network-config":
	default:
		s.count("other", resultNotFound)
		http.NotFound(w, r)
		return
	}
	doc, ok := s.byKey(r, file)
	if !ok {
		http.NotFound(w, r)
		return
	}
	content, err := s.nocloudFile(r, doc, file)
	if err != nil {
		s.count(file, resultError)
		s.log.Error("metadata not made", "machine", doc.Machine, "file", file, "err", err)
		http.Error(w, "the server could not make this; its log says why", http.StatusInternalServerError)
		return
	}
	s.report(r, doc, file, "NoCloud")
	s.reply(w, r, content)
}

func (s *Server) nocloudFile(r *http.Request, doc Document, file string) ([]byte, error) {
	switch file {
	case "meta-data":
		return nocloudMetaData(doc)
	case "vendor-data":
		return vendorData(doc, s.base(r)+phoneHomePrefix+r.PathValue("key"))
	case "network-config":
		return doc.NetworkConfig, doc.NetworkErr
	default:
		return doc.UserData, nil
	}
}

// nocloudMetaData is the file meta-data. cloud-init takes what is before the first
// dot of local-hostname for the host name, and the whole for its FQDN.
func nocloudMetaData(doc Document) ([]byte, error) {
	return yaml.Marshal(struct {
		InstanceID    string            `yaml:"instance-id"`
		LocalHostname string            `yaml:"local-hostname,omitempty"`
		PublicKeys    []string          `yaml:"public-keys,omitempty"`
		Labels        map[string]string `yaml:"labels,omitempty"`
	}{doc.InstanceID, doc.fqdn(), doc.SSHKeys, doc.Labels})
}
