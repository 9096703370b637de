package tftp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"strings"
	"time"

	pin "github.com/pin/tftp/v3"

	"github.com/bedplate/bedplate/machine"
)

// The reasons for which a transfer is not made or cut. Their text goes to the
// client, whose firmware may show it.
var (
	errBusy     = errors.New("server is busy: too many transfers, try again")
	errReadOnly = errors.New("this server is read only")
	errTooSlow  = errors.New("transfer took too long")
	errStopping = errors.New("server is stopping")
	errPanic    = errors.New("request cannot be answered")
)

// errNotFound hides the reason from the client: it is told the same for names
// that do not exist and for those that are not for it.
func errNotFound(name string) error {
	return fmt.Errorf("file not found: %.64s", name)
}

// read serves one read request. An error that it returns before the transfer
// began is sent to the client by the library, which closes the socket.
func (s *Server) read(ctx context.Context, raw string, w io.ReaderFrom) (err error) {
	peer, local := endpoints(w)
	log := s.log.With("ip", peer, "addr", local)
	name, err := CleanName(raw)
	if err != nil {
		s.metrics.requests.WithLabelValues(resultRefused).Inc()
		log.Debug("request refused", "err", err)
		return ErrName
	}
	log = log.With("file", name)
	if ok, first := s.limit.acquire(peer); !ok {
		s.metrics.requests.WithLabelValues(resultBusy).Inc()
		if first {
			log.Warn("transfers refused: too many under way", "err", errBusy)
		}
		return errBusy
	}
	defer s.limit.release(peer)
	content, size, err := s.open(name, peer)
	if err != nil {
		return s.refuse(peer, name, err)
	}
	defer content.Close()
	s.observe(machine.Sighting{Address: peer, Event: "RRQ", Detail: name})
	s.transfer(ctx, w, &request{peer: peer, name: name, size: size, content: content})
	return nil
}

type request struct {
	peer    netip.Addr
	name    string
	size    int64
	content io.ReadSeeker
}

// endpoints returns the addresses of a transfer's two ends.
func endpoints(w any) (peer, local netip.Addr) {
	if t, ok := w.(interface{ RemoteAddr() net.UDPAddr }); ok {
		addr := t.RemoteAddr()
		peer = addr.AddrPort().Addr().Unmap()
	}
	if t, ok := w.(pin.RequestPacketInfo); ok {
		if a, ok := netip.AddrFromSlice(t.LocalIP()); ok {
			local = a.Unmap()
		}
	}
	return peer, local
}

func (s *Server) open(name string, peer netip.Addr) (io.ReadSeekCloser, int64, error) {
	content, err := s.cfg.Files.Open(name, peer)
	if err != nil {
		return nil, 0, err
	}
	size, err := content.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = content.Seek(0, io.SeekStart)
	}
	if err != nil {
		content.Close()
		return nil, 0, fmt.Errorf("measuring %s: %w", name, err)
	}
	return content, size, nil
}

// refuse records that a file could not be opened and returns what the client is told.
func (s *Server) refuse(peer netip.Addr, name string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		// Firmware and boot loaders try names that need not exist: shim its
		// revocations, GRUB its module lists.
		s.metrics.requests.WithLabelValues(resultNotFound).Inc()
		s.log.Debug("file not found", "ip", peer, "file", name)
		return errNotFound(name)
	}
	s.metrics.requests.WithLabelValues(resultError).Inc()
	s.log.Error("file not readable", "ip", peer, "file", name, "err", err)
	s.observe(machine.Sighting{Address: peer, Event: "error", Detail: name + ": " + err.Error(), Err: true})
	return errNotFound(name)
}

// transfer sends the file and records how it went.
func (s *Server) transfer(ctx context.Context, w io.ReaderFrom, r *request) {
	start := s.cfg.Now()
	deadline := start.Add(s.cfg.Grace + time.Duration(r.size/s.cfg.MinRate)*time.Second)
	source := &source{ReadSeeker: r.content, end: func() error {
		switch {
		case ctx.Err() != nil:
			return errStopping
		case s.cfg.Now().After(deadline):
			return errTooSlow
		}
		return nil
	}}
	s.metrics.transfers.Inc()
	n, err := send(w, source)
	s.metrics.transfers.Dec()
	s.metrics.sent.Add(float64(n))
	dur := s.cfg.Now().Sub(start)
	result := classify(err)
	s.metrics.requests.WithLabelValues(result).Inc()
	log := s.log.With("ip", r.peer, "file", r.name, "dur", dur)
	switch result {
	case resultOK:
		s.metrics.duration.Observe(dur.Seconds())
		log.Info("file sent")
		s.observe(machine.Sighting{Address: r.peer, Event: "complete", Detail: fmt.Sprintf("%s, %d bytes in %.2f s", r.name, n, dur.Seconds())})
	case resultAborted:
		log.Debug("client ended the transfer", "err", err)
	default:
		log.Info("transfer failed", "err", err)
		s.observe(machine.Sighting{Address: r.peer, Event: "error", Detail: fmt.Sprintf("%s after %d of %d bytes: %v", r.name, n, r.size, err), Err: true})
	}
}

// send runs the library's transfer. A request whose options do not fit back
// into an acknowledgement makes the library (v3.2.0, packOACK) write past its
// buffer: that panic ends this transfer and nothing else. The library closes
// its socket on the way out.
func send(w io.ReaderFrom, r io.Reader) (n int64, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errPanic, p)
		}
	}()
	return w.ReadFrom(r)
}

// classify names the result of a transfer for the metrics.
func classify(err error) string {
	var timeout net.Error
	switch {
	case err == nil:
		return resultOK
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, errTooSlow):
		return resultTimeout
	case strings.Contains(err.Error(), "code=8, error:"), strings.Contains(err.Error(), "code=0, error:"):
		// The library has no type for an ERROR packet, only this text.
		return resultAborted
	default:
		return resultError
	}
}

// refuseWrite answers a write request.
func (s *Server) refuseWrite(name string, r io.WriterTo) error {
	peer, _ := endpoints(r)
	s.metrics.requests.WithLabelValues(resultRefused).Inc()
	s.log.Debug("write refused", "ip", peer, "file", name)
	return errReadOnly
}

func (s *Server) observe(sighting machine.Sighting) {
	if s.cfg.Observer == nil {
		return
	}
	sighting.Time = s.cfg.Now()
	sighting.Source = machine.SourceTFTP
	s.cfg.Observer.Observe(sighting)
}

// source is a file that can be read until end gives a reason not to. The library
// asks it for each block, so a transfer ends with it.
type source struct {
	io.ReadSeeker
	end func() error
}

// Read is io.Reader.
func (s *source) Read(p []byte) (int, error) {
	if err := s.end(); err != nil {
		return 0, err
	}
	return s.ReadSeeker.Read(p)
}
