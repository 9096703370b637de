package dial

import (
	"context"
	"io"

	"github.com/bedplate/bedplate/bmc"
	"github.com/bedplate/bedplate/bmc/shell"
)

// withShell is a driver whose serial console is reached by the BMC's SSH shell.
type withShell struct {
	bmc.Driver
	target bmc.Target
}

// sshConsole is a driver that knows how its BMC gives the console by SSH.
type sshConsole interface {
	SSHConsole(ctx context.Context) (port uint16, command string, err error)
}

// Console opens the console by SSH. What the target doesn't say of it, the BMC
// does, or its machine's manufacturer.
func (w withShell) Console(ctx context.Context) (io.ReadWriteCloser, error) {
	t, way := w.target, *w.target.SSH
	if said, ok := w.first().(sshConsole); ok && (way.Port == 0 || way.Command == "") {
		port, command, err := said.SSHConsole(ctx)
		if err != nil {
			return nil, err
		}
		if way.Port == 0 {
			way.Port = port
		}
		if way.Command == "" {
			way.Command = command
		}
	}
	if way.Command == "" {
		if id, err := w.Identity(ctx); err == nil {
			way.Command = shell.CommandOf(id.Manufacturer)
		}
	}
	if way.Command == shell.NoCommand {
		way.Command = ""
	}
	t.SSH = &way
	return shell.Console(ctx, t, way.Command)
}

// first is the driver itself, without a second one behind it.
func (w withShell) first() bmc.Driver {
	if b, ok := w.Driver.(*both); ok {
		return b.Driver
	}
	return w.Driver
}
