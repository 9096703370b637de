package erase

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/bedplate/bedplate/agent/disk"
	"github.com/bedplate/bedplate/agent/disk/erase/nvme"
	"github.com/bedplate/bedplate/agent/disk/erase/scsi"
	"github.com/bedplate/bedplate/agent/step"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// The fakes read commands from their bytes, not by the packages that build
// them, and answer as the specifications have it.

var (
	errBusy = errors.New("device or resource busy")
	errIO   = errors.New("input/output error")
)

// content is the content of one disk: a Medium.
type content struct {
	mu   sync.Mutex
	data []byte
	// broken makes every read and write fail, as while a disk sanitizes itself.
	broken func() bool
	// discard: none, lies (takes it and keeps the data), or anything else: zeros.
	discard string
	secure  bool
	// writeError is the offset at which writing fails; 0: nowhere.
	writeError int64
	// drops: writes are taken and forgotten.
	drops   bool
	rereads int
	closed  bool
}

const old = 0xa5

// filled is content that somebody left.
func filled(size int) *content {
	c := &content{data: bytes.Repeat([]byte{old}, size)}
	for i := 0; i < size; i += sampleSize {
		binary.LittleEndian.PutUint32(c.data[i:], uint32(i)) // Each place differs from the next.
	}
	copy(c.data[512:], "EFI PART")
	copy(c.data[size-512:], "EFI PART")
	return c
}

func (c *content) fails() bool { return c.broken != nil && c.broken() }

func (c *content) ReadAt(p []byte, off int64) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fails() {
		return 0, errIO
	}
	if off >= int64(len(c.data)) {
		return 0, io.EOF
	}
	n := copy(p, c.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (c *content) ReadDirect(p []byte, off int64) (int, error) { return c.ReadAt(p, off) }

func (c *content) WriteAt(p []byte, off int64) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fails() || c.writeError > 0 && off+int64(len(p)) > c.writeError {
		return 0, fmt.Errorf("writing %d bytes at offset %d: %w", len(p), off, errIO)
	}
	if c.drops {
		return len(p), nil
	}
	return copy(c.data[off:], p), nil
}

func (c *content) Size() int64                          { return int64(len(c.data)) }
func (c *content) BlockSize() int                       { return 512 }
func (c *content) ZeroRange(int64, int64) (bool, error) { return false, nil }
func (c *content) Sync() error                          { return nil }
func (c *content) DropCache() error                     { return nil }
func (c *content) Close() error                         { c.closed = true; return nil }
func (c *content) Reread(context.Context) error         { c.rereads++; return nil }
func (c *content) Discard(off, n int64) (bool, error)   { return c.forget(off, n, c.discard) }
func (c *content) SecureDiscard(off, n int64) (bool, error) {
	if !c.secure {
		return false, nil
	}
	return c.forget(off, n, "")
}

func (c *content) forget(off, n int64, how string) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch how {
	case "none":
		return false, nil
	case "lies":
		return true, nil
	}
	clear(c.data[off : off+n])
	return true, nil
}

// set makes every byte the same.
func (c *content) set(b byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	copy(c.data, bytes.Repeat([]byte{b}, len(c.data)))
}

// scramble is what a disk with another key reads as.
func (c *content) scramble() {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _ = mathrand.NewChaCha8([32]byte{7}).Read(c.data)
}

func (c *content) only(b byte) bool {
	return bytes.Count(c.data, []byte{b}) == len(c.data)
}

// noPort is a disk that takes no commands.
type noPort struct{}

func (noPort) NVMe(context.Context, nvme.Command) error { return errors.New("inappropriate ioctl") }
func (noPort) SCSI(context.Context, scsi.Command) (scsi.Reply, error) {
	return scsi.Reply{}, errors.New("inappropriate ioctl")
}
func (noPort) Close() error { return nil }

// fakeNVMe is a controller with its namespaces.
type fakeNVMe struct {
	noPort
	sanicap    uint32
	oacs       uint16
	fna        byte
	namespaces map[uint32]*content
	unattached []uint32
	// fails are sanitize actions that end in failure; refuses are commands that
	// end with a status, by opcode.
	fails   map[nvme.Action]bool
	refuses map[uint8]nvme.Status
	// lies: it says that it has sanitized and has not. noise: it doesn't deallocate.
	lies, noise bool
	// polls is how often it says that it is in progress.
	polls int

	mu        sync.Mutex
	state     nvme.State
	scdw10    uint32
	left      int
	commands  []string
	logErrors int
}

