package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"time"
)

// Serial reads what a machine writes to its serial port, from where it was
// opened. It is not for use by several goroutines at once.
type Serial struct {
	file    string
	machine string
	offset  int64
	held    []byte // an unfinished escape sequence
	text    []byte // readable and not yet matched
}

// serialKeep bounds what WaitFor looks back on.
const serialKeep = 1 << 20

// Serial returns a reader of what the machine writes from now on.
func (m *Machine) Serial() *Serial {
	s := &Serial{file: m.SerialLog(), machine: m.spec.Name}
	if info, err := os.Stat(s.file); err == nil {
		s.offset = info.Size()
	}
	return s
}

// terminalCodes are escape sequences (ECMA-48 §5.4), character set choices and
// the controls that firmware strews about.
var terminalCodes = regexp.MustCompile(`\x1b\[[0-9;?=]*[ -/]*[@-~]|\x1b[()][0-9A-Za-z]|\x1b[=>78cDEHM]|[\x00\x07\x0e\x0f\r]`)

// Read returns what has come in since, plain: no escape sequences, no carriage
// returns. It does not wait: with nothing new it returns 0 and io.EOF, and may be called again.
func (s *Serial) Read(p []byte) (int, error) {
	if len(s.text) == 0 {
		if err := s.fill(); err != nil {
			return 0, err
		}
	}
	if len(s.text) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.text)
	s.text = s.text[n:]
	return n, nil
}

// fill takes in what the log has grown by.
func (s *Serial) fill() error {
	f, err := os.Open(s.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // not switched on yet
	}
	if err != nil {
		return fmt.Errorf("reading serial log: %w", err)
	}
	defer f.Close() //nolint:errcheck // read only
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("reading serial log: %w", err)
	}
	if info.Size() < s.offset { // wiped meanwhile
		s.offset, s.held = 0, nil
	}
	b, err := io.ReadAll(io.NewSectionReader(f, s.offset, min(info.Size()-s.offset, serialKeep)))
	if err != nil {
		return fmt.Errorf("reading serial log: %w", err)
	}
	s.offset += int64(len(b))
	b = append(s.held, b...)
	s.held = nil
	if i := bytes.LastIndexByte(b, 0x1b); i >= 0 && len(b)-i < 32 && !terminalCodes.Match(b[i:]) {
		s.held, b = bytes.Clone(b[i:]), b[:i]
	}
	s.text = append(s.text, terminalCodes.ReplaceAll(b, nil)...)
	if len(s.text) > serialKeep {
		s.text = s.text[len(s.text)-serialKeep:]
	}
	return nil
}

// WaitFor waits until the expression matches what came in after the last
// match, and returns the match with its groups. What was read up to the end of
// the match counts as seen. When ctx is done before, the error shows the last lines.
func (s *Serial) WaitFor(ctx context.Context, re *regexp.Regexp) ([]string, error) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := s.fill(); err != nil {
			return nil, err
		}
		if at := re.FindSubmatchIndex(s.text); at != nil {
			var groups []string
			for i := 0; i+1 < len(at); i += 2 {
				if at[i] < 0 {
					groups = append(groups, "")
					continue
				}
				groups = append(groups, string(s.text[at[i]:at[i+1]]))
			}
			s.text = s.text[at[1]:]
			return groups, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for %q on the serial port of %s: %w; its last lines are:\n%s", re, s.machine, ctx.Err(), lastLines(s.text, 20))
		}
	}
}

func lastLines(b []byte, n int) string {
	all := strings.Split(strings.TrimSpace(string(b)), "\n")
	return "  " + strings.Join(all[max(0, len(all)-n):], "\n  ")
}
