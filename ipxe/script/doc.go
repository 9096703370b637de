// Package script writes what a boot loader runs: iPXE scripts (ipxe.org/scripting)
// and GRUB configurations. Each kind of script is a value with typed fields; its
// method IPXE or GRUB checks every field and returns the text or an error, so that
// nothing a person or a machine wrote can become a command.
//
// Only commands that Debian 12's iPXE (1.0.0+git-20190125) has are written, and
// none that its signed GRUB 2.06 lacks. iPXE splits lines at white space, without
// quotes; expands ${name} anywhere; ends a command at the words &&, ||, ; and at
// one that begins with #. Those are what CheckArg and the text of messages are
// guarded against.
//
// Every fetch is tried Attempts times with growing pauses. When all failed, the
// console says what was fetched, from where, and what to check.
//
// All functions are pure.
package script