func newNVMe(namespaces ...*content) *fakeNVMe {
	n := &fakeNVMe{sanicap: 7, oacs: 1 << 1, fna: 4, namespaces: map[uint32]*content{}, polls: 3}
	for i, c := range namespaces {
		n.namespaces[uint32(i+1)] = c
		c.broken = func() bool { return n.state == nvme.InProgress || n.state == nvme.Failed }
	}
	return n
}

// NVMe implements Port.
func (n *fakeNVMe) NVMe(_ context.Context, c nvme.Command) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if status, ok := n.refuses[c.Opcode]; ok {
		return status
	}
	switch c.Opcode {
	case 0x06:
		return n.identify(c)
	case 0x02:
		return n.log(c)
	case 0x80:
		return n.format(c)
	case 0x84:
		return n.sanitize(c)
	}
	return nvme.Status(1)
}

func (n *fakeNVMe) identify(c nvme.Command) error {
	b := c.Data
	clear(b)
	switch c.CDW10 & 0xff {
	case 0x01:
		copy(b[4:24], fmt.Sprintf("%-20s", "S1"))
		copy(b[24:64], fmt.Sprintf("%-40s", "Fake NVMe"))
		copy(b[64:72], "1.0     ")
		binary.LittleEndian.PutUint16(b[256:], n.oacs)
		binary.LittleEndian.PutUint32(b[328:], n.sanicap)
		b[524] = n.fna
		copy(b[768:], "nqn.fake")
	case 0x00:
		if ns := n.namespaces[c.NSID]; ns != nil {
			binary.LittleEndian.PutUint64(b, uint64(len(ns.data)/512))
			b[26], b[29] = 1, 0
			binary.LittleEndian.PutUint32(b[128+4:], 9<<16)
		}
	case 0x02, 0x10:
		i := 0
		for id := uint32(1); id < 32; id++ {
			hidden := false
			for _, u := range n.unattached {
				hidden = hidden || u == id
			}
			if n.namespaces[id] != nil || hidden && c.CDW10&0xff == 0x10 {
				binary.LittleEndian.PutUint32(b[i:], id)
				i += 4
			}
		}
	default:
		return nvme.Status(2)
	}
	return nil
}

func (n *fakeNVMe) log(c nvme.Command) error {
	if c.CDW10&0xff != 0x81 {
		return nvme.Status(0x109)
	}
	if n.logErrors > 0 {
		n.logErrors--
		return errIO
	}
	clear(c.Data)
	if n.state == nvme.InProgress {
		if n.left == 0 {
			n.end()
		} else {
			n.left--
		}
	}
	progress := uint16(0xffff)
	if n.state == nvme.InProgress {
		progress = uint16(65535 * (n.polls - n.left) / (n.polls + 1))
	}
	binary.LittleEndian.PutUint16(c.Data, progress)
	binary.LittleEndian.PutUint16(c.Data[2:], uint16(n.state))
	binary.LittleEndian.PutUint32(c.Data[4:], n.scdw10)
	return nil
}

// end finishes a sanitize operation.
func (n *fakeNVMe) end() {
	action := nvme.Action(n.scdw10 & 7)
	if n.fails[action] {
		n.state = nvme.Failed
		return
	}
	n.state = nvme.Sanitized
	if n.lies {
		return
	}
	for _, c := range n.namespaces {
		if n.noise {
			c.scramble()
		} else {
			c.set(0)
		}
	}
}

