package engine

import (
	"context"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/bedplate/bedplate/bmc"
	"github.com/bedplate/bedplate/bmc/dial"
	"github.com/bedplate/bedplate/bmc/fleet"
	"github.com/bedplate/bedplate/bmc/job"
	"github.com/bedplate/bedplate/event"
	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/store"
	"github.com/bedplate/bedplate/timeline"
)

// firmwareTimeout bounds the fetching of one firmware image.
const firmwareTimeout = 30 * time.Minute

// maxConsoles bounds the serial consoles that are open, as those that are
// recorded are all the time.
const maxConsoles = 4096

// buildBMC builds what talks to machines' BMCs.
func (e *Engine) buildBMC(ctx context.Context) (err error) {
	note := func(kind, name, reason, message string, warning bool) store.Op {
		return e.events.Op(event.Entry{Kind: kind, Name: name, Reason: reason, Message: message, Warning: warning})
	}
	e.fleet, err = fleet.New(ctx, fleet.Config{
		DB: e.db, Sealer: e.sealer, Secret: secrets{e.db, e.sealer}.Versioned, Observe: e.timeline.Observe, Event: note,
		PollInterval: e.cfg.BMC.PollInterval, Now: e.cfg.Now, Rand: e.cfg.Rand, Logger: e.log, Registry: e.registry,
	}, func(pinned func(bmc.Target, bmc.Pin)) (*bmc.Pool, error) {
		return bmc.NewPool(bmc.Config{
			Dial: e.dialBMC, Now: e.cfg.Now, Rand: rand.Float64, Pinned: pinned, Logger: e.log, Registerer: e.registry,
			MaxConsoles: maxConsoles,
		})
	})
	if err != nil {
		return err
	}
	e.jobs, err = job.New(job.Config{
		DB: e.db, BMCs: e.fleet, MediaURL: e.mediaURL, MediaEjected: e.mediaEjected, Booted: e.booted, Event: note,
		PowerBudget: e.cfg.BMC.PowerBudget, PowerInterval: e.cfg.BMC.PowerInterval,
		HTTP: &http.Client{Timeout: firmwareTimeout}, Now: e.cfg.Now, Logger: e.log, Registry: e.registry,
	})
	if err != nil {
		return err
	}
	return e.buildConsoles()
}

// dialBMC opens a session with a BMC, by the driver that it wants.
func (e *Engine) dialBMC(ctx context.Context, t bmc.Target) (bmc.Driver, error) {
	if e.cfg.BMC.Dial != nil {
		return e.cfg.BMC.Dial(ctx, t)
	}
	return dial.Dialer{Now: e.cfg.Now}.Dial(ctx, t)
}

// mediaURL is where a machine's BMC loads the agent's system from.
func (e *Engine) mediaURL(ctx context.Context, m *pb.Machine) (string, error) {
	return e.MediaURL(ctx, m.GetMetadata().GetName())
}

func (e *Engine) mediaEjected(ctx context.Context, m *pb.Machine) error {
	return e.MediaEjected(ctx, m.GetMetadata().GetName())
}

// booted reports whether the boot services have seen the machine's firmware at
// work since then. What a BMC was asked for is no sign.
func (e *Engine) booted(name machine.Name, since time.Time) bool {
	for _, p := range e.timeline.Phases(name) {
		switch p.GetName() {
		case timeline.PhaseDHCP, timeline.PhaseBootFile, timeline.PhaseIPXE, timeline.PhaseHTTP, timeline.PhaseAgentStart:
			if p.GetStartTime().AsTime().After(since) {
				return true
			}
		}
	}
	return false
}

// bmcViews answers what is asked about machines' BMCs.
type bmcViews struct {
	*fleet.Fleet
	e *Engine
}

// explainConsole adds to an explanation what the machine's console has said
// last, while it is waited for or has failed.
func (e *Engine) explainConsole(name string, r *pb.ExplainMachineResponse) {
	if r.GetWaitingFor() == "" && r.GetMachine().GetStatus().GetState() != pb.MachineState_FAILED {
		return
	}
	if tail := e.consoles.Tail(name, tailLines, e.cfg.Now().Add(-tailAge)); len(tail) > 0 {
		r.Advice = append(r.Advice, "its console said last: "+strings.Join(tail, " / "))
	}
}

const (
	// tailLines of a console are shown where a boot failed, if it said something within tailAge.
	tailLines = 5
	tailAge   = 30 * time.Minute
)
