package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/bedplate/bedplate/agent/disk/input"
	"github.com/bedplate/bedplate/agent/step"
)

const (
	// maxDisks bounds the disks that one step wipes side by side.
	maxDisks = 64
	// discardPiece is the length of one discard, between which a cancelled step stops.
	discardPiece = 8 << 30
	// samples is how many places are read to see that a disk forgot.
	samples = 256
)

func (s *Service) wipe(ctx context.Context, req step.Request, rep step.Reporter) (step.Result, error) {
	in := input.Of(req.With)
	method := in.Choice("method", "auto", "signatures", "discard", "zero")
	disks := in.Strings("disks")
	if d := in.String("disk"); d != "" {
		disks = append(disks, d)
	}
	if len(disks) == 0 || len(disks) > maxDisks {
		in.Fail("disks", "wants 1 to %d disks, or `disk`", maxDisks)
	}
	if err := in.Err(); err != nil {
		return step.Result{}, err
	}
	var devices []*Device
	defer func() {
		for _, d := range devices {
			_ = d.Close() // Nothing hangs on it: Sync has been called.
		}
	}()
	// All are opened before the first is touched: a disk in use stops the step while nothing is lost.
	for _, word := range disks {
		path, err := Path(word)
		if err != nil {
			return step.Result{}, err
		}
		d, err := Open(path)
		if err != nil {
			return step.Result{}, err
		}
		devices = append(devices, d)
	}
	return s.wipeAll(ctx, devices, method, rep)
}

func (s *Service) wipeAll(ctx context.Context, devices []*Device, method string, rep step.Reporter) (step.Result, error) {
	var total, cleared atomic.Int64
	report := func(n int64) {
		rep.Progress(cleared.Add(n), total.Load(), "bytes", "")
	}
	errs := make([]error, len(devices))
	used := make([]string, len(devices))
	var wg sync.WaitGroup
	for _, d := range devices {
		total.Add(d.Size())
	}
	for i, d := range devices {
		wg.Go(func() {
			var err error
			if used[i], err = s.wipeOne(ctx, d, method, rep, report); err != nil {
				errs[i] = fmt.Errorf("wiping %s: %w", d.Path(), err)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return step.Result{}, err
	}
	for _, u := range used {
		if u != used[0] {
			used[0] = "auto"
		}
	}
	return step.Result{Outputs: map[string]any{"method": used[0], "bytes": cleared.Load()}}, nil
}

func (s *Service) wipeOne(ctx context.Context, d *Device, method string, rep step.Reporter, report func(int64)) (string, error) {
	found, err := ClearSignatures(ctx, d)
	if err != nil {
		return "", err
	}
	for _, f := range found {
		rep.Log(step.Agent, d.Path()+": cleared "+f)
	}
	used := "signatures"
	switch method {
	case "zero":
		used = "zero"
		err = Clear(ctx, d, 0, d.Size(), report)
	case "discard", "auto":
		used, err = s.discard(ctx, d, method, rep, report)
	}
	if err != nil {
		return "", err
	}
	if used == "signatures" {
		report(min(2*ends, d.Size()))
	}
	// Discarded blocks may read as anything, so the ends are cleared once more.
	if used == "discard" {
		if err := clearEnds(ctx, d, 0, d.Size()); err != nil {
			return "", err
		}
	}
	if err := errors.Join(d.Sync(), d.DropCache()); err != nil {
		return "", err
	}
	if err := CheckCleared(d); err != nil {
		return "", err
	}
	if err := d.Reread(ctx); err != nil && !errors.Is(err, ErrNoPartitions) {
		return "", err
	}
	return used, nil
}

// discard has the disk forget everything. With method auto a disk that can't
// is not an error.
func (s *Service) discard(ctx context.Context, d *Device, method string, rep step.Reporter, report func(int64)) (string, error) {
	ok, err := discardAll(ctx, d, report)
	if method == "discard" {
		if err == nil {
			err = checkDiscarded(d, ok)
		}
		return "discard", err
	}
	if err != nil && ctx.Err() == nil {
		rep.Log(step.Agent, fmt.Sprintf("%s: %v; its signatures are cleared all the same", d.Path(), err))
		ok, err = false, nil
	}
	if !ok {
		return "signatures", err
	}
	return "discard", err
}

func discardAll(ctx context.Context, d *Device, report func(int64)) (bool, error) {
	for off := int64(0); off < d.Size(); off += discardPiece {
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		n := min(discardPiece, d.Size()-off)
		ok, err := d.Discard(off, n)
		if !ok || err != nil {
			return false, err
		}
		report(n)
	}
	return true, nil
}

// checkDiscarded reads places all over the disk. A disk may take a discard and
// do nothing (ATA "non-deterministic read after TRIM").
func checkDiscarded(d *Device, ok bool) error {
	if !ok {
		return errors.New("the disk can't discard; use method: zero")
	}
	if err := errors.Join(d.Sync(), d.DropCache()); err != nil {
		return err
	}
	b, zeros, ones := make([]byte, 4096), make([]byte, 4096), bytes.Repeat([]byte{0xff}, 4096)
	for i := range int64(samples) {
		off := d.Size() / samples * i &^ 4095
		n := min(int64(len(b)), d.Size()-off)
		if _, err := d.ReadAt(b[:n], off); err != nil {
			return fmt.Errorf("reading back: %w", err)
		}
		if !bytes.Equal(b[:n], zeros[:n]) && !bytes.Equal(b[:n], ones[:n]) {
			return fmt.Errorf("the disk was told to forget every block, but offset %d still has content; use method: zero", off)
		}
	}
	return nil
}
