package bmc

import (
	"context"
	"time"
)

// Event is what a BMC tells by itself, as it happens.
type Event struct {
	// ID is the BMC's own; it may be empty.
	ID string
	// Time is zero where the BMC doesn't say, or has no clock.
	Time     time.Time
	Severity Health
	// MessageID is the registry's, such as ResourceEvent.1.3.PowerStateChanged.
	MessageID string
	Message   string
	// Origin is the resource that it is about.
	Origin string
}

// Events is a BMC that tells of changes. Call Pool.Watch: a stream is a session
// of its own and stays open while other calls are made.
type Events interface {
	// EventStream returns where the BMC streams events; empty where it doesn't.
	EventStream(ctx context.Context) (string, error)
	// Watch calls each with every event until ctx ends or the BMC ends the stream,
	// which is an error as well; opened is called once it is open. Events may be
	// lost before and between streams: they say that something has changed, and
	// what is there has to be asked for.
	Watch(ctx context.Context, opened func(), each func(Event)) error
}
