package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/bedplate/bedplate/cmd/bedplate/table"
	"github.com/bedplate/bedplate/engine"
	"github.com/bedplate/bedplate/network"
	"github.com/bedplate/bedplate/network/render"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

func newMachineNetworkCommand(a *app) *cobra.Command {
	kind := mustKind("Machine")
	form, format := "", formatTable
	cmd := &cobra.Command{
		Use:   "network NAME",
		Short: "Show the network of a machine's installed system, or write it in a system's own form",
		Long: `Show the network of a machine's installed system: what spec.network declares, with
what its Networks add; or, where it declares nothing, the addresses of
spec.interfaces if DHCP doesn't give them.

With --render it is written in a system's own form. What that form can't say is
listed on the standard error: as an error, with exit code 1, where the network
would not be what was declared, as a warning otherwise.`,
		Example: `  bedplate machine network web-1
  bedplate machine network web-1 --render netplan`,
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeOne(kind),
		RunE: func(cmd *cobra.Command, words []string) error {
			if format != formatTable && format != formatJSON && format != formatYAML {
				return usageError{fmt.Errorf("-o %s: not one of table, json, yaml", format)}
			}
			if form != "" {
				if _, err := render.Named(form); err != nil {
					return usageError{fmt.Errorf("--render %w", err)}
				}
			}
			return a.with(cmd.Context(), func(c *client) error {
				n, err := a.machineNetwork(cmd.Context(), c, words[0])
				switch {
				case err != nil:
					return err
				case n == nil:
					fprintf(a.stdout, "machine/%s declares no network: its system asks DHCP\n", words[0])
					return nil
				case form != "":
					return a.renderNetwork(n, form, format)
				}
				return a.printNetwork(n, format)
			})
		},
	}
	cmd.Flags().StringVar(&form, "render", "", "write it in a `form`: "+strings.Join(render.Names(), "|"))
	cmd.Flags().StringVarP(&format, "output", "o", formatTable, "`format`: table|json|yaml")
	completeFlag(cmd, "render", render.Names()...)
	completeFlag(cmd, "output", formatTable, formatJSON, formatYAML)
	return cmd
}

// machineNetwork reads a machine and the site's networks; nil where the
// machine's system asks DHCP.
func (a *app) machineNetwork(ctx context.Context, c *client, name string) (*network.Config, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	m, err := c.get(ctx, mustKind("Machine"), name)
	if err != nil {
		return nil, err
	}
	var site []*pb.Network
	all, err := c.list(ctx, mustKind("Network"), "")
	if err != nil {
		return nil, err
	}
	for _, o := range all {
		site = append(site, o.(*pb.Network))
	}
	return engine.MachineNetwork(m.(*pb.Machine), site)
}

// networkView is a network as JSON and YAML have it.
type networkView struct {
	Hostname    string     `json:"hostname" yaml:"hostname"`
	Links       []linkView `json:"links" yaml:"links"`
	Nameservers []string   `json:"nameservers,omitempty" yaml:"nameservers,omitempty"`
	Search      []string   `json:"search_domains,omitempty" yaml:"search_domains,omitempty"`
}

type linkView struct {
	Name      string   `json:"name" yaml:"name"`
	Kind      string   `json:"kind" yaml:"kind"`
	MAC       string   `json:"mac,omitempty" yaml:"mac,omitempty"`
	On        []string `json:"parents,omitempty" yaml:"parents,omitempty"`
	VLAN      int      `json:"vlan,omitempty" yaml:"vlan,omitempty"`
	Mode      string   `json:"mode,omitempty" yaml:"mode,omitempty"`
	Addresses []string `json:"addresses,omitempty" yaml:"addresses,omitempty"`
	DHCP      []string `json:"dhcp,omitempty" yaml:"dhcp,omitempty"`
	Routes    []string `json:"routes,omitempty" yaml:"routes,omitempty"`
	MTU       int      `json:"mtu,omitempty" yaml:"mtu,omitempty"`
}

func viewOf(c *network.Config) networkView {
	v := networkView{Hostname: c.Hostname}
	servers, search := c.AllDNS()
	for _, s := range servers {
		v.Nameservers = append(v.Nameservers, s.String())
	}
	v.Search = search
	for _, l := range c.Links {
		v.Links = append(v.Links, linkViewOf(l))
	}
	return v
}

