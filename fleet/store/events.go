package store

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/farebeat/farebeat/fleet/faults"
)

// NumberedEvent is a fault's event in the order of all events.
type NumberedEvent struct {
	N     int64 // grows from 1 with every event that is saved; numbers may be missing
	Event faults.Event
	// Fault is the fault as it is now, but with the Machine.Vehicle and Machine.Route that it had at the event: dispatch.Event
	// makes the same of it at any time.
	Fault faults.Fault
}

// Told reports whether people are told of the event.
func (e NumberedEvent) Told() bool { return !e.Event.Quiet }

// Change is the change that the event is of, for dispatch.Event.
func (e NumberedEvent) Change() faults.Change { return faults.Change{Fault: e.Fault, Event: e.Event} }

const numbered = `SELECT o.n, o.vehicle, o.machine_route, e.body, f.body FROM fault_order o
	JOIN fault_event e ON e.fault = o.fault AND e.number = o.number JOIN fault f ON f.id = o.fault `

// Events lists at most limit events with a number above after, in order.
func (s *Store) Events(ctx context.Context, after int64, limit int) ([]NumberedEvent, error) {
	out, err := s.numbered(ctx, numbered+`WHERE o.n > ? ORDER BY o.n LIMIT ?`, after, limit)
	return out, wrap("read fault events", err)
}

// EventsOf lists all events of one fault, in order; nothing where there is no such fault.
func (s *Store) EventsOf(ctx context.Context, fault string) ([]NumberedEvent, error) {
	out, err := s.numbered(ctx, numbered+`WHERE o.fault = ? ORDER BY o.number`, fault)
	return out, wrap("read events of fault "+fault, err)
}

func (s *Store) numbered(ctx context.Context, query string, args ...any) (out []NumberedEvent, err error) {
	err = s.view(ctx, func(q *querier) error {
		out = nil
		return q.rows(query, args, func(scan func(...any) error) error {
			e, err := scanEvent(scan)
			out = append(out, e)
			return err
		})
	})
	return out, err
}

func scanEvent(scan func(...any) error) (e NumberedEvent, err error) {
	var vehicle, route string
	var event, fault []byte
	if err := scan(&e.N, &vehicle, &route, &event, &fault); err != nil {
		return e, err
	}
	if err := json.Unmarshal(event, &e.Event); err != nil {
		return e, fmt.Errorf("event %d: %w", e.N, err)
	}
	if err := json.Unmarshal(fault, &e.Fault); err != nil {
		return e, fmt.Errorf("fault of event %d: %w", e.N, err)
	}
	if m := e.Fault.Machine; m != nil {
		m.Vehicle, m.Route = vehicle, route
	}
	return e, nil
}

// LastEvent is the number of the newest event, 0 where there is none.
func (s *Store) LastEvent(ctx context.Context) (n int64, err error) {
	err = s.view(ctx, func(q *querier) error { return q.row(`SELECT coalesce(max(n), 0) FROM fault_order`, nil, &n) })
	return n, wrap("read the newest fault event", err)
}

// eventSkip is more events than a damaged file may have lost.
const eventSkip = 1 << 32

// raiseFloors is for a file that may not know its latest events, changes and audit entries: what comes now is numbered above the
// cursors of those who had them, and above what was quoted.
func raiseFloors(t *tx) error {
	for _, table := range []string{"fault_order", "series_change", "console_audit"} {
		changed, err := t.affect(`UPDATE sqlite_sequence SET seq = seq + ? WHERE name = ?`, int64(eventSkip), table)
		if err == nil && changed == 0 {
			err = t.exec(`INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)`, table, int64(eventSkip))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
