// Package media gives machines that are in networks without DHCP a boot medium
// of their own: an image with the agent's system, its address and what it
// enrols with, that a BMC inserts as virtual media or that a person copies to a
// USB stick.
//
// A medium is a record in the store, /media/<machine>/<id>, of who it is for,
// until when it is good, and all that its image says but for the secrets, which
// are made from the server's key whenever they are needed. So the bytes of an
// image stay the same for as long as it is inserted, whatever happens to the
// machine's spec meanwhile: a BMC reads it piece by piece, over days.
//
// A medium is taken out by removing its record. From then on nothing is served
// under its URL and nobody enrols with it.
//
// All methods may be called by any number of goroutines.
package media

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bedplate/bedplate/images/iso"
	"github.com/bedplate/bedplate/machine"
	"github.com/bedplate/bedplate/machine/medium"
	"github.com/bedplate/bedplate/store"
	"github.com/bedplate/bedplate/trust"
)

const (
	// InsertValidity is how long a medium that a BMC inserts is good for. One
	// that has less than half of it left is replaced when it is asked for.
	InsertValidity = 7 * 24 * time.Hour
	// CopyValidity is how long a copy is good for unless said otherwise, and
	// MaxCopyValidity how long at most.
	CopyValidity    = 24 * time.Hour
	MaxCopyValidity = 30 * 24 * time.Hour

	recordPrefix = "/media/"
	// maxCopies bounds the copies of one machine's medium that are good at a time.
	maxCopies = 16
)

var (
	// ErrGone means that a medium was taken out, has expired, or was made before
	// the agent's system was built anew.
	ErrGone = errors.New("this boot medium is not good any more: make a new one (`bedplate machine media`), or have the BMC insert it anew")
	// ErrCopies means that a machine has as many copies as it may have.
	ErrCopies = fmt.Errorf("%d copies of this machine's boot medium are good already: revoke them first (`bedplate machine media --revoke`)", maxCopies)
)

// Description is what a machine's medium is to say.
type Description struct {
	// UID tells the machine from a later one of the same name.
	UID string
	// Config is all that the agent is told, but for the token.
	Config medium.Config
	// Script is what GRUB does.
	Script []byte
}

// Observer is told what was seen of machines. Observe must not block.
type Observer interface {
	Observe(machine.Sighting)
}

// Config is what a Server is made from. Store, Tokens, Describe, Dir and Now are required.
type Config struct {
	Store  store.Store
	Tokens *trust.MediaTokens
	// Describe returns what a machine's medium is to say. Its error is for people.
	Describe func(ctx context.Context, name machine.Name) (Description, error)
	// Dir is the folder with the agent's system and its medium.
	Dir string
	// Event returns what puts something on record for people; may be nil. An
	// empty actor is the server itself.
	Event func(name machine.Name, reason, message, actor string) store.Op

	// Observer, Logger and Registerer may be nil.
	Observer   Observer
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	Now        func() time.Time
}

// Server makes, serves and takes out boot media. See New.
type Server struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics

	// making keeps two callers from replacing each other's medium.
	making sync.Mutex

	mu      sync.Mutex
	serving map[string]*service // by id
}

// New returns a server. The error says what is missing in cfg, or which metric
// is already registered.
func New(cfg Config) (*Server, error) {
	if cfg.Store == nil || cfg.Tokens == nil || cfg.Describe == nil || cfg.Dir == "" || cfg.Now == nil {
		return nil, errors.New("media: Config needs Store, Tokens, Describe, Dir and Now")
	}
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, fmt.Errorf("registering media metrics: %w", err)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{cfg: cfg, log: cfg.Logger, metrics: m, serving: map[string]*service{}}, nil
}

// kind is what a medium is for.
type kind string

const (
	inserted kind = "inserted" // by a BMC
	copied   kind = "copied"   // to a stick, by a person
)

// record is a medium as it is stored.
type record struct {
	Kind kind `json:"kind"`
	// UID is the machine's.
	UID     string    `json:"uid"`
	Made    time.Time `json:"made"`
	Expires time.Time `json:"expires"`
	// Image is the digest of what the image was built from.
	Image  string        `json:"image"`
	Script []byte        `json:"script"`
	Config medium.Config `json:"config"`
}

