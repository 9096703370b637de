package hardware

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// memoryResult is what one processor found in its part of the memory.
type memoryResult struct {
	CPU   int
	Bytes int64
	// Written and Read are bytes; the times are of the passes that only do one of the two.
	Written, Read         int64
	WriteTime, ReadTime   time.Duration
	Faults                int64
	First                 []fault `json:",omitempty"`
	Locked, Huge, Stopped bool
	// Rounds counts those that were finished.
	Rounds int64
}

// maxFaults is how many bad words each processor describes.
const maxFaults = 8

const pageBytes = int64(unsafe.Sizeof(page{}))

// testMemory has every processor test its part at once.
func testMemory(j job, out *notes) error {
	if len(j.CPUs) == 0 || j.Bytes < pageBytes*int64(len(j.CPUs)) {
		return fmt.Errorf("%d bytes for %d CPUs are too little to test", j.Bytes, len(j.CPUs))
	}
	runtime.GOMAXPROCS(len(j.CPUs) + 2)
	t := &memoryTest{job: j, end: time.Now().Add(j.Duration)}
	for n := range j.Passes {
		for _, p := range round(n, j.Seed) {
			t.total += p.traffic()
		}
	}
	pages := j.Bytes / pageBytes / int64(len(j.CPUs))
	t.total *= pages * int64(len(j.CPUs))
	results := make([]memoryResult, len(j.CPUs))
	errs := make([]error, len(j.CPUs))
	var wg sync.WaitGroup
	for i, cpu := range j.CPUs {
		wg.Go(func() { results[i], errs[i] = t.part(cpu, pages, uint64(i)*uint64(pages)) })
	}
	stop := every(pulse, func() { out.say(note{Done: t.done.Load() * pageBytes, Total: t.total * pageBytes}) })
	wg.Wait()
	stop()
	for i := range results {
		out.say(note{Memory: &results[i]})
	}
	return errors.Join(errs...)
}

type memoryTest struct {
	job
	end   time.Time
	total int64 // pages of traffic
	done  atomic.Int64
}

// part tests pages on one processor, which are its own from the first touch,
// so that the kernel takes them from the memory that is nearest.
func (t *memoryTest) part(cpu int, pages int64, first uint64) (memoryResult, error) {
	r := memoryResult{CPU: cpu, Bytes: pages * pageBytes}
	if err := pin(cpu); err != nil {
		return r, err
	}
	b, err := unix.Mmap(-1, 0, int(r.Bytes), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return r, fmt.Errorf("taking %d bytes: %w", r.Bytes, err)
	}
	defer unix.Munmap(b) //nolint:errcheck // the process ends
	r.Huge = unix.Madvise(b, unix.MADV_HUGEPAGE) == nil
	r.Locked = unix.Mlock(b) == nil // else the kernel could write it to swap space, of which the agent's system has none
	w := &walker{pages: unsafe.Slice((*page)(unsafe.Pointer(&b[0])), pages), first: first}
	w.found = func(f fault) {
		r.Faults++
		if f.CPU = cpu; len(r.First) < maxFaults {
			f.Physical = physical(f.Address)
			r.First = append(r.First, f)
		}
	}
	for n := range t.Passes {
		for _, p := range round(n, t.Seed) {
			if !t.pass(w, p, &r) {
				r.Stopped = true
				return r, nil
			}
		}
		r.Rounds++
	}
	return r, nil
}

// pass reports false when the time is over.
func (t *memoryTest) pass(w *walker, p pass, r *memoryResult) bool {
	goOn := true
	w.pause = func(pages int64) bool {
		t.done.Add(pages * p.traffic())
		goOn = time.Now().Before(t.end)
		return goOn
	}
	began := time.Now()
	n := w.walk(p) * pageBytes
	took := time.Since(began)
	switch {
	case p.check == nil:
		r.Written, r.WriteTime = r.Written+n, r.WriteTime+took
	case p.fill == nil:
		r.Read, r.ReadTime = r.Read+n, r.ReadTime+took
	}
	return goOn
}

// physical returns where in the machine's memory an address of this process
// is, or 0 (Documentation/admin-guide/mm/pagemap.rst).
func physical(address uint64) uint64 {
	f, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return 0
	}
	defer f.Close()
	size := uint64(os.Getpagesize())
	var entry [8]byte
	if _, err := f.ReadAt(entry[:], int64(address/size*8)); err != nil {
		return 0
	}
	const present, frameMask = 1 << 63, 1<<55 - 1
	v := binary.LittleEndian.Uint64(entry[:])
	if v&present == 0 || v&frameMask == 0 {
		return 0
	}
	return v&frameMask*size + address%size
}
