package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bedplate/bedplate/resource"
)

// hinted is an error that says what to do next.
type hinted struct {
	err  error
	next string
}

func (h hinted) Error() string { return h.err.Error() }
func (h hinted) Unwrap() error { return h.err }

// hint adds what to do next.
func hint(err error, next string) error { return hinted{err, next} }

// report tells a person what failed, and on another line what to do next.
func (a *app) report(err error) {
	if err == nil || errors.Is(err, errReported) || errors.Is(err, errInterrupted) {
		return
	}
	what, next := a.explain(err)
	style := a.style(a.stderr)
	for line := range strings.SplitSeq(what, "\n") {
		fmt.Fprintln(a.stderr, style.Bad("error:"), line)
	}
	if next != "" {
		fmt.Fprintln(a.stderr, style.Busy("hint:"), next)
	}
}

// explain puts an error into words: what failed, and what to do next.
func (a *app) explain(err error) (what, next string) {
	var h hinted
	if errors.As(err, &h) {
		next = h.next
	}
	var files resource.FileErrors
	var usage usageError
	switch st, isStatus := statusOf(err); {
	case errors.As(err, &files):
		what = err.Error()
	case isStatus:
		var advice string
		what, advice = a.explainStatus(err, st)
		if next == "" {
			next = advice
		}
	case errors.As(err, &usage):
		what = err.Error()
		if next == "" {
			next = "`" + orElse(a.command, "bedplate") + " --help` says how it is used"
		}
	default:
		what = err.Error()
	}
	return what, next
}

// statusOf returns the gRPC status in an error.
func statusOf(err error) (*status.Status, bool) {
	var s interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &s) {
		return nil, false
	}
	return s.GRPCStatus(), true
}

// codeOf returns the gRPC code in an error; Unknown if it has none.
func codeOf(err error) codes.Code {
	if st, ok := statusOf(err); ok {
		return st.Code()
	}
	return codes.Unknown
}

func isCancelled(err error) bool {
	return errors.Is(err, context.Canceled) || codeOf(err) == codes.Canceled
}

// explainStatus puts what a server said, or that there was none, into words.
func (a *app) explainStatus(err error, st *status.Status) (what, next string) {
	server := "the server"
	if c, settingsErr := a.settings(); settingsErr == nil {
		server = c.Server
	}
	message := st.Message()
	switch st.Code() {
	case codes.Unavailable:
		return explainUnavailable(server, message)
	case codes.Unauthenticated:
		return server + " doesn't accept the token: " + message,
			"give one with BEDPLATE_TOKEN or --token, or in the configuration file; an admin makes one with `bedplate token create NAME --role operator`"
	case codes.PermissionDenied:
		return message, "ask an admin for a token with a higher role: `bedplate token create NAME --role operator|admin`"
	case codes.DeadlineExceeded:
		return server + " did not answer in time", "try again, or give it longer with --request-timeout 2m"
	case codes.Unimplemented:
		return message, "the server may be of another version: compare with `bedplate version --with-server`"
	case codes.InvalidArgument:
		if fields := violations(st); len(fields) > 1 {
			lines := make([]string, len(fields))
			for i, f := range fields {
				lines[i] = f.Error()
			}
			return strings.Join(lines, "\n"), ""
		}
	case codes.ResourceExhausted:
		if strings.Contains(message, "received message larger than max") {
			return "the answer of " + server + " is too large", "select fewer with -l, or name them"
		}
	case codes.Aborted:
		if !strings.Contains(message, "again") {
			return message, "someone else has changed it: get it again, make the change to that, and apply it"
		}
	}
	if message == "" {
		message = err.Error()
	}
	return message, ""
}

func explainUnavailable(server, message string) (what, next string) {
	cause := lastCause(message)
	what = "can't reach " + server + ": " + cause
	switch {
	case strings.Contains(message, "x509:") || strings.Contains(message, "pinned"):
		return what, "check that --server is right, and give the server's own CA with --ca FILE or --ca sha256:DIGEST (`bedplate serve` prints it; ca.crt in its data directory)"
	case strings.Contains(message, "first record does not look like a TLS handshake"):
		return what, "that port does not speak TLS: the API is on port " + defaultPort
	case strings.Contains(message, "no such host"), strings.Contains(message, "produced zero addresses"), strings.Contains(message, "name resolver error"):
		return what, "check the name in --server, BEDPLATE_SERVER or the configuration file"
	case strings.Contains(message, "connection refused"):
		return what, "is `bedplate serve` running there? choose another server with --server or BEDPLATE_SERVER"
	}
	return what, "is the server up and reachable? choose another with --server or BEDPLATE_SERVER"
}

// lastCause leaves out gRPC's own words around what happened.
func lastCause(message string) string {
	for _, words := range []string{"connection error: desc = ", "last connection error: "} {
		if _, after, found := strings.Cut(message, words); found {
			message = strings.Trim(after, `"`)
		}
	}
	for _, words := range []string{"transport: Error while dialing: ", "transport: authentication handshake failed: "} {
		message = strings.TrimPrefix(message, words)
	}
	return message
}

// violations returns the wrong fields that a status names.
func violations(st *status.Status) []resource.FieldError {
	var out []resource.FieldError
	for _, d := range st.Details() {
		bad, ok := d.(*errdetails.BadRequest)
		if !ok {
			continue
		}
		for _, v := range bad.GetFieldViolations() {
			out = append(out, resource.FieldError{Path: v.GetField(), Message: v.GetDescription()})
		}
	}
	return out
}
