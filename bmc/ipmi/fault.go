package ipmi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/bougou/go-ipmi/pkg/types"

	"github.com/bedplate/bedplate/bmc"
)

func asType[T error](err error) (T, bool) {
	var t T
	ok := errors.As(err, &t)
	return t, ok
}

// deadline returns how long ctx had left when a request began; 0 without a deadline.
func deadline(ctx context.Context) time.Duration {
	end, ok := ctx.Deadline()
	if !ok {
		return 0
	}
	return time.Until(end)
}

// The words of the library's errors that it has no values for: Connect20 joins
// the errors of each cipher suite as text.
const (
	textRAKP         = "RAKP authentication failed"
	textUnknownName  = "RMCP+ status 0x0d"
	textWrongCheck   = "RMCP+ status 0x0f"
	textNoPrivilege  = "RMCP+ status 0x0a"
	textNoSessions   = "RMCP+ status 0x01"
	textNoRole       = "RMCP+ status 0x0b"
	textNoSuite      = "RMCP+ status 0x11"
	textNoMatch      = "no datagram matched"
	textTimedOut     = "UDP read timed out"
	textRefused      = "connection refused"
	textNoRoute      = "no route to host"
	textNetUnreached = "network is unreachable"
)

// fault returns what an error of the library means.
func (d *Driver) fault(ctx context.Context, had time.Duration, err error) error {
	if ctx.Err() != nil {
		cause := context.Cause(ctx)
		if errors.Is(cause, context.DeadlineExceeded) && had >= datagramTimeout*2 {
			return fmt.Errorf("%w within %s", bmc.ErrUnreachable, had.Round(time.Second))
		}
		return cause
	}
	if answer, ok := types.IsResponseError(err); ok {
		return completion(answer.CompletionCode())
	}
	if errors.Is(err, bmc.ErrUnsupported) {
		return err
	}
	text := d.redact(err.Error())
	has := func(words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(text, w) })
	}
	switch {
	case has(textRAKP, textUnknownName, textWrongCheck):
		return fmt.Errorf("%w: %s", bmc.ErrAuth, lastLine(text))
	case has(textNoPrivilege):
		return fmt.Errorf("%w: %s", bmc.ErrPermission, lastLine(text))
	case has(textNoSessions, textNoRole):
		return fmt.Errorf("%w: no session is free: %s", bmc.ErrBusy, lastLine(text))
	case isTimeout(err), has(textNoMatch, textTimedOut, textRefused, textNoRoute, textNetUnreached):
		return fmt.Errorf("%w: %s", bmc.ErrUnreachable, lastLine(text))
	case has(textNoSuite):
		return fmt.Errorf("BMC accepts neither cipher suite 17 nor 3: enable one of them in its settings: %s", lastLine(text))
	}
	if _, ok := asType[*net.OpError](err); ok {
		return fmt.Errorf("%w: %s", bmc.ErrUnreachable, lastLine(text))
	}
	return errors.New(text)
}

// redact takes the password out of a text.
func (d *Driver) redact(text string) string {
	for _, s := range d.secret {
		if s != "" {
			text = strings.ReplaceAll(text, s, "(hidden)")
		}
	}
	return text
}

// lastLine is the innermost of the library's nested errors.
func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	last := lines[len(lines)-1]
	if i := strings.LastIndex(last, "err: "); i >= 0 {
		last = last[i+len("err: "):]
	}
	return strings.TrimSpace(last)
}

// completion returns what a completion code means (IPMI 2.0 table 5-2).
func completion(code types.CompletionCode) error {
	var kind error
	switch code {
	case types.CodeInvalidCommand, types.CodeInvalidCommandForLUN, types.CodeIllegalCommand, types.CodeSubFnDisabled:
		kind = bmc.ErrUnsupported
	case types.CodeInsufficientPrivilege:
		kind = bmc.ErrPermission
	case types.CodeNodeBusy, types.CodeProcessTimeout, types.CodeOutOfSpace, types.CodeReservationCanceled, types.CodeCannotProvideResponse,
		types.CodeCannotProvideResponseSDRRInUpdate, types.CodeCannotProvideResponseFirmwareUpdate,
		types.CodeCannotProvideResponseBMCInitialize, types.CodeDestinationUnavailable, types.CodeNotSupported:
		// D5h, with the misleading name, is "not supported in present state".
		kind = bmc.ErrBusy
	case types.CodeUnspecifiedError:
		kind = bmc.ErrFailing
	default:
		return fmt.Errorf("BMC says %#02x, %s", uint8(code), code)
	}
	return fmt.Errorf("%w: BMC says %#02x, %s", kind, uint8(code), code)
}

// isCode reports whether err is the library's for a completion code.
func isCode(err error, codes ...types.CompletionCode) bool {
	answer, ok := types.IsResponseError(err)
	return ok && slices.Contains(codes, answer.CompletionCode())
}
