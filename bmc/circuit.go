package bmc

import "time"

// CircuitState is whether a BMC is asked at all.
type CircuitState string

// The states of a circuit.
const (
	// CircuitClosed is the normal state: calls go through.
	CircuitClosed CircuitState = "closed"
	// CircuitOpen means that calls fail at once until NextTry.
	CircuitOpen CircuitState = "open"
	// CircuitTrying means that one call is finding out whether the BMC is back.
	CircuitTrying CircuitState = "trying"
)

// Circuit is a BMC's circuit at one moment, for `machine explain`.
type Circuit struct {
	State CircuitState
	// Reason is the last failure, in one line.
	Reason string
	// Since is the first of the failures in a row.
	Since time.Time
	// NextTry is when a call goes through again; zero unless open.
	NextTry time.Time
	// Failures is how many there were in a row.
	Failures int
}
