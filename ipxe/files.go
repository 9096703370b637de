package ipxe

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/bedplate/bedplate/machine"
)

// writeScript sends a script, which is never to be kept: it may hold a token,
// and the next one may say something else.
func writeScript(w http.ResponseWriter, r *http.Request, content []byte) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=us-ascii")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(len(content)))
	if r.Method == http.MethodGet {
		// The client is gone if this fails; it asks again.
		_, _ = w.Write(content)
	}
}

// counter counts what is sent through a response, and keeps its ReadFrom, by
// which the kernel sends files without copying.
type counter struct {
	http.ResponseWriter
	n      int64
	status int
}

func (c *counter) WriteHeader(status int) {
	c.status = status
	c.ResponseWriter.WriteHeader(status)
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n += int64(n)
	return n, err
}

// ReadFrom is io.ReaderFrom.
func (c *counter) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(c.ResponseWriter, r)
	c.n += n
	return n, err
}

// Unwrap is for http.ResponseController.
func (c *counter) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// serveBootFile answers with a boot file from memory.
func (s *Server) serveBootFile(w http.ResponseWriter, r *http.Request, name string) {
	file, ok := s.cfg.BootFiles.File(name)
	if !ok {
		s.metrics.files.WithLabelValues("boot-file", "not_found").Inc()
		s.log.Debug("boot file not found", "ip", peerOf(r), "file", name)
		http.NotFound(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", contentType(file))
	h.Set("ETag", `"`+file.Digest+`"`)
	s.send(w, r, "boot-file", name, time.Time{}, bytes.NewReader(file.Content))
}

// contentType tells firmware that a file is a program: UEFI 2.10 §24.7.3.2 goes
// by application/efi or by the name.
func contentType(f LoadedFile) string {
	if f.Firmware == "uefi" {
		return "application/efi"
	}
	return "application/octet-stream"
}

// serveAgentFile answers with a file of the agent's system.
func (s *Server) serveAgentFile(w http.ResponseWriter, r *http.Request, kind, path string) {
	f, info, err := openAgentFile(path)
	if err != nil {
		s.metrics.files.WithLabelValues(kind, "error").Inc()
		s.log.Error("agent system not readable", "ip", peerOf(r), "file", path, "err", err)
		s.observe(machine.Sighting{Source: machine.SourceHTTP, Address: peerOf(r), Event: kind, Detail: err.Error(), Err: true})
		http.Error(w, "the agent's "+kind+" is not there; the server's log says why", http.StatusServiceUnavailable)
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	s.send(w, r, kind, kind, info.ModTime(), f)
}

// openAgentFile opens a file of the agent's system. Its error says what to do.
func openAgentFile(path string) (*os.File, fs.FileInfo, error) {
	if path == "" {
		return nil, nil, errors.New("no agent system is configured: build one with `bedplate agentos build`")
	}
	f, err := os.Open(path)
	if err != nil {
		// Not %w: a missing system is a fault of the server, no file that a client may miss.
		return nil, nil, fmt.Errorf("opening the agent's system (`bedplate agentos build` makes it): %v", err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("opening the agent's system: %w", err)
	}
	return f, info, nil
}

// send serves content with ranges, and reports when it starts and when it was
// sent to its end.
func (s *Server) send(w http.ResponseWriter, r *http.Request, kind, detail string, modTime time.Time, content io.ReadSeeker) {
	if r.Method == http.MethodHead {
		http.ServeContent(w, r, "", modTime, content)
		return
	}
	peer, start := peerOf(r), s.cfg.Now()
	s.observe(machine.Sighting{Source: machine.SourceHTTP, Address: peer, Event: kind, Detail: detail})
	c := &counter{ResponseWriter: w, status: http.StatusOK}
	http.ServeContent(c, r, "", modTime, content)
	s.metrics.bytes.WithLabelValues(kind).Add(float64(c.n))
	dur := s.cfg.Now().Sub(start)
	log := s.log.With("ip", peer, "file", detail, "dur", dur)
	want, err := strconv.ParseInt(w.Header().Get("Content-Length"), 10, 64)
	switch {
	case c.status >= http.StatusMultipleChoices:
		s.metrics.files.WithLabelValues(kind, "no_content").Inc()
	case err == nil && c.n < want:
		s.metrics.files.WithLabelValues(kind, "cut").Inc()
		log.Info("client left before the end")
		s.observe(machine.Sighting{
			Source: machine.SourceHTTP, Address: peer, Event: kind + "-cut",
			Detail: fmt.Sprintf("%s after %d of %d bytes", detail, c.n, want), Err: true,
		})
	default:
		s.metrics.files.WithLabelValues(kind, "ok").Inc()
		log.Info("file sent")
		s.observe(machine.Sighting{
			Source: machine.SourceHTTP, Address: peer, Event: kind + "-complete",
			Detail: fmt.Sprintf("%s, %d bytes in %.2f s", detail, c.n, dur.Seconds()),
		})
	}
}

// Open returns what TFTP serves: boot files, the peer's own grub/grub.cfg, and
// the agent's system for GRUBs that have no HTTP. The error is fs.ErrNotExist
// for every other name.
func (s *Server) Open(name string, peer netip.Addr) (io.ReadSeekCloser, error) {
	if file, ok := s.cfg.BootFiles.File(name); ok {
		return memory{bytes.NewReader(file.Content)}, nil
	}
	switch "/" + name {
	case grubPath:
		return s.openGRUB(peer)
	case kernelPath:
		return openForTFTP(s.cfg.KernelPath)
	case initramfsPath:
		return openForTFTP(s.cfg.InitramfsPath)
	}
	return nil, fmt.Errorf("%.255s: %w", strings.ToValidUTF8(name, "?"), fs.ErrNotExist)
}

func openForTFTP(path string) (io.ReadSeekCloser, error) {
	f, _, err := openAgentFile(path)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// openGRUB returns the configuration of the machine at peer.
func (s *Server) openGRUB(peer netip.Addr) (io.ReadSeekCloser, error) {
	a := asker{peer: peer.Unmap()}
	if s.cfg.HTTPBase != nil {
		a.base = s.cfg.HTTPBase(a.peer)
	}
	d := s.decideGRUB(&a)
	if d.program == nil {
		s.record(a, d, "grub", machine.SourceTFTP)
		return nil, fmt.Errorf("grub.cfg for an unknown machine: %w", fs.ErrNotExist)
	}
	content, err := s.render(&d, "grub")
	if err != nil {
		return nil, err
	}
	s.record(a, d, "grub", machine.SourceTFTP)
	return memory{bytes.NewReader(content)}, nil
}
