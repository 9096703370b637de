package disk

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/bedplate/bedplate/agent/disk/input"
	"github.com/bedplate/bedplate/agent/step"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// selectDisk picks the smallest disk that fits, so that a hint as loose as
// `disk.size > 100*GB` takes the system disk and not one of the large ones.
func (s *Service) selectDisk(ctx context.Context, req step.Request, rep step.Reporter) (step.Result, error) {
	in := input.Of(req.With)
	hint, least := in.String("hint"), in.Size("min_size")
	if err := in.Err(); err != nil {
		return step.Result{}, err
	}
	disks, err := s.Disks(ctx)
	if err != nil {
		return step.Result{}, fmt.Errorf("listing disks: %w", err)
	}
	var fit []*pb.Disk
	var passed []string
	for _, d := range disks {
		why, err := s.unfit(d, hint, least)
		if err != nil {
			return step.Result{}, fmt.Errorf("evaluating hint for %s: %w", d.GetName(), err)
		}
		if why == "" {
			fit = append(fit, d)
			continue
		}
		passed = append(passed, fmt.Sprintf("%s (%s): %s", d.GetName(), describeDisk(d), why))
	}
	if len(fit) == 0 {
		if len(passed) == 0 {
			passed = []string{"the machine has none; check that its storage controller's driver is in the agent's system"}
		}
		return step.Result{}, fmt.Errorf("no disk fits: %s", strings.Join(passed, "; "))
	}
	slices.SortFunc(fit, func(a, b *pb.Disk) int {
		return cmp.Or(cmp.Compare(a.GetSizeBytes(), b.GetSizeBytes()),
			cmp.Compare(a.GetPciAddress(), b.GetPciAddress()), cmp.Compare(a.GetName(), b.GetName()))
	})
	d := fit[0]
	rep.Log(step.Agent, fmt.Sprintf("selected %s (%s), 1 of %d that fit, of %d disks", d.GetPath(), describeDisk(d), len(fit), len(disks)))
	return step.Result{Outputs: map[string]any{
		"path": d.GetPath(), "name": d.GetName(), "serial": d.GetSerial(),
		"size": int64(d.GetSizeBytes()), "wwn": d.GetWwn(),
	}}, nil
}

func (s *Service) unfit(d *pb.Disk, hint string, least int64) (string, error) {
	switch {
	case d.GetReadOnly():
		return "read only", nil
	case d.GetSizeBytes() == 0:
		return "no medium", nil
	case int64(d.GetSizeBytes()) < least:
		return fmt.Sprintf("smaller than %d bytes", least), nil
	case d.GetRemovable() && !strings.Contains(hint, "disk.removable"):
		return "removable", nil
	}
	if hint != "" {
		ok, err := s.Match(hint, d)
		if err != nil {
			return "", err
		}
		if !ok {
			return "the hint is false", nil
		}
	}
	users, err := Users(s.Sys, s.Proc, d.GetPath())
	if err != nil {
		return "it can't be looked at: " + err.Error(), nil
	}
	return strings.Join(users, ", "), nil
}

func describeDisk(d *pb.Disk) string {
	parts := []string{fmt.Sprintf("%.1f GB", float64(d.GetSizeBytes())/1e9)}
	for _, s := range []string{d.GetType(), d.GetModel(), d.GetSerial()} {
		if s = strings.TrimSpace(s); s != "" {
			parts = append(parts, s)
		}
	}
	return strings.Join(parts, " ")
}
