package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// fakeQEMU answers on a monitor socket as QEMU 7.2 does and tells what it was asked.
func fakeQEMU(t *testing.T, dir string, reply func(command string) string) <-chan string {
	t.Helper()
	listener, err := listenFile(context.Background(), dir, qmpSocket)
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan string, 16)
	ended := make(chan struct{})
	t.Cleanup(func() { _ = listener.Close(); <-ended })
	go func() {
		defer close(ended)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serveQMP(conn, asked, reply)
		}
	}()
	return asked
}

func serveQMP(conn net.Conn, asked chan<- string, reply func(string) string) {
	defer conn.Close() //nolint:errcheck // a fake
	fmt.Fprintln(conn, `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": ["oob"]}}`)
	in := bufio.NewScanner(conn)
	for in.Scan() {
		asked <- in.Text()
		fmt.Fprintln(conn, `{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "NIC_RX_FILTER_CHANGED", "data": {}}`)
		fmt.Fprintln(conn, reply(in.Text()))
	}
}

func TestCommand(t *testing.T) {
	t.Run("capabilities first, events passed over", func(t *testing.T) {
		dir := t.TempDir()
		asked := fakeQEMU(t, dir, func(string) string { return `{"return": {}}` })
		if err := command(context.Background(), dir, "system_reset", nil); err != nil {
			t.Fatal(err)
		}
		got := []string{<-asked, <-asked}
		if d := cmp.Diff([]string{`{"execute":"qmp_capabilities"}`, `{"execute":"system_reset"}`}, got); d != "" {
			t.Errorf("asked (-want +got):\n%s", d)
		}
	})
	t.Run("what QEMU refuses is an error", func(t *testing.T) {
		dir := t.TempDir()
		fakeQEMU(t, dir, func(c string) string {
			if strings.Contains(c, "capabilities") {
				return `{"return": {}}`
			}
			return `{"error": {"class": "GenericError", "desc": "guest has crashed"}}`
		})
		if err := command(context.Background(), dir, "system_reset", nil); err == nil || !strings.Contains(err.Error(), "guest has crashed") {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("no QEMU is an error", func(t *testing.T) {
		if err := command(context.Background(), t.TempDir(), "quit", nil); err == nil {
			t.Error("no error")
		}
	})
	t.Run("a folder whose path no socket address could hold", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), strings.Repeat("long/", 40))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		fakeQEMU(t, dir, func(string) string { return `{"return": {}}` })
		if err := command(context.Background(), dir, "stop", nil); err != nil {
			t.Error(err)
		}
	})
}

func TestQMP_watch(t *testing.T) {
	const stop = `{"event": "STOP"}`
	const reset, guest, shutdown = `{"event": "RESET", "data": {"guest": false}}`, `{"event": "RESET", "data": {"guest": true}}`, `{"event": "SHUTDOWN", "data": {"reason": "guest-reset"}}`
	for name, c := range map[string]struct {
		settle      bool
		lines       []string
		begun, done int
		reason      string
	}{
		"each reset of UEFI firmware is one":    {false, []string{reset, guest, shutdown}, 0, 2, "guest-reset"},
		"those that SeaBIOS adds are none":      {true, []string{reset, guest, guest, "pause", reset, guest, "pause", shutdown}, 2, 2, "guest-reset"},
		"what is no event is passed over":       {false, []string{`{"return": {}}`, `[]`, reset, shutdown}, 0, 1, "guest-reset"},
		"a reset that QEMU ends by is not done": {true, []string{reset, shutdown}, 1, 0, "guest-reset"},
		"stopped processors are the reason":     {false, []string{reset, stop, shutdown}, 0, 1, reasonStopped},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, w := io.Pipe()
				q := &qmp{in: bufio.NewScanner(r)}
				begun, done := 0, 0
				ended := make(chan string)
				stopped := 0
				go func() {
					ended <- q.watch(observer{c.settle, func() { begun++ }, func() { done++ }, func() { stopped++ }})
				}()
				for _, line := range c.lines {
					if line == "pause" {
						<-time.After(2 * settleTime)
						continue
					}
					fmt.Fprintln(w, line)
				}
				_ = w.Close()
				reason := <-ended
				if (reason == reasonStopped) != (stopped == 1) {
					t.Errorf("told %d times that it is stopped; the reason is %q", stopped, reason)
				}
				if reason != c.reason || begun != c.begun || done != c.done {
					t.Errorf("%d begun, %d done, want %d and %d; the reason is %q", begun, done, c.begun, c.done, reason)
				}
			})
		})
	}
}

func FuzzQMP(f *testing.F) {
	f.Add([]byte("{\"QMP\": {}}\n{\"return\": {}}\n"))
	f.Add([]byte("{\"event\": \"STOP\"}\n{\"error\": {\"desc\": \"no\"}}\n"))
	f.Add([]byte("null\n[]\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		q := &qmp{in: bufio.NewScanner(strings.NewReader(string(b)))}
		q.in.Buffer(nil, maxQMPLine)
		for {
			r, err := q.read()
			if err != nil {
				return
			}
			if r.Event != "" {
				t.Errorf("event %q was taken for a reply", r.Event)
			}
		}
	})
}

