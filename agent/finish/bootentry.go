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

// maxLoader bounds a loader that is copied; shim and GRUB have 1 to 4 MiB.
const maxLoader = 32 << 20

// bootEntry tells the firmware of the system, and leaves a loader where firmware
// without entries looks.
func (r *run) bootEntry() (string, error) {
	if r.want.entry.fallback {
		if err := r.within("esp", r.fallback); err != nil {
			return "", err
		}
	}
	req := r.req
	req.With = map[string]any{"disk": r.disk}
	if l := r.want.entry.label; l != "" {
		req.With["label"] = l
	}
	if l := r.want.entry.loader; l != "" {
		req.With["loader"] = l
	}
	res, err := r.BootEntry.Execute(r.ctx, req, r.rep)
	if err != nil {
		return "", err
	}
	name, _ := res.Outputs["entry"].(string)
	return name, nil
}

// fallback copies the loader to the place of UEFI §3.5.1.1, unless one is there.
// What lies beside it goes with it: shim starts the GRUB in its own folder.
// fbx64.efi does not: beside a shim in the fallback's place it would put its own
// entries before the network's and restart the machine.
func (r *run) fallback(esp *file.Volume) error {
	if esp.Exists(r.Fallback) {
		return nil
	}
	loader, err := r.Loader(esp, r.want.entry.loader)
	if err != nil {
		return err
	}
	loader = "/" + strings.TrimPrefix(strings.ReplaceAll(loader, `\`, "/"), "/")
	root, err := os.OpenRoot(esp.Root)
	if err != nil {
		return fmt.Errorf("opening %s: %w", esp.Device, err)
	}
	defer root.Close() // Only a descriptor.
	from := strings.TrimPrefix(path.Dir(loader), "/")
	files, err := fs.ReadDir(root.FS(), from)
	if err != nil {
		return fmt.Errorf("looking beside %s: %w", loader, err)
	}
	var errs []error
	for _, f := range files {
		name := strings.ToLower(f.Name())
		if f.IsDir() || !strings.HasSuffix(name, ".efi") || strings.HasPrefix(name, "fb") || strings.EqualFold(f.Name(), path.Base(loader)) {
			continue
		}
		if to := path.Join(path.Dir(r.Fallback), f.Name()); !esp.Exists(to) {
			errs = append(errs, copyFile(esp, path.Join(from, f.Name()), to))
		}
	}
	// Last: it is what makes the rest count.
	if err := errors.Join(append(errs, copyFile(esp, loader, r.Fallback))...); err != nil {
		return err
	}
	r.say("%s is a copy of %s", r.Fallback, loader)
	return nil
}

func copyFile(v *file.Volume, from, to string) error {
	b, err := v.ReadFile(from, maxLoader)
	if err != nil {
		return err
	}
	return v.WriteFile(to, 0o755, b)
}
