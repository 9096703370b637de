package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

// maxHookAnswer bounds what is kept of a hook's answer.
const maxHookAnswer = 1 << 10

// hooks asks a pool's hooks over HTTP.
type hooks struct {
	db      *resource.DB
	secrets secrets
	client  *http.Client
}

// newHooks returns hooks whose requests follow no redirect: the bearer token
// is for the host that the pool names.
func newHooks(db *resource.DB, s secrets) hooks {
	return hooks{db, s, &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// hookRequest is what a hook is sent, as JSON.
type hookRequest struct {
	Before   string          `json:"before"`
	Machine  json.RawMessage `json:"machine"`
	Instance json.RawMessage `json:"instance,omitempty"`
}

// Call implements lifecycle.Hooks.
func (h hooks) Call(ctx context.Context, hook *pb.Hook, m *pb.Machine, before string) (again bool, message string, err error) {
	body, err := h.body(ctx, m, before)
	if err != nil {
		return true, err.Error(), nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, hook.GetUrl(), bytes.NewReader(body))
	if err != nil {
		return false, "", fmt.Errorf("calling %s: %w", hook.GetUrl(), err)
	}
	req.Header.Set("Content-Type", "application/json")
	if name := hook.GetTokenSecret(); name != "" {
		data, err := h.secrets.Secret(ctx, name)
		if err != nil || data["token"] == "" {
			return true, fmt.Sprintf("secret %s has no token", name), nil
		}
		req.Header.Set("Authorization", "Bearer "+data["token"])
	}
	resp, err := h.client.Do(req)
	if err != nil {
		return true, err.Error(), nil // It may come back before the hook's time is over.
	}
	defer resp.Body.Close() //nolint:errcheck // it was only read
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxHookAnswer))
	if err != nil {
		return true, err.Error(), nil
	}
	said := strings.TrimSpace(strings.ToValidUTF8(string(text), "?"))
	switch code := resp.StatusCode; {
	case code/100 == 2:
		return false, said, nil
	case code == http.StatusConflict || code == http.StatusServiceUnavailable || code == http.StatusTooManyRequests:
		return true, said, nil
	default:
		return false, "", fmt.Errorf("%s: %s", resp.Status, said)
	}
}

func (h hooks) body(ctx context.Context, m *pb.Machine, before string) ([]byte, error) {
	names := protojson.MarshalOptions{UseProtoNames: true}
	machine, err := names.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("writing the machine: %w", err)
	}
	r := hookRequest{Before: before, Machine: machine}
	if name := m.GetStatus().GetInstance(); name != "" {
		i, err := resource.Get[*pb.Instance](ctx, h.db, name)
		switch {
		case errors.Is(err, store.ErrNotFound):
		case err != nil:
			return nil, err
		default:
			// User data and inputs often hold secrets, which no hook needs.
			i.Spec.UserData, i.Spec.Inputs, i.Status = "", nil, nil
			if r.Instance, err = names.Marshal(i); err != nil {
				return nil, fmt.Errorf("writing the instance: %w", err)
			}
		}
	}
	return json.Marshal(r)
}
