package node

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

func (p *Plan) add(path string, mode uint32, lines ...string) {
	p.Files = append(p.Files, File{path, mode, strings.Join(lines, "\n") + "\n"})
}

// allSysctls are Kubernetes's with the settings' own over them, as lines.
func (p *Plan) allSysctls() map[string]string {
	all := maps.Clone(sysctls)
	maps.Copy(all, p.settings.Sysctls)
	return all
}

func (p *Plan) allModules() []string {
	out := slices.Clone(modules)
	for _, m := range p.settings.Modules {
		if !slices.Contains(out, m) {
			out = append(out, m)
		}
	}
	return out
}

func (p *Plan) kernel() {
	p.add("/etc/modules-load.d/50-kubernetes.conf", 0o644, p.allModules()...)
	all := p.allSysctls()
	var lines []string
	for _, k := range slices.Sorted(maps.Keys(all)) {
		lines = append(lines, k+" = "+all[k])
	}
	p.add("/etc/sysctl.d/50-kubernetes.conf", 0o644, lines...)
}

// containerd writes /etc/containerd/config.toml. What it leaves out is containerd's
// default, such as CNI's folders, /opt/cni/bin and /etc/cni/net.d.
func (p *Plan) containerd(r RuntimeOf) {
	images, runtime := `plugins."io.containerd.cri.v1.images"`, `plugins."io.containerd.cri.v1.runtime"`
	if r.Config == 2 {
		images, runtime = `plugins."io.containerd.grpc.v1.cri"`, `plugins."io.containerd.grpc.v1.cri"`
	}
	lines := []string{fmt.Sprintf("version = %d", r.Config)}
	switch {
	case p.settings.PauseImage == "":
	case r.Config == 2:
		lines = append(lines, "", "["+images+"]", fmt.Sprintf("sandbox_image = %q", p.settings.PauseImage))
	default:
		lines = append(lines, "", "["+images+".pinned_images]", fmt.Sprintf("sandbox = %q", p.settings.PauseImage))
	}
	lines = append(lines,
		"", "["+images+".registry]", `config_path = "/etc/containerd/certs.d"`,
		"", "["+runtime+".containerd.runtimes.runc]", `runtime_type = "io.containerd.runc.v2"`,
		"", "["+runtime+".containerd.runtimes.runc.options]", "SystemdCgroup = true")
	p.add("/etc/containerd/config.toml", 0o644, lines...)
	if r.DropIn != "" {
		p.Files = append(p.Files, File{"/etc/systemd/system/" + r.Service + ".d/10-bedplate.conf", 0o644, r.DropIn})
	}
	p.hosts()
}

// byRegistry groups mirrors in the order of their registries' first.
func (p *Plan) byRegistry() (names []string, mirrors map[string][]Mirror) {
	mirrors = map[string][]Mirror{}
	for _, m := range p.settings.Mirrors {
		if !slices.Contains(names, m.Registry) {
			names = append(names, m.Registry)
		}
		mirrors[m.Registry] = append(mirrors[m.Registry], m)
	}
	return names, mirrors
}

// upstream is where a registry's API is; Docker's is elsewhere than its name says.
func upstream(registry string) string {
	if registry == "docker.io" {
		return "https://registry-1.docker.io"
	}
	return "https://" + registry
}

// hosts writes containerd's hosts.toml of each registry. A colon in its name is
// written as it is: containerd looks for HOST:PORT.
func (p *Plan) hosts() {
	names, mirrors := p.byRegistry()
	for _, name := range names {
		var lines []string
		if name != "_default" {
			lines = append(lines, fmt.Sprintf("server = %q", upstream(name)), "")
		}
		for _, m := range mirrors[name] {
			lines = append(lines, fmt.Sprintf("[host.%q]", m.URL), `capabilities = ["pull", "resolve"]`)
			if m.path() != "" {
				lines = append(lines, "override_path = true")
			}
			if m.SkipVerify {
				lines = append(lines, "skip_verify = true")
			}
		}
		p.add("/etc/containerd/certs.d/"+name+"/hosts.toml", 0o644, lines...)
	}
}

// crio writes CRI-O's drop-in and the mirrors as containers-registries.conf(5) has them.
func (p *Plan) crio() {
	lines := []string{"[crio.runtime]", `cgroup_manager = "systemd"`, `conmon_cgroup = "pod"`}
	if p.settings.PauseImage != "" {
		lines = append(lines, "", "[crio.image]", fmt.Sprintf("pause_image = %q", p.settings.PauseImage))
	}
	p.add("/etc/crio/crio.conf.d/50-bedplate.conf", 0o644, lines...)
	names, mirrors := p.byRegistry()
	lines = nil
	for _, name := range names {
		if name == "_default" {
			p.Notes = append(p.Notes, "CRI-O has no mirror for all registries: `_default` is left out, name each")
			continue
		}
		lines = append(lines, "[[registry]]", fmt.Sprintf("prefix = %q", name), fmt.Sprintf("location = %q", name))
		for _, m := range mirrors[name] {
			lines = append(lines, "[[registry.mirror]]", fmt.Sprintf("location = %q", m.host()+strings.TrimPrefix(m.path(), "/v2")))
			if m.SkipVerify || strings.HasPrefix(m.URL, "http://") {
				lines = append(lines, "insecure = true")
			}
		}
	}
	if len(lines) > 0 {
		p.add("/etc/containers/registries.conf.d/50-bedplate.conf", 0o644, lines...)
	}
}

// swap takes swap away at each boot before kubelet looks, wherever it comes from:
// /etc/fstab, a partition that systemd finds by its type, or zram.
func (p *Plan) swap() {
	p.add("/etc/systemd/zram-generator.conf", 0o644, "# no swap on zram: kubelet wants none")
	p.Units = append(p.Units, Unit{"bedplate-swapoff.service", `[Unit]
Description=Switch off swap for kubelet
DefaultDependencies=no
After=swap.target
Before=kubelet.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'exec "$$(command -v swapoff)" -a'

[Install]
WantedBy=multi-user.target
`})
}

// sockets are where kubelet finds the runtimes.
var sockets = map[Runtime]string{Containerd: "unix:///run/containerd/containerd.sock", CRIO: "unix:///var/run/crio/crio.sock"}

// kubelet tells it of the runtime. Its configuration has a folder of drop-ins
// (Kubernetes 1.30 and later), so that kubeadm's own file is left alone.
func (p *Plan) kubelet(r RuntimeOf) {
	p.add("/etc/kubernetes/kubelet.conf.d/50-bedplate.conf", 0o644,
		"apiVersion: kubelet.config.k8s.io/v1beta1",
		"kind: KubeletConfiguration",
		"cgroupDriver: systemd",
		"containerRuntimeEndpoint: "+sockets[p.Runtime],
		"failSwapOn: true")
	args := []string{"--config-dir=/etc/kubernetes/kubelet.conf.d"}
	if p.settings.NodeIP != "" {
		args = append(args, "--node-ip="+p.settings.NodeIP)
	}
	p.add(p.Distribution.KubeletEnvironment, 0o644, "KUBELET_EXTRA_ARGS="+strings.Join(args, " "))
	p.add("/etc/systemd/system/kubelet.service.d/20-bedplate.conf", 0o644,
		"[Unit]", "After="+r.Service+" bedplate-swapoff.service", "Wants="+r.Service)
}
