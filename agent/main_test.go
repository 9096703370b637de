package agent

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// TestMain fails if a goroutine of this package outlives the tests.
func TestMain(m *testing.M) {
	code := m.Run()
	for deadline := time.Now().Add(3 * time.Second); ; {
		buf := make([]byte, 1<<20)
		all := strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")
		var leaked []string
		for _, g := range all[1:] {
			if strings.Contains(g, "bedplate/agent.") {
				leaked = append(leaked, g)
			}
		}
		if len(leaked) == 0 {
			break
		}
		if time.Now().After(deadline) {
			fmt.Fprintf(os.Stderr, "leaked goroutines:\n%s\n", strings.Join(leaked, "\n\n"))
			code = 1
			break
		}
		runtime.Gosched()
	}
	os.Exit(code)
}

// BenchmarkWorkflow is one machine taken through ten empty steps: all that the
// agent and the stream cost, without a server's store.
func BenchmarkWorkflow(b *testing.B) {
	var steps []*pb.Step
	for i := range 10 {
		steps = append(steps, &pb.Step{Id: fmt.Sprintf("s%d", i), Uses: "noop"})
	}
	s := newFakeServer(nil)
	start(b, s, func(c *Config) { c.Say = func(string, ...any) {} })
	s.await(b, "connected", func() bool { return len(s.hellos) > 0 })
	run := uint32(0)
	for b.Loop() {
		run++
		p := makePlan(steps...)
		p.Run = run
		s.set(func(s *fakeServer) { s.applied, s.events = 0, nil })
		s.push <- &pb.ConnectResponse{Message: &pb.ConnectResponse_Plan{Plan: p}}
		s.await(b, "done", func() bool { return s.has("s9 STEP_SUCCEEDED") })
	}
}
