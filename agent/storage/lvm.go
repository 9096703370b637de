package storage

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/bedplate/bedplate/layout"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// lvmConfig makes lvm do without udev, without files of its own and without
// programs that aren't in the agent's system (thin_check of the installed
// system looks at pools at each boot).
const lvmConfig = `devices{obtain_device_list_from_udev=0 external_device_info_source="none" use_devicesfile=0 multipath_component_detection=0}` +
	` activation{udev_sync=0 udev_rules=0 monitoring=0 verify_udev_operations=0}` +
	` backup{backup=0 archive=0}` +
	` global{event_activation=0 use_lvmpolld=0 thin_check_executable="" thin_repair_executable="" thin_dump_executable="" locking_dir="/run/lock/lvm"}`

// lvm returns a command of lvm that sees the group's devices and no others.
func (r *runner) lvm(group *layout.Node, command string, args ...string) []string {
	return slices.Concat([]string{"lvm", command, "--config", lvmConfig, "--devices", strings.Join(r.devices(group.On), ",")}, args)
}

func (r *runner) loadLVM(group *layout.Node) error {
	modules := []string{"dm-mod"}
	for _, n := range group.Users {
		if r.layout.Spec.LogicalVolumes[n.Index].GetType() == "thin-pool" {
			modules = append(modules, "dm-thin-pool")
		}
	}
	for _, m := range modules {
		if err := r.LoadModule(m); err != nil {
			return fmt.Errorf("loading module %s: %w", m, err)
		}
	}
	return nil
}

func (r *runner) makeGroup(ctx context.Context, op Operation) error {
	n := op.Node
	if err := r.loadLVM(n); err != nil {
		return err
	}
	if err := r.tool(ctx, nil, r.lvm(n, "pvcreate", append([]string{"-ff", "--yes", "--zero", "y"}, r.devices(n.On)...)...)...); err != nil {
		return err
	}
	return r.tool(ctx, nil, r.lvm(n, "vgcreate", append([]string{"--yes", "--physicalextentsize", strconv.Itoa(extent) + "b", n.Name}, r.devices(n.On)...)...)...)
}

// groupOf is the volume group of a logical volume.
func (r *runner) groupOf(n *layout.Node) *layout.Node {
	return r.layout.Node(r.layout.Spec.LogicalVolumes[n.Index].GetVolumeGroup())
}

func volumePath(v *pb.StorageLogicalVolume) string {
	return "/dev/" + v.GetVolumeGroup() + "/" + v.GetName()
}

func (r *runner) makeVolume(ctx context.Context, op Operation) error {
	n, v := op.Node, r.layout.Spec.LogicalVolumes[op.Node.Index]
	size, err := layout.ParseSize(v.GetSize())
	if err != nil {
		return err
	}
	amount := []string{"--size", strconv.FormatInt(size.Bytes, 10) + "b"}
	switch {
	case size.Rest:
		amount = []string{"--extents", "100%FREE"}
	case size.Percent > 0:
		amount = []string{"--extents", strconv.FormatInt(size.Percent, 10) + "%VG"}
	}
	// Linear volumes are one device's blocks; whatever was there before goes.
	args := append([]string{"--yes", "--wipesignatures", "y", "--zero", "y", "--name", v.GetName()}, amount...)
	args = append(args, v.GetVolumeGroup())
	switch v.GetType() {
	case "thin-pool":
		args = append([]string{"--yes", "--type", "thin-pool", "--name", v.GetName()}, append(amount, v.GetVolumeGroup())...)
	case "thin":
		args = []string{"--yes", "--type", "thin", "--name", v.GetName(), "--virtualsize", strconv.FormatInt(size.Bytes, 10) + "b", "--thinpool", v.GetPool(), v.GetVolumeGroup()}
	}
	if err := r.tool(ctx, nil, r.lvm(r.groupOf(n), "lvcreate", args...)...); err != nil {
		return err
	}
	r.device[n] = volumePath(v)
	return nil
}

// openGroup compares a group that is kept with what is declared, and activates it.
func (r *runner) openGroup(ctx context.Context, op Operation) error {
	n := op.Node
	if err := r.loadLVM(n); err != nil {
		return err
	}
	for i, dev := range r.devices(n.On) {
		out, err := r.ask(ctx, r.lvm(n, "pvs", "--noheadings", "--options", "vg_name", dev)...)
		if err != nil {
			return fmt.Errorf("volume group %s is declared, but %s (%s) is no physical volume: %w", n.Name, n.On[i].Name, dev, err)
		}
		if got := strings.TrimSpace(out); got != n.Name {
			return fmt.Errorf("volume group %q is declared, but %s (%s) belongs to %q", n.Name, n.On[i].Name, dev, got)
		}
	}
	out, err := r.ask(ctx, r.lvm(n, "lvs", "--reportformat", "json", "--units", "b", "--nosuffix", "--options", "lv_name,lv_size,segtype,pool_lv", n.Name)...)
	if err != nil {
		return err
	}
	found, err := volumes(out)
	if err != nil {
		return err
	}
	for _, lv := range r.layout.Of(layout.LogicalVolume) {
		v := r.layout.Spec.LogicalVolumes[lv.Index]
		if v.GetVolumeGroup() != n.Name {
			continue
		}
		if err := sameVolume(v, found); err != nil {
			return fmt.Errorf("%s: %w", lv.Path, err)
		}
		r.device[lv] = volumePath(v)
	}
	return r.tool(ctx, nil, r.lvm(n, "vgchange", "--activate", "y", n.Name)...)
}

// volume is a logical volume as lvs reports it.
type volume struct {
	Name string `json:"lv_name"`
	Size string `json:"lv_size"`
	Type string `json:"segtype"`
	Pool string `json:"pool_lv"`
}

func volumes(out string) ([]volume, error) {
	var report struct {
		Report []struct {
			LV []volume `json:"lv"`
		} `json:"report"`
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		return nil, fmt.Errorf("reading what lvs reports: %w", err)
	}
	var all []volume
	for _, r := range report.Report {
		all = append(all, r.LV...)
	}
	return all, nil
}

// sameVolume compares; a volume that was made larger since is the same.
func sameVolume(v *pb.StorageLogicalVolume, found []volume) error {
	i := slices.IndexFunc(found, func(f volume) bool { return f.Name == v.GetName() })
	if i < 0 {
		var names []string
		for _, f := range found {
			names = append(names, f.Name)
		}
		return fmt.Errorf("volume %q is declared in group %q, which is kept, but that has %s", v.GetName(), v.GetVolumeGroup(), strings.Join(names, ", "))
	}
	f, kind := found[i], v.GetType()
	if kind == "" {
		kind = "linear"
	}
	if f.Type != kind || f.Pool != v.GetPool() {
		return fmt.Errorf("volume %s of type %s%s is declared, but %s%s is found", v.GetName(), kind, inPool(v.GetPool()), f.Type, inPool(f.Pool))
	}
	size, err := layout.ParseSize(v.GetSize())
	if err != nil {
		return err
	}
	if bytes, err := strconv.ParseInt(f.Size, 10, 64); err != nil || bytes < size.Bytes {
		return fmt.Errorf("volume %s of %s is declared, but it has %s bytes", v.GetName(), mib(size.Bytes), f.Size)
	}
	return nil
}

func inPool(pool string) string {
	if pool == "" {
		return ""
	}
	return " in pool " + pool
}
