package redfish

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/bedplate/bedplate/lab/board"
)

var eventRoutes = []entry{
	{"/EventService", route{methods: get(getEventService)}},
	{"/EventService/SSE", route{methods: get(getStream)}},
	{"/EventService/Actions/EventService.SubmitTestEvent", route{write: manager, methods: post(postTestEvent)}},
	{"/EventService/Subscriptions", route{write: manager, methods: getPost(getSubscriptions, postSubscription)}},
	{"/EventService/Subscriptions/{}", route{write: manager, methods: getDelete(getSubscription, deleteSubscription)}},
}

// Bounds of event delivery.
const (
	maxQueue      = 64
	sendDeadline  = 10 * time.Second
	retryAttempts = 3
	retryInterval = 5 * time.Second
	maxContext    = 256
	maxURL        = 2048
)

// queue is what one receiver has not got yet. One that is full loses events.
type queue struct{ events chan board.Entry }

// subscription is a receiver that events are posted to.
type subscription struct {
	id, destination, context string
	queue                    *queue
	cancel                   func()
}

// notify gives an entry to every receiver.
func (s *Service) notify(e board.Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for q := range s.queues {
		select {
		case q.events <- e:
		default: // it doesn't keep up
		}
	}
}

func (s *Service) newQueueLocked() *queue {
	q := &queue{events: make(chan board.Entry, maxQueue)}
	s.queues[q] = struct{}{}
	return q
}

func (s *Service) drop(q *queue) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.queues, q)
}

func event(e board.Entry, context string) object {
	id := strconv.Itoa(e.ID)
	return object{
		"@odata.type": "#Event.v1_7_0.Event", "Id": id, "Name": "Event", "Context": context,
		"Events": []object{{
			"EventType": "Alert", "EventId": id, "MemberId": "0", "Severity": e.Severity, "MessageSeverity": e.Severity, "Message": e.Message,
			"MessageId": messageRegistry + e.MessageID, "MessageArgs": []string{}, "EventTimestamp": e.Time.Format(timeFormat), "OriginOfCondition": ref("/Systems/1"), "Context": context,
		}},
	}
}

func getEventService(c *call) error {
	o := c.resource("EventService", "v1_7_2", "EventService", "Event Service")
	o["ServiceEnabled"], o["Status"], o["DeliveryRetryAttempts"], o["DeliveryRetryIntervalSeconds"] = true, enabled, retryAttempts, int(retryInterval/time.Second)
	o["EventTypesForSubscription"], o["EventFormatTypes"] = []string{"Alert"}, []string{"Event"}
	o["Subscriptions"], o["ServerSentEventUri"] = ref("/EventService/Subscriptions"), root+"/EventService/SSE"
	o["SSEFilterPropertiesSupported"] = object{"EventFormatType": false, "EventType": false, "MessageId": false, "MetricReportDefinition": false, "OriginResource": false, "RegistryPrefix": false, "ResourceType": false}
	o["Actions"] = object{"#EventService.SubmitTestEvent": action("/EventService/Actions/EventService.SubmitTestEvent", nil)}
	return c.show(o)
}

func postTestEvent(c *call) error {
	var body struct{ Message, Severity *string }
	if err := c.read(&body); err != nil {
		return err
	}
	e := board.Entry{Time: c.b.Now().UTC(), Severity: board.OK, MessageID: "TestEvent", Message: "A test event."}
	if body.Message != nil {
		e.Message = *body.Message
	}
	if body.Severity != nil {
		if !slices.Contains([]string{"OK", "Warning", "Critical"}, *body.Severity) {
			return errValue(*body.Severity, "Severity")
		}
		e.Severity = board.Severity(*body.Severity)
	}
	c.s.notify(e)
	return c.done()
}

// getStream sends events as they come (DSP0266 §13.5, server-sent events).
func getStream(c *call) error {
	flusher, ok := c.w.(http.Flusher)
	if !ok {
		return errInternal("this connection can't stream")
	}
	c.s.mu.Lock()
	if len(c.s.queues) >= maxSubscriptions {
		c.s.mu.Unlock()
		return errSubscriptions()
	}
	q := c.s.newQueueLocked()
	c.s.mu.Unlock()
	defer c.s.drop(q)
	// Events may be hours apart.
	if err := http.NewResponseController(c.w).SetWriteDeadline(time.Time{}); err != nil {
		return errInternal("this connection can't stream")
	}
	c.w.Header().Set("Content-Type", "text/event-stream")
	c.w.WriteHeader(http.StatusOK)
	if _, err := fmt.Fprint(c.w, ": stream\n\n"); err != nil {
		return nil //nolint:nilerr // the client is gone
	}
	flusher.Flush()
	for {
		select {
		case e := <-q.events:
			text, err := json.Marshal(event(e, ""))
			if err != nil {
				return nil //nolint:nilerr // an object of strings
			}
			if _, err := fmt.Fprintf(c.w, "id: %d\ndata: %s\n\n", e.ID, text); err != nil {
				return nil //nolint:nilerr // the client is gone
			}
			flusher.Flush()
		case <-c.Context().Done():
			return nil
		case <-c.s.life.Done():
			return nil
		}
	}
}

