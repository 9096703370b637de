package engine

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"
)

// Bounds of /speed, which anyone on the machines' network can ask.
const (
	maxSpeedBytes = 64 << 30
	maxSpeedTime  = time.Minute
	// maxSpeedAtOnce leaves the rest of the server's network to the machines
	// that are being installed.
	maxSpeedAtOnce = 16
	speedPiece     = 256 << 10
)

// speed lets machines measure how fast data comes from here (GET, with
// ?bytes=N) and gets here (POST). At most maxSpeedAtOnce of them at a time.
type speed struct{ room chan struct{} }

func newSpeed() speed { return speed{room: make(chan struct{}, maxSpeedAtOnce)} }

// ServeHTTP implements http.Handler.
func (s speed) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	select {
	case s.room <- struct{}{}:
		defer func() { <-s.room }()
	default:
		w.Header().Set("Retry-After", "10")
		http.Error(w, "others are measuring; try again later", http.StatusServiceUnavailable)
		return
	}
	c := http.NewResponseController(w)
	end := time.Now().Add(maxSpeedTime)
	if err := errors.Join(c.SetReadDeadline(end), c.SetWriteDeadline(end)); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	switch r.Method {
	case http.MethodGet:
		s.give(w, r)
	case http.MethodPost:
		n, err := io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, maxSpeedBytes))
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		fmt.Fprintln(w, n)
	default:
		w.Header().Set("Allow", "GET, POST")
		http.Error(w, "GET measures one way, POST the other", http.StatusMethodNotAllowed)
	}
}

// give sends as many bytes as are asked for.
func (s speed) give(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.ParseInt(r.URL.Query().Get("bytes"), 10, 64)
	if err != nil || n < 1 || n > maxSpeedBytes {
		http.Error(w, fmt.Sprintf("want ?bytes=N, from 1 to %d", int64(maxSpeedBytes)), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
	w.Header().Set("Cache-Control", "no-store")
	// Bytes that no link's hardware makes shorter.
	piece := make([]byte, speedPiece)
	x := uint32(1)
	for i := range piece {
		x ^= x << 13 // xorshift32 (Marsaglia, 2003)
		x ^= x >> 17
		x ^= x << 5
		piece[i] = byte(x)
	}
	for n > 0 {
		k, err := w.Write(piece[:min(n, speedPiece)])
		if err != nil {
			return // the machine has measured enough
		}
		n -= int64(k)
	}
}
