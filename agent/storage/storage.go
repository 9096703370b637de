// Package storage holds the action storage.apply: it makes a machine's disks
// hold what a declaration (package layout) says.
//
// It goes in four steps. Each declared disk is found among the real ones. What
// they hold is looked at. A plan, which is a list of operations, is made of
// declaration and findings without touching anything (Plan is pure). The plan
// is carried out, by the programs that everybody uses: mdadm, lvm, cryptsetup,
// mkfs.
//
// Whatever is made is made from the beginning on disks whose content may be
// lost, so that a run that was cut off is simply done again. While a disk that
// is to be kept later is being filled, it carries a mark; only when everything
// on it is complete does the mark go, and from then on the disk is never
// written to but by what mounts it.
//
// There is no udev in the agent's system: programs are told to make their
// device nodes themselves. A Service may be used by one step at a time.
package storage

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"github.com/google/go-tpm/tpm2/transport"

	"github.com/bedplate/bedplate/agent/step"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// Files is a mounted file system of the installed system; *file.Volume is one.
type Files interface {
	// ReadFile returns at most limit bytes; an absent file wraps fs.ErrNotExist.
	ReadFile(name string, limit int64) ([]byte, error)
	// WriteFile replaces a file, or makes it with its folders.
	WriteFile(name string, mode uint32, content []byte) error
	// MakeFolder makes a folder and those above it, where they are missing.
	MakeFolder(name string, mode uint32) error
	Close() error
}

// Config is what a Service needs.
type Config struct {
	// Disks returns the machine's disks, as the inventory has them.
	Disks func(context.Context) ([]*pb.Disk, error)
	// Match evaluates a hint, an expression over `disk`.
	Match func(hint string, d *pb.Disk) (bool, error)
	// LoadModule loads a kernel module; it succeeds for one that is built in.
	LoadModule func(name string) error
	// MountImage mounts the root file system of the image on a disk; images is
	// step.Request.Images.
	MountImage func(ctx context.Context, disk string, images map[string]any) (Files, error)
	// MountDevice mounts the file system on a device.
	MountDevice func(ctx context.Context, device string) (Files, error)
	// OpenTPM opens the machine's TPM; an error that wraps fs.ErrNotExist means
	// that there is none.
	OpenTPM func() (transport.TPMCloser, error)
	// Random makes keys and GUIDs.
	Random io.Reader
	Log    *slog.Logger
	// Run runs a program. Nil: found in the usual folders and executed.
	Run func(context.Context, Command) error
	// Sys and Proc are where those file systems are; empty: /sys and /proc.
	Sys, Proc string
	// NodeWait is how long a device node may take to appear; 0: 20 s.
	NodeWait time.Duration
}

// Service carries out the action.
type Service struct{ Config }

// New checks the configuration.
func New(c Config) (*Service, error) {
	if c.Disks == nil || c.Match == nil || c.LoadModule == nil || c.MountImage == nil || c.MountDevice == nil || c.OpenTPM == nil || c.Random == nil {
		return nil, errors.New("storage: Disks, Match, LoadModule, MountImage, MountDevice, OpenTPM and Random are needed")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Run == nil {
		c.Run = run
	}
	if c.Sys == "" {
		c.Sys = "/sys"
	}
	if c.Proc == "" {
		c.Proc = "/proc"
	}
	if c.NodeWait == 0 {
		c.NodeWait = 20 * time.Second
	}
	return &Service{c}, nil
}

// Steps returns the action by name.
func (s *Service) Steps() step.Set {
	return step.Set{"storage.apply": step.Func(s.apply)}
}
