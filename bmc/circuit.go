package bmc

import (
	"context"
	"errors"
	"strings"
	"time"
)

// CircuitState is whether a BMC is asked at all.
type CircuitState string

// The states of a circuit.
const (
	// CircuitClosed is the normal state: calls go through.
	CircuitClosed CircuitState = "closed"
	// CircuitOpen means that calls fail at once until NextTry.
	CircuitOpen CircuitState = "open"
	// CircuitTrying means that the time has come: the next call finds out
	// whether the BMC is back.
	CircuitTrying CircuitState = "trying"
)

// Circuit is a BMC's circuit at one moment, for `machine explain`.
type Circuit struct {
	State CircuitState
	// Reason is the last failure, in one line.
	Reason string
	// Since is the first of the failures in a row.
	Since time.Time
	// NextTry is when a call goes through again; zero while it is closed.
	NextTry time.Time
	// Failures is how many there were in a row.
	Failures int
}

// maxReason bounds Circuit.Reason.
const maxReason = 512

// at returns the circuit as it is at now: an open one whose time has come is trying.
func (c Circuit) at(now time.Time) Circuit {
	if c.State == "" {
		c.State = CircuitClosed
	}
	if c.State == CircuitOpen && !now.Before(c.NextTry) {
		c.State = CircuitTrying
	}
	return c
}

// after returns the circuit after a call that ended with err at now. It opens
// after openAfter failures in a row, or at the second refused login (many BMCs
// lock an account at the third to fifth), for openFor, doubled by each failed
// try up to openMax. jitter, 0 to 1, spreads the tries.
func (c Circuit) after(err error, now time.Time, p circuitPolicy, jitter float64) Circuit {
	if !blamesBMC(err) {
		if gaveUp(err) {
			return c
		}
		return Circuit{State: CircuitClosed}
	}
	if c.Failures == 0 {
		c.Since = now
	}
	c.Failures++
	c.Reason = oneLine(err)
	limit := p.openAfter
	if errors.Is(err, ErrAuth) || errors.Is(err, ErrCertificate) {
		limit = min(limit, 2)
	}
	if c.Failures < limit {
		c.State = CircuitClosed
		return c
	}
	pause := min(p.openFor<<min(c.Failures-limit, 20), p.openMax)
	if pause <= 0 {
		pause = p.openMax
	}
	c.State = CircuitOpen
	c.NextTry = now.Add(pause + time.Duration(jitter*float64(pause)/4))
	return c
}

type circuitPolicy struct {
	openAfter        int
	openFor, openMax time.Duration
}

// blamesBMC reports whether an error means that the BMC itself is not well or
// not to be talked to. The end of a caller's patience (a context) isn't that:
// drivers make ErrUnreachable of requests that took too long.
func blamesBMC(err error) bool {
	for _, kind := range []error{ErrUnreachable, ErrAuth, ErrCertificate} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// gaveUp reports whether the caller ended the call, which says nothing of the BMC.
func gaveUp(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrClosed)
}

// oneLine is an error's text for a status field.
func oneLine(err error) string {
	s := strings.Join(strings.Fields(err.Error()), " ")
	if len(s) > maxReason {
		s = strings.ToValidUTF8(s[:maxReason], "") + "…"
	}
	return s
}
