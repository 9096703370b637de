package metadata

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// tree is a folder of the metadata tree or, without children, a value.
type tree struct {
	value    string
	children []branch
}

// branch is a named child. In listings, folders end with a slash and show
// instead of their name where that is set.
type branch struct {
	name, shown string
	tree        tree
}

func value(name, v string) branch { return branch{name: name, tree: tree{value: v}} }

func folder(name string, children ...branch) branch {
	return branch{name: name, tree: tree{children: children}}
}

// list returns the folder as the EC2 metadata service lists it: a name a line,
// folders with a slash, no line end after the last.
func (t tree) list() string {
	names := make([]string, len(t.children))
	for i, b := range t.children {
		names[i] = b.name
		if b.shown != "" {
			names[i] = b.shown
		} else if b.tree.children != nil {
			names[i] += "/"
		}
	}
	return strings.Join(names, "\n")
}

// find walks to the tree at path. A value's name may hold slashes.
func (t tree) find(path string) (tree, bool) {
	if path == "" {
		return t, true
	}
	for _, b := range t.children {
		if b.name == path {
			return b.tree, true
		}
		if rest, ok := strings.CutPrefix(path, b.name+"/"); ok && b.tree.children != nil {
			if found, ok := b.tree.find(rest); ok {
				return found, true
			}
		}
	}
	return tree{}, false
}

// metaData is the tree under meta-data/. There is no network/ in it: cloud-init
// would bring up every interface named there and wait for those without a link;
// without it, it brings up the one that has one.
func metaData(doc Document) tree {
	children := []branch{value("instance-id", doc.InstanceID)}
	if name := doc.fqdn(); name != "" {
		children = append(children, value("hostname", name), value("local-hostname", name))
	}
	if doc.LocalIPv4.IsValid() {
		children = append(children, value("local-ipv4", doc.LocalIPv4.String()))
	}
	if doc.PublicIPv4.IsValid() {
		children = append(children, value("public-ipv4", doc.PublicIPv4.String()))
	}
	if len(doc.MACs) > 0 {
		children = append(children, value("mac", doc.MACs[0].String()))
	}
	if keys := publicKeys(doc.SSHKeys); len(keys) > 0 {
		children = append(children, folder("public-keys", keys...))
	}
	if tags := tags(doc.Labels); len(tags) > 0 {
		children = append(children, folder("tags", folder("instance", tags...)))
	}
	return tree{children: children}
}

// publicKeys lists keys as `0=name`, found under 0/openssh-key. cloud-init keeps
// them by name, so each has one of its own.
func publicKeys(keys []string) []branch {
	var out []branch
	for i, key := range keys {
		b := folder(fmt.Sprint(i), value("openssh-key", line(key)))
		b.shown = fmt.Sprintf("%d=key-%d", i, i)
		out = append(out, b)
	}
	return out
}

// tags lists labels. Names that a listing cannot hold are left out.
func tags(labels map[string]string) []branch {
	var out []branch
	for name, v := range labels {
		if name != "" && !strings.HasSuffix(name, "/") && !strings.HasPrefix(name, "/") && !strings.ContainsAny(name, "=\r\n?#% ") {
			out = append(out, value(name, v))
		}
	}
	slices.SortFunc(out, func(a, b branch) int { return strings.Compare(a.name, b.name) })
	return out
}

// serveEC2 answers the EC2 metadata tree of the machine at the peer's address.
func (s *Server) serveEC2(w http.ResponseWriter, r *http.Request) {
	doc, ok := s.cfg.Source.ByAddress(peerOf(r))
	if !ok {
		s.count("ec2", resultNotFound)
		s.log.Debug("metadata asked for from an unknown address", "ip", peerOf(r))
		http.NotFound(w, r)
		return
	}
	switch path := r.PathValue("path"); path {
	case "network-config":
		s.serveNetworkConfig(w, r, doc)
	case "":
		root := tree{children: []branch{{name: "meta-data", tree: metaData(doc)}}}
		if len(doc.UserData) > 0 {
			root.children = append(root.children, value("user-data", ""))
		}
		s.count("ec2", resultOK)
		s.reply(w, r, []byte(root.list()))
	case "user-data":
		if len(doc.UserData) == 0 {
			s.count("user-data", resultNotFound)
			http.NotFound(w, r) // what EC2 does, and cloud-init takes for none
			return
		}
		s.report(r, doc, "user-data", "EC2")
		s.reply(w, r, doc.UserData)
	default:
		s.serveMetaData(w, r, doc, path)
	}
}

// serveNetworkConfig answers what EC2 doesn't have, in cloud-init's form: EC2's
// own network/interfaces/ knows addresses, but no bonds and no VLANs.
func (s *Server) serveNetworkConfig(w http.ResponseWriter, r *http.Request, doc Document) {
	switch {
	case doc.NetworkErr != nil:
		s.count("network-config", resultError)
		s.log.Error("metadata not made", "machine", doc.Machine, "file", "network-config", "err", doc.NetworkErr)
		http.Error(w, "the server could not make this; its log says why", http.StatusInternalServerError)
	case len(doc.NetworkConfig) == 0:
		s.count("network-config", resultNotFound)
		http.NotFound(w, r)
	default:
		s.report(r, doc, "network-config", "EC2")
		s.reply(w, r, doc.NetworkConfig)
	}
}

// serveMetaData answers for a path that may be in meta-data/.
func (s *Server) serveMetaData(w http.ResponseWriter, r *http.Request, doc Document, path string) {
	rest, ok := strings.CutPrefix(path+"/", "meta-data/")
	found := tree{}
	if ok {
		found, ok = metaData(doc).find(strings.TrimRight(rest, "/"))
	}
	if !ok {
		s.count("ec2", resultNotFound)
		http.NotFound(w, r)
		return
	}
	if strings.Trim(rest, "/") == "" {
		s.report(r, doc, "meta-data", "EC2") // once for the tree, not for each leaf
	} else {
		s.count("ec2", resultOK)
	}
	if found.children != nil {
		s.reply(w, r, []byte(found.list()))
		return
	}
	s.reply(w, r, []byte(found.value))
}

// serveToken gives clients of IMDSv2 the token that they insist on. It opens
// nothing: the peer's address does.
func (s *Server) serveToken(w http.ResponseWriter, r *http.Request) {
	const header = "X-aws-ec2-metadata-token-ttl-seconds"
	if ttl := r.Header.Get(header); ttl != "" && len(ttl) <= 5 {
		w.Header().Set(header, ttl)
	}
	s.count("token", resultOK)
	s.reply(w, r, []byte("bedplate-knows-machines-by-address"))
}
