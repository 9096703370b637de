package image

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bedplate/bedplate/agent/disk"
	"github.com/bedplate/bedplate/agent/image/transfer"
	"github.com/bedplate/bedplate/agent/step"
	"github.com/bedplate/bedplate/images/format/compression"
	"github.com/bedplate/bedplate/images/format/qcow2"
)

// DigestError is a file that is not the one that was asked for.
type DigestError struct{ Want, Got string }

// Error names both digests.
func (e *DigestError) Error() string {
	return fmt.Sprintf("expected digest %s, got %s: the file was changed or damaged; correct the Image's digest, or import the file again", e.Want, e.Got)
}

// attempt is one pass over the file, from its first byte to its last.
type attempt struct {
	*Writer
	ctx    context.Context // Ends with the cause of the first failure, the disk's included.
	cancel context.CancelCauseFunc
	src    source
	dev    Device
	rep    step.Reporter
	stream *transfer.Stream
	file   *bufio.Reader
	sink   *sink
	// begun is set once something on the disk has been changed.
	begun bool
	// kept is how many bytes the disk had already.
	kept atomic.Int64
	// size is the length of the image on the disk.
	size int64
	// digest is that of the file, once all of it has come.
	digest string
}

func (w *Writer) write(ctx context.Context, req step.Request, rep step.Reporter) (step.Result, error) {
	src, err := read(req)
	if err != nil {
		return step.Result{}, err
	}
	start := w.Now()
	dev, err := w.Open(src.disk)
	if err != nil {
		return step.Result{}, err
	}
	defer dev.Close() // Sync has been called; nothing hangs on it.
	if src.index == nil && src.digest == "" {
		w.Log.Warn("image has no digest", "image", src.url)
		rep.Log(step.Agent, fmt.Sprintf("warning: %s has no digest, so nothing tells whether it is the right file", src))
	}
	touched := false
	for n := 0; ; n++ {
		a := &attempt{Writer: w, ctx: ctx, src: src, dev: dev, rep: rep}
		err := a.begin(req)
		touched = touched || a.begun
		if errors.Is(err, transfer.ErrChanged) && n < restarts && ctx.Err() == nil {
			rep.Log(step.Agent, fmt.Sprintf("%v; starting over", err))
			continue
		}
		if err != nil && touched {
			err = fmt.Errorf("writing %s: %w; %s is left so that nothing boots from it", src, err, dev.Path())
		} else if err != nil {
			err = fmt.Errorf("writing %s: %w; %s has not been touched", src, err, dev.Path())
		}
		if err != nil {
			return step.Result{}, err
		}
		return step.Result{Outputs: a.outputs(w.Now().Sub(start))}, nil
	}
}

func (a *attempt) outputs(took time.Duration) map[string]any {
	return map[string]any{
		"bytes": a.size, "written": a.sink.written.Load(), "skipped": a.sink.skipped.Load(), "kept": a.kept.Load(),
		"digest": a.digest, "disk": a.dev.Path(), "duration": took.Seconds(), "root_partition": a.src.root,
	}
}

// begin makes one attempt, from whatever the server has the image in.
func (a *attempt) begin(req step.Request) error {
	if a.src.index != nil {
		return a.chunked(req)
	}
	return a.run(req)
}

// run makes one attempt. Whatever becomes of it, nothing runs on when it returns.
func (a *attempt) run(req step.Request) (err error) {
	a.ctx, a.cancel = context.WithCancelCause(a.ctx)
	defer a.cancel(nil)
	seed := fnv.New64a()
	fmt.Fprint(seed, req.Workflow, req.Step, req.Attempt)
	a.stream, err = transfer.Open(a.ctx, transfer.Config{
		Client: req.HTTP, URL: a.src.url, Size: a.src.size, Digest: a.src.digest,
		Stall: a.Stall, GiveUp: a.GiveUp, Backoff: a.Backoff, Seed: seed.Sum64(),
		Report: func(m string) { a.rep.Log(step.Agent, m) },
	})
	if err != nil {
		return err
	}
	defer a.stream.Close() // Always nil.
	a.sink = newSink(a.ctx, a.cancel, a.dev, a.buffer, buffers, a.src.verify)
	defer a.sink.abort()
	stop := progress(func() {
		a.rep.Progress(a.stream.Received(), max(a.stream.Size(), 0), "bytes",
			fmt.Sprintf("%d MiB written, %d MiB of zeros", a.sink.written.Load()>>20, a.sink.skipped.Load()>>20))
	})
	defer stop()
	a.file = bufio.NewReaderSize(a.stream, 64<<10)
	if err := a.body(); err != nil {
		return err
	}
	if err := a.verifyFile(); err != nil {
		return err
	}
	if err := a.sink.finish(); err != nil {
		return err
	}
	return a.seal()
}

