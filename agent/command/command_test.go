package command

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bedplate/bedplate/agent/step"
)

type lines struct {
	mu   sync.Mutex
	all  []string
	said chan struct{}
}

func (l *lines) Log(stream, line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, stream+": "+line)
	if l.said != nil {
		select {
		case l.said <- struct{}{}:
		default:
		}
	}
}
func (*lines) Progress(int64, int64, string, string) {}

func argv(words ...any) step.Request {
	return step.Request{With: map[string]any{"command": words, "env": map[string]any{"A": int64(1)}}, Env: map[string]string{"B": "two"}}
}

func TestExecute(t *testing.T) {
	t.Run("output, environment and exit code", func(t *testing.T) {
		var got lines
		r, err := Execute(t.Context(), argv("sh", "-c", "echo $A $B; echo oops >&2; exit 3"), &got)
		if err == nil || err.Error() != "sh: exit code 3" || r.ExitCode == nil || *r.ExitCode != 3 {
			t.Errorf("error %v, exit code %v", err, r.ExitCode)
		}
		if diff := cmp.Diff(map[string]any{"exit_code": int64(3), "stdout": "1 two\n"}, r.Outputs); diff != "" {
			t.Errorf("outputs (-want +got):\n%s", diff)
		}
		if text := strings.Join(got.all, ","); !strings.Contains(text, "stdout: 1 two") || !strings.Contains(text, "stderr: oops") {
			t.Errorf("lines %q", got.all)
		}
	})
	t.Run("success", func(t *testing.T) {
		if r, err := Execute(t.Context(), argv("true"), &lines{}); err != nil || *r.ExitCode != 0 {
			t.Errorf("%v, %v", r, err)
		}
	})
	t.Run("a signal is named", func(t *testing.T) {
		r, err := Execute(t.Context(), argv("sh", "-c", "kill -9 $$"), &lines{})
		if err == nil || !strings.Contains(err.Error(), "killed by signal 9") || *r.ExitCode != 137 {
			t.Errorf("error %v", err)
		}
	})
	t.Run("cancelled, it and its children end", func(t *testing.T) {
		got := lines{said: make(chan struct{}, 1)}
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("asked to")
		go func() { <-got.said; cancel(why) }()
		begun := time.Now()
		if _, err := Execute(ctx, argv("sh", "-c", "sleep 60 & echo started; wait"), &got); !errors.Is(err, why) {
			t.Errorf("error %v", err)
		}
		if d := time.Since(begun); d > 4*time.Second {
			t.Errorf("it took %s", d)
		}
	})
	for want, req := range map[string]step.Request{
		"there is no program no-such-thing": argv("no-such-thing"),
		"no such file or directory":         argv("/no/such/thing"),
		"not a list of strings":             argv("x", int64(1)),
	} {
		t.Run(want, func(t *testing.T) {
			if _, err := Execute(t.Context(), req, &lines{}); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v", err)
			}
		})
	}
}
