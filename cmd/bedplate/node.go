package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bedplate/bedplate/cluster/node"
)

// nodeForms are the ways in which a system is told.
var nodeForms = []string{"cloud-init", "ignition", "talos"}

func newNodeConfigCommand(a *app) *cobra.Command {
	var s node.Settings
	form, runtime := "", ""
	var mirrors, insecure, sysctls []string
	cmd := &cobra.Command{
		Use:   "node-config DISTRIBUTION",
		Short: "Write what makes a system ready for kubelet: container runtime, mirrors, kernel, swap",
		Long: `Write what makes a system ready for kubelet, as an instance's configuration:
the container runtime with cgroups by systemd and registry mirrors, kernel
modules, sysctls, no swap, and where kubelet finds the runtime. kubelet itself
comes from its own packages. No server is asked.

` + nodeDistributions(),
		Example: `  bedplate node-config debian-13 --mirror docker.io=http://10.77.0.1:8080 > node.yaml
  bedplate node-config flatcar > node.ign
  bedplate node-config talos --pause-image registry.example/pause:3.10`,
		Args: args(cobra.ExactArgs(1)),
		ValidArgsFunction: func(_ *cobra.Command, words []string, begun string) ([]string, cobra.ShellCompDirective) {
			var out []string
			for _, d := range node.Distributions() {
				if len(words) == 0 && strings.HasPrefix(d.Name, begun) {
					out = append(out, d.Name)
				}
			}
			return out, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, words []string) error {
			s.Runtime = node.Runtime(runtime)
			if err := nodeSettings(&s, mirrors, insecure, sysctls); err != nil {
				return usageError{err}
			}
			d, err := node.Named(words[0])
			if err != nil {
				return usageError{err}
			}
			p, err := node.Make(s, d)
			if err != nil {
				return usageError{err}
			}
			return a.printNode(p, form)
		},
	}
	f := cmd.Flags()
	f.StringVar(&form, "form", "", "`form`: "+strings.Join(nodeForms, "|")+" (default the distribution's own)")
	f.StringVar(&runtime, "runtime", "", "container `runtime`: containerd|cri-o (default the distribution's own)")
	f.StringVar(&s.PauseImage, "pause-image", "", "`image` that holds a pod's namespaces")
	f.StringArrayVar(&mirrors, "mirror", nil, "`registry=URL` that has a registry's images too, such as docker.io=http://10.77.0.1:8080; may be repeated")
	f.StringArrayVar(&insecure, "insecure-mirror", nil, "the same, by any certificate: `registry=URL`")
	f.StringArrayVar(&sysctls, "sysctl", nil, "`name=value` to set besides those that Kubernetes needs; may be repeated")
	f.StringArrayVar(&s.Modules, "module", nil, "kernel `module` to load besides those that Kubernetes needs; may be repeated")
	f.StringVar(&s.NodeIP, "node-ip", "", "`address` that kubelet tells of the node")
	completeFlag(cmd, "form", nodeForms...)
	completeFlag(cmd, "runtime", string(node.Containerd), string(node.CRIO))
	return cmd
}

// nodeDistributions lists what there is, for the help.
func nodeDistributions() string {
	var b strings.Builder
	b.WriteString("Distributions:\n")
	for _, d := range node.Distributions() {
		var runtimes []string
		for _, r := range d.Runtimes {
			runtimes = append(runtimes, string(r.Name))
		}
		fmt.Fprintf(&b, "\n  %-14s %s: %s", d.Name, d.Title, strings.Join(runtimes, ", "))
	}
	return b.String()
}

// nodeSettings reads the flags that are pairs.
func nodeSettings(s *node.Settings, mirrors, insecure, sysctls []string) error {
	for i, list := range [][]string{mirrors, insecure} {
		for _, m := range list {
			registry, url, ok := strings.Cut(m, "=")
			if !ok {
				return fmt.Errorf("--mirror %q: not registry=URL", m)
			}
			s.Mirrors = append(s.Mirrors, node.Mirror{Registry: registry, URL: url, SkipVerify: i == 1})
		}
	}
	s.Sysctls = map[string]string{}
	for _, text := range sysctls {
		name, value, ok := strings.Cut(text, "=")
		if !ok {
			return fmt.Errorf("--sysctl %q: not name=value", text)
		}
		s.Sysctls[name] = value
	}
	return nil
}

func (a *app) printNode(p *node.Plan, form string) error {
	if form == "" {
		form = p.Distribution.Form
	}
	write := map[string]func() ([]byte, error){"": p.CloudConfig, "cloud-init": p.CloudConfig, "ignition": p.Ignition, "talos": p.Talos}[form]
	if write == nil {
		return usageError{fmt.Errorf("--form %q: not one of %s", form, strings.Join(nodeForms, ", "))}
	}
	data, err := write()
	if wrong := (node.ErrForm{}); errors.As(err, &wrong) {
		return usageError{err}
	}
	if err != nil {
		return err
	}
	fprintf(a.stdout, "%s", data)
	for _, n := range p.Notes {
		fprintf(a.stderr, "note: %s\n", n)
	}
	return nil
}
