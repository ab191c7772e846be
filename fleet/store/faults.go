package store

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/schemas"
)

// Faults is the part of the store that keeps faults and their history.
func (s *Store) Faults() faults.Store { return faultStore{s} }

type faultStore struct{ s *Store }

// faultRow is a change made ready for the tables.
type faultRow struct {
	f           faults.Fault
	body, event []byte // event is nil where nobody is told
	number      uint64
}

// Save implements faults.Store.
func (l faultStore) Save(ctx context.Context, changes ...faults.Change) error {
	if len(changes) == 0 {
		return nil
	}
	rows := make([]faultRow, len(changes))
	for i, c := range changes {
		r := faultRow{f: c.Fault, number: c.Event.Number}
		var err error
		if r.body, err = json.Marshal(c.Fault); err == nil && c.HasEvent() {
			r.event, err = json.Marshal(c.Event)
		}
		if err != nil {
			return fmt.Errorf("save fault %s: %w", c.Fault.ID, err)
		}
		rows[i] = r
	}
	return wrap("save faults", l.s.update(ctx, func(t *tx) error {
		for _, r := range rows {
			if err := r.save(t); err != nil {
				return fmt.Errorf("%s: %w", r.f.ID, err)
			}
		}
		return nil
	}))
}

func (r faultRow) save(t *tx) error {
	var closed any
	if r.f.Ended() {
		closed = nanos(r.f.ClosedAt)
	}
	var machineRoute, vehicle string
	if m := r.f.Machine; m != nil {
		machineRoute, vehicle = m.Route, m.Vehicle
	}
	err := t.exec(`INSERT INTO fault
		(id, revision, opened_ns, closed_ns, condition, attention, kind, machine, route, machine_route, vehicle, body)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET revision = excluded.revision, opened_ns = excluded.opened_ns, closed_ns = excluded.closed_ns,
		condition = excluded.condition, attention = excluded.attention, kind = excluded.kind, machine = excluded.machine,
		route = excluded.route, machine_route = excluded.machine_route, vehicle = excluded.vehicle, body = excluded.body
		WHERE excluded.revision >= fault.revision`,
		r.f.ID, int64(r.f.Revision), nanos(r.f.OpenedAt), closed, string(r.f.Condition), string(r.f.Attention.State), string(r.f.Kind),
		r.f.Subject.Machine, r.f.Subject.Route, machineRoute, vehicle, r.body)
	if err != nil || r.event == nil {
		return err
	}
	err = t.exec(`INSERT INTO fault_event (fault, number, body) VALUES (?, ?, ?) ON CONFLICT (fault, number) DO NOTHING`,
		r.f.ID, int64(r.number), r.event)
	if err != nil {
		return err
	}
	return t.exec(`INSERT INTO fault_order (fault, number, vehicle, machine_route) VALUES (?, ?, ?, ?)
		ON CONFLICT (fault, number) DO NOTHING`, r.f.ID, int64(r.number), vehicle, machineRoute)
}

// nanos orders times as time.Time.Compare does, the zero time before all.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return math.MinInt64
	}
	return t.UnixNano()
}

