// Package redfish serves a board.Board as a Redfish service (DMTF DSP0266
// 1.15): one computer system, one manager, one chassis, all with the ID 1.
//
//	/redfish/v1 ─┬─ Systems/1 ── Bios, SecureBoot, Processors, Memory, Storage, EthernetInterfaces, LogServices
//	             ├─ Managers/1 ── EthernetInterfaces, NetworkProtocol, VirtualMedia, LogServices
//	             ├─ Chassis/1 ── Thermal, Power, Sensors
//	             ├─ SessionService, AccountService, TaskService, EventService, UpdateService
//	             └─ Registries
//
// It is HTTP only: whoever listens brings TLS. Bodies are bounded; deadlines
// are those of the http.Server. A Service may be used by any number of goroutines.
package redfish

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/bedplate/bedplate/lab/board"
)

// Bounds of what is read and kept.
const (
	maxBody          = 1 << 20
	maxSessions      = 32
	maxSubscriptions = 16
	requestDeadline  = 11 * time.Minute // media are fetched within a request
)

// Service is a Redfish service; see New.
type Service struct {
	board *board.Board
	log   *slog.Logger
	uuid  string

	mu            sync.Mutex
	sessions      map[string]*session // by ID
	timeout       time.Duration
	nextSession   int
	subscriptions map[string]*subscription // by ID
	nextSub       int
	queues        map[*queue]struct{}

	life     context.Context
	end      context.CancelFunc
	work     sync.WaitGroup
	unlisten func()
}

// New returns a service of a board. Close must be called after use. log may be nil.
func New(b *board.Board, log *slog.Logger) *Service {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Service{
		board: b, log: log, uuid: b.Hardware().UUID, timeout: defaultTimeout,
		sessions: map[string]*session{}, subscriptions: map[string]*subscription{}, queues: map[*queue]struct{}{},
	}
	s.life, s.end = context.WithCancel(context.Background())
	s.unlisten = b.Subscribe(s.observe)
	return s
}

// Close ends streams and deliveries of events and waits for them.
func (s *Service) Close() {
	s.unlisten()
	s.end()
	s.work.Wait()
}

// observe is called for whatever happens on the board.
func (s *Service) observe(e board.Event) {
	if e.Kind == board.BoardReset {
		s.mu.Lock()
		clear(s.sessions)
		s.mu.Unlock()
	}
	if e.Kind == board.Logged {
		s.notify(e.Entry)
	}
}

// object is a JSON object.
type object map[string]any

// call is one request on its way.
type call struct {
	*http.Request
	w       http.ResponseWriter
	s       *Service
	b       *board.Board
	path    string
	vars    []string
	account board.Account
	// session is the one that the request came in; nil with a password.
	session *session
}

// ServeHTTP answers one request.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), requestDeadline)
	defer cancel()
	r = r.WithContext(ctx)
	if !s.board.Delay(ctx) {
		return
	}
	if _, dead := s.board.Fault(board.FaultDead); dead {
		s.board.Hang(ctx)
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("OData-Version", "4.0")
	w.Header().Set("Cache-Control", "no-cache")
	r.Body = http.MaxBytesReader(w, r.Body, maxUpload)
	c := &call{Request: r, w: w, s: s, b: s.board, path: strings.TrimSuffix(r.URL.Path, "/")}
	if err := c.serve(); err != nil {
		c.fail(err)
	}
}

