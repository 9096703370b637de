package main

import (
	"io"
	"os"
	"time"

	"github.com/bedplate/bedplate/agent/system"
)

const (
	// pity is how long a message stays on the console before the machine
	// restarts, for people to read.
	pity = 30 * time.Second
	// truce is the same for a machine that another boot has taken over from: if
	// two share an identity they must not restart each other without end.
	truce = 5 * time.Minute
	// panicSeconds is after how long the kernel itself restarts when it panics.
	panicSeconds = "30"
	// entropyStep is how often a wait for random numbers is told of.
	entropyStep = 10 * time.Second
)

// supervise is process 1. It never returns.
func supervise() {
	mountErr := system.Mount()
	stdioErr := system.AttachConsole("/dev/console")
	outs, err := system.OpenConsoles("/sys/class/tty/console/active", "/dev")
	if err != nil {
		outs = []io.Writer{os.Stderr}
	}
	console := system.NewConsole(outs...)
	say := system.NewPrinter(console, system.Uptime).Say
	for _, err := range []error{mountErr, stdioErr} {
		if err != nil {
			say("%v", err)
		}
	}
	_ = os.WriteFile("/proc/sys/kernel/panic", []byte(panicSeconds), 0o644)        // without it a panic waits for ever, no more
	_ = os.WriteFile("/proc/sys/kernel/printk", []byte("4 4 1 7"), 0o644)          // warnings and worse: people read this console
	_ = os.WriteFile("/proc/sys/net/ipv4/conf/all/arp_ignore", []byte("1"), 0o644) // answer for an address only on its own link
	if err := system.InstallModprobe("/init"); err != nil {
		say("%v", err)
	}
	for waited := time.Duration(0); !system.RandomReady(); waited += time.Second {
		if waited%entropyStep == 0 {
			say("waiting for the kernel's random numbers (this CPU has no RDRAND; a virtual machine wants -cpu max or virtio-rng)")
		}
		time.Sleep(time.Second)
	}
	err = system.Supervise("/proc/self/exe", []string{"agent"}, append(os.Environ(), "PATH="+path, "HOME=/root"))
	for {
		say("%v; the machine restarts in %s", err, pity)
		time.Sleep(pity)
		console.Flush(time.Second)
		err = system.Leave(system.Restart)
	}
}

// path is for programs that the agent's own libraries start.
const path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
