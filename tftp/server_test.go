package tftp

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/bedplate/bedplate/machine"
)

// memory serves files from a map and counts those that are open.
type memory struct {
	files map[string][]byte
	mu    sync.Mutex
	open  int
}

type file struct {
	*bytes.Reader
	m *memory
}

func (f file) Close() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	f.m.open--
	return nil
}

func (m *memory) Open(name string, _ netip.Addr) (io.ReadSeekCloser, error) {
	content, ok := m.files[name]
	if !ok {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.open++
	return file{bytes.NewReader(content), m}, nil
}

type recorder struct {
	mu   sync.Mutex
	seen []string
}

func (r *recorder) Observe(s machine.Sighting) {
	r.mu.Lock()
	defer r.mu.Unlock()
	detail, _, _ := strings.Cut(s.Detail, " in ")
	r.seen = append(r.seen, fmt.Sprintf("%s %s err=%v: %s", s.Address, s.Event, s.Err, detail))
}

func (r *recorder) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.seen)
}

type bench struct {
	*Server
	files *memory
	seen  *recorder
	log   *bytes.Buffer
	stop  func() error // stops the server and returns Run's error
}

// pattern returns n bytes in which no block is like another.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i ^ i>>8 ^ i>>16)
	}
	return b
}

func start(t *testing.T, change func(*Config)) *bench {
	t.Helper()
	before := runtime.NumGoroutine()
	b := &bench{files: &memory{files: map[string][]byte{
		"undionly.kpxe": pattern(74213),
		"empty":         {},
		"exact":         pattern(1024),
		"grub/grub.cfg": []byte("exit\n"),
		"a":             pattern(1234567),
	}}, seen: &recorder{}, log: &bytes.Buffer{}}
	cfg := Config{
		Addrs: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}, Files: b.files, Observer: b.seen, Now: time.Now,
		Logger:     slog.New(slog.NewTextHandler(b.log, &slog.HandlerOptions{Level: slog.LevelInfo})),
		Registerer: prometheus.NewRegistry(), Timeout: 20 * time.Millisecond,
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if b.Server, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	if err := b.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	b.stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() {
		if err := b.stop(); err != nil {
			t.Error(err)
		}
		if b.files.open != 0 {
			t.Errorf("%d files left open", b.files.open)
		}
		for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); runtime.Gosched() {
			if runtime.NumGoroutine() <= before {
				return
			}
		}
		stacks := make([]byte, 1<<16)
		t.Errorf("goroutines: %d before, %d after:\n%s", before, runtime.NumGoroutine(), stacks[:runtime.Stack(stacks, true)])
	})
	return b
}

// client is a TFTP client that does as it is told.
type client struct {
	t    *testing.T
	conn *net.UDPConn
	tid  netip.AddrPort
}

func dial(t *testing.T) *client {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &client{t: t, conn: conn}
}

func request1350(op byte, words ...string) []byte {
	return append([]byte{0, op}, strings.Join(words, "\x00")+"\x00"...)
}

func (c *client) send(to netip.AddrPort, packet []byte) {
	c.t.Helper()
	if _, err := c.conn.WriteToUDPAddrPort(packet, to); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) ack(block uint16) {
	c.t.Helper()
	c.send(c.tid, binary.BigEndian.AppendUint16([]byte{0, 4}, block))
}

// receive returns the next packet's opcode, its second word and the rest.
func (c *client) receive() (op, word uint16, rest []byte) {
	c.t.Helper()
	if err := c.conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		c.t.Fatal(err)
	}
	buf := make([]byte, 65536)
	n, from, err := c.conn.ReadFromUDPAddrPort(buf)
	if err != nil {
		c.t.Fatal(err)
	}
	c.tid = from
	op = binary.BigEndian.Uint16(buf)
	if op == 6 { // OACK has no second word
		return op, 0, buf[2:n]
	}
	return op, binary.BigEndian.Uint16(buf[2:]), buf[4:n]
}