func (n *fakeNVMe) sanitize(c nvme.Command) error {
	action := nvme.Action(c.CDW10 & 7)
	n.commands = append(n.commands, "sanitize "+action.String())
	bit := map[nvme.Action]uint32{nvme.CryptoErase: 1, nvme.BlockErase: 2, nvme.Overwrite: 4}[action]
	switch {
	case n.state == nvme.InProgress:
		return nvme.Status(0x1d)
	case action == nvme.ExitFailure && n.state == nvme.Failed && n.scdw10&8 != 0: // AUSE
		n.state = nvme.NeverSanitized
		return nil
	case bit == 0 || n.sanicap&bit == 0 || action == nvme.Overwrite && c.CDW10>>4&0xf != 1:
		return nvme.Status(2)
	}
	n.state, n.scdw10, n.left = nvme.InProgress, c.CDW10, n.polls
	return nil
}

func (n *fakeNVMe) format(c nvme.Command) error {
	n.commands = append(n.commands, fmt.Sprintf("format %d ses %d", int32(c.NSID), c.CDW10>>9&7))
	switch {
	case n.state == nvme.InProgress:
		return nvme.Status(0x1d)
	case n.state == nvme.Failed:
		return nvme.Status(0x1c)
	case c.CDW10&0xf != 1: // LBA format 1 is in use
		return nvme.Status(0x10a)
	}
	for id, ns := range n.namespaces {
		if n.fna&3 != 0 || c.NSID == nvme.AllNamespaces || c.NSID == id {
			ns.set(0)
		}
	}
	return nil
}

// fakeATA is an ATA disk behind SCSI's pass-through.
type fakeATA struct {
	noPort
	c *content
	// word59 says what Sanitize can do; native and made are sectors with HPA and DCO.
	word59                        uint16
	native, made                  uint64
	security, enhance, frozen     bool
	enabled, locked               bool
	password                      string
	tries                         int
	eraseFails, noRegisters       bool
	sanitizeFails, sanitizeFrozen bool
	powerLoss                     func()

	prepared bool
	state    uint16 // of sanitize: bits 13 to 15 of count
	failed   bool
	left     int
	commands []string
}

func (a *fakeATA) regs(status, errorReg byte, count uint16, lba uint64) scsi.Reply {
	if a.noRegisters {
		return scsi.Reply{}
	}
	s := make([]byte, 22)
	s[0], s[1], s[7], s[8], s[9] = 0x72, 1, 14, 0x09, 0x0c
	s[10], s[11], s[12], s[13] = 1, errorReg, byte(count>>8), byte(count)
	for i := range 3 {
		s[14+2*i], s[15+2*i] = byte(lba>>(24+8*i)), byte(lba>>(8*i))
	}
	s[21] = status
	return scsi.Reply{Status: 2, Sense: s}
}

func (a *fakeATA) abort() (scsi.Reply, error) { return a.regs(0x51, 0x04, 0, 0), nil }

// SCSI implements Port.
func (a *fakeATA) SCSI(_ context.Context, c scsi.Command) (scsi.Reply, error) {
	cdb := c.CDB
	if cdb[0] != 0x85 {
		return scsi.Reply{Status: 2, Sense: []byte{0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0}}, nil
	}
	var lba uint64
	for i := range 3 {
		lba |= uint64(cdb[8+2*i])<<(8*i) | uint64(cdb[7+2*i])<<(24+8*i)
	}
	feature, count := uint16(cdb[3])<<8|uint16(cdb[4]), uint16(cdb[5])<<8|uint16(cdb[6])
	command := cdb[14]
	if command >= 0xf1 || command == 0xb4 {
		a.commands = append(a.commands, fmt.Sprintf("%02x/%02x", command, feature))
	}
	wasPrepared := a.prepared
	a.prepared = false
	switch command {
	case 0xec:
		a.identify(c.Data)
		return scsi.Reply{}, nil
	case 0x27:
		return a.regs(0x50, 0, 0, a.native-1), nil
	case 0xb1:
		binary.LittleEndian.PutUint64(c.Data[6:], a.made-1)
		return scsi.Reply{}, nil
	case 0xb4:
		return a.sanitize(feature, count, lba)
	}
	if !a.security || a.frozen {
		return a.abort()
	}
	word := strings.TrimRight(string(c.Data[min(2, len(c.Data)):min(34, len(c.Data))]), "\x00")
	switch command {
	case 0xf1:
		if a.locked {
			return a.abort()
		}
		a.password, a.enabled = word, true
	case 0xf2, 0xf6:
		if word != a.password || a.tries >= 5 || command == 0xf6 && a.locked {
			a.tries++
			return a.abort()
		}
		a.locked = false
		if command == 0xf6 {
			a.enabled = false
		}
	case 0xf3:
		a.prepared = true
	case 0xf4:
		enhanced := c.Data[0]&2 != 0
		if !wasPrepared || word != a.password || a.eraseFails || enhanced && !a.enhance {
			return a.abort()
		}
		if a.powerLoss != nil {
			a.locked = true
			a.powerLoss()
			return scsi.Reply{}, errIO
		}
		a.c.set(0)
		a.enabled, a.locked = false, false
	default:
		return a.abort()
	}
	return scsi.Reply{}, nil
}

