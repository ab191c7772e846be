package notify

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/farebeat/farebeat/fleet/dispatch"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/store"
	"github.com/farebeat/farebeat/schemas"
)

// TypeTest is the CloudEvents type of a test event, which is of no fault.
const TypeTest = "io.farebeat.notify.test"

// contentType is that of CloudEvents 1.0 in structured JSON mode.
const contentType = "application/cloudevents+json; charset=utf-8"

// webhook sends one event after the other.
type webhook struct {
	Webhook
	o      *Options
	c      *channel
	post   *poster
	events *dispatch.Dispatcher
}

// pageSize is how many events are read at once to find the next one that passes the filter.
const pageSize = 16

// step sends the next event that the receiver wants. The cursor moves past it once it was taken, or given up.
func (w *webhook) step(ctx context.Context) (bool, error) {
	if err := w.c.save(ctx); err != nil { // what could not be written before
		return false, err
	}
	if w.c.cursor.Gone == w.digest() {
		w.c.gone(w.c.cursor.GoneAt)
		return false, w.sleepUntilEnd(ctx)
	}
	page, err := w.o.Store.Events(ctx, w.c.cursor.N, pageSize)
	if err != nil {
		return false, err
	}
	for _, e := range page {
		sent, err := w.pass(ctx, e)
		if err != nil {
			return false, errors.Join(err, w.c.save(ctx)) // of those before it
		}
		w.c.cursor.N = e.N
		if sent {
			return true, w.c.save(ctx)
		}
	}
	w.c.trying(time.Time{})
	return len(page) == pageSize, w.c.save(ctx)
}

func (w *webhook) idle() time.Duration { return idlePoll }

// sleepUntilEnd keeps a receiver that is gone from being looked at.
func (w *webhook) sleepUntilEnd(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// pass delivers an event that the receiver wants. Without an error it is done with.
func (w *webhook) pass(ctx context.Context, e store.NumberedEvent) (sent bool, err error) {
	if !e.Told() {
		return false, nil
	}
	wanted := w.matches(e)
	if !wanted {
		if wanted, err = w.knows(ctx, e); err != nil {
			return false, err
		}
	}
	if !wanted {
		return false, nil
	}
	return w.deliver(ctx, e)
}

// knows reports whether an earlier event of the fault passed the filter: who heard of a fault hears of its end, too.
func (w *webhook) knows(ctx context.Context, e store.NumberedEvent) (bool, error) {
	history, err := w.o.Store.EventsOf(ctx, e.Event.Fault)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(history, func(before store.NumberedEvent) bool {
		return before.N < e.N && before.Told() && w.matches(before)
	}), nil
}

// matches reports whether the event alone passes the filter.
func (w *webhook) matches(e store.NumberedEvent) bool {
	if rank(e.Event.Severity) < rank(w.MinSeverity) {
		return false
	}
	if len(w.Kinds) > 0 && !slices.Contains(w.Kinds, e.Event.Kind) {
		return false
	}
	if len(w.Routes) == 0 || slices.Contains(w.Routes, e.Fault.Subject.Route) {
		return true
	}
	return e.Fault.Machine != nil && slices.Contains(w.Routes, e.Fault.Machine.Route)
}

func rank(s schemas.Severity) int {
	return slices.Index([]schemas.Severity{schemas.Info, schemas.Minor, schemas.Major, schemas.Critical}, s)
}

// deliver sends one event. Without an error it is done with: sent, or given up.
func (w *webhook) deliver(ctx context.Context, e store.NumberedEvent) (sent bool, err error) {
	age := w.o.Now().Sub(e.Event.At)
	if age > w.o.MaxAge {
		w.c.count(func(s *Status) { s.Skipped++ })
		w.c.log.Warn("an event is too old to be sent", "event", e.Event.ID(), "change", e.Event.Change, "at", e.Event.At)
		return false, nil
	}
	m, _, err := w.events.Event(e.Change())
	if err != nil {
		w.setAside(e, err)
		return false, nil
	}
	w.c.trying(e.Event.At)
	_, err = w.send(ctx, e.Event.ID(), m.Payload)
	var refusal *sendError
	switch {
	case err == nil:
		w.c.count(func(s *Status) { s.Sent++ })
		return true, nil
	case !errors.As(err, &refusal):
		return false, err
	case refusal.answer.Status == http.StatusGone:
		w.c.cursor.Gone, w.c.cursor.GoneAt = w.digest(), w.o.Now().UTC()
		w.c.log.Error("the receiver answered 410 Gone; nothing is sent to it until its configuration changes")
		return false, err
	case refusal.refused() && age > w.o.RefusedFor:
		w.c.count(func(s *Status) { s.Failed++ })
		w.setAside(e, err)
		return true, nil
	}
	return false, err
}

func (w *webhook) setAside(e store.NumberedEvent, err error) {
	w.c.count(func(s *Status) { s.SetAside++ })
	w.c.log.Error("an event is set aside; the next one is sent", "event", e.Event.ID(), "change", e.Event.Change, "at", e.Event.At, "error", err)
}

func (w *webhook) send(ctx context.Context, id string, body []byte) (Answer, error) {
	h := http.Header{"Content-Type": {contentType}, "User-Agent": {"farebeat"}}
	Sign(h, w.Secrets, id, w.o.Now(), body)
	return w.post.post(ctx, w.URL, h, body)
}

// digest tells one configuration of a receiver from another.
func (w *webhook) digest() string {
	kinds := make([]string, len(w.Kinds))
	for i, k := range w.Kinds {
		kinds[i] = string(k)
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %q", w.URL, w.MinSeverity, kinds, w.Routes))
	return hex.EncodeToString(sum[:8])
}

// test sends an event of a fault that is none. Its id is never that of another.
func (w *webhook) test(ctx context.Context) (Answer, error) {
	now := w.o.Now()
	id := "test-" + strings.ToLower(ulid.MustNew(ulid.Timestamp(now), ulid.DefaultEntropy()).String())
	body, err := schemas.Encode(&schemas.CloudEvent[schemas.FaultEvent]{
		SpecVersion: "1.0", ID: id, Source: "/farebeat/v1/" + w.o.Tree.Operator() + "/fleet", Type: TypeTest, Subject: "test",
		Time: now.UTC().Truncate(time.Millisecond), DataContentType: "application/json",
		Data: schemas.FaultEvent{
			Fault: "test", Change: faults.ChangeOpened, Kind: "test", Severity: schemas.Info, Condition: schemas.Open,
			Attention: schemas.Unseen, Reason: "This is a test. No fault stands.",
		},
	})
	if err != nil {
		return Answer{}, fmt.Errorf("make the test event: %w", err)
	}
	return w.send(ctx, id, body)
}