// body recognises the file and writes all but the ends of the disk.
func (a *attempt) body() error {
	head, err := a.file.Peek(qcow2.HeaderSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if len(head) == 0 {
		return errors.New("the file is empty")
	}
	if err := a.src.recognise(head); err != nil {
		return err
	}
	if qcow2.Is(head) {
		if err := a.src.expect(formatQcow2); err != nil {
			return err
		}
		return a.qcow2(head)
	}
	return a.raw()
}

// expect fails if the file has another format than was said.
func (s *source) expect(found string) error {
	if s.format != "" && s.format != found {
		return fmt.Errorf("expected format %s, but the file is %s: correct the Image's format", s.format, found)
	}
	return nil
}

// raw writes an image that is the disk's content from beginning to end.
func (a *attempt) raw() error {
	if a.src.compression == compression.None && a.stream.Size() > a.dev.Size() {
		return fmt.Errorf("the image has %d bytes, the disk has %d: select a larger disk", a.stream.Size(), a.dev.Size())
	}
	content, err := compression.NewReader(a.src.compression, a.file)
	if err != nil {
		return a.explain(err)
	}
	err = a.copy(content)
	var broken *decodeError
	if err != nil && !errors.As(err, &broken) {
		a.cancel(err) // So that a decoder doesn't wait for the network to be closed.
	}
	_ = content.Close() // Always nil. After it nobody else reads the file.
	if broken != nil {
		return a.explain(broken.error)
	}
	return err
}

// decodeError is a failure to read the content, as against to write it.
type decodeError struct{ error }

// copy hands the content on to the sink, in buffers.
func (a *attempt) copy(content io.Reader) error {
	var hole int64 // Whole buffers of zeros that wait to become one request.
	for eof := false; !eof; {
		b, err := a.sink.buffer()
		if err != nil {
			return err
		}
		var n int
		if n, eof, err = fill(content, b); err != nil {
			err = &decodeError{err}
		} else if err = a.first(b[:n]); err == nil && int64(n) > a.dev.Size()-a.size {
			err = tooLarge(a.size+int64(n), a.dev.Size())
		}
		if err != nil {
			a.sink.release(b)
			return err
		}
		at := a.size
		a.size += int64(n)
		if hole < mostHole && !eof && allZero(b[:n]) {
			hole += int64(n)
			a.sink.release(b)
			continue
		}
		if hole > 0 {
			err = a.sink.clear(at-hole, hole)
		}
		if hole = 0; n == 0 || err != nil {
			a.sink.release(b)
		} else {
			err = a.sink.put(at, b[:n])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// fill reads until b is full or the content ends.
func fill(r io.Reader, b []byte) (n int, eof bool, err error) {
	for idle := 0; n < len(b) && idle < 100; idle++ {
		m, err := r.Read(b[n:])
		if n += m; m > 0 {
			idle = 0
		}
		if err == io.EOF { //nolint:errorlint // An io.EOF wrapped in another failure is not the end.
			return n, true, nil
		}
		if err != nil {
			return n, false, err
		}
	}
	if n < len(b) {
		return n, false, io.ErrNoProgress
	}
	return n, false, nil
}

// mostHole bounds how many zeros become one request.
const mostHole = 256 << 20

// first looks at the image's first bytes, and makes the disk ready for it.
func (a *attempt) first(b []byte) error {
	if a.begun {
		return nil
	}
	if len(b) == 0 {
		return errors.New("the image is empty")
	}
	if qcow2.Is(b) {
		return fmt.Errorf("the file is a qcow2 image inside %s, which can't be streamed: serve the qcow2 itself (it can be compressed inside), or convert it to raw first", a.src.compression)
	}
	if err := a.src.expect(formatRaw); err != nil {
		return err
	}
	if err := fits(b[:min(len(b), headSize)], a.dev); err != nil {
		return err
	}
	return a.unseal()
}

// unseal makes the disk unbootable. From here on it is so until seal is done.
func (a *attempt) unseal() error {
	a.begun = true
	if err := clearEnds(a.ctx, a.dev); err != nil {
		return fmt.Errorf("clearing the partition table of %s: %w", a.dev.Path(), err)
	}
	return nil
}

func clearEnds(ctx context.Context, dev Device) error {
	n := min(headSize, dev.Size())
	if err := disk.Clear(ctx, dev, 0, n, nil); err != nil {
		return err
	}
	tail := max(n, (dev.Size()-headSize)/headSize*headSize)
	if err := disk.Clear(ctx, dev, tail, dev.Size()-tail, nil); err != nil {
		return err
	}
	return dev.Sync()
}

// verifyFile reads what is left of the file, and checks its length and digest.
func (a *attempt) verifyFile() error {
	rest, err := io.Copy(io.Discard, a.file)
	if err != nil {
		return err
	}
	if size := a.stream.Size(); size >= 0 && a.stream.Received() != size {
		return &transfer.SizeError{URL: a.src.url, Want: size, Got: a.stream.Received()}
	}
	a.digest = a.stream.Sum()
	if a.src.digest != "" && a.digest != a.src.digest {
		return &DigestError{Want: a.src.digest, Got: a.digest}
	}
	if rest > 0 && a.src.compression != compression.None {
		return fmt.Errorf("%d bytes of garbage after the end of the %s data", rest, a.src.compression)
	}
	return nil
}

// mostRest bounds what is fetched only to say why a file can't be read.
const mostRest = 64 << 20

// explain adds to a decoder's complaint what the digest has to say: whether
// the file is damaged, or was made so.
func (a *attempt) explain(err error) error {
	if a.src.digest == "" || a.ctx.Err() != nil {
		return err
	}
	n, rerr := io.Copy(io.Discard, io.LimitReader(a.file, mostRest))
	if rerr != nil || n == mostRest {
		return err
	}
	if got := a.stream.Sum(); got != a.src.digest {
		return fmt.Errorf("%w; %w", err, &DigestError{Want: a.src.digest, Got: got})
	}
	return fmt.Errorf("%w; its digest is the expected one, so it was made wrongly", err)
}

// progress calls report twice a second until the returned function is called, and then once more.
func progress(report func()) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		t := time.NewTicker(500 * time.Millisecond)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				report()
			case <-done:
				return
			}
		}
	})
	return func() {
		close(done)
		wg.Wait()
		report()
	}
}
