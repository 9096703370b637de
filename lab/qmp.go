package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"
)

// qmp is a connection to QEMU's monitor (docs/interop/qmp-spec.txt): one JSON
// object a line, a greeting first, replies in order among events.
type qmp struct {
	conn net.Conn
	in   *bufio.Scanner
}

// maxQMPLine bounds one message; ours are short.
const maxQMPLine = 1 << 20

type qmpReply struct {
	QMP    json.RawMessage `json:"QMP"`
	Event  string          `json:"event"`
	Data   json.RawMessage `json:"data"`
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
}

// dialFile connects to a Unix socket in a folder by way of the folder's
// descriptor, because paths of sockets may have 108 bytes only.
func dialFile(ctx context.Context, dir, name string) (net.Conn, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close() //nolint:errcheck // read only
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), name))
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", filepath.Join(dir, name), errors.Unwrap(err))
	}
	return conn, nil
}

// dialQMP connects and takes the greeting. ctx must have a deadline, which is
// that of everything after, too.
func dialQMP(ctx context.Context, dir, socket string) (*qmp, error) {
	conn, err := dialFile(ctx, dir, socket)
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	q := &qmp{conn: conn, in: bufio.NewScanner(conn)}
	q.in.Buffer(nil, maxQMPLine)
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if _, err := q.read(); err != nil {
		return nil, errors.Join(fmt.Errorf("waiting for QEMU's greeting: %w", err), conn.Close())
	}
	if err := q.execute("qmp_capabilities", nil); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return q, nil
}

// read returns the next message that is no event.
func (q *qmp) read() (qmpReply, error) {
	for q.in.Scan() {
		var r qmpReply
		if err := json.Unmarshal(q.in.Bytes(), &r); err != nil {
			return r, fmt.Errorf("reading from QEMU: %w", err)
		}
		if r.Event == "" {
			return r, nil
		}
	}
	if err := q.in.Err(); err != nil {
		return qmpReply{}, err
	}
	return qmpReply{}, net.ErrClosed
}

// settleTime is how long after a reset no other may come for it to be the last.
// SeaBIOS causes one more, or two, after each, to start with clean memory
// (SeaBIOS 1.16.2, tryReboot in resume.c; seen: 0.2 to 0.7 s later), and reads
// the boot order only after that.
const settleTime = 2500 * time.Millisecond

// reasonStopped is the reason for the end of a QEMU that had stopped its
// processors by itself, as it does after an internal error of KVM
// (run state internal-error, qapi/run-state.json). We never stop them.
const reasonStopped = "stopped"

// observer is told what becomes of a machine. None of it may block for long.
type observer struct {
	// settle: begun is called at a reset, and done when the resets that the
	// firmware adds are over; else done alone, at once.
	settle      bool
	begun, done func()
	// stopped is called when QEMU stops the machine's processors.
	stopped func()
}

// watch tells of each reset of the machine until QEMU hangs up, and returns the
// reason for its end: the one that QEMU gave, or reasonStopped.
func (q *qmp) watch(o observer) (reason string) {
	events := make(chan qmpReply)
	go func() { // ends when QEMU hangs up
		defer close(events)
		for q.in.Scan() {
			var r qmpReply
			if json.Unmarshal(q.in.Bytes(), &r) == nil && r.Event != "" {
				events <- r
			}
		}
	}()
	var settled <-chan time.Time // set from a reset until the last of its followers
	for {
		select {
		case <-settled:
			settled = nil
			o.done()
		case r, ok := <-events:
			switch {
			case !ok:
				return reason
			case r.Event == "RESET" && o.settle:
				if settled == nil {
					o.begun()
				}
				settled = time.After(settleTime)
			case r.Event == "RESET":
				o.done()
			case r.Event == "STOP" && reason == "":
				reason = reasonStopped
				o.stopped()
			case r.Event == "SHUTDOWN" && reason == "":
				reason = r.reason()
			}
		}
	}
}

// reason is why QEMU ends.
func (r qmpReply) reason() string {
	var data struct {
		Reason string `json:"reason"`
	}
	if json.Unmarshal(r.Data, &data) != nil {
		return ""
	}
	return data.Reason
}

// execute runs a command; arguments may be nil.
func (q *qmp) execute(command string, arguments any) error {
	text, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{command, arguments})
	if err != nil {
		return fmt.Errorf("telling QEMU to %s: %w", command, err)
	}
	if _, err := q.conn.Write(append(text, '\n')); err != nil {
		return fmt.Errorf("telling QEMU to %s: %w", command, err)
	}
	r, err := q.read()
	if err != nil {
		return fmt.Errorf("telling QEMU to %s: %w", command, err)
	}
	if r.Error != nil {
		return fmt.Errorf("telling QEMU to %s: %s", command, r.Error.Desc)
	}
	return nil
}

// qmpDeadline is for a few commands on a machine that is busy.
const qmpDeadline = 10 * time.Second

// command connects, runs one command, and hangs up.
func command(ctx context.Context, dir, name string, arguments any) error {
	return commands(ctx, dir, func(q *qmp) error { return q.execute(name, arguments) })
}

// commands connects, runs f, and hangs up.
func commands(ctx context.Context, dir string, f func(q *qmp) error) error {
	ctx, cancel := context.WithTimeout(ctx, qmpDeadline)
	defer cancel()
	q, err := dialQMP(ctx, dir, qmpSocket)
	if err != nil {
		return err
	}
	defer q.conn.Close() //nolint:errcheck // the reply is what counts
	return f(q)
}
