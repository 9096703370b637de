package agentos

import (
	"bytes"
	"time"
)

// Overlay returns an archive with one file, for the kernel to unpack beside
// the initramfs: path is relative, and only root may read it. An archive that
// is not compressed has to come before one that is.
func Overlay(path string, content []byte) ([]byte, error) {
	t := newTree()
	t.file(path, 0o600, content)
	var b bytes.Buffer
	if err := t.writeCPIO(&b, time.Unix(0, 0)); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
