package bmc

import (
	"context"
	"io"
)

// Console opens a machine's serial console. Call Pool.Console: a console is a
// session of its own and stays open while other calls are made.
type Console interface {
	// Console returns the raw bytes of the machine's serial port. Read returns
	// io.EOF when the BMC has ended it, an error when it was lost. Most BMCs have
	// one console only: opening it anew ends the older one. ctx bounds the
	// opening, not the console; Close ends it.
	Console(ctx context.Context) (io.ReadWriteCloser, error)
}
