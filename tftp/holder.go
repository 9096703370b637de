package tftp

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// holderOf says which process has a UDP socket on addr's port, as far as /proc
// (given as root) tells this user; it returns "" when it does not.
func holderOf(root string, addr netip.AddrPort) string {
	inodes := map[string]bool{}
	for _, table := range []string{"udp", "udp6"} {
		udpInodes(filepath.Join(root, "net", table), addr.Port(), inodes)
	}
	if len(inodes) == 0 {
		return ""
	}
	fds, err := filepath.Glob(filepath.Join(root, "[0-9]*", "fd", "*"))
	if err != nil {
		return ""
	}
	for _, fd := range fds {
		target, err := os.Readlink(fd)
		if err != nil {
			continue // the process has gone, or is another user's
		}
		inode, ok := strings.CutPrefix(target, "socket:[")
		if !ok || !inodes[strings.TrimSuffix(inode, "]")] {
			continue
		}
		dir := filepath.Dir(filepath.Dir(fd))
		comm, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err != nil {
			continue
		}
		return fmt.Sprintf("%s (process %s)", strings.TrimSpace(string(comm)), filepath.Base(dir))
	}
	return ""
}

// udpInodes adds the inodes of the sockets in a table such as /proc/net/udp
// that are bound to port. A row has the local address second and the inode
// tenth: `sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode`.
func udpInodes(table string, port uint16, inodes map[string]bool) {
	f, err := os.Open(table)
	if err != nil {
		return
	}
	defer f.Close()
	for rows := bufio.NewScanner(f); rows.Scan(); {
		fields := strings.Fields(rows.Text())
		if len(fields) < 10 {
			continue
		}
		_, hex, ok := strings.Cut(fields[1], ":")
		if !ok {
			continue
		}
		if p, err := strconv.ParseUint(hex, 16, 16); err == nil && uint16(p) == port {
			inodes[fields[9]] = true
		}
	}
}
