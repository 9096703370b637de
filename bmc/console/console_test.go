package console

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

var errNone = errors.New("no serial console")

// bench is a hub whose consoles are pipes.
type bench struct {
	t     *testing.T
	hub   *Hub
	mu    sync.Mutex
	opens int
	err   error
	port  net.Conn // the machine's end of the newest console
	typed bytes.Buffer
}

func newBench(t *testing.T, keep int64) (b *bench, stop func()) {
	t.Helper()
	b = &bench{t: t}
	var err error
	b.hub, err = New(Config{Open: b.open, Unsupported: errNone, Dir: t.TempDir(), Keep: keep, Now: time.Now, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.hub.Run(ctx) }()
	synctest.Wait()
	return b, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func (b *bench) open(context.Context, string) (io.ReadWriteCloser, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.opens++
	if b.err != nil {
		return nil, b.err
	}
	ours, theirs := net.Pipe()
	b.port = theirs
	return ours, nil
}

func (b *bench) says(text string) {
	b.t.Helper()
	b.mu.Lock()
	port := b.port
	b.mu.Unlock()
	if _, err := io.WriteString(port, text); err != nil {
		b.t.Fatal(err)
	}
	synctest.Wait()
}

func (b *bench) attach(history int) *Viewer {
	b.t.Helper()
	v, err := b.hub.Attach("web-1", history)
	if err != nil {
		b.t.Fatal(err)
	}
	synctest.Wait()
	return v
}

// sees returns what a viewer was given so far.
func sees(v *Viewer) (data, notices string) {
	for {
		c, ok, _ := v.take()
		if !ok {
			return data, notices
		}
		data += string(c.Data)
		if c.Notice != "" {
			notices += c.Notice + "\n"
		}
	}
}

func TestHub(t *testing.T) {
	t.Run("many watch one console, and what is typed arrives", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b, stop := newBench(t, 0)
			defer stop()
			v, w := b.attach(0), b.attach(0)
			defer v.Close()
			defer w.Close()
			b.says("login: ")
			for _, x := range []*Viewer{v, w} {
				if got, _ := sees(x); got != "login: " {
					t.Errorf("a viewer sees %q", got)
				}
			}
			go io.Copy(&b.typed, b.port)
			if err := v.Send([]byte("root\n")); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if b.typed.String() != "root\n" || b.opens != 1 {
				t.Errorf("typed was %q, opened %d times", b.typed.String(), b.opens)
			}
		})
	})
	t.Run("a console that nobody watches is closed after a while", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b, stop := newBench(t, 0)
			defer stop()
			v := b.attach(0)
			v.Close()
			time.Sleep(2 * lingerTime)
			synctest.Wait()
			if _, s, _ := b.hub.Log("web-1", 10); s.Open {
				t.Error("it is still open")
			}
			time.Sleep(time.Hour)
			if b.opens != 1 {
				t.Errorf("it was opened %d times", b.opens)
			}
		})
	})
	t.Run("one that is to be recorded stays open, and whoever comes sees what was", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b, stop := newBench(t, 1<<20)
			defer stop()
			b.hub.Set("web-1")
			synctest.Wait()
			b.says("Booting…\r\nkernel panic\r\n")
			time.Sleep(time.Hour)
			v := b.attach(100)
			defer v.Close()
			if got, _ := sees(v); got != "Booting…\r\nkernel panic\r\n" {
				t.Errorf("the history is %q", got)
			}
			if diff := cmp.Diff([]string{"kernel panic"}, b.hub.Tail("web-1", 1, time.Now().Add(-2*time.Hour))); diff != "" {
				t.Errorf("the last line (-want +got):\n%s", diff)
			}
			if got := b.hub.Tail("web-1", 1, time.Now().Add(-time.Minute)); got != nil {
				t.Errorf("of the last minute there is %q", got)
			}
		})
	})
	t.Run("one that is lost is opened again, and the viewers are told", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b, stop := newBench(t, 0)
			defer stop()
			v := b.attach(0)
			defer v.Close()
			b.port.Close()
			synctest.Wait()
			if err := v.Send([]byte("x")); err == nil || !strings.Contains(err.Error(), "tried again in 2s") {
				t.Errorf("typing meanwhile: %v", err)
			}
			time.Sleep(3 * time.Second)
			synctest.Wait()
			b.says("again")
			got, notices := sees(v)
			if got != "again" || !strings.Contains(notices, "another program has opened it") || !strings.Contains(notices, "is open") {
				t.Errorf("it sees %q, and is told %q", got, notices)
			}
		})
	})
	t.Run("a BMC that refuses is left alone longer and longer, one without a console for an hour", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b, stop := newBench(t, 1<<20)
			defer stop()
			b.err = errors.New("BMC does not answer")
			b.hub.Set("web-1")
			time.Sleep(time.Hour)
			synctest.Wait()
			b.mu.Lock()
			if b.opens < 25 || b.opens > 40 {
				t.Errorf("in an hour it was tried %d times", b.opens)
			}
			b.opens, b.err = 0, fmt.Errorf("redfish: %w", errNone)
			b.mu.Unlock()
			time.Sleep(10 * time.Hour)
			synctest.Wait()
			b.mu.Lock()
			defer b.mu.Unlock()
			if b.opens > 12 {
				t.Errorf("in ten hours it was tried %d times", b.opens)
			}
		})
	})
	t.Run("a viewer that is too slow misses something, is told, and holds up nobody", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b, stop := newBench(t, 0)
			defer stop()
			v := b.attach(0)
			defer v.Close()
			for range 3 * maxBehind / 1024 {
				b.says(strings.Repeat("x", 1024))
			}
			got, notices := sees(v)
			if len(got) > maxBehind || !strings.Contains(notices, "too slow") {
				t.Errorf("it sees %d bytes and is told %q", len(got), notices)
			}
		})
	})
	t.Run("there is a bound on viewers", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b, stop := newBench(t, 0)
			defer stop()
			for range MaxViewers {
				defer b.attach(0).Close()
			}
			if _, err := b.hub.Attach("web-1", 0); !errors.Is(err, ErrTooMany) {
				t.Errorf("err = %v", err)
			}
		})
	})
	t.Run("of a machine that is gone nothing stays", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b, stop := newBench(t, 1<<20)
			defer stop()
			b.hub.Set("web-1")
			v := b.attach(0)
			defer v.Close()
			b.says("secret")
			if err := b.hub.Forget("web-1"); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			sees(v)
			if _, err := v.Next(t.Context()); !errors.Is(err, io.EOF) {
				t.Errorf("its viewer gets %v", err)
			}
			if files, _ := filepath.Glob(filepath.Join(b.hub.cfg.Dir, "*")); len(files) > 0 {
				t.Errorf("there is %q", files)
			}
		})
	})
}

