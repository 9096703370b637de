package inventory

import (
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/bedplate/bedplate/agent/inventory/smbios"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// processors puts together what the kernel's topology says (which sockets,
// cores and threads are really there), /proc/cpuinfo (model and flags, on x86)
// and SMBIOS (model on arm64, highest frequency).
func (c *Collector) processors(r *report, t smbios.Tables) []*pb.Processor {
	sockets, cores := map[int]*pb.Processor{}, map[[2]int]bool{}
	first := map[int]int{} // socket -> one of its CPUs
	entries, err := os.ReadDir(c.path("sys/devices/system/cpu"))
	if err != nil {
		r.warn("processors: %v", err)
		return nil
	}
	for _, e := range entries {
		cpu, err := strconv.Atoi(strings.TrimPrefix(e.Name(), "cpu"))
		if err != nil || !strings.HasPrefix(e.Name(), "cpu") {
			continue
		}
		topology := "sys/devices/system/cpu/" + e.Name() + "/topology/"
		socket, err1 := strconv.Atoi(c.read(topology, "physical_package_id"))
		core, err2 := strconv.Atoi(c.read(topology, "core_id"))
		if err1 != nil || err2 != nil {
			continue // offline
		}
		socket = max(socket, 0) // -1: the kernel doesn't know (arm64 without PPTT)
		p := sockets[socket]
		if p == nil {
			p = &pb.Processor{Id: uint32(socket)}
			sockets[socket], first[socket] = p, cpu
		}
		p.Threads++
		if !cores[[2]int{socket, core}] {
			cores[[2]int{socket, core}] = true
			p.Cores++
		}
		p.MaxMhz = max(p.MaxMhz, uint32(c.readUint("sys/devices/system/cpu", e.Name(), "cpufreq/cpuinfo_max_freq")/1000))
	}
	infos := c.cpuinfo()
	var all []*pb.Processor
	for socket, p := range sockets {
		info := infos[first[socket]]
		p.Vendor, p.Model, p.Flags = info["vendor_id"], info["model name"], strings.Fields(info["flags"]+" "+info["Features"])
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b *pb.Processor) int { return int(a.Id) - int(b.Id) })
	for i, p := range all {
		if i >= len(t.Processors) {
			break
		}
		s := t.Processors[i]
		if p.Vendor == "" {
			p.Vendor = s.Manufacturer
		}
		if p.Model == "" {
			p.Model = s.Version
		}
		if p.MaxMhz == 0 {
			p.MaxMhz = s.MaxMHz
		}
	}
	if len(all) == 0 {
		r.warn("processors: the kernel shows no topology")
	}
	return all
}

// cpuinfo returns the fields of /proc/cpuinfo by CPU number.
func (c *Collector) cpuinfo() map[int]map[string]string {
	all := map[int]map[string]string{}
	var now map[string]string
	for line := range strings.Lines(c.read("proc/cpuinfo")) {
		key, value, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if key == "processor" {
			n, err := strconv.Atoi(value)
			if err != nil {
				continue
			}
			now = map[string]string{}
			all[n] = now
		} else if now != nil {
			now[key] = value
		}
	}
	return all
}
