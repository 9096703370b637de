// Package finish holds the action image.finish: what is put right on a disk
// right after an image was written to it, by the image's own data
// (ImageSpec.finish): its last file system grows, files with the instance's
// configuration go to where the system reads them, kernel arguments are
// appended to the boot loader's configuration, what must not be the same on two
// machines is removed, and the firmware is told of the system.
//
// Everything is done so that doing it again changes nothing: a step that was cut
// short is begun anew.
//
// A Service may be used by several goroutines at once, for different disks.
package finish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/bedplate/bedplate/agent/disk"
	"github.com/bedplate/bedplate/agent/disk/input"
	"github.com/bedplate/bedplate/agent/file"
	"github.com/bedplate/bedplate/agent/image/transfer"
	"github.com/bedplate/bedplate/agent/step"
)

// maxFile bounds a file that is fetched: user data of 256 KiB, joined and
// encoded, is less than half of it.
const maxFile = 2 << 20

// Config is what a Service needs.
type Config struct {
	// Files mounts partitions.
	Files *file.Service
	// Make makes a file system on a partition's node: disk.format's executor.
	Make step.Executor
	// BootEntry sets the firmware's entry: efi.boot-entry's executor.
	BootEntry step.Executor
	// Loader finds the loader on a mounted EFI system partition: efi.Service.Loader.
	Loader func(esp interface{ Exists(string) bool }, want string) (string, error)
	// Fallback is where firmware without an entry looks, such as /EFI/BOOT/BOOTX64.EFI.
	Fallback string
	Log      *slog.Logger
}

// Service carries out the action.
type Service struct{ Config }

