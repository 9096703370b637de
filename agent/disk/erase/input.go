package erase

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/bedplate/bedplate/agent/disk"
	"github.com/bedplate/bedplate/agent/disk/input"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

const (
	// maxDisks bounds the disks of one step: what the server takes as outputs.
	maxDisks = 128
	// defaultSamples takes some ten seconds on a disk that has to seek.
	defaultSamples = 1024
	maxSamples     = 1 << 20
)

// auto stands for what each disk offers, the strongest first.
const auto = "auto"

// Kinds of verification.
const (
	verifySample = "sample"
	verifyFull   = "full"
	verifyNone   = "none"
)

// wish is what the step asks for.
type wish struct {
	disks   []string
	methods []string // empty: auto
	verify  string
	samples int
	seed    uint64
	pattern string
	// failHidden: what a disk hides must be erased as well.
	failHidden bool
}

func (s *Service) parse(with map[string]any) (wish, error) {
	in := input.Of(with)
	w := wish{
		disks: in.Strings("disks"), methods: in.Strings("methods"), verify: in.Choice("verify", verifySample, verifyFull, verifyNone),
		samples: int(in.Int("samples", defaultSamples)), pattern: in.Choice("pattern", fillZeros, fillOnes, fillRandom),
		failHidden: in.Choice("hidden_areas", "fail", "report") == "fail",
	}
	if d := in.String("disk"); d != "" {
		w.disks = append(w.disks, d)
	}
	if len(w.disks) > maxDisks {
		in.Fail("disks", "names %d disks; one step erases up to %d", len(w.disks), maxDisks)
	}
	if w.samples < 1 || w.samples > maxSamples {
		in.Fail("samples", "%d is not from 1 to %d", w.samples, maxSamples)
	}
	if m := in.Choice("method", append([]string{auto}, Methods...)...); m != auto {
		w.methods = append(w.methods, m)
	}
	for _, m := range w.methods {
		if !slices.Contains(Methods, m) {
			in.Fail("methods", "%q is none of %s", m, strings.Join(Methods, ", "))
		}
	}
	var err error
	if w.seed, err = s.seed(in.String("seed")); err != nil {
		in.Fail("seed", "%w", err)
	}
	return w, in.Err()
}

// seed reads 16 hexadecimal digits, or makes a seed.
func (s *Service) seed(text string) (uint64, error) {
	b := make([]byte, 8)
	if text == "" {
		if _, err := io.ReadFull(s.Random, b); err != nil {
			return 0, fmt.Errorf("reading randomness: %w", err)
		}
		return binary.BigEndian.Uint64(b), nil
	}
	if n, err := hex.Decode(b, []byte(text[:min(len(text), 17)])); err != nil || n != len(b) {
		return 0, fmt.Errorf("%q is not 16 hexadecimal digits", text)
	}
	return binary.BigEndian.Uint64(b), nil
}

func seedText(seed uint64) string { return fmt.Sprintf("%016x", seed) }

// choose returns the disks to erase, and every disk that there is. Without
// names it is all but removable ones. One that is fixed and read only is among
// them: it holds what it holds, and may still know how to erase itself.
func (s *Service) choose(ctx context.Context, w wish, say func(string)) (chosen, every []*pb.Disk, err error) {
	every, err = s.Disks(ctx)
	if err != nil {
		return nil, nil, err
	}
	if len(w.disks) == 0 {
		for _, d := range every {
			if d.GetRemovable() {
				say(fmt.Sprintf("%s is removable and left as it is", describe(d)))
				continue
			}
			chosen = append(chosen, d)
		}
		if len(chosen) > maxDisks {
			return nil, nil, fmt.Errorf("there are %d disks; one step erases up to %d: name them in several steps", len(chosen), maxDisks)
		}
		if len(chosen) == 0 {
			say("this machine has no fixed disk: nothing to erase")
		}
		return chosen, every, nil
	}
	for _, word := range w.disks {
		path, err := disk.Path(word)
		if err != nil {
			return nil, nil, err
		}
		d, err := find(every, path)
		if err != nil {
			return nil, nil, err
		}
		if slices.ContainsFunc(chosen, func(c *pb.Disk) bool { return c.GetPath() == d.GetPath() }) {
			return nil, nil, fmt.Errorf("with.disks: %s is named twice", word)
		}
		chosen = append(chosen, d)
	}
	return chosen, every, nil
}

// find returns the disk of that path. One that the inventory passes over, such
// as a loop device, is taken as it is.
func find(every []*pb.Disk, path string) (*pb.Disk, error) {
	for _, d := range every {
		if d.GetPath() == path {
			return d, nil
		}
	}
	d, err := disk.OpenRead(path)
	if err != nil {
		return nil, err
	}
	size := d.Size()
	if err := d.Close(); err != nil {
		return nil, err
	}
	if size == 0 {
		return nil, errors.New(path + " is empty: it has no medium")
	}
	return &pb.Disk{Name: strings.TrimPrefix(path, "/dev/"), Path: path, SizeBytes: uint64(size), Bus: "unknown"}, nil
}
