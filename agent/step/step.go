// Package step is the contract between the agent's runner and the actions
// that it can carry out. An Executor is one action; the runner evaluates a
// step's fields, calls Execute once per attempt, and reports what comes back.
//
// Rules for every Executor:
//   - It stops soon after ctx is done and returns then only after everything it
//     started (goroutines, processes, mounts) is gone.
//   - It may be called from several goroutines at once, for different steps.
//   - An error it returns says what went wrong in the system's own words; the
//     runner adds the step's name. A non-zero exit code is an error as well,
//     with Result.ExitCode set.
//   - It keeps nothing between calls that a later attempt would trip over.
//
// The package does no I/O.
package step

import (
	"context"
	"net/http"
)

// Request is one attempt of one step, with every expression evaluated.
type Request struct {
	// Workflow is the name of the workflow, for messages.
	Workflow string
	// Step is the id of the step.
	Step string
	// Attempt counts from 1.
	Attempt uint32
	// With holds the action's inputs: string, bool, int64, float64, []any,
	// map[string]any or nil.
	With map[string]any
	// Env is the environment of a command or container.
	Env map[string]string
	// Image is the OCI image of a container.
	Image string
	// Args are the arguments of a container.
	Args []string
	// Entrypoint replaces the image's own, when it is not empty.
	Entrypoint []string
	// Server holds facts about the server: http_url, registry, metadata_url.
	Server map[string]string
	// HTTP is the client for everything fetched over the network. It has no
	// overall time limit; ctx bounds each request.
	HTTP *http.Client
	// Images describes the images that the workflow's inputs name, by name:
	// url, digest, format, compression, size_bytes, root_partition.
	Images map[string]any
}

// Reporter takes what a running step has to say. Its methods don't block for
// long and may be called from several goroutines.
type Reporter interface {
	// Log takes one line without its newline. Stream is stdout, stderr or agent.
	Log(stream, line string)
	// Progress says how much of total is done; total is 0 when it isn't known.
	// Unit is bytes, or another unit in the plural. It may be called as often
	// as is handy: the runner sends on only a few a second.
	Progress(done, total int64, unit, message string)
}

// Result is what a successful step, or a failed one, leaves behind.
type Result struct {
	// Outputs are for later steps: values as in Request.With.
	Outputs map[string]any
	// ExitCode is that of a command or container; nil for others.
	ExitCode *int32
	// LastOutput overrides the last lines that the runner kept of Log.
	LastOutput []string
	// Leave is set by a step that ends this boot.
	Leave *Leave
}

// Leave ends this boot of the machine. The runner calls Do after the server
// has acknowledged everything, the leaving included.
type Leave struct {
	// NextBoot is what the machine comes back as: NextBootAgent, NextBootDisk or NextBootOff.
	NextBoot string
	// By is ByKexec, or empty for by way of the machine's firmware.
	By string
	// Do reboots, jumps or powers off. It returns only if that went wrong.
	Do func() error
}

// What a machine comes back as after a Leave.
const (
	NextBootAgent = "agent"
	NextBootDisk  = "disk"
	NextBootOff   = "off"
)

// ByKexec is a way of leaving that passes the firmware by.
const ByKexec = "kexec"

// Names of the streams of Reporter.Log.
const (
	Stdout = "stdout"
	Stderr = "stderr"
	Agent  = "agent"
)

// Executor carries out one action.
type Executor interface {
	Execute(ctx context.Context, req Request, rep Reporter) (Result, error)
}

// Func makes an Executor of a function.
type Func func(ctx context.Context, req Request, rep Reporter) (Result, error)

// Execute calls f.
func (f Func) Execute(ctx context.Context, req Request, rep Reporter) (Result, error) {
	return f(ctx, req, rep)
}

// Set holds executors by the name of their action, such as image.write.
type Set map[string]Executor