// fetch reads a whole file without options, or with blksize when it is not 0.
// Each drop-th packet that arrives is as if lost.
func (c *client) fetch(server netip.AddrPort, name string, drop int) []byte {
	c.t.Helper()
	c.send(server, request1350(1, name, "octet"))
	var content []byte
	next := uint16(1)
	for count := 1; ; count++ {
		op, block, data := c.receive()
		if op != 3 {
			c.t.Fatalf("got opcode %d (%q), want DATA", op, data)
		}
		if drop > 0 && count%drop == 0 {
			continue
		}
		if block == next {
			content = append(content, data...)
			next++
		}
		c.ack(block)
		if len(data) < 512 {
			return content
		}
	}
}

func TestServer_Transfer(t *testing.T) {
	b := start(t, nil)
	for _, name := range []string{"undionly.kpxe", "empty", "exact"} {
		t.Run("whole file "+name, func(t *testing.T) {
			if !bytes.Equal(dial(t).fetch(b.Addr(), name, 0), b.files.files[name]) {
				t.Error("content differs")
			}
		})
	}
	t.Run("names as firmware writes them", func(t *testing.T) {
		for _, name := range []string{"/grub/grub.cfg", `\grub\grub.cfg`, "//grub//grub.cfg", "./grub/./grub.cfg"} {
			if got := string(dial(t).fetch(b.Addr(), name, 0)); got != "exit\n" {
				t.Errorf("%s: got %q", name, got)
			}
		}
	})
	t.Run("a client that loses every seventh packet gets the whole file", func(t *testing.T) {
		if !bytes.Equal(dial(t).fetch(b.Addr(), "undionly.kpxe", 7), b.files.files["undionly.kpxe"]) {
			t.Error("content differs")
		}
	})
	if err := b.stop(); err != nil {
		t.Fatal(err)
	}
	if got, want := testutil.ToFloat64(b.metrics.requests.WithLabelValues(resultOK)), 8.0; got != want {
		t.Errorf("%v requests ok, want %v", got, want)
	}
	if got, want := testutil.ToFloat64(b.metrics.sent), float64(2*74213+1024+4*5); got != want {
		t.Errorf("%v bytes sent, want %v", got, want)
	}
	// A transfer is reported complete when the next may have begun already.
	seen := slices.DeleteFunc(b.seen.all(), func(s string) bool { return !strings.Contains(s, "undionly") })
	if diff := cmp.Diff([]string{
		"127.0.0.1 RRQ err=false: undionly.kpxe",
		"127.0.0.1 complete err=false: undionly.kpxe, 74213 bytes",
	}, seen[:2]); diff != "" {
		t.Error("sightings (-want +got):\n" + diff)
	}
}

func TestServer_Options(t *testing.T) {
	b := start(t, nil)
	for _, test := range []struct {
		name    string
		options []string
		want    string // of the OACK, in any order; empty: DATA at once
	}{
		{"blksize and tsize as OVMF asks, windowsize is left out", []string{"tsize", "0", "blksize", "1468", "windowsize", "4"}, "blksize=1468 tsize=74213"},
		{"blksize over the bound is lowered", []string{"blksize", "65464"}, "blksize=1468"},
		{"blksize that is too small is ignored", []string{"blksize", "4"}, ""},
		{"blksize that is no number is ignored", []string{"blksize", "x"}, ""},
		{"timeout is ignored", []string{"timeout", "3"}, ""},
		{"unknown options are ignored", []string{"multicast", "", "x", "y"}, ""},
		{"an option without value is ignored", []string{"blksize"}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := dial(t)
			c.send(b.Addr(), request1350(1, append([]string{"undionly.kpxe", "octet"}, test.options...)...))
			op, _, rest := c.receive()
			var got []string
			if op == 6 {
				words := strings.Split(strings.TrimSuffix(string(rest), "\x00"), "\x00")
				for i := 0; i+1 < len(words); i += 2 {
					got = append(got, words[i]+"="+words[i+1])
				}
				slices.Sort(got)
			} else if op != 3 {
				t.Fatalf("opcode %d", op)
			}
			if diff := cmp.Diff(test.want, strings.Join(got, " ")); diff != "" {
				t.Error("(-want +got):\n" + diff)
			}
			c.send(c.tid, []byte{0, 5, 0, 8, 'b', 'y', 'e', 0})
		})
	}
}