func appendLog(t *testing.T, file, text string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString(text)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestSerial_WaitFor(t *testing.T) {
	m := &Machine{dir: t.TempDir(), spec: MachineSpec{Name: "m1"}}
	appendLog(t, m.SerialLog(), "old login: ")
	s := m.Serial()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	// An escape sequence is cut in two, as a file that grows may be.
	appendLog(t, m.SerialLog(), "\x1b[0;1miPXE 1.0\x1b[0m\r\nnode-7 lo\x1b[")
	got, err := s.WaitFor(ctx, regexp.MustCompile(`iPXE ([0-9.]+)(x)?`))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"iPXE 1.0", "1.0", ""}, got); d != "" {
		t.Errorf("match (-want +got):\n%s", d)
	}
	appendLog(t, m.SerialLog(), "1mgin: ")
	if got, err = s.WaitFor(ctx, regexp.MustCompile(`(\S+) login: `)); err != nil || got[1] != "node-7" {
		t.Fatalf("match is %q, %v", got, err)
	}
	t.Run("what was matched is not matched again", func(t *testing.T) {
		ctx, cancel := context.WithCancel(ctx)
		cancel()
		appendLog(t, m.SerialLog(), "last words\n")
		_, err := s.WaitFor(ctx, regexp.MustCompile("login: "))
		if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "last words") {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("a log that was wiped starts anew", func(t *testing.T) {
		if err := os.WriteFile(m.SerialLog(), []byte("fresh\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := s.WaitFor(ctx, regexp.MustCompile("fresh")); err != nil {
			t.Error(err)
		}
	})
}

func TestSerial_Read(t *testing.T) {
	m := &Machine{dir: t.TempDir()}
	s := m.Serial()
	b := make([]byte, 64)
	if n, err := s.Read(b); n != 0 || err == nil {
		t.Errorf("before power-on: %d, %v", n, err)
	}
	appendLog(t, m.SerialLog(), "\x1bc\x1b[2J\x00hello\r\n")
	n, err := s.Read(b)
	if err != nil || string(b[:n]) != "hello\n" {
		t.Errorf("read %q, %v", b[:n], err)
	}
}

// sleeper is a process whose working directory is dir.
func sleeper(t *testing.T, dir string) (pid int, ended <-chan struct{}) {
	t.Helper()
	cmd := exec.Command("sleep", "60")
	cmd.Dir = dir
	if err := cmd.Start(); err != nil {
		t.Skipf("no program to run: %v", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-done })
	return cmd.Process.Pid, done
}

func TestKillStray(t *testing.T) {
	write := func(dir string, pid int) {
		if err := os.WriteFile(filepath.Join(dir, pidFile), fmt.Appendf(nil, "%d\n", pid), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("the folder's own process ends", func(t *testing.T) {
		dir := t.TempDir()
		pid, ended := sleeper(t, dir)
		write(dir, pid)
		if err := killStray(context.Background(), dir); err != nil {
			t.Fatal(err)
		}
		<-ended
	})
	t.Run("a process that got the number later lives", func(t *testing.T) {
		dir := t.TempDir()
		pid, _ := sleeper(t, t.TempDir())
		write(dir, pid)
		if err := killStray(context.Background(), dir); err != nil {
			t.Fatal(err)
		}
		if startTime(pid) == 0 {
			t.Error("it was killed")
		}
	})
	t.Run("a file that was never finished is passed over", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, pidFile), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := killStray(context.Background(), dir); err != nil {
			t.Error(err)
		}
	})
}

func TestStartTime(t *testing.T) {
	if startTime(os.Getpid()) == 0 {
		t.Error("this process has no start time")
	}
	if got := startTime(1 << 30); got != 0 {
		t.Errorf("a process that is not there started at %d", got)
	}
}

func TestWaitFor(t *testing.T) {
	for name, c := range map[string]struct {
		word  string
		texts []string
		found bool
	}{
		"any text holds the empty word":            {"", []string{"x", "y"}, true},
		"silence holds nothing":                    {"", nil, false},
		"a word may come in two parts":             {"internal error", []string{"KVM inter", "nal error. Suberror: 1\n"}, true},
		"a warning is no failure":                  {"internal error", []string{"warning: host doesn't support requested feature\n"}, false},
		"what comes after the beginning is let by": {"end", []string{strings.Repeat(".", 5000), "end"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			seen := 0
			w := &waitFor{word: c.word, seen: func() { seen++ }}
			for _, text := range c.texts {
				if n, err := io.WriteString(w, text); n != len(text) || err != nil {
					t.Errorf("wrote %d of %d: %v", n, len(text), err)
				}
			}
			if w.found != c.found || (seen == 1) != c.found {
				t.Errorf("found %v, seen %d times", w.found, seen)
			}
		})
	}
}

func TestProbe(t *testing.T) {
	if _, err := exec.LookPath(qemuProgram); err != nil {
		t.Skip("QEMU is not installed: the probe's guest was not run")
	}
	if err := probe(context.Background(), "tcg"); err != nil {
		t.Errorf("the probe's guest does not run where everything does: %v", err)
	}
	if err := probe(context.Background(), "no-such"); err == nil {
		t.Error("an accelerator that does not exist works")
	}
	if err := probeFirmware(context.Background(), "no-such"); err == nil || !strings.Contains(err.Error(), "no-such") {
		t.Errorf("firmware runs by an accelerator that does not exist: %v", err)
	}
}