func (a *fakeATA) sanitize(feature, count uint16, lba uint64) (scsi.Reply, error) {
	if feature == 0 {
		switch {
		case a.failed && count&1 != 0:
			a.failed = false
			fallthrough
		case !a.failed && a.state&(1<<14) == 0:
			return a.regs(0x50, 0, a.state, 0xffff), nil
		case a.failed:
			return a.regs(0x51, 0x04, 0, 1), nil
		}
		if a.left--; a.left <= 0 {
			a.state = 1 << 15
			if a.failed = a.sanitizeFails; !a.failed {
				a.c.set(0)
				return a.regs(0x50, 0, a.state, 0xffff), nil
			}
			return a.regs(0x51, 0x04, 0, 1), nil
		}
		return a.regs(0x50, 0, a.state, 0x4000), nil
	}
	key := map[uint16]uint64{0x11: 0x43727970, 0x12: 0x426b4572, 0x14: 0x4f57 << 32}[feature]
	bit := map[uint16]uint16{0x11: 1 << 13, 0x14: 1 << 14, 0x12: 1 << 15}[feature]
	if a.word59&bit == 0 || lba != key || a.sanitizeFrozen || a.failed {
		return a.abort()
	}
	a.state, a.left = 1<<14, 3
	return a.regs(0x50, 0, 0, 0), nil
}

func (a *fakeATA) identify(b []byte) {
	clear(b)
	put := func(word int, v uint16) { binary.LittleEndian.PutUint16(b[2*word:], v) }
	ascii := func(word, n int, s string) {
		s = fmt.Sprintf("%-*s", n, s)
		for i := 0; i < n; i += 2 {
			b[2*word+i], b[2*word+i+1] = s[i+1], s[i]
		}
	}
	ascii(10, 20, "ATA1")
	ascii(23, 8, "F1")
	ascii(27, 40, "Fake ATA")
	put(59, a.word59)
	put(83, 1<<10)
	binary.LittleEndian.PutUint64(b[200:], uint64(len(a.c.data)/512))
	if a.native > 0 {
		put(82, 1<<10)
	}
	if a.made > 0 {
		put(83, 1<<10|1<<11)
	}
	if a.security {
		put(82, binary.LittleEndian.Uint16(b[2*82:])|1<<1)
		flags := uint16(1)
		for bit, on := range map[int]bool{1: a.enabled, 2: a.locked, 3: a.frozen, 4: a.tries >= 5, 5: a.enhance} {
			if on {
				flags |= 1 << bit
			}
		}
		put(128, flags)
		put(89, 30)
		put(90, 1)
	}
}

// fakeSCSI is a SCSI disk.
type fakeSCSI struct {
	noPort
	c       *content
	offers  map[byte]bool
	fails   map[byte]bool
	left    int
	running byte
	failed  bool
}