func TestServer_Probe(t *testing.T) {
	b := start(t, nil)
	c := dial(t)
	// OVMF: ask for the size, abort with ERROR 8, ask again in earnest.
	c.send(b.Addr(), request1350(1, "undionly.kpxe", "octet", "tsize", "0", "blksize", "1468", "windowsize", "4"))
	if op, _, _ := c.receive(); op != 6 {
		t.Fatalf("got opcode %d, want OACK", op)
	}
	c.send(c.tid, []byte("\x00\x05\x00\x08User aborted the transfer\x00"))
	c = dial(t)
	c.send(b.Addr(), request1350(1, "undionly.kpxe", "octet", "blksize", "1468", "windowsize", "4"))
	if op, _, _ := c.receive(); op != 6 {
		t.Fatalf("got opcode %d, want OACK", op)
	}
	c.ack(0)
	var content []byte
	for {
		_, block, data := c.receive()
		content = append(content, data...)
		c.ack(block)
		if len(data) < 1468 {
			break
		}
	}
	if err := b.stop(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(content, b.files.files["undionly.kpxe"]) {
		t.Error("content differs")
	}
	for _, s := range b.seen.all() {
		if strings.Contains(s, "err=true") {
			t.Error(s)
		}
	}
	if strings.Contains(b.log.String(), "aborted") {
		t.Error("logged above debug:\n" + b.log.String())
	}
	if got := testutil.ToFloat64(b.metrics.requests.WithLabelValues(resultAborted)); got != 1 {
		t.Errorf("%v aborted, want 1", got)
	}
}

func TestServer_Refusals(t *testing.T) {
	b := start(t, nil)
	for _, test := range []struct {
		name   string
		packet []byte
		want   string
	}{
		{"a file that does not exist", request1350(1, "secret", "octet"), "file not found: secret"},
		{"a name that climbs", request1350(1, "../../etc/passwd", "octet"), ErrName.Error()},
		{"an absolute name of the file system", request1350(1, "/etc/passwd", "octet"), "file not found: etc/passwd"},
		{"an empty name", request1350(1, "", "octet"), ErrName.Error()},
		{"a long name", request1350(1, strings.Repeat("a", 256), "octet"), ErrName.Error()},
		{"a write", request1350(2, "undionly.kpxe", "octet"), errReadOnly.Error()},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := dial(t)
			c.send(b.Addr(), test.packet)
			op, _, rest := c.receive()
			if got := strings.TrimRight(string(rest), "\x00"); op != 5 || got != test.want {
				t.Errorf("got opcode %d %q, want ERROR %q", op, got, test.want)
			}
		})
	}
	t.Run("an option that does not fit back into the reply harms nobody", func(t *testing.T) {
		c := dial(t)
		c.send(b.Addr(), request1350(1, "a", "o", "blksize", strings.Repeat("0", 490)+"512", "tsize", "0"))
		if !bytes.Equal(dial(t).fetch(b.Addr(), "exact", 0), b.files.files["exact"]) {
			t.Error("content differs")
		}
	})
}