func linkViewOf(l *network.Link) linkView {
	v := linkView{Name: l.Name, Kind: string(l.Kind), MTU: l.MTU}
	if mac := l.Hardware(); !mac.IsZero() {
		v.MAC = mac.String()
	}
	for _, p := range l.Ports() {
		v.On = append(v.On, p.Name)
	}
	if l.VLAN != nil {
		v.On, v.VLAN = []string{l.VLAN.Link.Name}, l.VLAN.ID
	}
	if l.Bond != nil {
		v.Mode = l.Bond.Mode
	}
	for _, a := range l.Addresses {
		v.Addresses = append(v.Addresses, a.String())
	}
	if l.DHCP4 {
		v.DHCP = append(v.DHCP, "IPv4")
	}
	if l.DHCP6 {
		v.DHCP = append(v.DHCP, "IPv6")
	}
	for _, r := range l.All() {
		v.Routes = append(v.Routes, routeText(r))
	}
	return v
}

func routeText(r network.Route) string {
	text := r.To.String()
	if r.To.Bits() == 0 {
		text = "default"
	}
	if r.Via.IsValid() {
		text += " via " + r.Via.String()
	}
	if r.Metric != 0 {
		text += fmt.Sprintf(" metric %d", r.Metric)
	}
	if r.Table != 0 {
		text += fmt.Sprintf(" table %d", r.Table)
	}
	return text
}

func (a *app) printNetwork(c *network.Config, format string) error {
	v := viewOf(c)
	if format != formatTable {
		return a.printView(v, format)
	}
	t := &table.Table{Header: []string{"NAME", "KIND", "ON", "ADDRESSES", "ROUTES", "MTU", "MAC"}}
	for _, l := range v.Links {
		kind := l.Kind
		switch {
		case l.VLAN != 0:
			kind += " " + strconv.Itoa(l.VLAN)
		case l.Mode != "":
			kind += " " + l.Mode
		}
		addresses := l.Addresses
		for _, d := range l.DHCP {
			addresses = append(addresses, "DHCP "+d)
		}
		mtu := ""
		if l.MTU != 0 {
			mtu = strconv.Itoa(l.MTU)
		}
		t.Add(clean(l.Name, kind, strings.Join(l.On, ", "), strings.Join(addresses, ", "), strings.Join(l.Routes, ", "), mtu, l.MAC)...)
	}
	if err := t.Write(a.stdout); err != nil {
		return err
	}
	if len(v.Nameservers)+len(v.Search) > 0 {
		fprintf(a.stdout, "\nName servers: %s; domains: %s\n", orNone(v.Nameservers), orNone(v.Search))
	}
	if c.BGP != nil {
		fprintf(a.stdout, "\nBGP: AS %d, %s, %d peers\n", c.BGP.ASN, c.BGP.RouterID, len(c.BGP.Peers))
	}
	return nil
}

func orNone(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ", ")
}

// renderedView is a rendered network as JSON and YAML have it.
type renderedView struct {
	Form  string         `json:"form" yaml:"form"`
	Files []renderedFile `json:"files" yaml:"files"`
	Gaps  []renderedGap  `json:"gaps,omitempty" yaml:"gaps,omitempty"`
}

type renderedFile struct {
	Path    string `json:"path,omitempty" yaml:"path,omitempty"`
	Mode    string `json:"mode,omitempty" yaml:"mode,omitempty"`
	Content string `json:"content" yaml:"content"`
}

type renderedGap struct {
	Path    string `json:"path" yaml:"path"`
	Message string `json:"message" yaml:"message"`
	Broken  bool   `json:"broken" yaml:"broken"`
}

func (a *app) renderNetwork(c *network.Config, name, format string) error {
	form, err := render.Named(name)
	if err != nil {
		return usageError{err}
	}
	files, gaps := form.Files(c)
	if format != formatTable {
		v := renderedView{Form: name, Files: []renderedFile{}}
		for _, f := range files {
			r := renderedFile{Path: f.Path, Content: string(f.Data)}
			if f.Path != "" {
				r.Mode = fmt.Sprintf("%04o", f.Mode)
			}
			v.Files = append(v.Files, r)
		}
		for _, g := range gaps {
			v.Gaps = append(v.Gaps, renderedGap(g))
		}
		return a.printView(v, format)
	}
	fprintf(a.stdout, "%s", render.Text(files))
	if len(files) == 0 {
		fprintf(a.stderr, "nothing to write: the machine has no spec.network.bgp\n")
	}
	var errs []error
	for _, g := range gaps {
		if g.Broken {
			errs = append(errs, fmt.Errorf("spec.network.%s: %s", g.Path, g.Message))
			continue
		}
		fprintf(a.stderr, "warning: spec.network.%s: %s\n", g.Path, g.Message)
	}
	return errors.Join(errs...)
}

func (a *app) printView(v any, format string) error {
	if format == formatJSON {
		e := json.NewEncoder(a.stdout)
		e.SetIndent("", "  ")
		return e.Encode(v)
	}
	e := yaml.NewEncoder(a.stdout)
	e.SetIndent(2)
	if err := e.Encode(v); err != nil {
		return err
	}
	return e.Close()
}
