package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/store"
)

const (
	maxAlerts  = 500 // in one request
	eventsPage = 500
	livesFor   = 3 // resend intervals, until an alert that is not sent again counts as resolved
)

// alertmanager sends the state: all faults that stand, again and again, and those that events since the cursor speak of.
// The cursor moves once the end of each of them was taken.
type alertmanager struct {
	Alertmanager
	o    *Options
	c    *channel
	post *poster

	all     time.Time         // when all faults were taken last
	origins map[string]origin // of faults that have not ended
}

func (a *alertmanager) step(ctx context.Context) (bool, error) {
	if err := a.c.save(ctx); err != nil {
		return false, err
	}
	now := a.o.Now()
	full := now.Sub(a.all) >= a.o.Resend || now.Before(a.all)
	events, err := a.o.Store.Events(ctx, a.c.cursor.N, eventsPage)
	if err != nil || !full && len(events) == 0 {
		return false, err
	}
	if len(events) > 0 {
		a.c.trying(events[0].Event.At)
	}
	due, err := a.due(ctx, now, events, full)
	if err != nil {
		return false, err
	}
	if err := a.send(ctx, due); err != nil {
		return a.refused(ctx, now, events, err)
	}
	if full {
		a.all = now
	}
	return len(events) == eventsPage, a.done(ctx, events)
}

// idle is the time until all is due again.
func (a *alertmanager) idle() time.Duration {
	return min(max(a.o.Resend-a.o.Now().Sub(a.all), 0), a.o.Resend)
}

// done moves the cursor past the events.
func (a *alertmanager) done(ctx context.Context, events []store.NumberedEvent) error {
	a.c.trying(time.Time{})
	if len(events) == 0 {
		return nil
	}
	a.c.cursor.N = events[len(events)-1].N
	return a.c.save(ctx)
}

// refused decides what becomes of a request that was not taken: what is refused for too long is set aside.
func (a *alertmanager) refused(ctx context.Context, now time.Time, events []store.NumberedEvent, err error) (bool, error) {
	var refusal *sendError
	if !errors.As(err, &refusal) || !refusal.refused() || len(events) == 0 || now.Sub(events[len(events)-1].Event.At) <= a.o.RefusedFor {
		return false, err
	}
	a.c.count(func(s *Status) { s.SetAside += uint64(len(events)) })
	a.c.log.Error("events are set aside; what stands is sent on", "events", len(events), "from", events[0].Event.ID(), "to", events[len(events)-1].Event.ID(), "error", err)
	return false, errors.Join(err, a.done(ctx, events))
}

// due makes the alerts of the faults that events speak of and, if full, of all that stand.
func (a *alertmanager) due(ctx context.Context, now time.Time, events []store.NumberedEvent, full bool) ([]alert, error) {
	open, err := a.o.Store.Faults().Open(ctx) // after the events: it knows of what they say
	if err != nil {
		return nil, err
	}
	changed := map[string]bool{}
	for _, e := range events {
		changed[e.Event.Fault] = true
	}
	var out []alert
	live := make(map[string]origin, len(open))
	for _, f := range open {
		if !standing(f) && !changed[f.ID] {
			continue
		}
		o, err := a.origin(ctx, f)
		if err != nil {
			return nil, err
		}
		live[f.ID] = o
		if full || changed[f.ID] {
			out = append(out, a.alerts(f, o, now)...)
		}
		delete(changed, f.ID)
	}
	for _, e := range events {
		if !changed[e.Event.Fault] {
			continue
		}
		delete(changed, e.Event.Fault)
		f, history, err := a.ended(ctx, e.Event.Fault)
		if err != nil {
			return nil, err
		}
		out = append(out, a.alerts(f, originOf(f, history), now)...)
	}
	a.origins = live
	return out, nil
}

func (a *alertmanager) alerts(f faults.Fault, o origin, now time.Time) []alert {
	return alerts(a.o.Tree.Operator(), f, o, now, now.Add(livesFor*a.o.Resend))
}

// origin reads what the fault's labels are made of, once per event.
func (a *alertmanager) origin(ctx context.Context, f faults.Fault) (origin, error) {
	if o, ok := a.origins[f.ID]; ok && o.events == f.Events {
		return o, nil
	}
	events, err := a.o.Store.EventsOf(ctx, f.ID)
	return originOf(f, events), err
}

// ended reads a fault that is not among the open ones.
func (a *alertmanager) ended(ctx context.Context, id string) (faults.Fault, []store.NumberedEvent, error) {
	f, _, err := a.o.Store.Faults().Get(ctx, id)
	if err != nil {
		return f, nil, err
	}
	events, err := a.o.Store.EventsOf(ctx, id)
	return f, events, err
}

// send posts all of it. A part that is refused does not keep the others from being sent; the first error is returned.
func (a *alertmanager) send(ctx context.Context, all []alert) error {
	var first error
	for len(all) > 0 {
		part := all[:min(len(all), maxAlerts)]
		all = all[len(part):]
		_, err := a.request(ctx, part)
		var refusal *sendError
		switch {
		case err == nil:
			a.c.count(func(s *Status) { s.Sent += uint64(len(part)) })
			continue
		case !errors.As(err, &refusal) || !refusal.refused():
			return err
		case first == nil:
			first = err
		}
	}
	return first
}

func (a *alertmanager) request(ctx context.Context, part []alert) (Answer, error) {
	body, err := json.Marshal(part)
	if err != nil {
		return Answer{}, fmt.Errorf("make alerts: %w", err)
	}
	h := http.Header{"Content-Type": {"application/json"}, "User-Agent": {"farebeat"}}
	if a.Authorization != "" {
		h.Set("Authorization", a.Authorization)
	}
	return a.post.post(ctx, strings.TrimRight(a.URL, "/")+"/api/v2/alerts", h, body)
}

// test sends an alert that ends by itself after a minute.
func (a *alertmanager) test(ctx context.Context) (Answer, error) {
	now := a.o.Now().UTC().Truncate(time.Millisecond)
	return a.request(ctx, []alert{{
		Labels:      map[string]string{"alertname": "FarebeatTest", "operator": a.o.Tree.Operator(), "severity": "info"},
		Annotations: map[string]string{"summary": "Farebeat sends a test", "description": "This is a test. No fault stands."},
		StartsAt:    now, EndsAt: now.Add(time.Minute),
	}})
}
