package ipmi

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/bougou/go-ipmi/pkg/hal"

	"github.com/bedplate/bedplate/lab/board"
)

// hardware is what the library asks for; what isn't there is handled by our own commands.
type hardware struct{ *Server }

func (h *hardware) Chassis() hal.ChassisHAL { return nil }
func (h *hardware) Sensors() hal.SensorHAL  { return nil }
func (h *hardware) GPIO() hal.GPIOHAL       { return nil }
func (h *hardware) I2C() hal.I2CHAL         { return nil }
func (h *hardware) Storage() hal.StorageHAL { return storage{h.board} }
func (h *hardware) Network() hal.NetworkHAL { return network{h.Server} }
func (h *hardware) Console() hal.ConsoleHAL { return consoles{h.Server} }
func (h *hardware) Close() error            { return nil }

// storage has the records that are read only: sensors' and the server's identity.
type storage struct{ board *board.Board }

func (s storage) FRU() hal.FRUStore { return fruStore(s) }
func (s storage) SDR() hal.SDRStore { return sdrStore(s) }

var errReadOnly = errors.New("the record is read only")

type fruStore struct{ board *board.Board }

func (f fruStore) Read(_ context.Context, device uint8) ([]byte, error) {
	if device != 0 {
		return nil, hal.ErrNotFound
	}
	return fru(f.board), nil
}

func (f fruStore) DeviceIDs(context.Context) ([]uint8, error) { return []uint8{0}, nil }
func (f fruStore) Write(context.Context, uint8, []byte) error { return errReadOnly }
func (f fruStore) Delete(context.Context, uint8) error        { return errReadOnly }

type sdrStore struct{ board *board.Board }

func (d sdrStore) Read(_ context.Context, record uint16) ([]byte, error) {
	for _, s := range d.board.Sensors() {
		if uint16(s.Number) == record {
			return sensorRecord(s), nil
		}
	}
	return nil, hal.ErrNotFound
}

func (d sdrStore) RecordIDs(context.Context) ([]uint16, error) {
	var ids []uint16
	for _, s := range d.board.Sensors() {
		ids = append(ids, uint16(s.Number))
	}
	return ids, nil
}

func (d sdrStore) Write(context.Context, uint16, []byte) error { return errReadOnly }
func (d sdrStore) Delete(context.Context, uint16) error        { return errReadOnly }

// network tells the board's own address.
type network struct{ *Server }

func (n network) GetConfig(context.Context) (*hal.IPConfig, error) {
	c := &hal.IPConfig{Mask: [4]byte{255, 255, 255, 0}}
	at, _ := n.conn.LocalAddr().(*net.UDPAddr)
	if at != nil {
		copy(c.IP[:], at.IP.To4())
		c.Port = uint16(at.Port)
	}
	if mac, err := net.ParseMAC(n.board.MAC()); err == nil && len(mac) == 6 {
		copy(c.MAC[:], mac)
	}
	return c, nil
}

func (n network) SetConfig(context.Context, *hal.IPConfig) error { return hal.ErrNotSupported }

// consoles opens the machine's serial port for Serial over LAN.
type consoles struct{ *Server }

// Open connects, and reads ahead what the machine says.
func (c consoles) Open(ctx context.Context) (hal.ConsoleConn, error) {
	conn, err := c.board.Console(ctx)
	if err != nil {
		return nil, err
	}
	o := &openConsole{conn: conn, now: c.board.Now}
	o.work.Go(o.read)
	return o, nil
}

// maxHeard bounds what is kept for a remote console that doesn't ask; the oldest goes first.
const maxHeard = 64 << 10

// typeDeadline bounds how long what is typed may take to the machine.
const typeDeadline = 5 * time.Second

type openConsole struct {
	conn net.Conn
	now  func() time.Time
	work sync.WaitGroup

	mu    sync.Mutex
	heard []byte
	err   error
}

func (o *openConsole) read() {
	buf := make([]byte, 4096)
	for {
		n, err := o.conn.Read(buf)
		o.mu.Lock()
		o.heard = append(o.heard, buf[:n]...)
		if over := len(o.heard) - maxHeard; over > 0 {
			o.heard = append([]byte(nil), o.heard[over:]...)
		}
		o.err = err
		o.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// ReadAvailable returns what was heard and not yet read.
func (o *openConsole) ReadAvailable(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := copy(p, o.heard)
	o.heard = o.heard[n:]
	if n == 0 {
		return 0, o.err
	}
	return n, nil
}

func (o *openConsole) Write(p []byte) (int, error) {
	if err := o.conn.SetWriteDeadline(o.now().Add(typeDeadline)); err != nil {
		return 0, err
	}
	return o.conn.Write(p)
}

// SendBreak is nothing that the machine's port has.
func (o *openConsole) SendBreak(context.Context) error { return hal.ErrNotSupported }

func (o *openConsole) Close() error {
	err := o.conn.Close()
	o.work.Wait()
	return err
}
