package layout

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// check looks at each part on its own, and at parts of one kind together.
func (r *reader) check() {
	r.checkRoot()
	for _, n := range r.Nodes {
		switch {
		case n.Kind == Disk && n.Index >= 0:
			r.checkDisk(n, r.Spec.Disks[n.Index])
		case n.Kind == Raid:
			r.checkRaid(n, r.Spec.Raid[n.Index])
		case n.Kind == Encryption:
			r.checkEncryption(n, r.Spec.Encryption[n.Index])
		case n.Kind == VolumeGroup && len(n.On) == 0:
			r.fail(n.Path+".devices", "missing: at least one device")
		}
	}
	r.checkPartitions()
	r.checkVolumes()
	r.checkFilesystems()
}

func (r *reader) checkRoot() {
	for _, u := range r.Node(Root).Users {
		if u.Kind != Partition && !r.DeclaresRoot() {
			r.fail(u.Path, "the disk `root` holds the image: make a partition with disk: root in the space behind it")
		}
	}
	text := r.Spec.GetRootSize()
	if text == "" {
		return
	}
	size, err := ParseSize(text)
	switch {
	case err != nil:
		r.fail("root_size", "%v", err)
	case size.Percent > 0:
		r.fail("root_size", "%q: percentages are for logical volumes", text)
	case r.DeclaresRoot():
		r.fail("root_size", "is for the root partition of an image, but `/` is declared: give its device a size")
	case size.Rest && len(r.Partitions(Root)) > 0:
		r.fail("root_size", "leaves nothing for %s", r.Partitions(Root)[0].Path)
	}
}

func (r *reader) checkDisk(n *Node, d *pb.StorageDisk) {
	given := 0
	for _, s := range []string{d.GetHint(), d.GetSerial(), d.GetWwn(), d.GetPath()} {
		if s != "" {
			given++
		}
	}
	if given != 1 {
		r.fail(n.Path, "give one of hint, serial, wwn and path")
	}
	if d.GetPath() != "" && (!strings.HasPrefix(d.GetPath(), "/dev/") || path.Clean(d.GetPath()) != d.GetPath()) {
		r.fail(n.Path+".path", "%q: not a device path such as /dev/nvme1n1", d.GetPath())
	}
	for i, other := range r.Spec.Disks[:n.Index] {
		if d.GetSerial() != "" && d.GetSerial() == other.GetSerial() || d.GetWwn() != "" && d.GetWwn() == other.GetWwn() || d.GetPath() != "" && d.GetPath() == other.GetPath() {
			r.fail(n.Path, "is the same disk as disks[%d]", i)
		}
	}
}

// fewest are the devices without which a level makes no sense.
var fewest = map[string]int{"raid0": 2, "raid1": 2, "raid5": 3, "raid6": 4, "raid10": 2}

func (r *reader) checkRaid(n *Node, a *pb.StorageRaid) {
	if least := fewest[a.GetLevel()]; len(a.GetDevices()) < least {
		r.fail(n.Path+".devices", "%s needs at least %d devices, %d are given", a.GetLevel(), least, len(a.GetDevices()))
	}
	if a.GetLevel() == "raid0" {
		if len(a.GetSpares()) > 0 {
			r.fail(n.Path+".spares", "raid0 has no use for spares: it can't lose a device")
		}
		return
	}
	on := map[string]string{}
	for _, d := range n.On {
		for _, disk := range d.Disks {
			if was, twice := on[disk]; twice {
				r.fail(n.Path+".devices", "%s and %s are on the same disk, %s: its loss would be that of both", was, d.Name, disk)
				return
			}
			on[disk] = d.Name
		}
	}
}

func (r *reader) checkEncryption(n *Node, e *pb.StorageEncryption) {
	if e.GetTpm() != "required" && e.GetKeySecret() == "" && len(e.GetRecoveryRecipients()) == 0 && !e.GetKeyFile() {
		r.fail(n.Path, "nothing would open it on a machine without a TPM: give key_secret, recovery_recipients or key_file, or tpm: required")
	}
	if e.GetTpm() == "none" && len(e.GetPcrs()) > 0 {
		r.fail(n.Path+".pcrs", "goes with a TPM, but tpm is none")
	}
	for i, to := range e.GetRecoveryRecipients() {
		if !strings.HasPrefix(to, "age1") && !strings.HasPrefix(to, "ssh-ed25519 ") && !strings.HasPrefix(to, "ssh-rsa ") {
			r.fail(fmt.Sprintf("%s.recovery_recipients[%d]", n.Path, i), "not a public key such as age1… or ssh-ed25519 …")
		}
	}
	if e.GetKeyFile() && slices.Contains(n.On[0].Disks, Root) && r.RootDevice() == n {
		r.fail(n.Path+".key_file", "would be inside of what it opens")
	}
}

