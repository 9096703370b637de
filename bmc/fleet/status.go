package fleet

import (
	"context"
	"errors"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bedplate/bedplate/bmc"
	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

// contactEvery is how old contact_time in the store may become. In between it
// is in memory: explain and the metrics have it.
const contactEvery = time.Hour

// noteTimeout bounds the writing of what a call has shown.
const noteTimeout = 10 * time.Second

// Record brings machine.status.bmc up to date. Nothing is written where change
// changes nothing.
func (f *Fleet) Record(ctx context.Context, name string, change func(*pb.BMCStatus)) error {
	m, err := resource.Update(ctx, f.cfg.DB, name, func(m *pb.Machine) error {
		next := withBMC(m)
		change(next.Status.Bmc)
		if proto.Equal(m.GetStatus().GetBmc(), next.Status.Bmc) {
			return resource.ErrUnchanged
		}
		next.Status.Bmc.ContactTime = f.contactTime(name, next.Status.Bmc)
		m.Status = next.Status
		return nil
	})
	if err == nil {
		f.known(m)
	}
	return err
}

// contactTime returns when the BMC last answered.
func (f *Fleet) contactTime(name string, s *pb.BMCStatus) *timestamppb.Timestamp {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.members[name]; m != nil && m.seen.at.After(s.GetContactTime().AsTime()) {
		return timestamppb.New(m.seen.at)
	}
	return s.GetContactTime()
}

// known puts a machine that was just stored in place of what the watch has brought.
func (f *Fleet) known(m *pb.Machine) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if had := f.members[m.Metadata.Name]; had != nil && had.machine.Metadata.ResourceVersion < m.Metadata.ResourceVersion {
		f.replaceLocked(had, m)
	}
}

// replaceLocked puts m in place of the machine as it was. A login that was
// refused and isn't any more may be tried: one further refusal, and it is again.
func (f *Fleet) replaceLocked(had *member, m *pb.Machine) {
	if had.machine.GetStatus().GetBmc().GetRefusedLogin() != nil && m.GetStatus().GetBmc().GetRefusedLogin() == nil {
		f.pool.Reset(machine.Name(m.Metadata.Name))
		had.seen.refusals = refusalsAllowed - 1
	}
	had.machine = m
}

// pinned keeps the certificate of a first contact; the pool calls it, and it
// mustn't block: note stores it before the call that made contact returns.
func (f *Fleet) pinned(t bmc.Target, pin bmc.Pin) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.members[string(t.Machine)]; m != nil {
		m.pin = pin
	}
}

func (f *Fleet) unstoredPin(name string) bmc.Pin {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.members[name]; m != nil {
		return m.pin
	}
	return ""
}

// note takes note of how a call ended: in memory, and in the machine's status
// if its circuit has opened or closed or its certificate was pinned.
func (f *Fleet) note(ctx context.Context, name, protocol string, answered bool, err error) {
	circuit := f.pool.Circuit(machine.Name(name))
	now := f.cfg.Now()
	f.mu.Lock()
	m := f.members[name]
	if m == nil {
		f.mu.Unlock()
		return
	}
	switch {
	case answered && !unwell(err):
		m.seen.at, m.seen.err = now, ""
	case err != nil && !errors.Is(err, bmc.ErrCircuitOpen) && (!impatient(err) || errors.Is(err, bmc.ErrUnreachable)):
		m.seen.err, m.seen.failed = err.Error(), now
	}
	status, pin, at := m.machine.GetStatus().GetBmc(), m.pin, m.seen.at
	f.mu.Unlock()
	if !worthWriting(status, circuit, pin, protocol, at) {
		return
	}
	// The call's own time may be up: that is what has to be recorded.
	write, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteTimeout)
	defer cancel()
	err = f.Record(write, name, func(s *pb.BMCStatus) {
		if pin != "" {
			s.CertificateDigest = string(pin)
		}
		if protocol != "" {
			s.Protocol = protocol
		}
		if !at.IsZero() && (s.ContactTime == nil || at.Sub(s.ContactTime.AsTime()) >= contactEvery) {
			s.ContactTime = timestamppb.New(at)
		}
		setCircuit(s, circuit)
	})
	if err != nil && !errors.Is(err, store.ErrClosed) && !errors.Is(err, store.ErrNotFound) {
		f.cfg.Logger.Warn("recording the state of a BMC", "machine", name, "err", err)
	}
}

