package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/bedplate/bedplate/agent/tpm"
	"github.com/bedplate/bedplate/layout"
)

const (
	// maxTable bounds a file of the installed system that is added to.
	maxTable = 1 << 20
	// The lines between which a file has what this step wrote; another try or a
	// later configuration replaces them.
	beginMark = "# bedplate storage: begin"
	endMark   = "# bedplate storage: end"
)

// configure writes into the installed system what it has to know.
func (r *runner) configure(ctx context.Context) (err error) {
	tables, folders, err := r.tables(ctx)
	if err != nil {
		return err
	}
	v, err := r.mountRoot(ctx)
	if err != nil {
		return fmt.Errorf("mounting the installed system: %w", err)
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	for _, t := range tables {
		if err := t.write(v); err != nil {
			return fmt.Errorf("writing /%s of the installed system: %w", t.name, err)
		}
		if len(t.lines) > 0 {
			r.say("wrote /%s: %s", t.name, strings.Join(t.lines, "; "))
		}
	}
	for _, dir := range folders {
		if err := v.MakeFolder(dir, 0o755); err != nil {
			return fmt.Errorf("making mount point %s: %w", dir, err)
		}
	}
	for name, pass := range r.keyFiles {
		if err := v.MakeFolder("/etc/cryptsetup-keys.d", 0o700); err != nil {
			return err
		}
		if err := v.WriteFile(keyFile(name), 0o400, pass); err != nil {
			return fmt.Errorf("writing the key of %s: %w", name, err)
		}
	}
	return nil
}

// keyFile is where systemd looks for a container's key by itself (crypttab(5)).
func keyFile(name string) string { return "/etc/cryptsetup-keys.d/" + name + ".key" }

func (r *runner) mountRoot(ctx context.Context) (Files, error) {
	if n := r.layout.RootDevice(); n != nil {
		return r.MountDevice(ctx, r.device[n])
	}
	return r.MountImage(ctx, r.paths[layout.Root], r.req.Images)
}

// table is a file of lines of which some are ours.
type table struct {
	name  string
	mode  uint32
	lines []string
	// mine reports whether a line of the image speaks of what we declare.
	mine func(line string) bool
}

// tables are the files that the declaration makes, and the folders to mount on.
func (r *runner) tables(ctx context.Context) (all []table, folders []string, err error) {
	fstab := table{name: "etc/fstab", mode: 0o644, mine: r.declaredMount}
	mounts, err := r.mounts()
	if err != nil {
		return nil, nil, err
	}
	for _, m := range mounts {
		fstab.lines = append(fstab.lines, r.mountLine(m))
		if p := m.spec.GetPath(); p != "" && p != "/" {
			folders = append(folders, p)
		}
	}
	crypttab := table{name: "etc/crypttab", mode: 0o600}
	for _, n := range r.layout.Of(layout.Encryption) {
		line, err := r.cryptLine(ctx, n)
		if err != nil {
			return nil, nil, err
		}
		crypttab.lines = append(crypttab.lines, line)
	}
	mdadm := table{name: "etc/mdadm/mdadm.conf", mode: 0o644}
	for _, n := range r.layout.Of(layout.Raid) {
		uuid, err := r.raidUUID(ctx, n)
		if err != nil {
			return nil, nil, err
		}
		mdadm.lines = append(mdadm.lines, fmt.Sprintf("ARRAY /dev/md/%s metadata=1.2 UUID=%s name=%s:%s", n.Name, uuid, homehost, n.Name))
	}
	return []table{fstab, crypttab, mdadm}, folders, nil
}

// rootful reports whether the installed system can't start without a part.
func (r *runner) rootful(n *layout.Node) bool {
	if n.Kind == layout.Filesystem && r.layout.Spec.Filesystems[n.Index].GetPath() == "/" {
		return true
	}
	for _, u := range n.Users {
		if r.rootful(u) {
			return true
		}
	}
	return false
}

// mountLine is a line of fstab(5). What isn't the root doesn't keep the system
// from starting when it is missing: it can be reached then, and repaired.
func (r *runner) mountLine(m mount) string {
	options := []string{"defaults"}
	if m.spec.GetType() == "swap" {
		options = []string{"sw"}
	}
	options = append(options, m.spec.GetOptions()...)
	if !r.rootful(m.node) {
		options = append(options, "nofail")
	}
	where, pass := m.spec.GetPath(), 0
	switch {
	case m.spec.GetType() == "swap":
		where = "none"
	case where == "/":
		pass = 1
	case m.spec.GetType() != "xfs": // fsck.xfs does nothing.
		pass = 2
	}
	return fmt.Sprintf("UUID=%s %s %s %s 0 %d", m.uuid, where, m.spec.GetType(), strings.Join(options, ","), pass)
}

// cryptLine is a line of crypttab(5).
func (r *runner) cryptLine(ctx context.Context, n *layout.Node) (string, error) {
	uuid, err := r.cryptUUID(ctx, n)
	if err != nil {
		return "", err
	}
	e := r.layout.Spec.Encryption[n.Index]
	options := []string{"luks"}
	h, err := r.header(ctx, n)
	if err != nil {
		return "", err
	}
	if _, tokens := h.slots(tpm.TokenType); len(tokens) > 0 {
		options = append(options, "tpm2-device=auto")
	}
	if r.rootful(n) {
		options = append(options, "x-initrd.attach")
	} else {
		options = append(options, "nofail")
	}
	pass := "none"
	if e.GetKeyFile() {
		pass = keyFile(n.Name)
	}
	return fmt.Sprintf("%s UUID=%s %s %s", n.Name, uuid, pass, strings.Join(options, ",")), nil
}

// declaredMount reports whether a line of the image's fstab mounts where the
// declaration does.
func (r *runner) declaredMount(line string) bool {
	f := strings.Fields(line)
	if len(f) < 2 || strings.HasPrefix(f[0], "#") {
		return false
	}
	for _, m := range r.layout.Spec.GetFilesystems() {
		if m.GetPath() != "" && path.Clean(f[1]) == m.GetPath() {
			return true
		}
	}
	return false
}

// write replaces our lines of a file and leaves the others. Without lines an
// absent file stays absent.
func (t table) write(v Files) error {
	old, err := v.ReadFile(t.name, maxTable)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	content := t.merge(old)
	if bytes.Equal(content, old) {
		return nil
	}
	return v.WriteFile(t.name, t.mode, content)
}

func (t table) merge(old []byte) []byte {
	var out bytes.Buffer
	ours := false
	for line := range strings.Lines(string(old)) {
		switch text := strings.TrimSpace(line); {
		case text == beginMark:
			ours = true
		case text == endMark:
			ours = false
		case ours:
		case len(t.lines) > 0 && t.mine != nil && t.mine(text):
			out.WriteString("# replaced: " + text + "\n")
		default:
			out.WriteString(strings.TrimRight(line, "\n") + "\n")
		}
	}
	if len(t.lines) > 0 {
		out.WriteString(beginMark + "\n" + strings.Join(t.lines, "\n") + "\n" + endMark + "\n")
	}
	return out.Bytes()
}
