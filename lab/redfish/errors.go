package redfish

import (
	"errors"
	"net/http"
	"strings"

	"github.com/bedplate/bedplate/lab/board"
)

// failure is an error that a client is told, by a message of the Base registry
// (DSP2065) with its arguments.
type failure struct {
	status  int
	id      string
	message string
	args    []string
	// property is what the message is about, as a JSON pointer.
	property string
}

func (f *failure) Error() string { return f.message }

// baseRegistry is the version of the Base message registry.
const baseRegistry = "Base.1.12."

func errNotFound(path string) error {
	return &failure{status: http.StatusNotFound, id: "ResourceMissingAtURI", message: "The resource at the URI " + path + " was not found.", args: []string{path}}
}

func errMalformed() error {
	return &failure{status: http.StatusBadRequest, id: "MalformedJSON", message: "The request body submitted was malformed JSON and could not be parsed by the receiving service."}
}

func errInternal(message string) error {
	return &failure{status: http.StatusInternalServerError, id: "InternalError", message: "The request failed due to an internal service error: " + message}
}

func errPrivilege() error {
	return &failure{status: http.StatusForbidden, id: "InsufficientPrivilege", message: "There are insufficient privileges for the account or credentials associated with the current session to perform the requested operation."}
}

func errSession() error {
	return &failure{status: http.StatusUnauthorized, id: "NoValidSession", message: "There is no valid session established with the implementation."}
}

func errMissing(property string) error {
	return &failure{status: http.StatusBadRequest, id: "PropertyMissing", message: "The property " + property + " is a required property and must be included in the request.", args: []string{property}, property: property}
}

func errParameter(action, parameter string) error {
	return &failure{
		status: http.StatusBadRequest, id: "ActionParameterMissing", args: []string{action, parameter}, property: parameter,
		message: "The action " + action + " requires the parameter " + parameter + " to be present in the request body.",
	}
}

func errValue(value, property string) error {
	return &failure{
		status: http.StatusBadRequest, id: "PropertyValueNotInList", args: []string{value, property}, property: property,
		message: "The value " + value + " for the property " + property + " is not in the list of acceptable values.",
	}
}

func errUnknown(property string) error {
	return &failure{
		status: http.StatusBadRequest, id: "PropertyUnknown", args: []string{property}, property: property,
		message: "The property " + property + " is not in the list of valid properties for the resource.",
	}
}

func errNotWritable(property string) error {
	return &failure{
		status: http.StatusBadRequest, id: "PropertyNotWritable", args: []string{property}, property: property,
		message: "The property " + property + " is a read only property and cannot be assigned a value.",
	}
}

// explain turns an error of the board's into one for the client.
func explain(err error) error {
	var f *failure
	switch {
	case errors.As(err, &f):
		return f
	case errors.Is(err, board.ErrInvalid), errors.Is(err, board.ErrFetch):
		return &failure{status: http.StatusBadRequest, id: "GeneralError", message: err.Error()}
	case errors.Is(err, board.ErrOff), errors.Is(err, board.ErrInserted), errors.Is(err, board.ErrEmpty):
		return &failure{status: http.StatusConflict, id: "OperationNotAllowed", message: err.Error()}
	case errors.Is(err, board.ErrTaken):
		return &failure{status: http.StatusConflict, id: "ResourceAlreadyExists", message: err.Error()}
	case errors.Is(err, board.ErrAccounts):
		return &failure{status: http.StatusConflict, id: "CreateLimitReachedForResource", message: err.Error()}
	case errors.Is(err, board.ErrLast):
		return &failure{status: http.StatusForbidden, id: "ResourceCannotBeDeleted", message: err.Error()}
	case errors.Is(err, board.ErrNoAccount), errors.Is(err, board.ErrNoTask), errors.Is(err, board.ErrNoSecureBoot):
		return &failure{status: http.StatusNotFound, id: "ResourceNotFound", message: err.Error()}
	case errors.Is(err, board.ErrBusy):
		return &failure{status: http.StatusServiceUnavailable, id: "ServiceTemporarilyUnavailable", message: err.Error(), args: []string{"5"}}
	}
	return errInternal(err.Error())
}

// fail answers with an error (DSP0266 §8.6).
func (c *call) fail(err error) {
	f := explain(err).(*failure) //nolint:errorlint // it returns nothing else
	if f.status == http.StatusUnauthorized {
		c.w.Header().Set("WWW-Authenticate", `Basic realm="Redfish"`)
	}
	if f.status == http.StatusServiceUnavailable {
		c.w.Header().Set("Retry-After", "5")
	}
	severity := "Warning"
	if f.status >= http.StatusInternalServerError {
		severity = "Critical"
	}
	args := f.args
	if args == nil {
		args = []string{}
	}
	info := object{
		"@odata.type": "#Message.v1_1_2.Message", "MessageId": baseRegistry + f.id, "Message": f.message, "MessageArgs": args,
		"MessageSeverity": severity, "Severity": severity, "Resolution": resolution(f),
	}
	if f.property != "" {
		info["RelatedProperties"] = []string{"#/" + strings.ReplaceAll(f.property, ".", "/")}
	}
	if err := c.json(f.status, object{"error": object{"code": baseRegistry + f.id, "message": f.message, "@Message.ExtendedInfo": []object{info}}}); err != nil {
		c.s.log.Debug("answering a Redfish request", "err", err)
	}
}

func resolution(f *failure) string {
	switch {
	case f.status == http.StatusUnauthorized:
		return "Establish a session before attempting any operations."
	case f.status == http.StatusForbidden:
		return "Use an account that has the privilege."
	case f.status >= http.StatusInternalServerError:
		return "Resubmit the request. If the problem persists, reset the manager."
	}
	return "Correct the request body or the state of the resource and resubmit the request."
}
