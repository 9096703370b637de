package storage

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/bedplate/bedplate/layout"
)

// homehost is what arrays belong to: an array of `any` is nobody's foreign one,
// so that it is assembled under its own name whatever the host is called.
const homehost = "any"

func raidPath(n *layout.Node) string { return filepath.Join("/dev/md", n.Name) }

// raidModules are the drivers by level.
var raidModules = map[string]string{"raid0": "raid0", "raid1": "raid1", "raid5": "raid456", "raid6": "raid456", "raid10": "raid10"}

func (r *runner) loadRaid(level string) error {
	for _, m := range []string{"md-mod", raidModules[level]} {
		if err := r.LoadModule(m); err != nil {
			return fmt.Errorf("loading module %s: %w", m, err)
		}
	}
	return nil
}

func (r *runner) makeRaid(ctx context.Context, op Operation) error {
	n, a := op.Node, r.layout.Spec.Raid[op.Node.Index]
	if err := r.loadRaid(a.GetLevel()); err != nil {
		return err
	}
	args := []string{
		"mdadm", "--create", raidPath(n), "--run", "--metadata=1.2", "--homehost=" + homehost, "--name=" + n.Name,
		"--level=" + a.GetLevel(), "--raid-devices=" + strconv.Itoa(len(a.GetDevices())), "--data-offset=" + strconv.Itoa(raidOffset>>10) + "K",
	}
	if a.GetLevel() != "raid0" {
		args = append(args, "--bitmap=internal")
	}
	if spares := len(a.GetSpares()); spares > 0 {
		args = append(args, "--spare-devices="+strconv.Itoa(spares))
	}
	if err := r.tool(ctx, nil, append(args, r.devices(n.On)...)...); err != nil {
		return err
	}
	r.device[n] = raidPath(n)
	return nil
}

// openRaid assembles an array that is kept, having compared what its members
// say with what is declared.
func (r *runner) openRaid(ctx context.Context, op Operation) error {
	n, a := op.Node, r.layout.Spec.Raid[op.Node.Index]
	if err := r.loadRaid(a.GetLevel()); err != nil {
		return err
	}
	first := ""
	for i, dev := range r.devices(n.On) {
		out, err := r.ask(ctx, "mdadm", "--examine", "--export", dev)
		if err != nil {
			return fmt.Errorf("%s of %s is declared, but %s (%s) is no member of a RAID: %w", a.GetLevel(), n.Name, n.On[i].Name, dev, err)
		}
		got := exports(out)
		_, name, _ := strings.Cut(got["MD_NAME"], ":")
		if name == "" {
			name = got["MD_NAME"]
		}
		if name != n.Name || got["MD_LEVEL"] != a.GetLevel() || got["MD_DEVICES"] != strconv.Itoa(len(a.GetDevices())) {
			return fmt.Errorf("%s %q of %d devices is declared, but %s (%s) is a member of %s %q of %s devices",
				a.GetLevel(), n.Name, len(a.GetDevices()), n.On[i].Name, dev, got["MD_LEVEL"], name, got["MD_DEVICES"])
		}
		if first == "" {
			first = got["MD_UUID"]
		}
		if got["MD_UUID"] != first {
			return fmt.Errorf("%s (%s) is a member of another array %q than %s: their UUIDs are %s and %s", n.On[i].Name, dev, n.Name, n.On[0].Name, got["MD_UUID"], first)
		}
	}
	args := []string{"mdadm", "--assemble", raidPath(n), "--run", "--homehost=" + homehost}
	if r.readOnly {
		args = append(args, "--readonly")
	}
	if err := r.tool(ctx, nil, append(args, r.devices(n.On)...)...); err != nil {
		return err
	}
	r.device[n] = raidPath(n)
	return nil
}

// raidUUID returns an active array's UUID, in mdadm's own form.
func (r *runner) raidUUID(ctx context.Context, n *layout.Node) (string, error) {
	out, err := r.ask(ctx, "mdadm", "--detail", "--export", r.device[n])
	if err != nil {
		return "", err
	}
	uuid := exports(out)["MD_UUID"]
	if uuid == "" {
		return "", fmt.Errorf("mdadm gives no UUID of %s", r.device[n])
	}
	return uuid, nil
}

// exports reads KEY=value lines.
func exports(out string) map[string]string {
	m := map[string]string{}
	for line := range strings.Lines(out) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			m[k] = v
		}
	}
	return m
}

// devices are the device paths of nodes.
func (r *runner) devices(nodes []*layout.Node) []string {
	var out []string
	for _, n := range nodes {
		out = append(out, r.device[n])
	}
	return slices.Clip(out)
}
