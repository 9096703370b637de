package lab

import (
	"bytes"
	"regexp"
	"sync"
)

// transcript keeps what a program says, so that it can be searched meanwhile.
type transcript struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (t *transcript) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.Write(p)
}

func (t *transcript) has(expression string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return regexp.MustCompile(expression).Match(t.text.Bytes())
}