// SCSI implements Port.
func (s *fakeSCSI) SCSI(_ context.Context, c scsi.Command) (scsi.Reply, error) {
	illegal := scsi.Reply{Status: 2, Sense: []byte{0x72, 5, 0x20, 0, 0, 0, 0, 0}}
	switch c.CDB[0] {
	case 0xa3:
		if c.CDB[1] != 0x0c || c.CDB[3] != 0x48 || len(s.offers) == 0 {
			return illegal, nil
		}
		c.Data[1] = 1
		if s.offers[c.CDB[5]] {
			c.Data[1] = 3
		}
		return scsi.Reply{}, nil
	case 0x03:
		copy(c.Data, []byte{0x70, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
		switch {
		case s.running != 0 && s.left > 0:
			s.left--
			copy(c.Data, []byte{0x70, 0, 2, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x04, 0x1b, 0, 0x80, 0x40, 0})
		case s.running != 0 && s.fails[s.running]:
			s.failed, s.running = true, 0
			fallthrough
		case s.failed:
			copy(c.Data, []byte{0x70, 0, 3, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x31, 0x03, 0, 0, 0, 0})
		case s.running != 0:
			s.running = 0
			s.c.set(0xff)
		}
		return scsi.Reply{}, nil
	case 0x48:
		action := c.CDB[1] & 0x1f
		if action == 0x1f {
			s.failed = false
			return scsi.Reply{}, nil
		}
		if !s.offers[action] || c.CDB[1]&0x80 == 0 || action == 1 && (len(c.Data) != 8 || c.CDB[8] != 8) {
			return illegal, nil
		}
		s.running, s.left = action, 3
		return scsi.Reply{}, nil
	}
	return illegal, nil
}

// rack is a machine of fake disks.
type rack struct {
	t        testing.TB
	disks    []*pb.Disk
	contents map[string]*content
	ports    map[string]Port
	facts    map[string]Facts
	busy     map[string]bool
	logs     *logbook
}

func newRack(t testing.TB) *rack {
	return &rack{t: t, contents: map[string]*content{}, ports: map[string]Port{}, facts: map[string]Facts{}, busy: map[string]bool{}, logs: &logbook{}}
}

func (r *rack) add(name, bus string, c *content, p Port) *pb.Disk {
	d := &pb.Disk{Name: name, Path: "/dev/" + name, Bus: bus, SizeBytes: uint64(len(c.data)), Serial: "serial-" + name, Rotational: bus == "sata"}
	r.disks = append(r.disks, d)
	r.contents[d.Path], r.ports[d.Path] = c, p
	return d
}

// nvme adds a controller's namespaces.
func (r *rack) nvme(n *fakeNVMe) {
	for id := uint32(1); n.namespaces[id] != nil; id++ {
		d := r.add(fmt.Sprintf("nvme0n%d", id), "nvme", n.namespaces[id], n)
		r.facts[d.Path] = Facts{Subsystem: "nqn.fake", Namespace: id, Transport: "pcie"}
	}
}

func (r *rack) service() *Service {
	s, err := New(Config{
		Disks: func(context.Context) ([]*pb.Disk, error) { return r.disks, nil }, Random: rand.Reader, Now: now,
		Open: func(path string, readOnly bool) (Medium, error) {
			if r.busy[path] {
				return nil, errBusy
			}
			if readOnly {
				return frozenContent{r.contents[path]}, nil
			}
			return r.contents[path], nil
		},
		Port:  func(d *pb.Disk) (Port, error) { return r.ports[d.Path], nil },
		Facts: func(d *pb.Disk) Facts { return r.facts[d.Path] },
		Free:  func(context.Context, string, func(string)) error { return nil },
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

// frozenContent can't be written.
type frozenContent struct{ *content }

func (frozenContent) WriteAt([]byte, int64) (int, error)   { return 0, errReadOnly }
func (frozenContent) Discard(int64, int64) (bool, error)   { return false, errReadOnly }
func (frozenContent) ZeroRange(int64, int64) (bool, error) { return false, nil }

var _ disk.Clearer = (*content)(nil)

// erase runs the step.
func (r *rack) erase(ctx context.Context, with map[string]any) (map[string]map[string]any, step.Result, error) {
	res, err := r.service().Steps()["disk.erase"].Execute(ctx, step.Request{With: with}, r.logs)
	byName := map[string]map[string]any{}
	list, _ := res.Outputs["results"].([]any)
	for _, v := range list {
		m := v.(map[string]any)
		byName[m["name"].(string)] = m
	}
	return byName, res, err
}

// logbook is a Reporter.
type logbook struct {
	mu       sync.Mutex
	lines    []string
	done     int64
	total    int64
	messages []string
}

func (l *logbook) Log(_, line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
}

func (l *logbook) Progress(done, total int64, _, message string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done, l.total, l.messages = done, total, append(l.messages, message)
}

func (l *logbook) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}