// held is a record and where it is.
type held struct {
	record
	name     machine.Name
	id       string
	revision int64
}

func keyOf(name machine.Name, id string) string { return recordPrefix + string(name) + "/" + id }

func (h held) key() string { return keyOf(h.name, h.id) }

func (h held) token() trust.MediaToken {
	return trust.MediaToken{Machine: h.name, ID: h.id, Expires: h.Expires}
}

func (h held) good(now time.Time) bool { return now.Before(h.Expires) }

func parseHeld(kv store.KV) (held, error) {
	name, id, ok := strings.Cut(strings.TrimPrefix(kv.Key, recordPrefix), "/")
	h := held{name: machine.Name(name), id: id, revision: kv.ModRevision}
	if err := json.Unmarshal(kv.Value, &h.record); err != nil || !ok {
		return held{}, fmt.Errorf("reading boot medium %s: %w", kv.Key, errors.Join(err, errors.New("not a record")))
	}
	return h, nil
}

// list returns a machine's media.
func (s *Server) list(ctx context.Context, name machine.Name) ([]held, error) {
	page, err := s.cfg.Store.List(ctx, recordPrefix+string(name)+"/", "", 0)
	if err != nil {
		return nil, fmt.Errorf("listing boot media of %s: %w", name, err)
	}
	var all []held
	for _, kv := range page.KVs {
		h, err := parseHeld(kv)
		if err != nil {
			return nil, err
		}
		all = append(all, h)
	}
	return all, nil
}

// Insert returns the path of the URL of the medium that a machine's BMC is to
// insert. While that medium is good, half of its time is left, and it says what
// it should, the path stays the same, so that an insertion can be tried again;
// else there is a new one, and the old one is taken out.
func (s *Server) Insert(ctx context.Context, name machine.Name) (path string, err error) {
	h, err := s.make(ctx, name, inserted, InsertValidity, "")
	if err != nil {
		return "", err
	}
	key, err := s.cfg.Tokens.URLKey(h.token())
	if err != nil {
		return "", err
	}
	return urlPath(name, key), nil
}

// Copy makes a medium for a person to copy, and returns its image and until
// when it is good. The caller closes it. A validity of 0 is CopyValidity.
func (s *Server) Copy(ctx context.Context, name machine.Name, validity time.Duration, actor string) (*iso.Medium, time.Time, error) {
	switch {
	case validity == 0:
		validity = CopyValidity
	case validity < time.Minute || validity > MaxCopyValidity:
		return nil, time.Time{}, fmt.Errorf("a boot medium can be good for a minute to %d days, not for %s", MaxCopyValidity/(24*time.Hour), validity)
	}
	h, err := s.make(ctx, name, copied, validity, actor)
	if err != nil {
		return nil, time.Time{}, err
	}
	image, err := iso.Load(s.cfg.Dir)
	if err != nil {
		return nil, time.Time{}, err
	}
	part, err := s.part(h)
	if err != nil {
		return nil, time.Time{}, err
	}
	m, err := image.Open(part)
	return m, h.Expires, err
}

// make returns the medium to use, which is on record when it returns.
func (s *Server) make(ctx context.Context, name machine.Name, k kind, validity time.Duration, actor string) (held, error) {
	image, err := iso.Load(s.cfg.Dir)
	if err != nil {
		return held{}, err
	}
	d, err := s.cfg.Describe(ctx, name)
	if err != nil {
		return held{}, err
	}
	id, err := s.cfg.Tokens.NewID()
	if err != nil {
		return held{}, err
	}
	now := s.cfg.Now().UTC()
	d.Config.Version = medium.Version
	h := held{name: name, id: id, record: record{
		Kind: k, UID: d.UID, Made: now, Expires: now.Add(validity).Truncate(time.Second), Image: image.Inputs, Script: d.Script, Config: d.Config,
	}}
	part, err := s.part(h)
	if err == nil {
		err = iso.Check(part)
	}
	if err != nil {
		return held{}, fmt.Errorf("making the boot medium of %s: %w", name, err)
	}
	s.making.Lock()
	defer s.making.Unlock()
	return s.keep(ctx, h, actor)
}

