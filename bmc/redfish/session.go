package redfish

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/bedplate/bedplate/bmc"
)

// login opens a session, unless somebody else has since stale was in use.
func (t *Transport) login(ctx context.Context, stale string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.basic || t.token != stale {
		return nil
	}
	t.token, t.session = "", ""
	body, err := json.Marshal(map[string]string{"UserName": t.target.Username, "Password": t.target.Password})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.origin.JoinPath(t.sessions).String(), bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := t.send(req, "", false)
	if err != nil {
		return fmt.Errorf("logging in: %w", err)
	}
	answer, err := readAnswer(resp)
	if err != nil {
		return fmt.Errorf("logging in: %w", err)
	}
	token := resp.Header.Get("X-Auth-Token")
	switch {
	case answer.ok() && token != "":
		t.token, t.session = token, sessionPath(answer)
		return nil
	case answer.ok(), noSessions(answer):
		t.basic = true // the first request with it says whether it is accepted
		return nil
	}
	return fmt.Errorf("logging in: %w", t.loginError(answer))
}

// loginError says whose fault it is that there is no session.
func (t *Transport) loginError(a *answer) error {
	err := a.asError(t.redactor())
	switch a.status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusBadRequest:
		// Some call a wrong password a bad request.
		return fmt.Errorf("%w: %v", bmc.ErrAuth, err)
	}
	return err
}

// sessionPath returns the path of the session that was made: its Location, as a
// path or a whole URL, or what the body says.
func sessionPath(a *answer) string {
	if u, err := url.Parse(a.location); err == nil && u.Path != "" {
		return u.Path
	}
	var body struct {
		ID string `json:"@odata.id"`
	}
	_ = json.Unmarshal(a.body, &body)
	if strings.HasPrefix(body.ID, "/") {
		return body.ID
	}
	return ""
}

// logout ends the session, if there is one.
func (t *Transport) logout(ctx context.Context) error {
	t.mu.Lock()
	token, session := t.token, t.session
	t.token, t.session = "", ""
	t.mu.Unlock()
	defer t.base.CloseIdleConnections()
	if token == "" || session == "" {
		return nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodDelete, t.origin.JoinPath(session).String(), nil)
	if err != nil {
		return err
	}
	resp, err := t.send(req, token, false)
	if err != nil {
		return fmt.Errorf("logging out: %w", err)
	}
	drain(resp)
	return nil
}

// redactor returns what takes the session's secrets out of a text.
func (t *Transport) redactor(more ...string) func(string) string {
	secrets := append([]string{t.target.Password}, more...)
	var pairs []string
	for _, s := range secrets {
		if s != "" {
			pairs = append(pairs, s, "(hidden)")
		}
	}
	return strings.NewReplacer(pairs...).Replace
}