func TestTape(t *testing.T) {
	path := filepath.Join(t.TempDir(), "web-1")
	tape := newTape(path, 1000)
	all := ""
	for i := range 500 {
		line := fmt.Sprintf("line %d\n", i)
		all += line
		if err := tape.write([]byte(line)); err != nil {
			t.Fatal(err)
		}
	}
	tape.close()
	var size int64
	for _, p := range []string{tape.path, tape.older()} {
		info, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	if size > 1000 {
		t.Errorf("%d bytes are kept", size)
	}
	for _, n := range []int{10, 400, 600} {
		got, err := newTape(path, 1000).last(n)
		if err != nil || len(got) > n || !strings.HasSuffix(all, string(got)) || n <= 500 && len(got) != n {
			t.Errorf("of the last %d bytes there are %d, %v", n, len(got), err)
		}
	}
}

func TestLines(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		want     []string
	}{
		{"colours and cursor moves", "\x1b[2J\x1b[1;1H\x1b[31mUEFI\x1b[0m v2\x1b[5;1HPress F2", []string{"UEFI v2", "Press F2"}},
		{"what a carriage return overwrites", "10%\r50%\r100%\r\nok\n", []string{"100%", "ok"}},
		{"titles", "\x1b]0;title\x07shell$", []string{"shell$"}},
		{"what is no text", "a\x00\x01\xffb\n\n\n", []string{"ab"}},
		{"a sequence that is cut off", "text\x1b[", []string{"text"}},
	} {
		if diff := cmp.Diff(tt.want, Lines([]byte(tt.in))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

func FuzzLines(f *testing.F) {
	f.Add([]byte("\x1b[2J\x1b[1;1HUEFI\r\n\x1b]0;t\x1b\\x\x1b"))
	f.Add([]byte("\x1bP1\x1b\\\xff\xfe\r\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, l := range Lines(data) {
			if l == "" || strings.ContainsAny(l, "\x1b\r\n\x00") || len([]rune(l)) > maxLine+1 {
				t.Errorf("%q", l)
			}
		}
	})
}
