package finish

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/bedplate/bedplate/agent/boot/entry"
	"github.com/bedplate/bedplate/agent/file"
)

// maxConfig bounds a configuration of a boot loader.
const maxConfig = 1 << 20

// arguments appends the kernel arguments to every boot loader's configuration on
// the disk, and to where the installed system makes them anew from.
func (r *run) arguments() ([]string, error) {
	parts, err := r.parts()
	if err != nil {
		return nil, err
	}
	var edited []string
	for _, p := range parts {
		switch p.Content.Type {
		case "ext2", "ext3", "ext4", "xfs", "btrfs", "vfat":
		default:
			continue
		}
		err := r.within(strconv.Itoa(p.Number), func(v *file.Volume) error {
			names, err := r.edit(v)
			for _, n := range names {
				edited = append(edited, fmt.Sprintf("%d:/%s", p.Number, n))
			}
			return err
		})
		if err != nil {
			return edited, fmt.Errorf("partition %s: %w", p, err)
		}
	}
	if len(edited) == 0 {
		return nil, errors.New("no configuration of GRUB, and no entry of the Boot Loader Specification was found on the disk: say where they belong by a file in spec.finish.files of the image with ${kernel_arguments} in it")
	}
	r.say("kernel arguments %q are in %s", strings.Join(r.args, " "), strings.Join(edited, ", "))
	return edited, nil
}

// grubs are where GRUB's configuration is, and that of image builders.
var grubs = []string{"boot/grub/grub.cfg", "boot/grub2/grub.cfg", "grub/grub.cfg", "grub2/grub.cfg"}

// edit appends in one file system, and returns the boot loaders' files in which
// the arguments are then.
func (r *run) edit(v *file.Volume) ([]string, error) {
	root, err := os.OpenRoot(v.Root)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", v.Device, err)
	}
	defer root.Close() // Only a descriptor.
	var boots []string
	try := func(name string, change func(string, []string) (string, bool)) error {
		st, err := root.Stat(name)
		if err != nil || !st.Mode().IsRegular() {
			return nil // Not there, or a link out of this file system.
		}
		text, err := v.ReadFile(name, maxConfig)
		if err != nil {
			return err
		}
		next, has := change(string(text), r.args)
		if !has {
			return nil
		}
		boots = append(boots, name)
		if next == string(text) {
			return nil
		}
		return v.WriteFile(name, uint32(st.Mode().Perm()), []byte(next))
	}
	for _, name := range grubs {
		if err := try(name, entry.AppendGRUB); err != nil {
			return boots, err
		}
	}
	for _, dir := range []string{"loader/entries", "boot/loader/entries"} {
		for _, name := range entriesIn(root, dir) {
			if err := try(name, entry.AppendBLS); err != nil {
				return boots, err
			}
		}
	}
	found := boots
	for name, change := range sources {
		if err := try(name, change); err != nil {
			return found, err
		}
	}
	return found, nil
}

// entriesIn lists the entries of the Boot Loader Specification in a folder.
func entriesIn(root *os.Root, dir string) []string {
	files, err := fs.ReadDir(root.FS(), dir)
	if err != nil {
		return nil
	}
	var out []string
	for _, f := range files {
		if strings.HasSuffix(f.Name(), ".conf") && len(out) < 512 {
			out = append(out, path.Join(dir, f.Name()))
		}
	}
	return out
}

// sources are what update-grub and kernel-install make entries from.
var sources = map[string]func(string, []string) (string, bool){
	"etc/default/grub":   entry.AppendGRUBDefaults,
	"etc/kernel/cmdline": entry.AppendCmdline,
}
