package fleet

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bedplate/bedplate/bmc"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
)

// telling is a driver whose BMC streams events.
type telling struct {
	bmc.Driver
	s *stream
}

// stream is the BMC's end of it.
type stream struct {
	mu     sync.Mutex
	opened int
	events chan bmc.Event
	broken chan error
}

func newStream() *stream { return &stream{events: make(chan bmc.Event), broken: make(chan error)} }

func (s *stream) count() int { s.mu.Lock(); defer s.mu.Unlock(); return s.opened }

func (telling) EventStream(context.Context) (string, error) { return "/events", nil }

func (d telling) Watch(ctx context.Context, opened func(), each func(bmc.Event)) error {
	d.s.mu.Lock()
	d.s.opened++
	d.s.mu.Unlock()
	opened()
	for {
		select {
		case e := <-d.s.events:
			each(e)
		case err := <-d.s.broken:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func TestFleet_Events(t *testing.T) {
	listens := func(t *testing.T, r *room) *stream {
		s := newStream()
		r.wrap = func(d bmc.Driver) bmc.Driver { return telling{d, s} }
		return s
	}
	t.Run("a change that the BMC tells of is on record at once, and not at the next poll", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *room) {
			s, f := listens(t, r), r.machine("web-1")
			defer r.start(func(c *Config) { c.PollInterval = time.Hour })()
			time.Sleep(2 * time.Hour)
			synctest.Wait()
			if !r.get("web-1").Status.Bmc.GetEvents() {
				t.Fatal("it is not on record that it is listened to")
			}
			f.SetPower(bmc.PowerOn)
			before := time.Now()
			s.events <- bmc.Event{Message: "powered on"}
			time.Sleep(time.Second)
			synctest.Wait()
			if got := r.get("web-1").Status.Bmc.GetPower(); got != pb.PowerState_POWER_ON {
				t.Errorf("%s after the event it is %s", time.Since(before), got)
			}
			if len(r.sightings) != 1 || r.sightings[0].Event != "power-on" {
				t.Errorf("sightings: %v", r.sightings)
			}
		})
	})
	t.Run("a BMC that tells very much is asked at most every other second", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *room) {
			s, f := listens(t, r), r.machine("web-1")
			defer r.start(func(c *Config) { c.PollInterval = time.Hour })()
			time.Sleep(2 * time.Hour)
			_, _, before, _ := f.Counts()
			for range 1000 {
				s.events <- bmc.Event{}
				time.Sleep(10 * time.Millisecond)
			}
			synctest.Wait()
			_, _, after, _ := f.Counts()
			if polls := (after - before) / 3; polls < 4 || polls > 7 { // power, health and log each
				t.Errorf("1000 events in 10 s made %d polls", polls)
			}
		})
	})
	t.Run("a stream that breaks is opened again, with growing pauses, and polls go on", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *room) {
			s, f := listens(t, r), r.machine("web-1")
			defer r.start()()
			time.Sleep(10 * time.Minute)
			for range 20 {
				select {
				case s.broken <- errors.New("cut"):
				case <-time.After(time.Hour):
					t.Fatal("it is not opened again")
				}
			}
			synctest.Wait()
			n := s.count()
			if n < 20 || r.get("web-1").Status.Bmc.GetEvents() {
				t.Errorf("opened %d times; on record: %v", n, r.get("web-1").Status.Bmc.GetEvents())
			}
			f.SetPower(bmc.PowerOn)
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			if s.count() != n {
				t.Errorf("after breaking %d times it is opened again within two minutes", n)
			}
			if got := r.get("web-1").Status.Bmc.GetPower(); got != pb.PowerState_POWER_ON {
				t.Errorf("polled in between, it is %s", got)
			}
		})
	})
	t.Run("a stream ends with the machine", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *room) {
			s := listens(t, r)
			f := r.machine("web-1")
			defer r.start()()
			time.Sleep(10 * time.Minute)
			if s.count() != 1 {
				t.Fatalf("opened %d times", s.count())
			}
			if err := resource.Delete[*pb.Machine](t.Context(), r.db, "web-1", 0); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			if _, open, _, _ := f.Counts(); open != 0 {
				t.Errorf("%d sessions are open", open)
			}
		})
	})
}
