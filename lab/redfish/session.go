package redfish

import (
	"crypto/rand"
	"crypto/subtle"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/bedplate/bedplate/lab/board"
)

// Timeouts of sessions.
const (
	defaultTimeout = 30 * time.Minute
	minTimeout     = 30 * time.Second
	maxTimeout     = 24 * time.Hour
)

type session struct {
	id      string
	token   string
	account int
	user    string
	origin  string
	made    time.Time
	used    time.Time
	count   int
}

// login finds out who asks, by token or by password.
func (c *call) login() error {
	if token := c.Header.Get("X-Auth-Token"); token != "" {
		return c.loginByToken(token)
	}
	username, password, ok := c.BasicAuth()
	if !ok {
		return errSession()
	}
	c.account, ok = c.b.Login(username, password)
	if !ok {
		return &failure{status: http.StatusUnauthorized, id: "AccessDenied", message: "The authentication credentials included with this request are missing or invalid."}
	}
	return nil
}

func (c *call) loginByToken(token string) error {
	if _, refused := c.b.Fault(board.FaultUnauthorized); refused {
		return errSession()
	}
	s := c.s.useSession(token)
	if s == nil {
		return errSession()
	}
	a, err := c.b.Account(s.account)
	if err != nil || !a.Enabled || a.Username != s.user {
		c.s.endSession(s.id)
		return errSession()
	}
	c.account, c.session = a, s
	return nil
}

// useSession returns the session of a token, and makes it younger; nil if there is none.
func (s *Service) useSession(token string) *session {
	_, drops := s.board.Fault(board.FaultDroppedSessions)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expireLocked()
	for id, x := range s.sessions {
		if subtle.ConstantTimeCompare([]byte(x.token), []byte(token)) != 1 {
			continue
		}
		if x.count++; drops && x.count > board.SessionRequests {
			delete(s.sessions, id)
			return nil
		}
		x.used = s.board.Now()
		return x
	}
	return nil
}

func (s *Service) expireLocked() {
	now := s.board.Now()
	for id, x := range s.sessions {
		if now.Sub(x.used) > s.timeout {
			delete(s.sessions, id)
		}
	}
}

func (s *Service) endSession(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.sessions[id]
	delete(s.sessions, id)
	return ok
}

// Sessions is how many sessions there are.
func (s *Service) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expireLocked()
	return len(s.sessions)
}

func getSessionService(c *call) error {
	return c.show(c.sessionService())
}

func (c *call) sessionService() object {
	c.s.mu.Lock()
	timeout := c.s.timeout
	c.s.mu.Unlock()
	o := c.resource("SessionService", "v1_1_8", "SessionService", "Session Service")
	o["ServiceEnabled"], o["Status"], o["SessionTimeout"] = true, enabled, int(timeout/time.Second)
	o["Sessions"] = ref("/SessionService/Sessions")
	return o
}

func patchSessionService(c *call) error {
	var body struct{ SessionTimeout *int }
	if err := c.matches(c.sessionService()); err != nil {
		return err
	}
	if err := c.read(&body); err != nil {
		return err
	}
	if body.SessionTimeout == nil {
		return errMissing("SessionTimeout")
	}
	d := time.Duration(*body.SessionTimeout) * time.Second
	if d < minTimeout || d > maxTimeout {
		return errValue(strconv.Itoa(*body.SessionTimeout), "SessionTimeout")
	}
	c.s.mu.Lock()
	c.s.timeout = d
	c.s.mu.Unlock()
	return c.show(c.sessionService())
}

func getSessions(c *call) error {
	c.s.mu.Lock()
	c.s.expireLocked()
	var members []string
	for id := range c.s.sessions {
		members = append(members, "/SessionService/Sessions/"+id)
	}
	c.s.mu.Unlock()
	slices.Sort(members)
	return c.collection("SessionCollection", "Sessions", members...)
}

func postSession(c *call) error {
	var body struct{ UserName, Password *string }
	if err := c.read(&body); err != nil {
		return err
	}
	if body.UserName == nil || body.Password == nil {
		return errMissing("UserName, Password")
	}
	a, ok := c.b.Login(*body.UserName, *body.Password)
	if !ok {
		return &failure{status: http.StatusUnauthorized, id: "ResourceAtUriUnauthorized", message: "While accessing the resource, the service received an authorization error: wrong user name or password.", args: []string{c.path, "unauthorized"}}
	}
	s, err := c.s.newSession(a, c.RemoteAddr)
	if err != nil {
		return err
	}
	c.w.Header().Set("X-Auth-Token", s.token)
	c.path = root + "/SessionService/Sessions/" + s.id
	c.w.Header().Set("Location", c.path)
	return c.json(http.StatusCreated, c.sessionObject(s))
}

func (s *Service) newSession(a board.Account, origin string) (*session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expireLocked()
	if len(s.sessions) >= maxSessions {
		return nil, &failure{status: http.StatusServiceUnavailable, id: "SessionLimitExceeded", message: "The session establishment failed due to the number of simultaneous sessions exceeding the limit of the implementation."}
	}
	s.nextSession++
	now := s.board.Now()
	x := &session{id: strconv.Itoa(s.nextSession), token: rand.Text(), account: a.ID, user: a.Username, origin: origin, made: now, used: now}
	s.sessions[x.id] = x
	return x, nil
}

func (c *call) sessionObject(s *session) object {
	o := c.resource("Session", "v1_5_0", s.id, "User Session")
	o["UserName"], o["ClientOriginIPAddress"], o["CreatedTime"] = s.user, s.origin, s.made.UTC().Format(time.RFC3339)
	o["SessionType"] = "Redfish"
	return o
}

func (c *call) sessionNamed() (*session, error) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	s := c.s.sessions[c.vars[0]]
	if s == nil {
		return nil, errNotFound(c.path)
	}
	return s, nil
}

func getSession(c *call) error {
	s, err := c.sessionNamed()
	if err != nil {
		return err
	}
	return c.show(c.sessionObject(s))
}

// deleteSession: one's own, or as administrator any.
func deleteSession(c *call) error {
	s, err := c.sessionNamed()
	if err != nil {
		return err
	}
	if s.account != c.account.ID && !c.may(manager) {
		return errPrivilege()
	}
	c.s.endSession(s.id)
	return c.done()
}
