// Command bedplate is the server, the command line client and the virtual lab
// of Bedplate, a bare-metal provisioning engine. `bedplate serve` runs the
// server; everything else talks to one over gRPC.
//
// Only this package reads flags, environment variables and configuration
// files. The commands are one file each, beginning in root.go.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second interrupt ends a program that doesn't heed the first.
	context.AfterFunc(ctx, stop)
	os.Exit(exitCode(run(ctx, os.Args[1:], os.Getenv, os.Stdin, os.Stdout, os.Stderr)))
}
