package board

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// FaultKind is a way in which boards of the field go wrong.
type FaultKind string

// The faults.
const (
	// FaultSlow delays every answer.
	FaultSlow FaultKind = "slow"
	// FaultError answers HTTP 500, and completion code FFh in IPMI.
	FaultError FaultKind = "error"
	// FaultWrongPower tells the opposite of the power's state.
	FaultWrongPower FaultKind = "wrong-power-state"
	// FaultDroppedSessions forgets each session after a few requests.
	FaultDroppedSessions FaultKind = "dropped-sessions"
	// FaultBootIgnored takes boot overrides, shows them, and boots as ever.
	FaultBootIgnored FaultKind = "boot-override-ignored"
	// FaultMediaEjects loses virtual media as the machine starts.
	FaultMediaEjects FaultKind = "media-ejects-itself"
	// FaultDead takes connections and packets and never answers.
	FaultDead FaultKind = "dead"
	// FaultUnauthorized refuses every password.
	FaultUnauthorized FaultKind = "unauthorized"
	// FaultHot has the processor over its critical temperature.
	FaultHot FaultKind = "hot"
)

// FaultKinds are all faults there are.
var FaultKinds = []FaultKind{
	FaultSlow, FaultError, FaultWrongPower, FaultDroppedSessions, FaultBootIgnored, FaultMediaEjects, FaultDead, FaultUnauthorized, FaultHot,
}

// Fault is one that a board has.
type Fault struct {
	Kind FaultKind `json:"kind"`
	// Delay is of FaultSlow.
	Delay time.Duration `json:"delay,omitempty"`
}

// Bounds of a delay.
const (
	defaultDelay = 5 * time.Second
	maxDelay     = 5 * time.Minute
)

// String returns the fault as ParseFault reads it.
func (f Fault) String() string {
	if f.Kind == FaultSlow {
		return string(f.Kind) + "=" + f.Delay.String()
	}
	return string(f.Kind)
}

// ParseFault reads a fault's name; that of slow may carry a delay: slow=20s.
func ParseFault(s string) (Fault, error) {
	name, value, has := strings.Cut(s, "=")
	f := Fault{Kind: FaultKind(name)}
	if !slices.Contains(FaultKinds, f.Kind) {
		return f, fmt.Errorf("fault %q: want one of %s", s, joinKinds())
	}
	if f.Kind != FaultSlow {
		if has {
			return f, fmt.Errorf("fault %q: only slow has a value", s)
		}
		return f, nil
	}
	f.Delay = defaultDelay
	if has {
		d, err := time.ParseDuration(value)
		if err != nil || d <= 0 || d > maxDelay {
			return f, fmt.Errorf("fault %q: want a delay up to %s, such as slow=20s", s, maxDelay)
		}
		f.Delay = d
	}
	return f, nil
}

func joinKinds() string {
	words := make([]string, len(FaultKinds))
	for i, k := range FaultKinds {
		words[i] = string(k)
	}
	return strings.Join(words, ", ")
}

// SetFault gives the board a fault, or takes it away.
func (b *Board) SetFault(ctx context.Context, f Fault, on bool) error {
	b.order.Lock()
	defer b.order.Unlock()
	b.mu.Lock()
	_, was := b.faults[f.Kind]
	delete(b.faults, f.Kind)
	if on {
		b.faults[f.Kind] = f
	}
	b.mu.Unlock()
	b.publish(Event{Kind: FaultChanged})
	switch {
	case f.Kind == FaultBootIgnored:
		return b.applyNext(ctx)
	case f.Kind == FaultHot && on && !was:
		b.record(Entry{Sensor: "CPU Temp", Type: sensorTemperature, Severity: Critical, MessageID: "TemperatureAboveUpperCritical", Message: "CPU Temp is above its upper critical threshold."})
	case f.Kind == FaultHot && !on && was:
		b.record(Entry{Sensor: "CPU Temp", Type: sensorTemperature, Severity: OK, MessageID: "TemperatureNormal", Message: "CPU Temp is back to normal."})
	}
	return nil
}

// Fault returns the fault of that kind if the board has it.
func (b *Board) Fault(k FaultKind) (Fault, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f, ok := b.faults[k]
	return f, ok
}

// Faults returns those that the board has.
func (b *Board) Faults() []Fault {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []Fault
	for _, k := range FaultKinds {
		if f, ok := b.faults[k]; ok {
			all = append(all, f)
		}
	}
	return all
}

// Delay waits as FaultSlow says; false if ctx ended before.
func (b *Board) Delay(ctx context.Context) bool {
	f, slow := b.Fault(FaultSlow)
	if !slow {
		return true
	}
	t := time.NewTimer(f.Delay)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
	case <-b.life.Done():
	}
	return false
}

// Hang waits for as long as the peer does, as FaultDead wants it.
func (b *Board) Hang(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-b.life.Done():
	}
}

// SessionRequests is how many requests a session serves before
// FaultDroppedSessions forgets it.
const SessionRequests = 3
