// Command program is what the test's container runs: it says what it sees.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"sort"
	"strings"
	"syscall"
	"time"
)

func main() {
	switch os.Args[1] {
	case "look":
		fmt.Println("pid", os.Getpid(), "uid", os.Getuid(), "gid", os.Getgid())
		dir, _ := os.Getwd()
		fmt.Println("dir", dir, "greeting", os.Getenv("GREETING"), "home", os.Getenv("HOME"))
		list("/")
		list("/etc")
		list("/dev")
		_, err := os.ReadFile("/etc/shadow-of-host")
		fmt.Println("host:", err)
		fmt.Println("caps", status("CapEff"), "nnp", status("NoNewPrivs"))
		fmt.Println("sysrq:", os.WriteFile("/proc/sysrq-trigger", []byte("h"), 0))
		fmt.Println("sysctl:", os.WriteFile("/proc/sys/kernel/hostname", []byte("x"), 0))
		fmt.Println("sysfs:", os.WriteFile("/sys/kernel/profiling", []byte("0"), 0))
		fmt.Println("mknod:", syscall.Mknod("/tmp-node", syscall.S_IFBLK|0o600, 0x700))
		if b, err := os.ReadFile("/data/hello"); err == nil {
			fmt.Println("data:", strings.TrimSpace(string(b)), os.WriteFile("/data/new", nil, 0o644))
		}
	case "exit":
		fmt.Fprintln(os.Stderr, "about to fail")
		os.Exit(7)
	case "hang":
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("hanging")
		time.Sleep(time.Hour)
	case "eat":
		var all [][]byte
		for {
			b := make([]byte, 1<<20)
			for i := range b {
				b[i] = 1
			}
			all = append(all, b)
		}
	}
}

func list(dir string) {
	entries, _ := os.ReadDir(dir)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	sort.Strings(names)
	fmt.Println("in", dir, strings.Join(names, " "))
}

func status(key string) string {
	b, _ := os.ReadFile("/proc/self/status")
	for _, l := range strings.Split(string(b), "\n") {
		if v, ok := strings.CutPrefix(l, key+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
