// Package shell opens machines' serial consoles by the SSH shell of their BMC
// (RFC 4254 §6): it logs in, waits for the prompt, and says the vendor's command
// that turns the shell into the console.
//
// The host key is pinned: the one that the target names is the only one
// accepted, and of a target that names none the first is told to whoever keeps
// it. The password is sent once: by whichever of password and
// keyboard-interactive authentication the BMC asks for first.
package shell
