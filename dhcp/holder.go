package dhcp

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// holders says which processes have a UDP port open, such as " by dnsmasq
// (pid 812)", as far as /proc shows it to us; empty if it doesn't.
func holders(proc string, port uint16) string {
	inodes := portInodes(filepath.Join(proc, "self/net/udp"), port)
	if len(inodes) == 0 {
		return ""
	}
	var who []string
	// Other people's descriptors are hidden from all but root: skip those.
	fds, err := filepath.Glob(filepath.Join(proc, "[0-9]*", "fd", "*"))
	if err != nil {
		return ""
	}
	for _, fd := range fds {
		target, err := os.Readlink(fd)
		if err != nil || !slices.Contains(inodes, target) {
			continue
		}
		dir := filepath.Dir(filepath.Dir(fd))
		comm, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err != nil {
			continue
		}
		name := fmt.Sprintf("%s (pid %s)", strings.TrimSpace(string(comm)), filepath.Base(dir))
		if !slices.Contains(who, name) {
			who = append(who, name)
		}
	}
	if len(who) == 0 {
		return ""
	}
	return " by " + strings.Join(who, ", ")
}

// portInodes returns the sockets bound to a local port, as /proc/PID/fd names
// them, from a table like /proc/net/udp:
//
//	sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ...
//	12: 00000000:0043 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 48213 ...
func portInodes(table string, port uint16) []string {
	f, err := os.Open(table)
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	var inodes []string
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 10 {
			continue
		}
		_, hex, ok := strings.Cut(fields[1], ":")
		if !ok {
			continue
		}
		if p, err := strconv.ParseUint(hex, 16, 16); err == nil && uint16(p) == port {
			inodes = append(inodes, "socket:["+fields[9]+"]")
		}
	}
	return inodes
}