// New checks the configuration.
func New(c Config) (*Service, error) {
	if c.Files == nil || c.Make == nil || c.BootEntry == nil || c.Loader == nil || c.Fallback == "" {
		return nil, errors.New("finish: Files, Make, BootEntry, Loader and Fallback are needed")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Service{c}, nil
}

// Steps returns the action by name.
func (s *Service) Steps() step.Set { return step.Set{"image.finish": step.Func(s.finish)} }

// run is one run of the action.
type run struct {
	*Service
	ctx  context.Context
	req  step.Request
	rep  step.Reporter
	disk string
	want wish
	// words are what ${…} stands for.
	words map[string]string
	// args are the kernel arguments that are to be appended.
	args []string
}

func (s *Service) finish(ctx context.Context, req step.Request, rep step.Reporter) (step.Result, error) {
	in := input.Of(req.With)
	name, path, own := in.Required("image"), in.Required("disk"), in.Strings("kernel_arguments")
	grow := !in.Has("grow") || in.Bool("grow")
	if err := in.Err(); err != nil {
		return step.Result{}, err
	}
	facts, ok := req.Images[name].(map[string]any)
	if !ok {
		return step.Result{}, fmt.Errorf("the server said nothing about image %s", name)
	}
	w, err := wishOf(facts)
	if err != nil {
		return step.Result{}, fmt.Errorf("spec.finish of image %s: %w", name, err)
	}
	w.grow = w.grow && grow
	r := &run{Service: s, ctx: ctx, req: req, rep: rep, disk: path, want: w, words: wordsOf(req.Server)}
	for _, arg := range w.args {
		text, err := r.expand(arg)
		if err != nil {
			return step.Result{}, fmt.Errorf("spec.finish.kernel_arguments of image %s: %w", name, err)
		}
		r.args = append(r.args, text)
	}
	r.args = append(r.args, own...)
	r.words["kernel_arguments"] = strings.Join(r.args, " ")
	return r.all()
}

// all does everything that is wanted, in the order of the wire definition.
func (r *run) all() (step.Result, error) {
	out := map[string]any{"grown": false, "files": int64(0), "boot_files": []any{}, "entry": ""}
	if r.want.grow {
		grown, err := r.grow()
		if err != nil {
			return step.Result{}, fmt.Errorf("growing the last file system of %s: %w", r.disk, err)
		}
		out["grown"] = grown
	}
	if err := r.root(); err != nil {
		return step.Result{}, err
	}
	said := false
	for _, f := range r.want.files {
		if err := r.file(f); err != nil {
			return step.Result{}, fmt.Errorf("writing %s to partition %s: %w", f.path, f.partition, err)
		}
		said = said || strings.Contains(f.content, "${kernel_arguments}")
	}
	out["files"] = int64(len(r.want.files))
	if len(r.args) > 0 && !said {
		edited, err := r.arguments()
		if err != nil {
			return step.Result{}, fmt.Errorf("appending kernel arguments: %w", err)
		}
		out["boot_files"] = anys(edited)
	}
	if r.want.entry != nil {
		entry, err := r.bootEntry()
		if err != nil {
			return step.Result{}, fmt.Errorf("making the boot entry: %w", err)
		}
		out["entry"] = entry
	}
	return step.Result{Outputs: out}, nil
}

func (r *run) say(format string, args ...any) { r.rep.Log(step.Agent, fmt.Sprintf(format, args...)) }

// file writes one file of the image's data.
func (r *run) file(f wishFile) error {
	content, err := r.content(f)
	if err != nil {
		return err
	}
	if f.make != "" {
		if err := r.make(f); err != nil {
			return err
		}
	}
	return r.within(f.partition, func(v *file.Volume) error {
		if err := v.WriteFile(f.path, f.mode, content); err != nil {
			return err
		}
		r.say("wrote %d bytes to %s on %s", len(content), f.path, v.Device)
		return nil
	})
}

// content is what the file gets: its own, or what the server has for the instance.
func (r *run) content(f wishFile) ([]byte, error) {
	if f.source == "" {
		text, err := r.expand(f.content)
		return []byte(text), err
	}
	url := r.words["metadata_url"]
	switch f.source {
	case "ignition":
		url = r.words["ignition_url"]
	case "talos":
		url = r.words["talos_url"]
	default:
		if url != "" {
			url += f.source
		}
	}
	if url == "" {
		return nil, fmt.Errorf("the server gives no %s: the workflow installs no instance", f.source)
	}
	return r.fetch(url)
}

// fetch gets a small file from the server.
func (r *run) fetch(url string) (b []byte, err error) {
	t, err := transfer.Open(r.ctx, transfer.Config{
		Client: r.req.HTTP, URL: url, Stall: r.Files.Stall, GiveUp: r.Files.GiveUp, Backoff: r.Files.Backoff,
		Report: func(m string) { r.rep.Log(step.Agent, m) },
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	b, err = io.ReadAll(io.LimitReader(t, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("it is longer than %d bytes", maxFile)
	}
	return b, err
}

// make makes a file system where there is none.
func (r *run) make(f wishFile) error {
	part, err := r.part(f.partition)
	if err != nil || part.Content.Type != "" {
		return err
	}
	path, err := disk.Path(r.disk)
	if err != nil {
		return err
	}
	req := r.req
	req.With = map[string]any{"device": disk.Node(path, part.Number), "type": f.make, "label": part.Label}
	_, err = r.Make.Execute(r.ctx, req, r.rep)
	return err
}

// part finds a partition by number, label, root or esp.
func (r *run) part(word string) (disk.Part, error) {
	parts, err := r.parts()
	if err != nil {
		return disk.Part{}, err
	}
	return disk.Find(parts, word, r.want.rootPartition)
}

func (r *run) parts() ([]disk.Part, error) {
	path, err := disk.Path(r.disk)
	if err != nil {
		return nil, err
	}
	d, err := disk.OpenRead(path)
	if err != nil {
		return nil, err
	}
	defer d.Close() // Only read.
	parts, err := disk.Parts(d, d.Size(), d.BlockSize())
	if disk.IsNoTable(err) {
		return nil, nil
	}
	return parts, err
}

// within runs f with a partition mounted for writing.
func (r *run) within(partition string, f func(*file.Volume) error) (err error) {
	var v *file.Volume
	if partition == disk.Root {
		v, err = r.Files.MountImage(r.ctx, r.disk, map[string]any{"": map[string]any{"root_partition": int64(r.want.rootPartition)}})
	} else {
		v, err = r.Files.Mount(r.ctx, r.disk, partition, false)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	return f(v)
}

func anys(words []string) []any {
	out := make([]any, len(words))
	for i, w := range words {
		out[i] = w
	}
	return out
}
