// Package image holds the action image.write: it streams an operating system
// image onto a disk.
//
//	network --> SHA-256 --> decompression --> zero detection --> writers --> disk
//
// Each arrow is a bounded queue between goroutines: 8 MiB before the
// decompressor (package transfer), 24 MiB between it and the writers. With the
// decompressor's own window (at most 128 MiB, usually 8) that is all the memory
// that an image of any size takes.
//
// # What a disk looks like at every moment
//
// The first and the last MiB, where boot code and both copies of the partition
// table are, are cleared before the first byte of the image is written, and the
// image's own are held back in memory. They are written only after the whole
// file has come, its length and digest are right, and everything else is on
// stable storage; the very first MiB last of all. So a machine that loses power,
// or gets a wrong, short or broken image, has a disk that nothing boots from,
// and never one that half boots.
//
// Zeros of the image are not sent to the disk where it can clear ranges itself
// (write zeroes, deallocate); where it can't they are written. Nothing that the
// disk held before shines through.
//
// # An image in chunks
//
// What the server's store has in chunks (package images/chunk) is fetched eight
// chunks at a time, decompressed and verified on all processors, and written in
// any order, under the same rule for the ends of the disk. A chunk whose place on
// the disk reads as its digest already is not fetched and not written: so a
// write that was cut short goes on, whatever cut it, and a reinstallation writes
// what differs. There is no journal of what was written: the disk itself is asked.
//
// # An image in a file
//
// The hash is that of the file as it crosses the network. A qcow2 file is read
// in its own order, once: its tables are fetched ahead by range requests, and
// found again, byte for byte, in the stream that is hashed. So every byte that
// decides what is written has been verified.
//
// A Writer may be used by several goroutines at once, for different disks.
package image

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"github.com/bedplate/bedplate/agent/disk"
	"github.com/bedplate/bedplate/agent/step"
)

const (
	// headSize is what is held back at either end of the disk. It holds MBR, GPT
	// (34 blocks) and, at 4096 bytes a block, as much again.
	headSize = 1 << 20
	// bufferSize is that of one write: at least a qcow2 cluster (2 MiB), and large
	// enough that the time per request doesn't count.
	bufferSize = 4 << 20
	buffers    = 6
	writers    = 3
	// restarts is how often a file that changes under the transfer is begun anew.
	restarts = 3
)

// Device is the disk that is written to; *disk.Device is one.
type Device interface {
	disk.Clearer
	// Path names it.
	Path() string
	// Sync returns when everything written is on stable storage.
	Sync() error
	// DropCache makes later reads come from the disk itself.
	DropCache() error
	// Reread has the kernel read the partition table; disk.ErrNoPartitions is no failure.
	Reread(context.Context) error
	io.Closer
}

// Config is what a Writer needs.
type Config struct {
	// Now measures how long a write took.
	Now func() time.Time
	Log *slog.Logger
	// Open opens a disk. Nil: disk.Open, by path or kernel name.
	Open func(path string) (Device, error)
	// Stall, GiveUp and Backoff are as in transfer.Config; 0 means its defaults.
	Stall, GiveUp, Backoff time.Duration
}

// Writer carries out image.write.
type Writer struct {
	Config
	buffer int
}

// New checks the configuration.
func New(c Config) (*Writer, error) {
	if c.Now == nil {
		return nil, errors.New("image: Now is needed")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Open == nil {
		c.Open = openDisk
	}
	return &Writer{c, bufferSize}, nil
}

func openDisk(word string) (Device, error) {
	path, err := disk.Path(word)
	if err != nil {
		return nil, err
	}
	return disk.Open(path)
}

// Steps returns the action by name.
func (w *Writer) Steps() step.Set {
	return step.Set{"image.write": step.Func(w.write)}
}
