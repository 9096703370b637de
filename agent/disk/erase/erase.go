// Package erase holds the action disk.erase: it makes every disk of a machine
// forget what it held, by the strongest means that each has, reads back, and
// says for each disk how it went.
//
// # Methods, the strongest first
//
//	nvme-sanitize-crypto, -block, -overwrite    purge   NVMe Sanitize (NVM Express Base 2.0 §5.24)
//	nvme-format-crypto                          clear   Format NVM, secure erase setting 2 (§5.17)
//	nvme-format-user                            clear   Format NVM, secure erase setting 1
//	ata-sanitize-crypto, -block, -overwrite     purge   Sanitize Device (ACS-3 §4.18)
//	ata-erase-enhanced                          purge on magnetic disks, clear on flash: SECURITY ERASE UNIT (ACS-3 §4.17)
//	ata-erase                                   clear   the same, normal mode
//	scsi-sanitize-crypto, -block, -overwrite    purge   SANITIZE (SBC-4 §5.31)
//	secure-discard                              clear   BLKSECDISCARD: eMMC secure erase or trim
//	discard                                     clear   BLKDISCARD, and every block read to see that it holds zeros
//	overwrite                                   clear   every block written
//
// Clear and purge are the words of NIST SP 800-88r1 §2.5 and IEEE 2883 §3:
// cleared data can't be read back through the disk's interface, purged data
// not in a laboratory either. Where the two differ the lower level is given:
// Format NVM is a purge by NIST's table A-8, and by IEEE 2883 at most where the
// maker says so of its cryptographic erase. The overwrites of ATA and SCSI count
// as clear on flash.
// ATA's Sanitize comes before its security erase, which locks the disk with a
// password while it runs, and which firmware usually has frozen.
//
// Disks behind bridges to USB are sent no commands: many bridges hang on those
// that they don't know. Zoned disks take no overwrite out of order of their
// zones' state: without a sanitize command they fail.
//
// A method that fails is on record with its reason, and the next is tried. A
// disk that no method could erase, or whose content was not as the method
// promises, fails the step; the other disks are erased all the same.
//
// Questions and commands to disks go through Port, content through Medium; a
// fake with the state machines of NVMe, ATA and SCSI stands for them in tests.
// A Service may be used by several goroutines at once, for different disks.
package erase

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/bedplate/bedplate/agent/disk"
	"github.com/bedplate/bedplate/agent/disk/erase/nvme"
	"github.com/bedplate/bedplate/agent/disk/erase/scsi"
	"github.com/bedplate/bedplate/agent/disk/holder"
	"github.com/bedplate/bedplate/agent/step"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// Port carries commands to one disk, below the block layer. Where the disk is
// no such disk, its methods return an error.
type Port interface {
	// NVMe sends one admin command. A status other than success is an nvme.Status.
	NVMe(ctx context.Context, c nvme.Command) error
	// SCSI sends one command; the error is about the way there and back, how the
	// command itself ended is in the reply.
	SCSI(ctx context.Context, c scsi.Command) (scsi.Reply, error)
	Close() error
}

// Medium is the content of one disk; *disk.Device is one.
type Medium interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	ReadDirect(p []byte, off int64) (int, error)
	Size() int64
	BlockSize() int
	ZeroRange(off, n int64) (bool, error)
	Discard(off, n int64) (bool, error)
	SecureDiscard(off, n int64) (bool, error)
	Sync() error
	DropCache() error
	Reread(ctx context.Context) error
}

// Config is what a Service needs.
type Config struct {
	// Disks lists the machine's disks as they are now.
	Disks func(context.Context) ([]*pb.Disk, error)
	// Random makes the seeds of samples.
	Random io.Reader
	Now    func() time.Time
	Log    *slog.Logger

	// The rest has defaults for the running system.

	// Open opens a disk for nobody else to use, or only for reading.
	Open func(path string, readOnly bool) (Medium, error)
	// Port opens the way to the disk itself.
	Port func(d *pb.Disk) (Port, error)
	// Facts says what only the kernel knows of a disk.
	Facts func(d *pb.Disk) Facts
	// Free stops what holds a disk: file systems, swap, RAID, LVM, encryption.
	Free func(ctx context.Context, path string, say func(string)) error
	// Poll is how often a disk is asked how it gets on; 0: 2 s.
	Poll time.Duration
}

// Facts are what only the kernel knows of a disk.
type Facts struct {
	// Subsystem is the NVMe subsystem's qualified name, Namespace its identifier
	// for the disk.
	Subsystem string
	Namespace uint32
	// Transport is pcie for NVMe disks inside the machine.
	Transport string
}

// Service carries out disk.erase.
type Service struct{ Config }

// New checks the configuration.
func New(c Config) (*Service, error) {
	if c.Disks == nil || c.Random == nil || c.Now == nil {
		return nil, errors.New("erase: Disks, Random and Now are needed")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Open == nil {
		c.Open = openDevice
	}
	if c.Port == nil {
		c.Port = openPort
	}
	if c.Facts == nil {
		c.Facts = func(d *pb.Disk) Facts { return factsOf("/sys", d.GetName()) }
	}
	if c.Free == nil {
		c.Free = holder.New(holder.Config{}).Free
	}
	if c.Poll == 0 {
		c.Poll = 2 * time.Second
	}
	return &Service{c}, nil
}

// Steps returns the action by name.
func (s *Service) Steps() step.Set { return step.Set{"disk.erase": step.Func(s.execute)} }

func (s *Service) execute(ctx context.Context, req step.Request, rep step.Reporter) (step.Result, error) {
	want, err := s.parse(req.With)
	if err != nil {
		return step.Result{}, err
	}
	disks, every, err := s.choose(ctx, want, func(line string) { rep.Log(step.Agent, line) })
	if err != nil {
		return step.Result{}, err
	}
	r := newRun(s, want, rep)
	r.group(disks, every)
	r.work(ctx)
	return r.result(ctx)
}

func openDevice(path string, readOnly bool) (Medium, error) {
	// A nil *disk.Device must not become a Medium that isn't nil.
	if readOnly {
		d, err := disk.OpenRead(path)
		if err != nil {
			return nil, err
		}
		return readOnlyMedium{d}, nil
	}
	d, err := disk.Open(path)
	if err != nil {
		return nil, err
	}
	return d, nil
}

// readOnlyMedium is a disk that can't be written: its own commands may erase
// it all the same.
type readOnlyMedium struct{ *disk.Device }

var errReadOnly = errors.New("the disk is read only")

func (readOnlyMedium) WriteAt([]byte, int64) (int, error)       { return 0, errReadOnly }
func (readOnlyMedium) ZeroRange(int64, int64) (bool, error)     { return false, nil }
func (readOnlyMedium) Discard(int64, int64) (bool, error)       { return false, errReadOnly }
func (readOnlyMedium) SecureDiscard(int64, int64) (bool, error) { return false, errReadOnly }

// describe names a disk for people.
func describe(d *pb.Disk) string {
	s := d.GetName()
	if d.GetModel() != "" || d.GetSerial() != "" {
		s += fmt.Sprintf(" (%s)", joinWords(d.GetModel(), d.GetSerial()))
	}
	return s
}

func joinWords(words ...string) string {
	out := ""
	for _, w := range words {
		if w != "" && out != "" {
			out += " "
		}
		out += w
	}
	return out
}
