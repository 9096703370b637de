package system

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Uptime is how long ago the kernel started, suspension included.
func Uptime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// SetClock sets the kernel's clock. The machine's own clock (RTC) is left
// alone: the operating system that comes to the disk keeps that.
func SetClock(t time.Time) error {
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		return fmt.Errorf("converting time: %w", err)
	}
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		return fmt.Errorf("setting clock: %w", err)
	}
	return nil
}

// RandomReady reports whether the kernel's random numbers are ready. On a CPU
// without RDRAND they may take minutes after the kernel has started.
func RandomReady() bool {
	_, err := unix.Getrandom(make([]byte, 1), unix.GRND_NONBLOCK)
	return err == nil
}
