// Package node makes a system ready for kubelet: the container runtime and its
// registry mirrors, kernel modules, sysctls, no swap, and what kubelet has to
// know of the runtime. It is said once, as Settings, and written for cloud-init,
// Ignition and Talos.
//
// How distributions differ (which runtime they have, of what configuration
// version, where their packages put things) is data: distributions.yaml. No code
// knows a distribution by name.
//
// What is needed, and why, is in Kubernetes's "Container Runtimes"
// (https://kubernetes.io/docs/setup/production-environment/container-runtimes/)
// and "Installing kubeadm"; the forms of files are in containerd's
// docs/cri/config.md and docs/hosts.md, crio.conf(5), containers-registries.conf(5).
//
// Installing kubelet and kubeadm, and joining a cluster, are no business of
// this package. It does no I/O.
package node

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// Runtime is the program that runs containers.
type Runtime string

// The runtimes.
const (
	Containerd Runtime = "containerd"
	CRIO       Runtime = "cri-o"
)

// Settings are what a node is to have. The zero value of each field is said
// with it.
type Settings struct {
	// Runtime is empty for the distribution's own.
	Runtime Runtime
	// PauseImage is the image that holds a pod's namespaces; empty: the runtime's own.
	PauseImage string
	// Mirrors are asked before the registries that they stand for.
	Mirrors []Mirror
	// Sysctls are set besides, or in place of, those that Kubernetes needs.
	Sysctls map[string]string
	// Modules are loaded besides those that Kubernetes needs.
	Modules []string
	// NodeIP is the address that kubelet tells of itself; empty: its own choice.
	NodeIP string
}

// Mirror is where images of a registry are to be had as well.
type Mirror struct {
	// Registry is the host whose images it has, such as docker.io; `_default` for all.
	Registry string
	// URL is that of the mirror, http or https; without a path its API is at /v2, as
	// the distribution specification has it, with one there.
	URL string
	// SkipVerify takes any certificate.
	SkipVerify bool
}

// sysctls are those that Kubernetes needs: of forwarded packets, and what
// kubelet's protectKernelDefaults wants to find.
var sysctls = map[string]string{
	"net.bridge.bridge-nf-call-iptables":  "1",
	"net.bridge.bridge-nf-call-ip6tables": "1",
	"net.ipv4.ip_forward":                 "1",
	"net.ipv6.conf.all.forwarding":        "1",
	"vm.overcommit_memory":                "1",
	"vm.panic_on_oom":                     "0",
	"kernel.panic":                        "10",
	"kernel.panic_on_oops":                "1",
}

// modules are those of images' layers and of bridged packets.
var modules = []string{"overlay", "br_netfilter"}

// path returns that of the mirror's URL; empty where it has none.
func (m Mirror) path() string {
	u, err := url.Parse(m.URL)
	if err != nil {
		return "" // Validate has read it
	}
	return strings.TrimSuffix(u.Path, "/")
}

// host returns the mirror's HOST or HOST:PORT.
func (m Mirror) host() string {
	u, err := url.Parse(m.URL)
	if err != nil {
		return "" // Validate has read it
	}
	return u.Host
}

// File is a file of the node.
type File struct {
	Path string
	Mode uint32
	Data string
}

// Unit is a systemd unit of ours.
type Unit struct {
	Name, Text string
}

// Plan is all that makes a node of a system.
type Plan struct {
	Distribution Distribution
	Runtime      Runtime
	Packages     []string
	Files        []File
	// Units are started at boot; Services are the system's, enabled.
	Units    []Unit
	Services []string
	// Notes are what a person should know.
	Notes []string

	settings Settings
}

var (
	sysctlName = regexp.MustCompile(`^[a-z0-9_]+([./][a-zA-Z0-9_-]+)+$`)
	moduleName = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,64}$`)
	imageName  = regexp.MustCompile(`^[a-z0-9][a-zA-Z0-9._:/@-]{0,254}$`)
	hostName   = regexp.MustCompile(`^(_default|[a-zA-Z0-9][a-zA-Z0-9.-]*(:[0-9]{1,5})?)$`)
)

// Validate says what is wrong with settings.
func (s Settings) Validate() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if s.Runtime != "" && s.Runtime != Containerd && s.Runtime != CRIO {
		fail("runtime %q: not containerd or cri-o", s.Runtime)
	}
	if s.PauseImage != "" && !imageName.MatchString(s.PauseImage) {
		fail("pause image %q: not an image such as registry.k8s.io/pause:3.10", s.PauseImage)
	}
	for i, m := range s.Mirrors {
		if !hostName.MatchString(m.Registry) {
			fail("mirrors[%d]: %q: not a registry such as docker.io, nor _default", i, m.Registry)
		}
		u, err := url.Parse(m.URL)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.User != nil || strings.ContainsAny(m.URL, "\"'\\ \n") {
			fail("mirrors[%d]: %q: not a URL such as http://10.77.0.1:8080", i, m.URL)
		}
	}
	for name, value := range s.Sysctls {
		if !sysctlName.MatchString(name) || value == "" || strings.ContainsAny(value, "\r\n\x00") {
			fail("sysctl %s=%q: not one", name, value)
		}
	}
	for _, m := range s.Modules {
		if !moduleName.MatchString(m) {
			fail("kernel module %q: not a name", m)
		}
	}
	if s.NodeIP != "" && net.ParseIP(s.NodeIP) == nil {
		fail("node address %q: not an address", s.NodeIP)
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}

// Make makes the plan for a distribution. The error is of settings that are
// wrong, or of a runtime that the distribution doesn't have.
func Make(s Settings, d Distribution) (*Plan, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	if s.Runtime == "" {
		s.Runtime = d.Runtimes[0].Name
	}
	i := slices.IndexFunc(d.Runtimes, func(r RuntimeOf) bool { return r.Name == s.Runtime })
	if i < 0 {
		return nil, fmt.Errorf("%s has no %s: %s", d.Name, s.Runtime, d.runtimes())
	}
	p := &Plan{Distribution: d, Runtime: s.Runtime, Packages: d.Runtimes[i].Packages, settings: s}
	p.Notes = append(p.Notes, d.Notes...)
	p.Notes = append(p.Notes, d.Runtimes[i].Notes...)
	if d.Talos {
		return p, nil
	}
	p.kernel()
	switch s.Runtime {
	case Containerd:
		p.containerd(d.Runtimes[i])
	case CRIO:
		p.crio()
	}
	p.Services = append(p.Services, d.Runtimes[i].Service)
	p.swap()
	p.kubelet(d.Runtimes[i])
	return p, nil
}