func TestServer_Limits(t *testing.T) {
	t.Run("one client gets its share and no more", func(t *testing.T) {
		b := start(t, func(c *Config) { c.MaxPerPeer = 2 })
		for range 2 {
			c := dial(t)
			c.send(b.Addr(), request1350(1, "a", "octet"))
			if op, _, _ := c.receive(); op != 3 {
				t.Fatalf("opcode %d", op)
			}
		}
		c := dial(t)
		c.send(b.Addr(), request1350(1, "a", "octet"))
		if op, _, rest := c.receive(); op != 5 || !strings.Contains(string(rest), "busy") {
			t.Errorf("got opcode %d %q", op, rest)
		}
	})
	t.Run("a client that vanishes is given up", func(t *testing.T) {
		b := start(t, func(c *Config) { c.Timeout = time.Millisecond })
		c := dial(t)
		c.send(b.Addr(), request1350(1, "a", "octet"))
		packets := 0
		for {
			op, _, _ := c.receive()
			if op == 5 {
				break // the library's last word
			}
			packets++
		}
		if packets != 1+retries {
			t.Errorf("%d packets, want %d", packets, 1+retries)
		}
		if err := b.stop(); err != nil {
			t.Fatal(err)
		}
		if got := testutil.ToFloat64(b.metrics.requests.WithLabelValues(resultTimeout)); got != 1 {
			t.Errorf("%v timeouts, want 1", got)
		}
	})
	t.Run("a client that crawls is cut at the deadline", func(t *testing.T) {
		var mu sync.Mutex
		clock := time.Unix(0, 0)
		b := start(t, func(c *Config) {
			c.MinRate = 1 << 20
			c.Now = func() time.Time {
				mu.Lock()
				defer mu.Unlock()
				return clock
			}
		})
		c := dial(t)
		c.send(b.Addr(), request1350(1, "a", "octet"))
		op, block, rest := c.receive()
		for op == 3 {
			mu.Lock()
			clock = clock.Add(time.Minute)
			mu.Unlock()
			c.ack(block)
			op, block, rest = c.receive()
		}
		if op != 5 || !strings.Contains(string(rest), errTooSlow.Error()) || block > 4 {
			t.Errorf("got opcode %d %q at block %d", op, rest, block)
		}
	})
	t.Run("stopping cuts transfers", func(t *testing.T) {
		b := start(t, nil)
		c := dial(t)
		c.send(b.Addr(), request1350(1, "a", "octet"))
		_, block, _ := c.receive()
		done := make(chan error)
		go func() { done <- b.stop() }()
		op := uint16(3)
		for op == 3 {
			c.ack(block)
			op, block, _ = c.receive()
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestServer_Listen(t *testing.T) {
	b := start(t, nil)
	second, err := New(Config{Addrs: []netip.AddrPort{b.Addr()}, Files: b.files, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	err = second.Listen()
	if err == nil {
		t.Fatal("second Listen succeeded")
	}
	for _, want := range []string{b.Addr().String(), "tftp.test (process ", "stop it"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %q", want, err)
		}
	}
	if _, err := New(Config{}); err == nil {
		t.Error("New without Files and Now succeeded")
	}
}

// FuzzServer sends one datagram to a server and then fetches a file from it.
func FuzzServer(f *testing.F) {
	f.Add(request1350(1, "undionly.kpxe", "octet"))                                                     // RRQ
	f.Add(request1350(1, "undionly.kpxe", "octet", "tsize", "0", "blksize", "1468", "windowsize", "4")) // OVMF
	f.Add(request1350(2, "x", "octet"))                                                                 // WRQ
	f.Add(request1350(1, "a", "o", "blksize", strings.Repeat("0", 490)+"512", "tsize", "0"))            // OACK longer than the library's buffer
	f.Add([]byte{0, 1})                                                                                 // RRQ cut off
	f.Add([]byte{0, 4, 0, 0})                                                                           // ACK without a transfer
	f.Add([]byte{0, 6, 'b', 'l', 'k', 's', 'i', 'z', 'e', 0})                                           // OACK without a transfer
	f.Fuzz(func(t *testing.T, datagram []byte) {
		b := start(t, func(c *Config) { c.Timeout = time.Millisecond })
		c := dial(t)
		c.send(b.Addr(), datagram[:min(len(datagram), 1400)])
		if got := string(dial(t).fetch(b.Addr(), "grub/grub.cfg", 0)); got != "exit\n" {
			t.Errorf("got %q", got)
		}
	})
}