func (r *reader) checkPartitions() {
	last := map[string]*Node{}
	for _, n := range r.Of(Partition) {
		last[n.On[0].Name] = n
	}
	for _, n := range r.Of(Partition) {
		p := r.Spec.Partitions[n.Index]
		size, err := ParseSize(p.GetSize())
		switch {
		case err != nil:
			r.fail(n.Path+".size", "%v", err)
		case size.Percent > 0:
			r.fail(n.Path+".size", "%q: percentages are for logical volumes", p.GetSize())
		case size.Rest && last[p.GetDisk()] != n:
			r.fail(n.Path+".size", "only the last partition of a disk may take the rest: %s comes after it", last[p.GetDisk()].Path)
		}
	}
}

func (r *reader) checkVolumes() {
	rest := map[string]string{}
	percent := map[string]int64{}
	for _, n := range r.Of(LogicalVolume) {
		v := r.Spec.LogicalVolumes[n.Index]
		size, err := ParseSize(v.GetSize())
		switch {
		case err != nil:
			r.fail(n.Path+".size", "%v", err)
		case v.GetType() == "thin" && size.Bytes == 0:
			r.fail(n.Path+".size", "a thin volume has a size such as 100GB")
		case size.Rest && rest[v.GetVolumeGroup()] != "":
			r.fail(n.Path+".size", "%s takes the rest of volume group %s already", rest[v.GetVolumeGroup()], v.GetVolumeGroup())
		case size.Rest:
			rest[v.GetVolumeGroup()] = n.Path
		case size.Percent > 0:
			if percent[v.GetVolumeGroup()] += size.Percent; percent[v.GetVolumeGroup()] > 100 {
				r.fail(n.Path+".size", "the volumes of %s would be %d%% of it", v.GetVolumeGroup(), percent[v.GetVolumeGroup()])
			}
		}
	}
}

// labels are the longest labels, in bytes.
var labels = map[string]int{"ext4": 16, "xfs": 12, "vfat": 11, "swap": 15}

// system are the folders that are no place for a disk's file system.
var system = []string{"/proc", "/sys", "/dev", "/run"}

func (r *reader) checkFilesystems() {
	paths := map[string]string{}
	for i, f := range r.Spec.GetFilesystems() {
		at := fmt.Sprintf("filesystems[%d]", i)
		if most := labels[f.GetType()]; len(f.GetLabel()) > most {
			r.fail(at+".label", "%q is longer than the %d bytes that %s has for it", f.GetLabel(), most, f.GetType())
		}
		if strings.ContainsFunc(f.GetLabel(), func(c rune) bool { return !unicode.IsPrint(c) || c == '/' }) {
			r.fail(at+".label", "%q has characters that a label can't have", f.GetLabel())
		}
		for j, o := range f.GetOptions() {
			if o == "" || strings.ContainsFunc(o, func(c rune) bool { return unicode.IsSpace(c) || !unicode.IsPrint(c) || c == '#' }) {
				r.fail(fmt.Sprintf("%s.options[%d]", at, j), "%q: not a mount option such as noatime", o)
			}
		}
		r.checkPath(at+".path", f, paths)
	}
}

func (r *reader) checkPath(at string, f *pb.StorageFilesystem, paths map[string]string) {
	p := f.GetPath()
	if p == "" {
		return
	}
	inside := func(dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }
	switch {
	case f.GetType() == "swap":
		r.fail(at, "swap space isn't mounted anywhere")
	case p[0] != '/' || path.Clean(p) != p || strings.ContainsFunc(p, func(c rune) bool { return unicode.IsSpace(c) || !unicode.IsPrint(c) }):
		r.fail(at, "%q: not a path such as /srv/data", p)
	case slices.ContainsFunc(system, inside):
		r.fail(at, "%q: belongs to the running system", p)
	case paths[p] != "":
		r.fail(at, "%q is given twice: %s has it too", p, paths[p])
	}
	paths[p] = at
}
