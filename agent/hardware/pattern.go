package hardware

import (
	"bytes"
	"fmt"
	"math/bits"
	"unsafe"
)

// words is how many words a pattern makes at a time: one page.
const words = 512

type page = [words]uint64

// pattern fills one page. Index is the page's place in the memory under test,
// address where it is.
type pattern struct {
	name string
	fill func(p *page, index, address uint64)
}

// constant is the same in every word.
func constant(v uint64) pattern {
	return pattern{fmt.Sprintf("constant %016x", v), func(p *page, _, _ uint64) {
		for i := range p {
			p[i] = v
		}
	}}
}

// addresses has every word hold its own address, or its complement: wires of
// the address that are stuck or joined show.
func addresses(invert bool) pattern {
	name, mask := "address", uint64(0)
	if invert {
		name, mask = "address inverted", ^uint64(0)
	}
	return pattern{name, func(p *page, _, address uint64) {
		for i := range p {
			p[i] = (address + uint64(i)*8) ^ mask
		}
	}}
}

// walking has one bit set (or, inverted, clear) in every word, the next one in
// the next word: data wires that are stuck or joined show. Shift moves it.
func walking(shift int, invert bool) pattern {
	name, mask := "walking ones", uint64(0)
	if invert {
		name, mask = "walking zeros", ^uint64(0)
	}
	return pattern{fmt.Sprintf("%s %d", name, shift), func(p *page, _, _ uint64) {
		for i := range p {
			p[i] = bits.RotateLeft64(1, i+shift) ^ mask
		}
	}}
}

// random is the data of a seed, or its complement.
func random(seed uint64, invert bool) pattern {
	name, mask := "random", uint64(0)
	if invert {
		name, mask = "random inverted", ^uint64(0)
	}
	return pattern{fmt.Sprintf("%s %d", name, seed), func(p *page, index, _ uint64) {
		g := splitmix(seed ^ index*0xd1342543de82ef95)
		for i := range p {
			p[i] = g.next() ^ mask
		}
	}}
}

// inverted is the complement of a pattern.
func (p pattern) inverted() pattern {
	return pattern{p.name + ", inverted", func(to *page, index, address uint64) {
		p.fill(to, index, address)
		for i := range to {
			to[i] = ^to[i]
		}
	}}
}

// pass is one walk through the memory: every page is compared with what it
// should hold, if that is given, and then filled, if that is.
type pass struct {
	check, fill *pattern
	down        bool
}

// traffic is how often a pass touches every byte.
func (p pass) traffic() int64 {
	var n int64
	if p.check != nil {
		n++
	}
	if p.fill != nil {
		n++
	}
	return n
}

// shifts is how many places of the walking bit one round tries.
const shifts = 4

// round returns the passes of one round. Rounds differ in where the bit walks
// and in what is random.
func round(n int64, seed uint64) []pass {
	var all []pass
	keep := func(p pattern) { all = append(all, pass{fill: &p}, pass{check: &p}) }
	keep(addresses(false))
	keep(addresses(true))
	for i := range shifts {
		shift := int(n)*shifts + i
		keep(walking(shift, false))
		keep(walking(shift, true))
	}
	seed += uint64(n)
	for _, p := range []pattern{constant(0), constant(0x5555555555555555), random(seed, false)} {
		all = append(all, inversions(p)...)
	}
	keep(random(seed+1, false))
	keep(random(seed+1, true))
	return all
}

// inversions is moving inversions: what was written is read and inverted page
// by page, upwards and then downwards, so that a cell that changes with its
// neighbours is caught whichever of them comes first.
func inversions(p pattern) []pass {
	q := p.inverted()
	return []pass{{fill: &p}, {check: &p, fill: &q}, {check: &q, fill: &p, down: true}, {check: &p}}
}

// fault is a word that did not hold what was written to it.
type fault struct {
	CPU       int
	Address   uint64
	Physical  uint64 `json:",omitempty"`
	Pattern   string
	Want, Got uint64
}

// String says where and what.
func (f fault) String() string {
	where := fmt.Sprintf("virtual address %#x", f.Address)
	if f.Physical != 0 {
		where = fmt.Sprintf("physical address %#x", f.Physical)
	}
	return fmt.Sprintf("%s, pattern %s: wrote %016x, read %016x (bits %016x)", where, f.Pattern, f.Want, f.Got, f.Want^f.Got)
}

// walker takes passes through one piece of memory.
type walker struct {
	pages   []page
	first   uint64 // index of the first page
	scratch page
	// found is called for each bad word.
	found func(f fault)
	// pause is called between pieces; false ends the pass.
	pause func(pages int64) bool
}

// piece is how many pages are walked between pauses: 4 MiB.
const piece = 1024

// walk returns how many pages it has been through.
func (w *walker) walk(p pass) int64 {
	n := len(w.pages)
	for done := 0; done < n; {
		end := min(done+piece, n)
		for i := done; i < end; i++ {
			at := i
			if p.down {
				at = n - 1 - i
			}
			w.visit(p, at)
		}
		if !w.pause(int64(end - done)) {
			return int64(end)
		}
		done = end
	}
	return int64(n)
}

func (w *walker) visit(p pass, at int) {
	here := &w.pages[at]
	address := uint64(uintptr(unsafe.Pointer(here)))
	index := w.first + uint64(at)
	if p.check != nil {
		p.check.fill(&w.scratch, index, address)
		if !bytes.Equal(raw(here), raw(&w.scratch)) {
			w.compare(here, address, p.check.name)
		}
	}
	if p.fill != nil {
		p.fill.fill(here, index, address)
	}
}

func (w *walker) compare(here *page, address uint64, name string) {
	for i, want := range w.scratch {
		if got := here[i]; got != want {
			w.found(fault{Address: address + uint64(i)*8, Pattern: name, Want: want, Got: got})
		}
	}
}

func raw(p *page) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(p)), unsafe.Sizeof(*p))
}
