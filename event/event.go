// Package event appends to the log of what happened and who did it: Event
// resources at /events/<name>. An entry is an op that goes into the same Txn
// as the change it tells of, so that there is neither a change without its
// entry nor an entry without its change.
//
// Names are ULIDs turned around: 48 bits of time counted down and 80 random
// bits, in lower-case Crockford base32. They sort newest first, which is the
// order in which people read and the store lists.
//
// The log keeps the newest entries; Run deletes the others. All methods may be
// called by any number of goroutines.
package event

import (
	"context"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

// The actors that are not tokens.
const (
	// System is the server itself.
	System = "system"
	// agentPrefix comes before a machine's name.
	agentPrefix = "agent/"
)

// Agent returns the actor that a machine's agent is.
func Agent(machine string) string { return agentPrefix + machine }

// The types of an event.
const (
	typeNormal  = "normal"
	typeWarning = "warning"
)

const (
	maxWordBytes    = 256
	maxMessageBytes = 4 << 10
)

// Entry is one line of the log before it is written.
type Entry struct {
	// Kind and Name of the resource it is about, such as Machine and web-1.
	Kind, Name string
	// Reason is one word, such as Created or StepFailed.
	Reason string
	// Message is for people. It must hold no secret. Over 4 KiB it is cut.
	Message string
	// Actor is a token's name, System or Agent(machine); empty: System.
	Actor string
	// Warning marks what a person should look at.
	Warning bool
}

// About returns an entry about obj, which the caller completes.
func About(obj resource.Object, reason, message, actor string) Entry {
	return Entry{
		Kind: resource.KindOf(obj).Name, Name: obj.GetMetadata().GetName(),
		Reason: reason, Message: message, Actor: actor,
	}
}

// Log writes events to a store.
type Log struct {
	db   *resource.DB
	rand io.Reader
	keep int

	mu   sync.Mutex
	last [16]byte // the name given out last, as bits; names only go down
}

// New returns a log on db that keeps the newest `keep` entries (0: 100,000).
func New(db *resource.DB, rand io.Reader, keep int) *Log {
	if keep <= 0 {
		keep = 100_000
	}
	l := &Log{db: db, rand: rand, keep: keep}
	for i := range l.last {
		l.last[i] = math.MaxUint8
	}
	return l
}

// Op returns the op that appends the entry, for the Txn of what it tells of.
func (l *Log) Op(e Entry) store.Op {
	now := l.db.Now()
	actor := e.Actor
	if actor == "" {
		actor = System
	}
	obj := &pb.Event{
		Metadata:    &pb.Metadata{Name: l.name(now)},
		Time:        timestamppb.New(now),
		SubjectKind: clean(e.Kind, maxWordBytes),
		SubjectName: clean(e.Name, maxWordBytes),
		Reason:      clean(e.Reason, maxWordBytes),
		Message:     clean(e.Message, maxMessageBytes),
		Actor:       clean(actor, maxWordBytes),
		Type:        typeNormal,
	}
	if e.Warning {
		obj.Type = typeWarning
	}
	resource.Stamp(l.db, obj)
	return resource.Put(obj)
}

// Append writes entries that tell of no change in the store, at most as many
// as fit one Txn.
func (l *Log) Append(ctx context.Context, entries ...Entry) error {
	ops := make([]store.Op, len(entries))
	for i, e := range entries {
		ops[i] = l.Op(e)
	}
	if _, err := l.db.Store.Txn(ctx, nil, ops); err != nil {
		return fmt.Errorf("appending events: %w", err)
	}
	return nil
}

// nameEncoding is Crockford's base32 in lower case; it keeps the order of bytes.
var nameEncoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// name returns a new name below every one before it, also within a
// millisecond and when the clock goes back.
func (l *Log) name(now time.Time) string {
	var id [16]byte
	var stamp [8]byte
	binary.BigEndian.PutUint64(stamp[:], math.MaxUint64-uint64(now.UnixMilli()))
	copy(id[:6], stamp[2:])
	l.mu.Lock()
	defer l.mu.Unlock()
	// Without randomness names are still unique within this process.
	_, _ = io.ReadFull(l.rand, id[6:])
	if string(id[:]) >= string(l.last[:]) || string(id[:6]) == string(l.last[:6]) {
		id = l.last
		for i := len(id) - 1; i >= 0; i-- {
			id[i]--
			if id[i] != math.MaxUint8 {
				break
			}
		}
	}
	l.last = id
	return nameEncoding.EncodeToString(id[:])
}

// clean makes s fit a protobuf string of at most that many bytes.
func clean(s string, most int) string {
	if len(s) > most {
		s = s[:most-len("…")] + "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
