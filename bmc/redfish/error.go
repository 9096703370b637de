package redfish

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/stmcginnis/gofish/common"

	"github.com/bedplate/bedplate/bmc"
)

// maxMessage bounds the text of a BMC's error.
const maxMessage = 400

// Error is what a BMC has refused a request with (DSP0266 §8.6).
type Error struct {
	// Status is the HTTP status.
	Status int
	// IDs are the message IDs, such as Base.1.8.PropertyValueNotInList.
	IDs []string
	// Text is what the BMC says for people, without secrets.
	Text string
}

// Error says the status and the BMC's own words.
func (e *Error) Error() string {
	s := fmt.Sprintf("BMC says %d %s", e.Status, http.StatusText(e.Status))
	if e.Text != "" {
		s += ": " + e.Text
	}
	return s
}

// Is says which kind of error of package bmc it is.
func (e *Error) Is(target error) bool {
	switch target {
	case bmc.ErrAuth:
		return e.Status == http.StatusUnauthorized
	case bmc.ErrPermission:
		return e.Status == http.StatusForbidden
	case bmc.ErrNotFound:
		return e.Status == http.StatusNotFound || e.Status == http.StatusGone
	case bmc.ErrUnsupported:
		return e.Status == http.StatusMethodNotAllowed || e.Status == http.StatusNotImplemented ||
			e.has("ActionNotSupported", "QueryNotSupported", "OperationNotAllowed")
	case bmc.ErrBusy:
		return slices.Contains([]int{
			http.StatusConflict, http.StatusLocked, http.StatusTooManyRequests, http.StatusServiceUnavailable, http.StatusInsufficientStorage,
		}, e.Status) || e.wrongState()
	case bmc.ErrFailing:
		return slices.Contains([]int{http.StatusInternalServerError, http.StatusBadGateway, http.StatusGatewayTimeout}, e.Status) && !e.wrongState()
	}
	return false
}

// has reports whether one of the message IDs ends in one of names.
func (e *Error) has(names ...string) bool {
	return slices.ContainsFunc(e.IDs, func(id string) bool {
		return slices.Contains(names, id[strings.LastIndex(id, ".")+1:])
	})
}

// wrongState reports whether the BMC says that the system is not in a state for that.
func (e *Error) wrongState() bool {
	return e.has("InvalidOperationForSystemState", "ResourceInUse", "ResourceInStandby", "ServerPoweredOn", "ServerPoweredOff", "PowerStateRequired")
}

// badRequest reports whether the BMC didn't like what the request says, so that
// another way to say it may do.
func (e *Error) badRequest() bool {
	return slices.Contains([]int{http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusUnprocessableEntity, http.StatusUnsupportedMediaType}, e.Status) && !e.wrongState()
}

// asError reads the error that a BMC's answer has.
func (a *answer) asError(redact func(string) string) *Error {
	e := &Error{Status: a.status}
	//nolint:errorlint // the function returns its own type as an error, always
	told, ok := common.ConstructError(a.status, a.body).(*common.Error)
	if !ok {
		return e
	}
	var texts []string
	for _, info := range told.ExtendedInfos {
		if info.MessageID != "" {
			e.IDs = append(e.IDs, info.MessageID)
		}
		text := strings.TrimSpace(info.Message)
		if text == "" {
			text = info.MessageID
		}
		texts = append(texts, text)
	}
	if told.Code != "" {
		e.IDs = append(e.IDs, told.Code)
	}
	if len(texts) == 0 && (told.Code != "" || !looksLikeMarkup(told.Message)) {
		texts = append(texts, told.Message)
	}
	e.Text = shorten(redact(strings.Join(texts, "; ")))
	return e
}

// looksLikeMarkup reports whether a text is a web page or raw JSON: nothing for people.
func looksLikeMarkup(s string) bool {
	s = strings.TrimSpace(s)
	return strings.HasPrefix(s, "<") || strings.HasPrefix(s, "{") || strings.HasPrefix(s, "[")
}

// shorten puts a text on one line and bounds it.
func shorten(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > maxMessage {
		s = strings.ToValidUTF8(s[:maxMessage], "") + "…"
	}
	return s
}
