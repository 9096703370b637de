package hardware

import (
	"bytes"
	"errors"
	"io"
	"strings"

	"golang.org/x/sys/unix"
)

// kernelLog is the kernel's log from one moment on. Its records are
//
//	priority,sequence,microseconds,flags[,…];text
//	 KEY=value
//
// one for each read (Documentation/ABI/testing/dev-kmsg).
//
// It is a bare descriptor: an os.File would make reads wait.
type kernelLog struct{ fd int }

// Bounds of what is taken from the log.
const (
	maxRecord  = 8 << 10
	maxRecords = 10_000
	maxFound   = 20
)

// openKernelLog begins at the log's present end. Without a log nothing is found.
func openKernelLog(path string) *kernelLog {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return &kernelLog{-1}
	}
	if _, err := unix.Seek(fd, 0, io.SeekEnd); err != nil {
		_ = unix.Close(fd) // only read
		return &kernelLog{-1}
	}
	return &kernelLog{fd}
}

// close returns the texts that have come since and that match.
func (k *kernelLog) close(match func(string) bool) []string {
	if k.fd < 0 {
		return nil
	}
	defer unix.Close(k.fd)
	var found []string
	buf := make([]byte, maxRecord)
	for range maxRecords {
		n, err := unix.Read(k.fd, buf)
		if errors.Is(err, unix.EPIPE) {
			continue // the log has gone on over what was to be read
		}
		if err != nil || n <= 0 {
			break
		}
		for record := range bytes.Lines(buf[:n]) {
			if text, ok := recordText(string(record)); ok && match(text) && len(found) < maxFound {
				found = append(found, text)
			}
		}
	}
	return found
}

// recordText returns the text of a record's first line; the others are keys.
func recordText(line string) (string, bool) {
	if strings.HasPrefix(line, " ") {
		return "", false
	}
	_, text, ok := strings.Cut(line, ";")
	return strings.ToValidUTF8(strings.TrimSpace(text), "?"), ok
}

// isHardwareError recognises what the kernel says of machine checks, memory
// controllers and PCI Express errors: x86's mcelog, EDAC, GHES and AER.
func isHardwareError(text string) bool {
	for _, s := range []string{"[Hardware Error]", "Machine check", "mce: ", "EDAC ", "AER: ", "Uncorrected", "uncorrectable"} {
		if strings.Contains(text, s) {
			return true
		}
	}
	return false
}
