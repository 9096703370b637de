package erase

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Levels of NIST SP 800-88r1 §2.5.
const (
	Clear = "clear"
	Purge = "purge"
)

// Methods are the names of all methods, the strongest of each kind of disk first.
var Methods = []string{
	"nvme-sanitize-crypto", "nvme-sanitize-block", "nvme-sanitize-overwrite", "nvme-format-crypto", "nvme-format-user",
	"ata-sanitize-crypto", "ata-sanitize-block", "ata-sanitize-overwrite", "ata-erase-enhanced", "ata-erase",
	"scsi-sanitize-crypto", "scsi-sanitize-block", "scsi-sanitize-overwrite",
	"secure-discard", "discard", "overwrite",
}

// errNotOffered is what a method ends with that the disk turns out not to know.
var errNotOffered = errors.New("the disk doesn't offer it")

// advance takes how much of a method is done, from 0 to 1.
type advance func(fraction float64)

// method is one way to erase one disk.
type method struct {
	name, level string
	// shared: it reaches every disk of the same NVMe subsystem.
	shared bool
	// deep: it reaches what the disk hides as well.
	deep bool
	// blocked says why it can't be used although the disk has it.
	blocked error
	// fill is what every block holds afterwards; nil: up to the disk.
	fill *fill
	// checked: every block has been read already.
	checked bool
	run     func(context.Context, advance) error
}

// driver is what disks of one kind can do by themselves, below the block layer.
type driver interface {
	// identify asks the disk who it is, and completes what the kernel said of it.
	identify(ctx context.Context, r *Result) error
	// hidden says what the disk holds beyond the blocks that the kernel sees.
	hidden(ctx context.Context) ([]string, error)
	// ongoing waits for the end of an erasure that began before; its name and
	// level are empty when there is none.
	ongoing(ctx context.Context, done advance) (name, level string, err error)
	// methods returns what the disk offers, the strongest first.
	methods() []method
	// logPage is what the disk has on record of its last erasure, in hexadecimal.
	logPage() string
}

// blockDriver is for disks that take no commands.
type blockDriver struct{}

func (blockDriver) identify(context.Context, *Result) error  { return nil }
func (blockDriver) hidden(context.Context) ([]string, error) { return nil, nil }
func (blockDriver) methods() []method                        { return nil }
func (blockDriver) logPage() string                          { return "" }
func (blockDriver) ongoing(context.Context, advance) (string, string, error) {
	return "", "", nil
}

// wanted returns the methods of a disk in the order in which they are tried.
func (w wish) wanted(offered []method) []method {
	if len(w.methods) == 0 {
		return offered
	}
	var out []method
	for _, name := range w.methods {
		if i := slices.IndexFunc(offered, func(m method) bool { return m.name == name }); i >= 0 {
			out = append(out, offered[i])
		} else {
			out = append(out, method{name: name, blocked: errNotOffered})
		}
	}
	return out
}

// stopped is the error of a method when ctx has ended.
func stopped(ctx context.Context) error {
	return fmt.Errorf("stopped: %w", context.Cause(ctx))
}

// sanitizeLevel is the level of a sanitize operation of ATA or SCSI. An overwrite
// is a purge on magnetic disks; of flash, whose blocks are written elsewhere
// each time, NIST SP 800-88r1 table A-8 names block erase and cryptographic
// erase alone.
func sanitizeLevel(name string, rotational bool) string {
	if strings.HasSuffix(name, "-overwrite") && !rotational {
		return Clear
	}
	return Purge
}
