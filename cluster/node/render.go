package node

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// ErrForm is what a form says of a plan that it isn't for.
type ErrForm struct{ Form, Distribution, Want string }

// Error says which form to take.
func (e ErrForm) Error() string {
	return fmt.Sprintf("%s is not configured by %s: take %s", e.Distribution, e.Form, e.Want)
}

type writeFile struct {
	Path        string `yaml:"path"`
	Permissions string `yaml:"permissions"`
	Content     string `yaml:"content"`
}

// CloudConfig writes a #cloud-config: packages, files, and what makes them hold
// on the boot that they are written on.
func (p *Plan) CloudConfig() ([]byte, error) {
	if p.Distribution.Talos {
		return nil, ErrForm{"cloud-init", p.Distribution.Title, "talos"}
	}
	var doc struct {
		WriteFiles []writeFile `yaml:"write_files"`
		Packages   []string    `yaml:"packages,omitempty"`
		RunCmd     [][]string  `yaml:"runcmd"`
	}
	for _, f := range p.Files {
		doc.WriteFiles = append(doc.WriteFiles, writeFile{f.Path, fmt.Sprintf("%04o", f.Mode), f.Data})
	}
	for _, u := range p.Units {
		doc.WriteFiles = append(doc.WriteFiles, writeFile{"/etc/systemd/system/" + u.Name, "0644", u.Text})
	}
	doc.Packages = p.Packages
	doc.RunCmd = append(doc.RunCmd, []string{"systemctl", "daemon-reload"}, []string{"systemctl", "restart", "systemd-modules-load.service"}, []string{"sysctl", "--system"})
	for _, u := range p.Units {
		doc.RunCmd = append(doc.RunCmd, []string{"systemctl", "enable", "--now", u.Name})
	}
	for _, s := range p.Services {
		// Restart: the package's own start came before the configuration was looked at.
		doc.RunCmd = append(doc.RunCmd, []string{"systemctl", "enable", s}, []string{"systemctl", "restart", s})
	}
	data, err := yaml.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("writing cloud-config: %w", err)
	}
	return append([]byte("#cloud-config\n"), data...), nil
}

// Ignition writes an Ignition configuration, version 3.3.0.
func (p *Plan) Ignition() ([]byte, error) {
	if p.Distribution.Talos {
		return nil, ErrForm{"Ignition", p.Distribution.Title, "talos"}
	}
	type object = map[string]any
	var files, units []object
	for _, f := range p.Files {
		files = append(files, object{
			"path": f.Path, "mode": f.Mode, "overwrite": true,
			"contents": object{"source": "data:;base64," + base64.StdEncoding.EncodeToString([]byte(f.Data))},
		})
	}
	for _, u := range p.Units {
		units = append(units, object{"name": u.Name, "enabled": true, "contents": u.Text})
	}
	for _, s := range p.Services {
		units = append(units, object{"name": s, "enabled": true})
	}
	data, err := json.MarshalIndent(object{
		"ignition": object{"version": "3.3.0"}, "storage": object{"files": files}, "systemd": object{"units": units},
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("writing Ignition: %w", err)
	}
	return append(data, '\n'), nil
}

// talosCustom is where Talos takes more of containerd's configuration from.
const talosCustom = "/etc/cri/conf.d/20-customization.part"

// Talos writes a patch of a Talos machine configuration (v1alpha1). Talos itself
// has no swap, loads overlay and uses systemd-like cgroups.
func (p *Plan) Talos() ([]byte, error) {
	if !p.Distribution.Talos {
		return nil, ErrForm{"Talos's patches", p.Distribution.Title, "cloud-init or ignition"}
	}
	type object = map[string]any
	machine := object{"sysctls": p.allSysctls()}
	var kernel []object
	for _, m := range p.allModules() {
		kernel = append(kernel, object{"name": m})
	}
	machine["kernel"] = object{"modules": kernel}
	if p.settings.NodeIP != "" {
		bits := "/32"
		if strings.Contains(p.settings.NodeIP, ":") {
			bits = "/128"
		}
		machine["kubelet"] = object{"nodeIP": object{"validSubnets": []string{p.settings.NodeIP + bits}}}
	}
	if p.settings.PauseImage != "" {
		machine["files"] = []object{{
			"path": talosCustom, "op": "create",
			"content": fmt.Sprintf("[plugins.\"io.containerd.cri.v1.images\".pinned_images]\nsandbox = %q\n", p.settings.PauseImage),
		}}
	}
	if names, mirrors := p.byRegistry(); len(names) > 0 {
		machine["registries"] = talosRegistries(names, mirrors)
	}
	data, err := yaml.Marshal(object{"machine": machine})
	if err != nil {
		return nil, fmt.Errorf("writing a Talos patch: %w", err)
	}
	return data, nil
}

func talosRegistries(names []string, mirrors map[string][]Mirror) map[string]any {
	all, config := map[string]any{}, map[string]any{}
	for _, name := range names {
		var endpoints []string
		override := false
		for _, m := range mirrors[name] {
			endpoints = append(endpoints, m.URL)
			override = override || m.path() != ""
			if m.SkipVerify {
				config[m.host()] = map[string]any{"tls": map[string]any{"insecureSkipVerify": true}}
			}
		}
		key := name
		if name == "_default" {
			key = "*"
		}
		all[key] = map[string]any{"endpoints": endpoints}
		if override {
			all[key] = map[string]any{"endpoints": endpoints, "overridePath": true}
		}
	}
	out := map[string]any{"mirrors": all}
	if len(config) > 0 {
		out["config"] = config
	}
	return out
}