// impatient reports whether the caller's time was up, or it gave up.
func impatient(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

// unwell reports whether an error means that the BMC didn't answer as it should.
func unwell(err error) bool {
	return errors.Is(err, bmc.ErrUnreachable) || errors.Is(err, bmc.ErrAuth) || errors.Is(err, bmc.ErrCertificate) ||
		impatient(err)
}

// worthWriting reports whether what was seen differs from the machine's status
// in what deserves a write.
func worthWriting(s *pb.BMCStatus, c bmc.Circuit, pin bmc.Pin, protocol string, at time.Time) bool {
	next := &pb.BMCStatus{}
	if s != nil {
		next = proto.Clone(s).(*pb.BMCStatus)
	}
	setCircuit(next, c)
	return pin != "" && string(pin) != s.GetCertificateDigest() || protocol != "" && protocol != s.GetProtocol() ||
		!at.IsZero() && at.Sub(s.GetContactTime().AsTime()) >= contactEvery || s != nil && !proto.Equal(s, next) || s == nil && next.CircuitOpen
}

// setCircuit puts the circuit into a status. A circuit whose time to try again
// has come still counts as open until the try has succeeded.
func setCircuit(s *pb.BMCStatus, c bmc.Circuit) {
	if c.State == bmc.CircuitClosed && c.Failures == 0 {
		s.Error, s.CircuitOpen, s.CircuitTime, s.RetryTime = "", false, nil, nil
		return
	}
	if c.State == bmc.CircuitClosed {
		return // a failure or two is nothing to write down
	}
	s.Error, s.CircuitOpen = c.Reason, true
	s.CircuitTime, s.RetryTime = timestamppb.New(c.Since), timestamppb.New(c.NextTry)
}

// Explanation is what is known of a machine's BMC, for `machine explain`.
type Explanation struct {
	// Advice is what a person should know or do, most important first.
	Advice []string
	// Sighting is the last contact; nil when there was none.
	Sighting *pb.Sighting
}

// Explain says how a machine's BMC is. It is empty for a machine without one.
func (f *Fleet) Explain(name string) Explanation {
	f.mu.Lock()
	m := f.members[name]
	if m == nil {
		f.mu.Unlock()
		return Explanation{}
	}
	obj, seen := m.machine, m.seen
	f.mu.Unlock()
	now := f.cfg.Now()
	circuit := f.pool.Circuit(machine.Name(name))
	var out Explanation
	spec, status := obj.GetSpec().GetBmc(), obj.GetStatus().GetBmc()
	refused := f.refusal(context.Background(), obj)
	switch {
	case errors.As(refused, new(*RefusedError)):
		out.Advice = append(out.Advice, refused.Error())
	case circuit.State != bmc.CircuitClosed:
		out.Advice = append(out.Advice, circuitAdvice(name, spec.GetAddress(), circuit, now))
	case seen.err != "":
		out.Advice = append(out.Advice, "its BMC at "+spec.GetAddress()+" failed "+ago(now, seen.failed)+": "+seen.err)
	case seen.at.IsZero():
		out.Advice = append(out.Advice, "its BMC at "+spec.GetAddress()+" has not been asked yet since the server started")
	}
	if status.GetHealth() == "critical" || status.GetHealth() == "warning" {
		out.Advice = append(out.Advice, "its BMC reports "+status.GetHealth()+" health: "+joinSome(status.GetHealthCauses())+"; see `bedplate machine sensors "+name+"` and `bedplate machine eventlog "+name+"`")
	}
	if at := latest(seen.at, status.GetContactTime()); !at.IsZero() {
		out.Sighting = &pb.Sighting{
			Source: string(machine.SourceBMC), Time: timestamppb.New(at), Address: spec.GetAddress(), Detail: powerText(seen.power, status),
		}
	}
	return out
}

func circuitAdvice(name, address string, c bmc.Circuit, now time.Time) string {
	text := "its BMC at " + address + " has not answered properly since " + ago(now, c.Since) + ": " + c.Reason
	if c.State == bmc.CircuitOpen {
		text += "; it is tried again in " + c.NextTry.Sub(now).Round(time.Second).String() + ", or at once by `bedplate machine bmc status " + name + " --retry`"
	}
	return text
}

// powerText says the power state and what else is known without asking.
func powerText(p pb.PowerState, s *pb.BMCStatus) string {
	text := "power unknown"
	switch p {
	case pb.PowerState_POWER_ON:
		text = "power on"
	case pb.PowerState_POWER_OFF:
		text = "power off"
	}
	if s.GetHealth() != "" {
		text += ", health " + s.GetHealth()
	}
	if s.GetMedia() != "" {
		text += ", " + s.GetMedia() + " inserted"
	}
	return text
}

func latest(t time.Time, stored *timestamppb.Timestamp) time.Time {
	if stored != nil && stored.AsTime().After(t) {
		return stored.AsTime()
	}
	return t
}

func ago(now, at time.Time) string { return now.Sub(at).Round(time.Second).String() + " ago" }

// joinSome lists the first few of many.
func joinSome(list []string) string {
	const most = 3
	out := ""
	for i, s := range list[:min(len(list), most)] {
		if i > 0 {
			out += ", "
		}
		out += s
	}
	if len(list) > most {
		out += ", …"
	}
	if out == "" {
		out = "it doesn't say why"
	}
	return out
}

// sameCauses compares what isn't well, in whatever order.
func sameCauses(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}
