package redfish

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/bedplate/bedplate/bmc"
)

// answer is a BMC's answer, read whole.
type answer struct {
	status   int
	location string
	etag     string
	body     []byte
}

func (a *answer) ok() bool { return a.status >= 200 && a.status < 300 }

// readAnswer reads and closes an answer.
func readAnswer(resp *http.Response) (*answer, error) {
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		if errors.Is(err, errBodyTooLarge) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: answer was cut off: %w", bmc.ErrUnreachable, err)
	}
	return &answer{
		status:   resp.StatusCode,
		location: resp.Header.Get("Location"),
		etag:     resp.Header.Get("ETag"),
		body:     body,
	}, nil
}

// client sends requests and reads answers.
type client struct {
	http *http.Client
	t    *Transport
	// secrets are what no error may show beside the password, such as a new one.
	secrets []string
}

func newClient(t *Transport) *client {
	return &client{t: t, http: &http.Client{Transport: t, CheckRedirect: checkRedirect}}
}

// checkRedirect follows few redirects; the transport refuses those to elsewhere.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= 3 {
		return errors.New("more than 3 redirects")
	}
	if req.Method != via[0].Method {
		return errors.New("redirect changes the method")
	}
	return nil
}

// do sends one request. path is what a link or action says: an absolute path,
// with or without a query.
func (c *client) do(ctx context.Context, method, path string, body io.Reader, header http.Header) (*answer, error) {
	if !spend(ctx) {
		return nil, errBudget
	}
	u, err := c.resolve(path)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, u, body)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := c.http.Do(req)
	if err != nil {
		// The URL that http.Client puts in front says nothing that isn't known.
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	a, err := readAnswer(resp)
	if err != nil {
		if gaveUp := context.Cause(ctx); gaveUp != nil {
			err = gaveUp
		}
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	return a, nil
}

// maxRequests bounds the requests of one reading of everything: a large server
// has some hundred resources, a service whose links lead in circles any number.
const maxRequests = 4000

var errBudget = fmt.Errorf("the BMC has more than %d resources to read, or links that lead in circles", maxRequests)

type budgetKey struct{}

// withBudget returns a context in which maxRequests requests can be made.
func withBudget(ctx context.Context) context.Context {
	left := maxRequests
	return context.WithValue(ctx, budgetKey{}, &left)
}

// spend reports whether another request may be made. Requests of one driver are
// made one by one.
func spend(ctx context.Context) bool {
	left, ok := ctx.Value(budgetKey{}).(*int)
	if !ok {
		return true
	}
	*left--
	return *left >= 0
}

// resolve returns the URL of a path. Some BMCs link with their own address in
// front; another host is refused by the transport.
func (c *client) resolve(path string) (string, error) {
	if !strings.HasPrefix(path, "/") && !strings.Contains(path, "://") {
		return "", fmt.Errorf("BMC has a link that is no path: %q", path)
	}
	u, err := c.t.origin.Parse(path)
	if err != nil {
		return "", fmt.Errorf("BMC has a link that is no path: %q", path)
	}
	return u.String(), nil
}

// get reads a resource into v, and returns its ETag.
func (c *client) get(ctx context.Context, path string, v any) (etag string, err error) {
	a, err := c.do(ctx, http.MethodGet, path, nil, nil)
	if err != nil {
		return "", err
	}
	if !a.ok() {
		return "", fmt.Errorf("GET %s: %w", path, a.asError(c.t.redactor(c.secrets...)))
	}
	if err := decode(a.body, v); err != nil {
		return "", fmt.Errorf("GET %s: %w", path, err)
	}
	return a.etag, nil
}

// post sends a POST and returns the answer if it is a good one.
func (c *client) post(ctx context.Context, path string, body any) (*answer, error) {
	return c.write(ctx, http.MethodPost, path, body, nil)
}

// write sends body as JSON.
func (c *client) write(ctx context.Context, method, path string, body any, header http.Header) (*answer, error) {
	var content io.Reader
	header = header.Clone()
	if header == nil {
		header = http.Header{}
	}
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(b)
		header.Set("Content-Type", "application/json")
	}
	a, err := c.do(ctx, method, path, content, header)
	if err != nil {
		return nil, err
	}
	if !a.ok() {
		return a, fmt.Errorf("%s %s: %w", method, path, a.asError(c.t.redactor(c.secrets...)))
	}
	return a, nil
}

// patch changes a resource. A service that wants to be shown which version is
// changed (DSP0266 §6.5) is shown the newest.
func (c *client) patch(ctx context.Context, path string, body any) error {
	a, err := c.write(ctx, http.MethodPatch, path, body, nil)
	if a == nil || a.status != http.StatusPreconditionFailed && a.status != http.StatusPreconditionRequired {
		return err
	}
	var resource struct {
		ETag string `json:"@odata.etag"`
	}
	etag, getErr := c.get(ctx, path, &resource)
	if getErr != nil {
		return err
	}
	if etag == "" {
		etag = resource.ETag
	}
	if etag == "" {
		etag = "*"
	}
	a, err = c.write(ctx, http.MethodPatch, path, body, http.Header{"If-Match": {etag}})
	if strong, weak := strings.CutPrefix(etag, "W/"); a != nil && a.status == http.StatusPreconditionFailed && weak {
		// Weak tags never match (RFC 9110 §13.1.1): some services compare them all the same, some don't.
		_, err = c.write(ctx, http.MethodPatch, path, body, http.Header{"If-Match": {strong}})
	}
	return err
}

// decode reads JSON. Properties of another type than wanted stay as they are.
func decode(body []byte, v any) error {
	err := json.Unmarshal(body, v)
	var wrongType *json.UnmarshalTypeError
	if errors.As(err, &wrongType) && wrongType.Field != "" {
		return nil
	}
	if err != nil {
		return fmt.Errorf("answer is not the JSON it should be: %w", err)
	}
	return nil
}
