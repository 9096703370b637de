package erase

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/bedplate/bedplate/agent/disk/erase/nvme"
)

const (
	// formatTimeout is how long Format NVM may take: it has no progress to go by.
	formatTimeout = 6 * time.Hour
	// maxLogErrors is how often in a row a disk may fail to say how it gets on;
	// some reset themselves at the beginning of a sanitize operation.
	maxLogErrors = 30
)

// nvmeDisk is one namespace of an NVMe controller.
type nvmeDisk struct {
	port  Port
	facts Facts
	poll  time.Duration

	controller nvme.Controller
	namespace  nvme.Namespace
	unattached []uint32
	log        nvme.SanitizeStatus
}

func (d *nvmeDisk) identify(ctx context.Context, r *Result) error {
	c := nvme.Identify(nvme.CNSController, 0)
	if err := d.port.NVMe(ctx, c); err != nil {
		return fmt.Errorf("identifying the controller: %w", err)
	}
	var err error
	if d.controller, err = nvme.ParseController(c.Data); err != nil {
		return err
	}
	r.model, r.serial, r.firmware = d.controller.Model, d.controller.Serial, d.controller.Firmware
	n := nvme.Identify(nvme.CNSNamespace, d.facts.Namespace)
	if err := d.port.NVMe(ctx, n); err != nil {
		return fmt.Errorf("identifying namespace %d: %w", d.facts.Namespace, err)
	}
	d.namespace, err = nvme.ParseNamespace(n.Data)
	return err
}

// hidden tells of namespaces that are allocated and not attached.
func (d *nvmeDisk) hidden(ctx context.Context) ([]string, error) {
	if !d.controller.CanManage {
		return nil, nil
	}
	var lists [2][]uint32
	for i, cns := range []uint8{nvme.CNSAllocated, nvme.CNSActive} {
		c := nvme.Identify(cns, 0)
		if err := d.port.NVMe(ctx, c); err != nil {
			return nil, fmt.Errorf("listing namespaces: %w", err)
		}
		ids, err := nvme.ParseNamespaceList(c.Data)
		if err != nil {
			return nil, err
		}
		lists[i] = ids
	}
	d.unattached = slices.DeleteFunc(lists[0], func(id uint32) bool { return slices.Contains(lists[1], id) })
	if len(d.unattached) == 0 {
		return nil, nil
	}
	return []string{fmt.Sprintf("namespaces %s are allocated and not attached", brief(d.unattached))}, nil
}

// brief lists the first few numbers.
func brief(ids []uint32) string {
	const most = 8
	s := fmt.Sprint(ids[:min(len(ids), most)])
	if len(ids) > most {
		s += fmt.Sprintf(" and %d more", len(ids)-most)
	}
	return s
}

func (d *nvmeDisk) logPage() string { return hex.EncodeToString(d.log.Raw) }

var nvmeSanitizes = []struct {
	name   string
	action nvme.Action
}{
	{"nvme-sanitize-crypto", nvme.CryptoErase}, {"nvme-sanitize-block", nvme.BlockErase}, {"nvme-sanitize-overwrite", nvme.Overwrite},
}

func (d *nvmeDisk) methods() []method {
	var out []method
	var blocked error
	if d.facts.Transport != "" && d.facts.Transport != "pcie" {
		blocked = fmt.Errorf("the disk is part of another machine (NVMe over %s), and its subsystem may hold what isn't this one's", d.facts.Transport)
	}
	for _, s := range nvmeSanitizes {
		if d.controller.CanSanitize(s.action) {
			out = append(out, method{name: s.name, level: Purge, shared: true, deep: true, blocked: blocked, run: func(ctx context.Context, done advance) error {
				return d.sanitize(ctx, s.action, done)
			}})
		}
	}
	if !d.controller.CanFormat {
		return out
	}
	for _, f := range []struct {
		name, level string
		erase       nvme.Erase
		can         bool
	}{
		{"nvme-format-crypto", Clear, nvme.EraseCrypto, d.controller.CanCrypto}, {"nvme-format-user", Clear, nvme.EraseUserData, true},
	} {
		if f.can {
			out = append(out, method{name: f.name, level: f.level, shared: d.formatsAll(), deep: d.formatsAll(), blocked: blocked, run: func(ctx context.Context, _ advance) error {
				return d.format(ctx, f.erase)
			}})
		}
	}
	return out
}

// formatsAll reports whether a format that erases reaches every namespace.
func (d *nvmeDisk) formatsAll() bool { return d.controller.FormatsAll || d.controller.ErasesAll }

func (d *nvmeDisk) format(ctx context.Context, e nvme.Erase) error {
	// Where a format reaches every namespace, naming one is enough; naming all
	// would give them this one's block size.
	if err := d.port.NVMe(ctx, nvme.Format(d.namespace, d.facts.Namespace, e, formatTimeout)); err != nil {
		return fmt.Errorf("formatting: %w", err)
	}
	return nil
}

func (d *nvmeDisk) sanitize(ctx context.Context, a nvme.Action, done advance) error {
	if err := d.port.NVMe(ctx, nvme.Sanitize(a)); err != nil {
		return fmt.Errorf("starting to sanitize: %w", err)
	}
	status, err := d.await(ctx, done)
	if err != nil {
		return err
	}
	switch {
	case status.State.Done() && status.Action() != a:
		return fmt.Errorf("the disk's record is of another operation (%s)", status.Action())
	case status.State.Done():
		return nil
	case status.State == nvme.Failed:
		err := errors.New("the disk says that sanitizing failed")
		// The disk refuses nearly everything until this is done.
		if leave := d.port.NVMe(ctx, nvme.Sanitize(nvme.ExitFailure)); leave != nil {
			err = errors.Join(err, fmt.Errorf("leaving failure mode: %w", leave))
		}
		return err
	}
	return fmt.Errorf("the disk says that it was %s", status.State)
}

// status reads log page 81h.
func (d *nvmeDisk) status(ctx context.Context) (nvme.SanitizeStatus, error) {
	c := nvme.SanitizeLog()
	if err := d.port.NVMe(ctx, c); err != nil {
		return nvme.SanitizeStatus{}, fmt.Errorf("reading the sanitize status: %w", err)
	}
	s, err := nvme.ParseSanitizeStatus(c.Data)
	if err == nil {
		d.log = s
	}
	return s, err
}

// await returns when no sanitize operation is in progress any more.
func (d *nvmeDisk) await(ctx context.Context, done advance) (nvme.SanitizeStatus, error) {
	for failures := 0; ; {
		s, err := d.status(ctx)
		switch {
		case err == nil && s.State != nvme.InProgress:
			return s, nil
		case err == nil:
			failures = 0
			done(s.Fraction())
		default:
			if failures++; failures >= maxLogErrors {
				return s, err
			}
		}
		if err := pause(ctx, d.poll); err != nil {
			return s, fmt.Errorf("%w; the disk goes on by itself", err)
		}
	}
}

func (d *nvmeDisk) ongoing(ctx context.Context, done advance) (name, level string, err error) {
	if d.controller.Sanitize&7 == 0 {
		return "", "", nil
	}
	s, err := d.status(ctx)
	if err != nil || s.State != nvme.InProgress {
		return "", "", nil // Nothing to follow; what is wrong with the disk will show.
	}
	if s, err = d.await(ctx, done); err != nil {
		return "", "", err
	}
	for _, known := range nvmeSanitizes {
		if s.State.Done() && s.Action() == known.action {
			return known.name, Purge, nil
		}
	}
	return "", "", nil
}

// pause waits, and ends early with an error that says so.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return stopped(ctx)
	case <-t.C:
		return nil
	}
}
