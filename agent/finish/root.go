package finish

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/bedplate/bedplate/agent/file"
)

// root takes out of the root file system what must not be the same on two machines.
func (r *run) root() error {
	if !r.want.machineID && !r.want.hostKey {
		return nil
	}
	return r.within("root", func(v *file.Volume) error {
		root, err := os.OpenRoot(v.Root)
		if err != nil {
			return fmt.Errorf("opening %s: %w", v.Device, err)
		}
		defer root.Close() // Only a descriptor.
		if r.want.machineID {
			if err := r.machineID(v, root); err != nil {
				return err
			}
		}
		if r.want.hostKey {
			return r.hostKeys(root)
		}
		return nil
	})
}

// machineID empties /etc/machine-id. A missing one would do as well, but not
// where /etc can't be written to at first boot (machine-id(5), FIRST BOOT
// SEMANTICS): systemd then mounts one over an empty file. D-Bus's copy, where
// it is no link, would keep the old one.
func (r *run) machineID(v *file.Volume, root *os.Root) error {
	if _, err := root.Stat("etc"); err != nil {
		return fmt.Errorf("resetting the machine id: %w: is it the root file system?", err)
	}
	if err := v.WriteFile("/etc/machine-id", 0o444, nil); err != nil {
		return err
	}
	const copied = "var/lib/dbus/machine-id"
	if st, err := root.Lstat(copied); err == nil && st.Mode().IsRegular() {
		if err := root.Remove(copied); err != nil {
			return fmt.Errorf("removing /%s: %w", copied, err)
		}
	}
	r.say("the machine id is reset")
	return nil
}

// hostKeys removes SSH host keys.
func (r *run) hostKeys(root *os.Root) error {
	files, err := fs.ReadDir(root.FS(), "etc/ssh")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking for SSH host keys: %w", err)
	}
	removed := 0
	for _, f := range files {
		if !strings.HasPrefix(f.Name(), "ssh_host_") || f.IsDir() {
			continue
		}
		if err := root.Remove(path.Join("etc/ssh", f.Name())); err != nil {
			return fmt.Errorf("removing an SSH host key: %w", err)
		}
		removed++
	}
	r.say("removed %d files of SSH host keys", removed)
	return nil
}
