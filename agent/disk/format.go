package disk

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/bedplate/bedplate/agent/disk/input"
	"github.com/bedplate/bedplate/agent/step"
)

// mkfs is how a file system is made: program, its fixed arguments, the option
// for a label and the longest label.
type mkfs struct {
	args  []string
	label string
	most  int
	// recognised is what the result is seen as.
	recognised []string
}

var makers = map[string]mkfs{
	"ext4": {[]string{"mkfs.ext4", "-F", "-q"}, "-L", 16, []string{"ext4"}},
	"xfs":  {[]string{"mkfs.xfs", "-f", "-q"}, "-L", 12, []string{"xfs"}},
	"vfat": {[]string{"mkfs.vfat"}, "-n", 11, []string{"vfat"}},
	"swap": {[]string{"mkswap"}, "-L", 15, []string{"swap"}},
}

func (s *Service) format(ctx context.Context, req step.Request, rep step.Reporter) (step.Result, error) {
	in := input.Of(req.With)
	word, kind := in.Required("device"), in.Required("type")
	label, options := in.String("label"), in.Strings("options")
	m, ok := makers[kind]
	if !ok && kind != "" {
		in.Fail("type", "%q is none of ext4, xfs, vfat, swap", kind)
	}
	if ok && len(label) > m.most {
		in.Fail("label", "%q is longer than the %d bytes that %s has for it", label, m.most, kind)
	}
	if err := in.Err(); err != nil {
		return step.Result{}, err
	}
	path, err := Path(word)
	if err != nil {
		return step.Result{}, err
	}
	if err := WaitNode(ctx, path, s.NodeWait); err != nil {
		return step.Result{}, err
	}
	if err := clearForFormat(ctx, path); err != nil {
		return step.Result{}, fmt.Errorf("preparing %s: %w", path, err)
	}
	args := m.args
	if label != "" {
		args = append(args[:len(args):len(args)], m.label, label)
	}
	args = append(args[:len(args):len(args)], options...)
	out := &lines{rep: rep}
	if err := s.Run(ctx, append(args, path), out.line); err != nil {
		return step.Result{ExitCode: exitCode(err), LastOutput: out.last}, fmt.Errorf("making %s on %s: %w%s", kind, path, err, out.hint())
	}
	uuid, err := checkFormat(path, m)
	if err != nil {
		return step.Result{}, err
	}
	return step.Result{Outputs: map[string]any{"uuid": uuid}}, nil
}

// clearForFormat removes what was there, so that no program later takes the
// new file system for a member of an old RAID.
func clearForFormat(ctx context.Context, path string) error {
	d, err := Open(path)
	if err != nil {
		return err
	}
	err = clearEnds(ctx, d, 0, d.Size())
	if err == nil {
		err = d.Sync()
	}
	return errors.Join(err, d.Close())
}

// checkFormat sees to it that mkfs did what it says, and that it is durable.
func checkFormat(path string, m mkfs) (uuid string, err error) {
	d, err := Open(path)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if err := errors.Join(d.Sync(), d.DropCache()); err != nil {
		return "", err
	}
	s, ok, err := FileSystem(d, d.Size())
	if err != nil {
		return "", err
	}
	if !ok || s.Type != m.recognised[0] {
		return "", fmt.Errorf("%s succeeded, but %s holds %q", m.args[0], path, s.Type)
	}
	return s.UUID, nil
}

// lastLines is how many lines of output go with a failure.
const lastLines = 20

// lines keeps the last lines of a program and hands all of them on.
type lines struct {
	rep  step.Reporter
	last []string
}

func (l *lines) line(stream, text string) {
	l.rep.Log(stream, text)
	if l.last = append(l.last, text); len(l.last) > lastLines {
		l.last = l.last[1:]
	}
}

func (l *lines) hint() string {
	if len(l.last) == 0 {
		return ""
	}
	return ": " + strings.TrimSpace(l.last[len(l.last)-1])
}
