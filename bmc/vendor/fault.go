package vendor

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	liberrors "github.com/bmc-toolbox/bmclib/v2/errors"
	"github.com/stmcginnis/gofish/common"

	"github.com/bedplate/bedplate/bmc"
)

// maxText bounds the text of an error.
const maxText = 400

// texts are the words of providers' errors that they have no values for.
var texts = []struct {
	words string
	kind  error
}{
	{"implementations found", bmc.ErrUnsupported},
	{"not an OpenBMC device", bmc.ErrUnsupported},
	{"device model not supported", bmc.ErrUnsupported},
	{"identify device model", bmc.ErrUnsupported},
	{"component unsupported", bmc.ErrUnsupported},
	{"firmware install not supported", bmc.ErrUnsupported},
	{"model not supported", bmc.ErrUnsupported},
	{"model unknown", bmc.ErrUnsupported},
	{"no digest auth at", bmc.ErrUnsupported},
	{"firmware job was found active", bmc.ErrBusy},
	{"401", bmc.ErrAuth},
	{"403", bmc.ErrPermission},
	{"404", bmc.ErrNotFound},
}

// fault returns what an error of a provider means. had is how long the call had.
func (d *Driver) fault(ctx context.Context, had time.Duration, err error) error {
	if ctx.Err() != nil {
		cause := context.Cause(ctx)
		if errors.Is(cause, context.DeadlineExceeded) && had >= slowCall {
			return fmt.Errorf("%w within %s", bmc.ErrUnreachable, had.Round(time.Second))
		}
		return cause
	}
	if broken := d.wire.fault(); broken != nil {
		if errors.Is(broken, bmc.ErrCertificate) || errors.Is(broken, errTooMuch) {
			return broken
		}
		return fmt.Errorf("%w: %w", bmc.ErrUnreachable, broken)
	}
	if kind := d.kind(err); kind != nil {
		return fmt.Errorf("%w: %s", kind, d.clean(err.Error()))
	}
	return errors.New(d.clean(err.Error()))
}

// kind returns which kind of error of package bmc it is; nil: none.
func (d *Driver) kind(err error) error {
	var answer *common.Error
	text := err.Error()
	switch {
	case errors.As(err, &answer):
		return ofStatus(answer.HTTPReturnedStatusCode)
	case errors.Is(err, liberrors.ErrIncompatibleProvider), errors.As(err, new(*liberrors.ErrUnsupportedHardware)):
		return bmc.ErrUnsupported
	case errors.Is(err, liberrors.ErrTaskNotFound):
		return bmc.ErrNotFound
	case errors.Is(err, liberrors.ErrBMCUpdating):
		return bmc.ErrBusy
	case errors.Is(err, liberrors.ErrNotAuthenticated):
		return bmc.ErrAuth
	case errors.Is(err, liberrors.ErrLoginFailed):
		return failedLogin(text)
	}
	for _, t := range texts {
		if strings.Contains(text, t.words) {
			return t.kind
		}
	}
	return nil
}

// ofStatus is what an HTTP status means.
func ofStatus(status int) error {
	switch status {
	case http.StatusUnauthorized:
		return bmc.ErrAuth
	case http.StatusForbidden:
		return bmc.ErrPermission
	case http.StatusNotFound, http.StatusGone:
		return bmc.ErrNotFound
	case http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return bmc.ErrUnsupported
	case http.StatusConflict, http.StatusLocked, http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return bmc.ErrBusy
	case http.StatusInternalServerError, http.StatusBadGateway, http.StatusGatewayTimeout:
		return bmc.ErrFailing
	}
	return nil
}

// failedLogin tells a refused password from a BMC that is another vendor's: the
// Supermicro provider calls both a failed login. Its boards answer the login
// page with 200 and another page where the password is wrong; one of another
// vendor has no such page.
func failedLogin(text string) error {
	low := strings.ToLower(text)
	for _, other := range []string{"model", "404", "405", "501"} {
		if strings.Contains(low, other) {
			return bmc.ErrUnsupported
		}
	}
	return bmc.ErrAuth
}

// secretForms are the forms in which a provider may send a password, and a BMC
// repeat it.
func secretForms(password string) []string {
	if password == "" {
		return nil
	}
	quoted, err := json.Marshal(password)
	if err != nil {
		quoted = []byte(password)
	}
	return []string{password, url.QueryEscape(password), strings.Trim(string(quoted), `"`), base64.StdEncoding.EncodeToString([]byte(password))}
}

// clean is text of a provider or a BMC, in one bounded line without the password.
func (d *Driver) clean(text string) string {
	for _, s := range d.secret {
		text = strings.ReplaceAll(text, s, "…")
	}
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "") + "…"
	}
	return text
}
