package qcow2

import (
	"bytes"
	"fmt"
	"io"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
)

// maxWindow bounds a zstd frame's window; a cluster is at most 2 MiB.
const maxWindow = 8 << 20

// Unpacker decompresses clusters, one at a time.
type Unpacker struct {
	deflate io.ReadCloser
	zstd    *zstd.Decoder
	src     bytes.Reader
}

// NewUnpacker returns an Unpacker for the image's kind of compression.
func (h *Header) NewUnpacker() (*Unpacker, error) {
	u := &Unpacker{}
	if !h.Zstd {
		u.deflate = flate.NewReader(&u.src)
		return u, nil
	}
	var err error
	u.zstd, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, fmt.Errorf("making zstd decoder: %w", err)
	}
	return u, nil
}

// Unpack fills dst, a whole cluster or the last of a disk, from src, which may
// go on after the compressed data.
func (u *Unpacker) Unpack(dst, src []byte) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("decompressing cluster: corrupt data: %v", p)
		}
	}()
	u.src.Reset(src)
	if u.zstd != nil {
		if err = u.zstd.Reset(&u.src); err == nil {
			_, err = io.ReadFull(u.zstd, dst)
		}
	} else if err = u.deflate.(flate.Resetter).Reset(&u.src, nil); err == nil {
		_, err = io.ReadFull(u.deflate, dst)
	}
	if err != nil {
		return fmt.Errorf("decompressing cluster: %w", err)
	}
	return nil
}

// Close frees the decoder.
func (u *Unpacker) Close() {
	if u.zstd != nil {
		u.zstd.Close()
	}
}