func errSubscriptions() error {
	return &failure{status: http.StatusServiceUnavailable, id: "EventSubscriptionLimitExceeded", message: "The event subscription failed due to the number of simultaneous subscriptions exceeding the limit of the implementation."}
}

func getSubscriptions(c *call) error {
	c.s.mu.Lock()
	var members []string
	for id := range c.s.subscriptions {
		members = append(members, "/EventService/Subscriptions/"+id)
	}
	c.s.mu.Unlock()
	slices.Sort(members)
	return c.collection("EventDestinationCollection", "Event Subscriptions", members...)
}

func postSubscription(c *call) error {
	var body struct {
		Destination, Context, Protocol *string
	}
	if err := c.read(&body); err != nil {
		return err
	}
	if body.Destination == nil {
		return errMissing("Destination")
	}
	u, err := url.Parse(*body.Destination)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || len(*body.Destination) > maxURL {
		return errValue(*body.Destination, "Destination")
	}
	if body.Protocol != nil && *body.Protocol != "Redfish" {
		return errValue(*body.Protocol, "Protocol")
	}
	context := ""
	if body.Context != nil {
		context = *body.Context
	}
	if len(context) > maxContext {
		return errValue(context[:16]+"…", "Context")
	}
	sub, err := c.s.subscribe(*body.Destination, context)
	if err != nil {
		return err
	}
	c.path = root + "/EventService/Subscriptions/" + sub.id
	c.w.Header().Set("Location", c.path)
	return c.json(http.StatusCreated, c.subscription(sub))
}

func (c *call) subscription(sub *subscription) object {
	o := c.resource("EventDestination", "v1_12_0", sub.id, "Event Subscription")
	o["Destination"], o["Context"], o["Protocol"], o["EventFormatType"], o["SubscriptionType"] = sub.destination, sub.context, "Redfish", "Event", "RedfishEvent"
	o["EventTypes"], o["DeliveryRetryPolicy"], o["Status"] = []string{"Alert"}, "TerminateAfterRetries", enabled
	return o
}

func (c *call) subscriptionNamed() (*subscription, error) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if sub := c.s.subscriptions[c.vars[0]]; sub != nil {
		return sub, nil
	}
	return nil, errNotFound(c.path)
}

func getSubscription(c *call) error {
	sub, err := c.subscriptionNamed()
	if err != nil {
		return err
	}
	return c.show(c.subscription(sub))
}

func deleteSubscription(c *call) error {
	sub, err := c.subscriptionNamed()
	if err != nil {
		return err
	}
	sub.cancel()
	c.s.mu.Lock()
	delete(c.s.subscriptions, sub.id)
	c.s.mu.Unlock()
	return c.done()
}

// subscribe starts posting events to a receiver.
func (s *Service) subscribe(destination, context string) (*subscription, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queues) >= maxSubscriptions || s.life.Err() != nil {
		return nil, errSubscriptions()
	}
	s.nextSub++
	stop := make(chan struct{})
	sub := &subscription{id: strconv.Itoa(s.nextSub), destination: destination, context: context, queue: s.newQueueLocked(), cancel: sync.OnceFunc(func() { close(stop) })}
	s.subscriptions[sub.id] = sub
	s.work.Go(func() {
		defer s.drop(sub.queue)
		s.deliver(sub, stop)
	})
	return sub, nil
}

// deliver posts events until the subscription ends or its receiver stays away.
func (s *Service) deliver(sub *subscription, stop <-chan struct{}) {
	for {
		select {
		case e := <-sub.queue.events:
			if s.post(sub, e, stop) {
				continue
			}
			s.mu.Lock()
			delete(s.subscriptions, sub.id)
			s.mu.Unlock()
			return
		case <-stop:
			return
		case <-s.life.Done():
			return
		}
	}
}

// post sends one event, again and again; false if the receiver stays away.
func (s *Service) post(sub *subscription, e board.Entry, stop <-chan struct{}) bool {
	text, err := json.Marshal(event(e, sub.context))
	if err != nil {
		return false
	}
	for range retryAttempts {
		if s.postOnce(sub.destination, text) {
			return true
		}
		t := time.NewTimer(retryInterval)
		select {
		case <-t.C:
		case <-stop:
			t.Stop()
			return false
		case <-s.life.Done():
			t.Stop()
			return false
		}
	}
	return false
}

func (s *Service) postOnce(destination string, text []byte) bool {
	client := s.board.Client()
	client.Timeout = sendDeadline
	req, err := http.NewRequestWithContext(s.life, http.MethodPost, destination, bytes.NewReader(text))
	if err != nil {
		return false
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		s.log.Debug("sending an event", "addr", destination, "err", err)
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode < http.StatusMultipleChoices
}
