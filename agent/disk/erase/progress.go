package erase

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/bedplate/bedplate/agent/step"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// shownDisks is how many disks a message of progress names.
const shownDisks = 4

// progress puts the disks' progress together.
type progress struct {
	rep step.Reporter

	mu    sync.Mutex
	order []string
	disks map[string]*share
	total int64
}

// share is one disk's part.
type share struct {
	size     int64
	done     float64
	what     string
	said     int // tenths
	finished bool
}

func newProgress(rep step.Reporter) *progress {
	return &progress{rep: rep, disks: map[string]*share{}}
}

func (p *progress) add(d *pb.Disk) {
	p.order = append(p.order, d.GetPath())
	p.disks[d.GetPath()] = &share{size: int64(d.GetSizeBytes())}
	p.total += int64(d.GetSizeBytes())
}

// set says how much of one disk is done, and with what.
func (p *progress) set(d *pb.Disk, what string, done float64) {
	p.mu.Lock()
	s := p.disks[d.GetPath()]
	tenth := int(done * 10)
	say := what != s.what || tenth > s.said
	s.what, s.done, s.said = what, done, tenth
	sum, message := p.sumLocked(), p.messageLocked()
	p.mu.Unlock()
	if say && tenth > 0 {
		p.rep.Log(step.Agent, fmt.Sprintf("%s: %s, %d %% of %d MB", d.GetName(), what, int(done*100), s.size/1e6))
	}
	p.rep.Progress(sum, p.total, "bytes", message)
}

func (p *progress) end(d *pb.Disk) {
	p.mu.Lock()
	s := p.disks[d.GetPath()]
	s.done, s.finished = 1, true
	sum, message := p.sumLocked(), p.messageLocked()
	p.mu.Unlock()
	p.rep.Progress(sum, p.total, "bytes", message)
}

func (p *progress) sumLocked() int64 {
	var sum float64
	for _, s := range p.disks {
		sum += float64(s.size) * min(1, max(0, s.done))
	}
	return int64(sum)
}

func (p *progress) messageLocked() string {
	var words []string
	more := 0
	for _, path := range p.order {
		s := p.disks[path]
		switch {
		case s.finished || s.what == "":
		case len(words) == shownDisks:
			more++
		default:
			words = append(words, fmt.Sprintf("%s %s %d %%", strings.TrimPrefix(path, "/dev/"), s.what, int(s.done*100)))
		}
	}
	if more > 0 {
		words = append(slices.Clone(words), fmt.Sprintf("%d more", more))
	}
	return strings.Join(words, ", ")
}
