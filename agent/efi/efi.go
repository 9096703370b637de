// Package efi holds the actions efi.boot-entry and firmware.reset. The first
// makes the firmware's boot manager know the installed system (UEFI 2.10 §3.1):
// a variable Boot#### that says which file on which partition to start, and its
// place in BootOrder. The second takes such traces of an installed system away.
//
//	Boot0003:  attributes  u32        1 = active
//	           path length u16
//	           name        UTF-16, ended by 0
//	           path        HD(partition) / File(loader) / End   (§10.3)
//	           data        the loader's own
//
// Variables are written through efivarfs, each in one write(2): 4 bytes of
// attributes, then the value. On a machine that was started by BIOS there are
// none, and the actions do nothing and say so.
//
// A Service must be used by one goroutine at a time.
package efi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"

	"github.com/bedplate/bedplate/agent/disk"
	"github.com/bedplate/bedplate/agent/disk/input"
	"github.com/bedplate/bedplate/agent/disk/partition"
	"github.com/bedplate/bedplate/agent/step"
)

// Files is a mounted EFI system partition; *file.Volume is one.
type Files interface {
	// Exists reports whether a path is there.
	Exists(path string) bool
	Close() error
}

// Config is what a Service needs.
type Config struct {
	// Mount mounts a partition of a disk read only, to look for a loader.
	Mount func(ctx context.Context, disk, partition string) (Files, error)
	// Variables is where efivarfs is mounted; empty: /sys/firmware/efi/efivars.
	Variables string
	Log       *slog.Logger
	// Architecture is GOARCH of the machine; empty: that of this program.
	Architecture string
}

// Service carries out the actions.
type Service struct{ Config }

// New checks the configuration.
func New(c Config) (*Service, error) {
	if c.Mount == nil {
		return nil, errors.New("efi: Mount is needed")
	}
	if c.Variables == "" {
		c.Variables = "/sys/firmware/efi/efivars"
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Architecture == "" {
		c.Architecture = runtime.GOARCH
	}
	return &Service{c}, nil
}

// Steps returns the actions by name.
func (s *Service) Steps() step.Set {
	return step.Set{"efi.boot-entry": step.Func(s.bootEntry), "firmware.reset": step.Func(s.reset)}
}

// wish is what the step asks for.
type wish struct {
	disk, partition, label, loader, order string
	removeOthers                          bool
}

func (s *Service) bootEntry(ctx context.Context, req step.Request, rep step.Reporter) (step.Result, error) {
	in := input.Of(req.With)
	w := wish{
		disk: in.Required("disk"), partition: in.String("partition"), label: in.String("label"), loader: in.String("loader"),
		order: in.Choice("order", "last", "first"), removeOthers: in.Bool("remove_others"),
	}
	if w.label == "" {
		w.label = "Bedplate"
	}
	if len(w.label) > 120 || strings.ContainsRune(w.label, 0) {
		in.Fail("label", "%q is longer than 120 bytes", w.label)
	}
	if w.partition == "" {
		w.partition = "esp"
	}
	if err := in.Err(); err != nil {
		return step.Result{}, err
	}
	vars, err := openVariables(s.Variables)
	if errors.Is(err, ErrBIOS) {
		rep.Log(step.Agent, "this machine was started by BIOS, which has no boot entries: nothing to do")
		return step.Result{Outputs: map[string]any{"entry": ""}}, nil
	}
	if err != nil {
		return step.Result{}, err
	}
	option, err := s.option(ctx, w)
	if err != nil {
		return step.Result{}, err
	}
	name, err := vars.install(option, w.order == "first", w.removeOthers, func(m string) { rep.Log(step.Agent, m) })
	if err != nil {
		return step.Result{}, err
	}
	rep.Log(step.Agent, fmt.Sprintf("%s: %s, %s in the boot order", name, option, w.order))
	return step.Result{Outputs: map[string]any{"entry": name}}, nil
}

// option makes the boot option for a partition and loader.
func (s *Service) option(ctx context.Context, w wish) (Option, error) {
	path, err := disk.Path(w.disk)
	if err != nil {
		return Option{}, err
	}
	d, err := disk.OpenRead(path)
	if err != nil {
		return Option{}, err
	}
	defer d.Close() // Only read.
	parts, err := disk.Parts(d, d.Size(), d.BlockSize())
	if err != nil {
		return Option{}, fmt.Errorf("%s: %w", path, err)
	}
	part, err := disk.Find(parts, w.partition, 0)
	if err != nil {
		return Option{}, fmt.Errorf("%s: %w", path, err)
	}
	if part.Content.Type != "vfat" {
		return Option{}, fmt.Errorf("%s: partition %s has no FAT file system, so firmware can't read it", path, part)
	}
	hd := HardDrive{Number: uint32(part.Number), Start: part.Start, Blocks: part.Blocks}
	if part.Type.IsZero() {
		t, err := partition.Read(d, d.Size(), d.BlockSize())
		if err != nil {
			return Option{}, fmt.Errorf("%s: %w", path, err)
		}
		hd.setMBR(t.Signature)
	} else {
		hd.setGPT(part.ID)
	}
	loader, err := s.loader(ctx, path, part, w.loader)
	if err != nil {
		return Option{}, err
	}
	return Option{Attributes: active, Label: w.label, Drive: hd, Loader: loader}, nil
}

// suffixes are those of loaders, by architecture (§3.5.1.1).
var suffixes = map[string]string{"amd64": "x64", "arm64": "aa64", "386": "ia32", "riscv64": "riscv64"}

// vendors are the folders that distributions put their loaders into.
var vendors = []string{"debian", "ubuntu", "fedora", "centos", "rocky", "almalinux", "redhat", "opensuse", "sles", "arch", "systemd", "flatcar"}

// loader finds the file to start on a partition.
func (s *Service) loader(ctx context.Context, path string, part disk.Part, want string) (loader string, err error) {
	esp, err := s.Mount(ctx, path, fmt.Sprint(part.Number))
	if err != nil {
		return "", fmt.Errorf("looking for the loader: %w", err)
	}
	defer func() { err = errors.Join(err, esp.Close()) }()
	if loader, err = s.Loader(esp, want); err != nil {
		return "", fmt.Errorf("partition %s: %w", part, err)
	}
	return loader, nil
}

// Loader finds the file to start on a mounted EFI system partition: the one that
// was asked for, else shim (which Secure Boot wants), GRUB or systemd-boot of the
// installed system, else the fallback loader. Its path has backslashes.
func (s *Service) Loader(esp interface{ Exists(string) bool }, want string) (string, error) {
	var candidates []string
	if want != "" {
		candidates = []string{strings.ReplaceAll(want, `\`, "/")}
	} else {
		x := suffixes[s.Architecture]
		for _, file := range []string{"shim" + x + ".efi", "grub" + x + ".efi", "systemd-boot" + x + ".efi"} {
			for _, v := range vendors {
				candidates = append(candidates, "/EFI/"+v+"/"+file)
			}
		}
		candidates = append(candidates, s.Fallback())
	}
	for _, c := range candidates {
		if esp.Exists(c) {
			return `\` + strings.ReplaceAll(strings.TrimPrefix(c, "/"), "/", `\`), nil
		}
	}
	if want != "" {
		return "", fmt.Errorf("it has no file %s", want)
	}
	return "", fmt.Errorf("there is no known loader, nor %s: give `loader`", candidates[len(candidates)-1])
}

// Fallback is where firmware without an entry looks for a loader (§3.5.1.1).
func (s *Service) Fallback() string {
	return "/EFI/BOOT/BOOT" + strings.ToUpper(suffixes[s.Architecture]) + ".EFI"
}
