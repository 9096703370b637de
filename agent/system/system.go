// Package system does for the agent what an init system would: mounts,
// kernel modules by modalias, uevents, the console, the clock, reaping of
// orphans, and the orderly way down (sync, unmount, reboot).
//
// Process 1 is a small supervisor (Supervise) and the agent proper is its
// child, the same binary run again. Two things follow: process 1 may reap every
// orphan without stealing exit codes from os/exec in the agent, and a panic of
// the agent is printed and answered by a reboot after a bounded time instead of
// a kernel panic that hangs in silence.
//
// The kernel's own module requests (a file system at mount, a cipher) are
// answered by the same binary under the name modprobe (Modprobe).
//
// What it doesn't do: networking (package network), and anything like udev's
// names: device nodes come from devtmpfs.
//
// Functions take the paths of /proc, /sys and /lib/modules so that tests run on
// trees of their own. They may be called from any goroutine unless they say
// otherwise.
package system
