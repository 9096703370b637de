package ipmi_test

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestMain fails if anything of the lab still runs after the tests.
func TestMain(m *testing.M) {
	code := m.Run()
	for try := 0; ; try++ {
		buf := make([]byte, 1<<20)
		var left []string
		for _, stack := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if strings.Contains(stack, "bedplate/lab") && !strings.Contains(stack, "TestMain") {
				left = append(left, stack)
			}
		}
		if len(left) == 0 {
			break
		}
		if try == 100 {
			fmt.Fprintf(os.Stderr, "leaked goroutines:\n%s\n", strings.Join(left, "\n\n"))
			code = max(code, 1)
			break
		}
		<-time.After(20 * time.Millisecond)
	}
	os.Exit(code)
}
