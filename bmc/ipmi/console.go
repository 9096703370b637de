package ipmi

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/bougou/go-ipmi/pkg/client"
	"github.com/bougou/go-ipmi/pkg/command/transport"
	"github.com/bougou/go-ipmi/pkg/types"

	"github.com/bedplate/bedplate/bmc"
)

// solInstance is the payload instance of the console: BMCs have one.
const solInstance = 1

// solPoll is how often the BMC is asked for output that it hasn't sent by itself.
const solPoll = 100 * time.Millisecond

// deactivateTimeout bounds the goodbye to a console.
const deactivateTimeout = 3 * time.Second

// codePayloadActive is Activate Payload's own completion code (table 24-2):
// another session has the console.
const codePayloadActive types.CompletionCode = 0x80

// Console activates Serial over LAN (§15, §24) in this session, which is used
// for nothing else until it is closed. A console that another session holds is
// taken over, as bmc.Console says: the other's is most often one that nobody
// ended.
func (d *Driver) Console(ctx context.Context) (io.ReadWriteCloser, error) {
	err := d.do(ctx, "activating SOL", func(ctx context.Context) error {
		err := d.activate(ctx)
		if isCode(err, codePayloadActive) {
			if _, err := d.c.DeactivatePayload(ctx, &transport.DeactivatePayloadRequest{PayloadType: types.PayloadTypeSOL, PayloadInstance: solInstance}); err != nil {
				return err
			}
			err = d.activate(ctx)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return newConsole(d), nil
}

func (d *Driver) activate(ctx context.Context) error {
	_, err := d.c.ActivatePayload(ctx, &transport.ActivatePayloadRequest{
		PayloadType: types.PayloadTypeSOL, PayloadInstance: solInstance,
		EnableEncryption: true, EnableAuthentication: true,
		SharedSerialAlertBehavior: transport.SharedSerialAlertBehavior_Defer,
	})
	return err
}

// console is an active SOL payload. One goroutine carries the bytes, from when
// it is made until Close has returned.
type console struct {
	d      *Driver
	output *io.PipeReader
	input  *io.PipeWriter
	cancel context.CancelFunc
	ended  chan struct{}
	once   sync.Once
}

func newConsole(d *Driver) *console {
	ctx, cancel := context.WithCancel(context.Background())
	fromBMC, toReader := io.Pipe()
	fromWriter, toBMC := io.Pipe()
	c := &console{d: d, output: fromBMC, input: toBMC, cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(c.ended)
		err := d.do(ctx, "serial console", func(ctx context.Context) error {
			return d.c.SOLStream(ctx, fromWriter, toReader, &client.SOLStreamOptions{PollInterval: solPoll})
		})
		_ = toReader.CloseWithError(endOf(err))
		_ = fromWriter.CloseWithError(endOf(err))
	}()
	return c
}

// endOf is what the reader of a console that has ended gets.
func endOf(err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return io.EOF
	}
	if !errors.Is(err, bmc.ErrUnreachable) && isDeactivation(err) {
		return io.EOF
	}
	return err
}

func (c *console) Read(p []byte) (int, error)  { return c.output.Read(p) }
func (c *console) Write(p []byte) (int, error) { return c.input.Write(p) }

// Close deactivates the payload. The session stays for whoever opened it.
func (c *console) Close() error {
	c.once.Do(func() {
		c.cancel()
		_ = c.output.Close() // frees a write of output that nobody reads
		_ = c.input.Close()
		<-c.ended
		ctx, cancel := context.WithTimeout(context.Background(), deactivateTimeout)
		defer cancel()
		// A BMC that has ended it by itself says so; there is nothing left to do.
		_ = c.d.do(ctx, "deactivating SOL", func(ctx context.Context) error {
			_, err := c.d.c.DeactivatePayload(ctx, &transport.DeactivatePayloadRequest{PayloadType: types.PayloadTypeSOL, PayloadInstance: solInstance})
			return err
		})
	})
	return nil
}