// keep puts a medium on record, unless it is one to insert and there is one
// already that says the same. What has expired, and what it replaces, goes.
func (s *Server) keep(ctx context.Context, h held, actor string) (held, error) {
	others, err := s.list(ctx, h.name)
	if err != nil {
		return held{}, err
	}
	value, err := json.Marshal(h.record)
	if err != nil {
		return held{}, fmt.Errorf("encoding boot medium: %w", err)
	}
	ops := []store.Op{store.Put(h.key(), value)}
	copies := 0
	for _, o := range others {
		switch {
		case !o.good(h.Made) || o.UID != h.UID:
			ops = append(ops, store.Delete(o.key()))
		case o.Kind == copied:
			copies++
		case h.Kind == inserted && o.same(h) && o.Expires.Sub(h.Made) >= InsertValidity/2:
			return o, nil
		case h.Kind == inserted:
			ops = append(ops, store.Delete(o.key()))
		}
	}
	if h.Kind == copied && copies >= maxCopies {
		return held{}, ErrCopies
	}
	what := "for its BMC to insert"
	if h.Kind == copied {
		what = "to copy"
	}
	ops = s.note(ops, h.name, "MediumMade", fmt.Sprintf("boot medium %s was made, %s, good until %s", h.id, what, h.Expires.Format(time.RFC3339)), actor)
	if _, err := s.cfg.Store.Txn(ctx, nil, ops); err != nil {
		return held{}, fmt.Errorf("keeping boot medium: %w", err)
	}
	return h, nil
}

// note adds a line for the log of events.
func (s *Server) note(ops []store.Op, name machine.Name, reason, message, actor string) []store.Op {
	if s.cfg.Event == nil {
		return ops
	}
	return append(ops, s.cfg.Event(name, reason, message, actor))
}

// same reports whether two media would have the same image but for the secrets.
func (h held) same(o held) bool {
	a, err1 := json.Marshal(h.Config)
	b, err2 := json.Marshal(o.Config)
	return err1 == nil && err2 == nil && h.Image == o.Image && bytes.Equal(h.Script, o.Script) && bytes.Equal(a, b)
}

// Eject takes out the medium that a machine's BMC had inserted.
func (s *Server) Eject(ctx context.Context, name machine.Name) error {
	return s.remove(ctx, name, "", func(h held) bool { return h.Kind == inserted })
}

// Revoke takes out every medium of a machine, copies too, as when the machine
// is not on record any more.
func (s *Server) Revoke(ctx context.Context, name machine.Name, actor string) error {
	return s.remove(ctx, name, actor, func(held) bool { return true })
}

func (s *Server) remove(ctx context.Context, name machine.Name, actor string, which func(held) bool) error {
	s.making.Lock()
	defer s.making.Unlock()
	all, err := s.list(ctx, name)
	if err != nil {
		return err
	}
	var ops []store.Op
	var ids []string
	for _, h := range all {
		if which(h) {
			ops = append(ops, store.Delete(h.key()))
			ids = append(ids, h.id)
			s.forget(h.id)
		}
	}
	if len(ops) == 0 {
		return nil
	}
	ops = s.note(ops, name, "MediumRevoked", "boot medium "+strings.Join(ids, ", ")+" is good no more", actor)
	if _, err := s.cfg.Store.Txn(ctx, nil, ops); err != nil {
		return fmt.Errorf("taking out boot media of %s: %w", name, err)
	}
	return nil
}

// get returns a medium that is on record.
func (s *Server) get(ctx context.Context, name machine.Name, id string) (held, error) {
	kv, err := s.cfg.Store.Get(ctx, keyOf(name, id))
	if errors.Is(err, store.ErrNotFound) {
		return held{}, ErrGone
	}
	if err != nil {
		return held{}, fmt.Errorf("reading boot medium: %w", err)
	}
	return parseHeld(kv)
}

// Enrolment returns what a transaction has to compare so that it holds only
// while the medium is in. uid is the machine's. The error wraps ErrGone when the
// medium isn't good.
func (s *Server) Enrolment(ctx context.Context, name machine.Name, uid, id string) ([]store.Compare, error) {
	h, err := s.get(ctx, name, id)
	if err != nil {
		return nil, err
	}
	if h.UID != uid || !h.good(s.cfg.Now()) {
		return nil, ErrGone
	}
	return []store.Compare{{Key: h.key(), ModRevision: h.revision}}, nil
}
