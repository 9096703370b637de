package bmc

import (
	"errors"
	"fmt"
	"time"
)

// The kinds of error that callers act on; test with errors.Is.
var (
	// ErrUnsupported means that this BMC, or the protocol it is spoken to with,
	// can't do that at all. Trying again is useless.
	ErrUnsupported = errors.New("not supported")
	// ErrIgnored means that the BMC accepted a change and didn't make it.
	ErrIgnored = errors.New("BMC accepted the change but did not make it")
	// ErrAuth means that the BMC refused user name or password.
	ErrAuth = errors.New("BMC refused the login (check spec.bmc.username and the password in its Secret)")
	// ErrPermission means that the user is known but may not do this.
	ErrPermission = errors.New("BMC user may not do this (it needs the role of an administrator)")
	// ErrUnreachable means that nothing answered at the address, or it stopped answering.
	ErrUnreachable = errors.New("BMC does not answer")
	// ErrCertificate means that the BMC's certificate is not one to trust.
	ErrCertificate = errors.New("BMC certificate is not trusted")
	// ErrCircuitOpen means that the BMC failed so often that it isn't asked for a while.
	ErrCircuitOpen = errors.New("BMC is left alone for a while")
	// ErrBusy means that the BMC won't do that now, and hasn't; later it may.
	ErrBusy = errors.New("BMC is busy")
	// ErrFailing means that the BMC had an error of its own. Whether it did what it
	// was asked isn't known; trying again may help.
	ErrFailing = errors.New("BMC has an error of its own")
	// ErrNotFound means that the BMC has no such user, task or media device.
	ErrNotFound = errors.New("not found on the BMC")
	// ErrClosed means that the Pool has been closed.
	ErrClosed = errors.New("BMC sessions are closed")
	// ErrPasswordUnknown means that a new password was sent to the BMC and neither
	// it nor the old one is known to work: keep both.
	ErrPasswordUnknown = errors.New("it is not known which password the BMC has now")
	// ErrPowerState is what every *PowerError is.
	ErrPowerState = errors.New("wrong power state")
)

// Unsupported returns the error for something that a driver can't do.
func Unsupported(driver, what string) error {
	return fmt.Errorf("%s: %s: %w", driver, what, ErrUnsupported)
}

// PowerError says that a machine is not in the power state it was brought to.
type PowerError struct {
	Action PowerAction
	Wanted PowerState
	Found  PowerState
	// Waited is how long the state was asked for.
	Waited time.Duration
}

// Error says what was wanted and found and what to try.
func (e *PowerError) Error() string {
	s := fmt.Sprintf("power %s: wanted %s, found %s after %s", e.Action, e.Wanted, e.Found, e.Waited.Round(time.Second))
	if e.Action == ActionSoft {
		return s + ": the operating system did not shut down in time; use off to cut the power"
	}
	return s
}

// Is makes a PowerError an ErrPowerState.
func (e *PowerError) Is(target error) bool { return target == ErrPowerState }

// CertificateError says which certificate was expected and which one came.
type CertificateError struct {
	Address string
	// Want is the pin that was set, empty where a CA was.
	Want Pin
	// Got is the pin of the certificate that the BMC showed.
	Got Pin
	// Reason is set where the certificate was checked against a CA.
	Reason error
}

// Error shows old and new fingerprint and what to do.
func (e *CertificateError) Error() string {
	if e.Want == "" {
		return fmt.Sprintf("certificate of BMC %s (%s) is not trusted: %v: add its CA, or pin it by setting spec.bmc.certificate_digest to %[2]s once you have checked that it is the BMC's",
			e.Address, e.Got, e.Reason)
	}
	return fmt.Sprintf("certificate of BMC %s has changed from %s to %s: if the BMC was replaced, reset or given a new certificate, set spec.bmc.certificate_digest to the new one; if not, somebody may be in between",
		e.Address, e.Want, e.Got)
}

// Is makes a CertificateError an ErrCertificate.
func (e *CertificateError) Is(target error) bool { return target == ErrCertificate }

// CircuitError is what calls get while a BMC's circuit is open.
type CircuitError struct{ Circuit Circuit }

// Error says why, since when, and when the BMC is tried next.
func (e *CircuitError) Error() string {
	return fmt.Sprintf("%v: %d failures in a row since %s, tried next at %s; last: %s", ErrCircuitOpen, e.Circuit.Failures,
		e.Circuit.Since.UTC().Format(time.RFC3339), e.Circuit.NextTry.UTC().Format(time.RFC3339), e.Circuit.Reason)
}

// Is makes a CircuitError an ErrCircuitOpen.
func (e *CircuitError) Is(target error) bool { return target == ErrCircuitOpen }
