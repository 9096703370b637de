// Package ipxe is the HTTP side of network boot: boot files by the one table of
// their names, the scripts that tell a machine what to boot, and the agent's
// kernel and initramfs.
//
//	GET|HEAD /boot/{file}       boot files; also by TFTP, through Server.Open
//	GET /ipxe/boot.ipxe         the first script, the same for all (option 67 for iPXE)
//	GET /ipxe/script            the machine's own: mac=, uuid=, serial= say who asks
//	GET /grub/grub.cfg          the machine's own for GRUB, by its address; also by TFTP
//	GET|HEAD /agent/kernel, /agent/initramfs   the in-memory system; also by TFTP
//
// A machine that is to boot its disk is told so at once; one that is to boot the
// agent gets the agent's arguments, among them a boot token. The token goes only
// to a requester whose address is the machine's own. Where the address belongs to
// nobody we know (beside a foreign DHCP server), the machine is taken at its word
// unless Config.StrictAddress says otherwise: on such a network anyone who knows
// a machine's MAC address can boot in its place. X-Forwarded-For is never read.
//
// Firmware's habits that this package serves (OVMF 2022.11, shim 16.1, GRUB 2.06
// and 2.12): HEAD with Content-Length before GET; a Host header without the port,
// so that URLs are never made from it; `/boot//grubx64.efi` with a doubled slash,
// whose redirection would not be followed, and `grubx64.efi` at the root of TFTP;
// revocations and module lists that may be missing.
//
// Boot files are the distribution's, unmodified, read once at start (Load). The
// Server is made by New and used by any number of goroutines; it starts none.
package ipxe
