package disk

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/bedplate/bedplate/agent/step"
)

// folders are where programs are in the agent's system and on distributions.
var folders = []string{"/sbin", "/usr/sbin", "/bin", "/usr/bin"}

// maxLine bounds one line of a program's output; longer ones are cut up.
const maxLine = 64 << 10

// run executes a program and hands on its output line by line. The program is
// killed when ctx is done.
func run(ctx context.Context, args []string, line func(stream, text string)) error {
	path, err := look(args[0])
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, path, args[1:]...)
	cmd.Env = []string{"PATH=/sbin:/usr/sbin:/bin:/usr/bin", "LC_ALL=C"}
	cmd.WaitDelay = 5 * time.Second
	var mu sync.Mutex
	locked := func(stream, text string) {
		mu.Lock()
		defer mu.Unlock()
		line(stream, text)
	}
	var readers sync.WaitGroup
	var ends []io.Closer
	for stream, w := range map[string]*io.Writer{step.Stdout: &cmd.Stdout, step.Stderr: &cmd.Stderr} {
		r, pw := io.Pipe()
		*w = pw
		ends = append(ends, pw)
		readers.Go(func() { Lines(r, func(text string) { locked(stream, text) }) })
	}
	err = cmd.Run()
	for _, e := range ends {
		_ = e.Close() // Ends the readers; a pipe's Close can't fail.
	}
	readers.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	if err != nil {
		return fmt.Errorf("running %s: %w", args[0], err)
	}
	return nil
}

// Lines calls line for each line of r until it ends. What is longer than 64 KiB
// comes in pieces.
func Lines(r io.Reader, line func(string)) {
	b := bufio.NewReaderSize(r, maxLine)
	for {
		text, _, err := b.ReadLine()
		if err != nil {
			return
		}
		line(string(text))
	}
}

func look(name string) (string, error) {
	for _, dir := range folders {
		path := filepath.Join(dir, name)
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s isn't in the agent's system: build it with this program, or use another type of file system", name)
}

func exitCode(err error) *int32 {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return nil
	}
	code := int32(exit.ExitCode())
	return &code
}