// Open implements faults.Store.
func (l faultStore) Open(ctx context.Context) ([]faults.Fault, error) {
	var out []faults.Fault
	err := l.s.view(ctx, func(q *querier) error {
		return q.rows(`SELECT body FROM fault WHERE closed_ns IS NULL ORDER BY id`, nil, func(scan func(...any) error) error {
			f, err := scanFault(scan)
			out = append(out, f)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read open faults: %w", err)
	}
	return out, nil
}

func scanFault(scan func(...any) error) (faults.Fault, error) {
	var body []byte
	var f faults.Fault
	if err := scan(&body); err != nil {
		return f, err
	}
	return f, json.Unmarshal(body, &f)
}

var errEnough = errors.New("enough") // ends a query early

// List implements faults.Store. The statement narrows down with what has an index; Query.Matches
// has the last word.
func (l faultStore) List(ctx context.Context, want faults.Query) ([]faults.Fault, error) {
	var out []faults.Fault
	err := l.s.view(ctx, func(q *querier) error {
		where, args, err := faultFilter(q, want)
		if err != nil {
			return err
		}
		return q.rows(`SELECT body FROM fault WHERE `+where+` ORDER BY opened_ns DESC, id DESC`, args, func(scan func(...any) error) error {
			f, err := scanFault(scan)
			if err != nil || !want.Matches(f) {
				return err
			}
			if out = append(out, f); len(out) == want.Bound() {
				return errEnough
			}
			return nil
		})
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, fmt.Errorf("list faults: %w", err)
	}
	return out, nil
}

func faultFilter(q *querier, want faults.Query) (string, []any, error) {
	conds, args := []string{"1 = 1"}, []any(nil)
	add := func(cond string, a ...any) { conds, args = append(conds, cond), append(args, a...) }
	if want.Machine != "" {
		add("machine = ?", want.Machine)
	}
	if want.Route != "" {
		add("(route = ? OR machine_route = ?)", want.Route, want.Route)
	}
	if want.Vehicle != "" {
		add("vehicle = ?", want.Vehicle)
	}
	if !want.To.IsZero() {
		add("opened_ns < ?", nanos(want.To))
	}
	if !want.From.IsZero() {
		add("(closed_ns IS NULL OR closed_ns > ?)", nanos(want.From))
	}
	if want.Live {
		add("closed_ns IS NULL")
	}
	if want.Unfinished {
		add("(closed_ns IS NULL OR attention IN (?, ''))", string(schemas.Unseen))
	}
	if want.After != "" {
		var opened int64
		err := q.row(`SELECT opened_ns FROM fault WHERE id = ?`, []any{want.After}, &opened)
		if errors.Is(err, sql.ErrNoRows) {
			return "", nil, fmt.Errorf("the page after %s: %w", want.After, faults.ErrNotFound)
		}
		if err != nil {
			return "", nil, err
		}
		add("(opened_ns < ? OR opened_ns = ? AND id < ?)", opened, opened, want.After)
	}
	return strings.Join(conds, " AND "), args, nil
}

// Get implements faults.Store.
func (l faultStore) Get(ctx context.Context, id string) (faults.Fault, []faults.Event, error) {
	var f faults.Fault
	var events []faults.Event
	err := l.s.view(ctx, func(q *querier) (err error) {
		events = nil
		if f, err = scanFault(func(dest ...any) error { return q.row(`SELECT body FROM fault WHERE id = ?`, []any{id}, dest...) }); err != nil {
			return err
		}
		return q.rows(`SELECT body FROM fault_event WHERE fault = ? ORDER BY number`, []any{id}, func(scan func(...any) error) error {
			var body []byte
			var e faults.Event
			if err := scan(&body); err != nil {
				return err
			}
			err := json.Unmarshal(body, &e)
			events = append(events, e)
			return err
		})
	})
	if errors.Is(err, sql.ErrNoRows) {
		return faults.Fault{}, nil, fmt.Errorf("fault %s: %w", id, faults.ErrNotFound)
	}
	if err != nil {
		return faults.Fault{}, nil, fmt.Errorf("read fault %s: %w", id, err)
	}
	return f, events, nil
}

// Audit gives what people did about faults in [from, to), oldest first: the newest limit of it. A zero time is no bound, and an empty by is everybody.
func (s *Store) Audit(ctx context.Context, from, to time.Time, by string, limit int) ([]faults.Event, error) {
	var out []faults.Event
	err := s.view(ctx, func(q *querier) error {
		out = nil
		return q.rows(`SELECT body FROM fault_event WHERE json_extract(CAST(body AS TEXT), '$.by') IS NOT NULL`, nil, func(scan func(...any) error) error {
			var body []byte
			var e faults.Event
			if err := scan(&body); err != nil {
				return err
			}
			if err := json.Unmarshal(body, &e); err != nil {
				return err
			}
			if (by == "" || e.By == by) && !e.At.Before(from) && (to.IsZero() || e.At.Before(to)) {
				out = append(out, e)
			}
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read what people did: %w", err)
	}
	slices.SortFunc(out, func(a, b faults.Event) int {
		return cmp.Or(a.At.Compare(b.At), strings.Compare(a.Fault, b.Fault), cmp.Compare(a.Number, b.Number))
	})
	return out[max(0, len(out)-limit):], nil
}
