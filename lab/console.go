package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// console shares a machine's serial port. QEMU serves one connection at a time;
// the console is that one, and everybody else connects to the console: all hear
// what the machine says, and what they type goes in as it comes. Connections
// stay while the power goes and comes.
type console struct {
	now      func() time.Time
	listener net.Listener
	work     sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	port    net.Conn // QEMU's; nil while the power is off
	clients map[*consoleClient]struct{}
}

// Bounds of the console.
const (
	maxConsoleClients = 32
	// consoleBacklog is how many pieces a listener may be behind before it loses some.
	consoleBacklog = 256
	// typeDeadline bounds how long a guest may take to read a piece of what is typed.
	typeDeadline = 10 * time.Second
	sayDeadline  = 10 * time.Second
)

// consoleClient is somebody who listens and types.
type consoleClient struct {
	conn  net.Conn
	heard chan []byte
	gone  chan struct{} // closed when it is no client any more
}

// newConsole listens in a machine's folder.
func newConsole(ctx context.Context, dir string, now func() time.Time) (*console, error) {
	if err := os.Remove(filepath.Join(dir, serialSocket)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("sharing the serial port: %w", err)
	}
	listener, err := listenFile(ctx, dir, serialSocket)
	if err != nil {
		return nil, fmt.Errorf("sharing the serial port: %w", err)
	}
	c := &console{now: now, listener: listener, clients: map[*consoleClient]struct{}{}}
	c.work.Go(c.accept)
	return c, nil
}

// close ends all connections and waits for their goroutines.
func (c *console) close() {
	c.mu.Lock()
	c.closed = true
	_ = c.listener.Close()
	if c.port != nil {
		_ = c.port.Close()
	}
	for client := range c.clients {
		_ = client.conn.Close()
	}
	c.mu.Unlock()
	c.work.Wait()
}

func (c *console) accept() {
	for {
		conn, err := c.listener.Accept()
		if err != nil {
			return
		}
		client := &consoleClient{conn: conn, heard: make(chan []byte, consoleBacklog), gone: make(chan struct{})}
		c.mu.Lock()
		full := c.closed || len(c.clients) >= maxConsoleClients
		if !full {
			c.clients[client] = struct{}{}
			c.work.Go(func() { c.take(client) })
			c.work.Go(func() { c.say(client) })
		}
		c.mu.Unlock()
		if full {
			_ = conn.Close()
		}
	}
}

// attach takes QEMU's end of a port whose machine has just been switched on.
func (c *console) attach(port net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		_ = port.Close()
		return
	}
	if c.port != nil {
		_ = c.port.Close()
	}
	c.port = port
	c.work.Go(func() { c.hear(port) })
}

// hear gives what the machine says to everybody, until QEMU hangs up.
func (c *console) hear(port net.Conn) {
	buf := make([]byte, 4096)
	for {
		n, err := port.Read(buf)
		if n > 0 {
			c.spread(append([]byte(nil), buf[:n]...))
		}
		if err != nil {
			break
		}
	}
	_ = port.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.port == port {
		c.port = nil
	}
}

func (c *console) spread(piece []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for client := range c.clients {
		select {
		case client.heard <- piece:
		default: // it doesn't keep up, and loses this
		}
	}
}

// say writes to a client what was heard for it.
func (c *console) say(client *consoleClient) {
	for {
		select {
		case piece := <-client.heard:
			if client.conn.SetWriteDeadline(c.now().Add(sayDeadline)) != nil {
				return
			}
			if _, err := client.conn.Write(piece); err != nil {
				_ = client.conn.Close()
				return
			}
		case <-client.gone:
			return
		}
	}
}

// take takes to the machine what a client types, until it hangs up.
func (c *console) take(client *consoleClient) {
	defer func() {
		c.mu.Lock()
		delete(c.clients, client)
		c.mu.Unlock()
		close(client.gone)
		_ = client.conn.Close()
	}()
	buf := make([]byte, 1024)
	for {
		n, err := client.conn.Read(buf)
		if n > 0 {
			c.typed(buf[:n])
		}
		if err != nil {
			return
		}
	}
}

// typed writes to the machine. While the power is off nothing hears it.
func (c *console) typed(keys []byte) {
	c.mu.Lock()
	port := c.port
	c.mu.Unlock()
	if port == nil {
		return
	}
	if err := port.SetWriteDeadline(c.now().Add(typeDeadline)); err != nil {
		return
	}
	_, _ = port.Write(keys) // the port's reader sees to its end
}
