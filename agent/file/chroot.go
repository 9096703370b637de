package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/bedplate/bedplate/agent/command"
	"github.com/bedplate/bedplate/agent/disk/input"
	"github.com/bedplate/bedplate/agent/step"
)

// chroot runs a program of the installed system. It gets namespaces of its own
// for processes and mounts, so that nothing it leaves behind outlives the step.
func (s *Service) chroot(ctx context.Context, req step.Request, rep step.Reporter) (step.Result, error) {
	in := input.Of(req.With)
	p, argv := placeOf(in, req), in.Strings("command")
	in.Value("env") // Read by command.Environment.
	if text, ok := in.Value("command").(string); ok {
		argv = []string{"/bin/sh", "-c", text}
	}
	if len(argv) == 0 || argv[0] == "" {
		in.Fail("command", "is required: a program and its arguments, or one line for the shell")
	}
	if err := in.Err(); err != nil {
		return step.Result{}, err
	}
	var result step.Result
	err := s.within(ctx, p, false, func(v *Volume) (err error) {
		if err := s.furnish(ctx, v, p, rep); err != nil {
			return err
		}
		program, err := v.program(argv[0])
		if err != nil {
			return err
		}
		cmd := &exec.Cmd{Path: program, Args: argv, Env: command.Environment(req), Dir: "/", SysProcAttr: &syscall.SysProcAttr{
			Chroot: v.Root, Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC,
		}}
		result, err = command.Run(ctx, cmd, rep)
		return err
	})
	return result, err
}

// program finds a program in the installed system.
func (v *Volume) program(name string) (string, error) {
	if strings.Contains(name, "/") {
		if v.Exists(name) {
			return "/" + clean(name), nil
		}
		return "", fmt.Errorf("there is no %s in the installed system", name)
	}
	for dir := range strings.SplitSeq(command.Path, ":") {
		if p := path.Join(dir, name); v.Exists(p) {
			return p, nil
		}
	}
	return "", fmt.Errorf("there is no program %s in the installed system (looked in %s)", name, command.Path)
}

// furnish gives the installed system what programs expect to find.
func (s *Service) furnish(ctx context.Context, v *Volume, p place, rep step.Reporter) error {
	for _, dir := range []string{"/proc", "/sys", "/dev"} {
		if err := v.bind(dir, dir); err != nil {
			return err
		}
	}
	if err := v.overlay("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return err
	}
	if err := s.resolvConf(v); err != nil {
		return err
	}
	if p.disk == "" {
		return nil
	}
	return s.mountESP(ctx, v, p, rep)
}

// target returns a folder of the installed system as a path that can be mounted
// on without going through its links a second time; false if it isn't there.
func (v *Volume) target(name string, flags int) (target string, done func() error, err error) {
	fd, err := v.openat(clean(name), unix.O_PATH|flags)
	if err != nil {
		return "", nil, wrap(err, "opening folder", clean(name))
	}
	return fmt.Sprintf("/proc/self/fd/%d", fd), func() error { return unix.Close(fd) }, nil
}

// overlay mounts a file system onto a folder of the installed system.
func (v *Volume) overlay(source, name, kind string, flags uintptr, data string) error {
	target, done, err := v.target(name, unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	dir, err := os.Readlink(target) // The kernel's own path for it: no links left.
	if err == nil {
		err = unix.Mount(source, target, kind, flags, data)
	}
	if err := errors.Join(err, done()); err != nil {
		return fmt.Errorf("mounting %s on %s of the installed system: %w", source, name, err)
	}
	v.mounts = append(v.mounts, dir)
	return nil
}

// bind shows a folder of the agent's system, with what is mounted in it. It is
// made private, so that detaching it later doesn't detach the original.
func (v *Volume) bind(from, name string) error {
	if err := v.overlay(from, name, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	dir := v.mounts[len(v.mounts)-1]
	if err := unix.Mount("", dir, "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("making %s private: %w", name, err)
	}
	return nil
}

// resolvConf shows the agent's name servers at /etc/resolv.conf. Where that is
// a link into /run, which is empty here, the file it leads to is made.
func (s *Service) resolvConf(v *Volume) error {
	content, err := os.ReadFile(s.ResolvConf)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading name servers: %w", err)
	}
	const name = "/etc/resolv.conf"
	if target, done, err := v.target(name, 0); err == nil {
		dir, err := os.Readlink(target)
		if err == nil {
			err = unix.Mount(s.ResolvConf, target, "", unix.MS_BIND, "")
		}
		if err == nil {
			v.mounts = append(v.mounts, dir)
		}
		return errors.Join(err, done())
	}
	link, err := os.Readlink(filepath.Join(v.Root, "etc/resolv.conf")) // Reading a link doesn't follow it; /etc might be one, then there is nothing to do.
	if err != nil {
		return nil
	}
	if !path.IsAbs(link) {
		link = path.Join("/etc", link)
	}
	if !strings.HasPrefix(path.Clean(link), "/run/") {
		return nil
	}
	return v.write(link, attributes{mode: 0o644, dirMode: 0o755}, func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	})
}

// mountESP mounts the disk's EFI system partition where the installed system
// has it, if both are there.
func (s *Service) mountESP(ctx context.Context, v *Volume, p place, rep step.Reporter) error {
	for _, dir := range []string{"/boot/efi", "/efi"} {
		if !v.Exists(dir) {
			continue
		}
		src, err := s.locate(ctx, place{disk: p.disk, partition: "esp"})
		if err != nil || src.kind.Type != "vfat" || src.loop {
			rep.Log(step.Agent, fmt.Sprintf("no EFI system partition is mounted at %s", dir))
			return nil
		}
		trouble, err := s.modules("vfat")
		if err != nil {
			return err
		}
		if err := v.overlay(src.path, dir, "vfat", mountFlags, "umask=0077"); err != nil {
			if trouble != "" {
				err = fmt.Errorf("%w; %s", err, trouble)
			}
			return err
		}
		return nil
	}
	return nil
}
