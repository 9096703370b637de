package system

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"golang.org/x/sys/unix"
)

// Uevent is one message of the kernel about a device.
type Uevent struct {
	// Action is add, remove, change, bind and so on.
	Action string
	// Path is the device's, below /sys.
	Path string
	// Env holds the rest: SUBSYSTEM, MODALIAS, DEVNAME...
	Env map[string]string
}

// maxUevent is the kernel's UEVENT_BUFFER_SIZE with room for the header.
const maxUevent = 8 << 10

// ErrUevent is what ParseUevent returns for bytes that are no kernel uevent,
// such as messages of udev on the same socket.
var ErrUevent = errors.New("not a uevent of the kernel")

// ParseUevent reads ACTION@PATH\0KEY=VALUE\0...
func ParseUevent(b []byte) (Uevent, error) {
	head, rest, _ := strings.Cut(string(b), "\x00")
	action, path, ok := strings.Cut(head, "@")
	if !ok || action == "" || !strings.HasPrefix(path, "/") {
		return Uevent{}, ErrUevent
	}
	u := Uevent{Action: action, Path: path, Env: map[string]string{}}
	for kv := range strings.SplitSeq(rest, "\x00") {
		if k, v, ok := strings.Cut(kv, "="); ok {
			u.Env[k] = v
		}
	}
	return u, nil
}

// Uevents is a socket on which the kernel tells of devices.
type Uevents struct{ fd, stop int }

// ListenUevents opens the socket; do it before Coldplug so that no device
// falls between the two. What is opened must be run, to be closed.
func ListenUevents() (*Uevents, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("opening uevent socket: %w", err)
	}
	// A machine with many disks sends a burst; losing some is mended by coldplug.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("binding uevent socket: %w", err)
	}
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("making event descriptor: %w", err)
	}
	return &Uevents{fd: fd, stop: stop}, nil
}

// Run calls handle for each event until ctx is done, and lost when the kernel
// had to drop some. It closes the socket.
func (u *Uevents) Run(ctx context.Context, log *slog.Logger, handle func(Uevent), lost func()) error {
	defer unix.Close(u.stop)
	defer unix.Close(u.fd)
	woken := make(chan struct{})
	unregister := context.AfterFunc(ctx, func() {
		defer close(woken)
		_, _ = unix.Write(u.stop, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	})
	defer func() { // before the descriptor is closed and its number used again
		if !unregister() {
			<-woken
		}
	}()
	buf := make([]byte, maxUevent)
	for ctx.Err() == nil {
		fds := []unix.PollFd{{Fd: int32(u.fd), Events: unix.POLLIN}, {Fd: int32(u.stop), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("waiting for uevents: %w", err)
		}
		n, _, err := unix.Recvfrom(u.fd, buf, 0)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOBUFS):
			lost()
			continue
		case err != nil:
			return fmt.Errorf("reading uevent: %w", err)
		}
		ev, err := ParseUevent(buf[:n])
		if err != nil {
			log.Debug("uevent passed over", "err", err)
			continue
		}
		handle(ev)
	}
	return nil
}

// Hotplug loads modules for devices that come after Coldplug, until ctx is done.
func (l *Loader) Hotplug(ctx context.Context, u *Uevents, devices string) error {
	return u.Run(ctx, l.log, func(ev Uevent) {
		alias := ev.Env["MODALIAS"]
		if ev.Action != "add" || alias == "" {
			return
		}
		if err := l.Load(alias); err != nil && !errors.Is(err, ErrNoModule) {
			l.log.Warn("module not loaded", "file", alias, "err", err)
		}
	}, func() { l.Coldplug(ctx, devices) })
}