// serve finds the resource, checks who asks, and does what is asked.
func (c *call) serve() error {
	if _, faulty := c.b.Fault(board.FaultError); faulty {
		return errInternal("the service has an error by choice")
	}
	if v := c.Header.Get("OData-Version"); v != "" && v != "4.0" {
		return &failure{status: http.StatusPreconditionFailed, id: "GeneralError", message: "OData-Version: want 4.0"}
	}
	route, vars := find(c.path)
	if route == nil {
		if err := c.login(); err != nil {
			return err
		}
		return errNotFound(c.path)
	}
	c.vars = vars
	method := c.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	if !route.open || method != http.MethodGet {
		if !route.opens(method) {
			if err := c.login(); err != nil {
				return err
			}
		}
	}
	do := route.methods[method]
	if do == nil {
		c.w.Header().Set("Allow", route.allow())
		return &failure{status: http.StatusMethodNotAllowed, id: "OperationNotAllowed", message: "The resource does not allow the method " + c.Method + "."}
	}
	if method != http.MethodGet && !route.opens(method) && !c.may(route.write) {
		return errPrivilege()
	}
	return do(c)
}

// may reports whether the caller's role has a privilege.
func (c *call) may(p privilege) bool {
	switch c.account.Role {
	case board.Administrator:
		return true
	case board.Operator:
		return p == components || p == self
	default:
		return p == self
	}
}

// read decodes the body, which must be a JSON object.
func (c *call) read(v any) error {
	if t, _, err := mime.ParseMediaType(c.Header.Get("Content-Type")); err == nil && t != "application/json" {
		return &failure{status: http.StatusUnsupportedMediaType, id: "HeaderInvalid", message: "Content-Type: want application/json", args: []string{"Content-Type"}}
	}
	text, err := io.ReadAll(io.LimitReader(c.Body, maxBody+1))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) || len(text) > maxBody {
		return &failure{status: http.StatusRequestEntityTooLarge, id: "PayloadTooLarge", message: "The body has more than 1 MiB."}
	}
	if err != nil {
		return errMalformed()
	}
	return decode(text, v)
}

// decode reads a JSON object; an empty body counts as one without properties.
func decode(text []byte, v any) error {
	if len(strings.TrimSpace(string(text))) == 0 {
		text = []byte("{}")
	}
	err := json.Unmarshal(text, v)
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) && wrong.Field != "" {
		return &failure{
			status: http.StatusBadRequest, id: "PropertyValueTypeError", args: []string{wrong.Value, wrong.Field},
			message: "The value " + wrong.Value + " of the property " + wrong.Field + " is of a different type than the property can accept.",
		}
	}
	if err != nil {
		return errMalformed()
	}
	return nil
}

// etag is of an object's content, the time of day left out.
func etag(o object) string {
	if _, clock := o["DateTime"]; clock {
		o = clone(o)
		delete(o, "DateTime")
	}
	text, err := json.Marshal(o)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(text)
	return `"` + hex.EncodeToString(sum[:8]) + `"`
}

func clone(o object) object {
	n := object{}
	for k, v := range o {
		n[k] = v
	}
	return n
}

// show answers with a resource.
func (c *call) show(o object) error {
	tag := etag(o)
	c.w.Header().Set("ETag", tag)
	if c.Header.Get("If-None-Match") == tag {
		c.w.WriteHeader(http.StatusNotModified)
		return nil
	}
	o = clone(o)
	o["@odata.etag"] = tag
	return c.json(http.StatusOK, o)
}

// matches checks If-Match against the resource as it is now.
func (c *call) matches(o object) error {
	if want := c.Header.Get("If-Match"); want != "" && want != "*" && strings.TrimPrefix(want, "W/") != etag(o) {
		return &failure{status: http.StatusPreconditionFailed, id: "PreconditionFailed", message: "The ETag supplied did not match the current one of the resource."}
	}
	return nil
}

func (c *call) json(status int, o object) error {
	text, err := json.MarshalIndent(o, "", "  ")
	if err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", "application/json; charset=utf-8")
	c.w.WriteHeader(status)
	if c.Method != http.MethodHead {
		_, err = c.w.Write(append(text, '\n'))
	}
	if err != nil {
		c.s.log.Debug("answering a Redfish request", "err", err)
	}
	return nil
}

// done answers that there is nothing more to say.
func (c *call) done() error {
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}
