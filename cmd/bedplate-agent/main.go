// Command bedplate-agent is /init of Bedplate's in-memory system. It is five
// programs in one binary, by how it is started: process 1, which mounts,
// supervises and reaps; the agent proper, its child; modprobe for the kernel;
// the first process of a container; and what tests processors and memory.
//
// Build it with CGO_ENABLED=0 go build -trimpath -tags grpcnotrace
// -ldflags='-s -w': the tag leaves out gRPC's request traces, which pull in
// html/template and cost 5 MB.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/bedplate/bedplate/agent/container"
	"github.com/bedplate/bedplate/agent/hardware"
	"github.com/bedplate/bedplate/agent/system"
)

// version is set by the linker.
var version = "dev"

func main() {
	switch name := filepath.Base(os.Args[0]); {
	case name == container.InitName:
		fmt.Fprintln(os.Stderr, container.Init())
		os.Exit(127)
	case name == hardware.WorkerName:
		if err := hardware.Worker(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case name == "modprobe":
		if err := system.Modprobe(os.Args[1:], slog.New(slog.DiscardHandler)); err != nil {
			os.Exit(1) // the kernel asks for much that isn't there; -q
		}
	case os.Getpid() == 1:
		supervise()
	default:
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		if err := run(ctx); err != nil {
			os.Exit(1)
		}
	}
}
