package series

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	influxdb2 "github.com/influxdata/influxdb-client-go/v2"
	"github.com/influxdata/influxdb-client-go/v2/api"

	"github.com/farebeat/farebeat/fleet/counts"
	"github.com/farebeat/farebeat/fleet/mask"
	"github.com/farebeat/farebeat/fleet/steps"
	"github.com/farebeat/farebeat/fleet/store"
)

// Store is what is shipped from; *store.Counts is one.
type Store interface {
	Changes(ctx context.Context, after int64, limit int) ([]store.Change, error)
	LastChange(ctx context.Context) (int64, error)
	Frames(ctx context.Context, from, to time.Time, each func(counts.Frame) error) error
	Hours(ctx context.Context, from, to time.Time, route string) ([]counts.HourRow, error)
	HourRange(ctx context.Context) (first, last time.Time, err error)
	SetAside(ctx context.Context, lines ...store.Aside) error
}

// Cursors keep how far a sink has come; *store.Store is one.
type Cursors interface {
	Meta(ctx context.Context, name string) ([]byte, error)
	SetMeta(ctx context.Context, values map[string][]byte) error
}

// Config says where a sink is.
type Config struct {
	Name    string // the cursor is kept under it
	URL     string
	Token   string // of 2.x and 3.x; of 1.8 user:password; empty for none
	Org     string // of 2.x; empty for 1.8
	Bucket  string // of 2.x and 3.x; of 1.8 database/retention-policy, or the database alone
	Timeout time.Duration
	Plain   bool // without gzip
}

// Options say how to ship.
type Options struct {
	Counts  Store
	Cursors Cursors
	Now     func() time.Time
	Logger  *slog.Logger // nil: none
}

const (
	maxLines    = 5_000            // in one request
	changesPage = 240              // changes read at a time: four hours of minutes
	maxWait     = 30 * time.Second // between two attempts
	refusedWait = time.Minute      // between two where somebody must mend something
	idlePoll    = time.Minute      // a sink looks at the store at least this often
	maxLag      = 15 * time.Minute // behind by more is a failure
)

// Sink ships to one InfluxDB.
type Sink struct {
	config Config
	o      Options
	client influxdb2.Client
	write  api.WriteAPIBlocking
	close  func() // ends client and its connections
	worker *steps.Worker

	cursor Cursor // Run's

	mu     sync.Mutex
	status Status
}

// Cursor is what is durable of a sink: how far it has come.
type Cursor struct {
	N       int64     `json:"n"`                 // all changes up to it are shipped
	Dropped uint64    `json:"dropped,omitempty"` // lines that InfluxDB left out
	Aside   uint64    `json:"aside,omitempty"`   // lines set aside
	At      time.Time `json:"at,omitzero"`       // of the newest minute or hour that was shipped
}

// Status is how a sink stands.
type Status struct {
	Name    string
	Shipped uint64    // lines that were taken since the start
	Dropped uint64    // lines that InfluxDB left out of what it took, ever; those it did not count are left out here, too
	Aside   uint64    // lines that are set aside, ever
	At      time.Time // of the newest minute or hour that was shipped; zero for none
	Behind  int64     // minutes and hours that wait
	Oldest  time.Time // end of the oldest minute or hour that waits; zero for none
	Refused bool      // somebody must mend address, token or bucket
	Error   string    // of the last attempt, empty if it succeeded
	Since   time.Time // since when attempts fail; zero if the last succeeded
}

// ReadCursor reads what the store keeps under CursorName; the zero Cursor where it keeps nothing.
func ReadCursor(value []byte) (c Cursor, err error) {
	if value == nil {
		return c, nil
	}
	if err := json.Unmarshal(value, &c); err != nil {
		return Cursor{}, fmt.Errorf("what the store keeps is no cursor: %w; give the sink another name to begin anew", err)
	}
	return c, nil
}

// CursorName is the name under which the store keeps the cursor of a sink.
func CursorName(sink string) string { return "series." + sink }

// New makes a sink that goes on where it was. One that is new begins with all that the store has.
func New(ctx context.Context, c Config, o Options) (*Sink, error) {
	s := newSink(c, o)
	value, err := o.Cursors.Meta(ctx, CursorName(c.Name))
	if err != nil {
		return nil, fmt.Errorf("series: sink %s: %w", c.Name, err)
	}
	if s.cursor, err = ReadCursor(value); err != nil {
		return nil, fmt.Errorf("series: sink %s: %w", c.Name, err)
	}
	s.status.Dropped, s.status.Aside, s.status.At = s.cursor.Dropped, s.cursor.Aside, s.cursor.At
	return s, nil
}

func newSink(c Config, o Options) *Sink {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Logger = o.Logger.With("sink", c.Name)
	transport := http.DefaultTransport.(*http.Transport).Clone()
	client := influxdb2.NewClientWithOptions(c.URL, c.Token,
		influxdb2.DefaultOptions().SetPrecision(time.Second).SetUseGZip(!c.Plain).SetMaxRetries(0).
			SetHTTPClient(&http.Client{Timeout: max(c.Timeout, time.Second), Transport: mask.Transport{Next: transport}}).
			SetApplicationName("farebeat").SetLogLevel(0))
	s := &Sink{config: c, o: o, client: client, write: client.WriteAPIBlocking(c.Org, c.Bucket), status: Status{Name: c.Name}, close: func() { client.Close(); transport.CloseIdleConnections() }}
	pause := *backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = time.Second, maxWait
	s.worker = steps.New(steps.Work{Step: s.step, Note: s.note, Wait: waitAfter, Idle: func() time.Duration { return idlePoll }, Pause: pause})
	return s
}

// Poke says that counts were saved. It does not wait.
func (s *Sink) Poke() { s.worker.Poke() }

// Status is how the sink stands.
func (s *Sink) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

// Failure is what keeps counts from InfluxDB, nil if nothing does, or not for long yet.
func (s *Sink) Failure() error {
	st := s.Status()
	switch {
	case st.Refused:
		return fmt.Errorf("InfluxDB %s refuses: %s", s.config.URL, st.Error)
	case !st.Since.IsZero() && s.o.Now().Sub(st.Since) > maxLag:
		return fmt.Errorf("InfluxDB %s has taken nothing since %s: %s", s.config.URL, st.Since.UTC().Format(time.RFC3339), st.Error)
	}
	return nil
}

// Run ships until ctx ends.
func (s *Sink) Run(ctx context.Context) {
	defer s.close()
	s.worker.Run(ctx)
}

// waitAfter is how long to wait after an error.
func waitAfter(next time.Duration, err error) time.Duration {
	next = min(next, maxWait)
	var e *answerError
	switch {
	case !errors.As(err, &e):
		return next
	case e.Action == Refused:
		return refusedWait
	case e.RetryAfter > 0:
		return min(e.RetryAfter, maxWait)
	}
	return next
}

// note takes down how a step ended.
func (s *Sink) note(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := &s.status
	if err == nil {
		if !st.Since.IsZero() {
			s.o.Logger.Info("InfluxDB takes counts again", "failed_for", s.o.Now().Sub(st.Since).Round(time.Second))
		}
		st.Error, st.Since, st.Refused = "", time.Time{}, false
		return
	}
	var e *answerError
	refused := errors.As(err, &e) && e.Action == Refused
	if st.Since.IsZero() || refused && !st.Refused {
		s.o.Logger.Warn("InfluxDB does not take counts; they wait in the store", "error", err)
	}
	if st.Since.IsZero() {
		st.Since = s.o.Now()
	}
	st.Error, st.Refused = oneLine(err.Error()), refused
}

// step ships what changed, up to a page, and reports whether there may be more.
func (s *Sink) step(ctx context.Context) (more bool, err error) {
	changes, err := s.o.Counts.Changes(ctx, s.cursor.N, changesPage)
	if err != nil {
		return false, err
	}
	if err := s.lag(ctx, changes); err != nil {
		return false, err
	}
	for len(changes) > 0 {
		var lines []string
		taken := 0
		for _, c := range changes { // whole minutes and hours, as many as a request holds
			next, err := s.lines(ctx, c)
			if err != nil {
				return false, err
			}
			if len(lines) > 0 && len(lines)+len(next) > maxLines {
				break
			}
			lines = append(lines, next...)
			taken++
		}
		p, err := s.ship(ctx, lines)
		if err != nil {
			return false, err
		}
		if err := s.take(ctx, p); err != nil {
			return false, err
		}
		if err := s.advance(ctx, changes[:taken]); err != nil {
			return false, err
		}
		changes = changes[taken:]
		if err := s.lag(ctx, changes); err != nil {
			return false, err
		}
		more = true
	}
	return more, nil
}

// lag notes what waits.
func (s *Sink) lag(ctx context.Context, waiting []store.Change) error {
	last, err := s.o.Counts.LastChange(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.Behind, s.status.Oldest = 0, time.Time{}
	if len(waiting) > 0 {
		s.status.Behind, s.status.Oldest = last-waiting[0].N+1, waiting[0].Ended()
	}
	return nil
}

// lines are those of a change as the store has it now; none where it was pruned.
func (s *Sink) lines(ctx context.Context, c store.Change) ([]string, error) {
	if c.Hour {
		rows, err := s.o.Counts.Hours(ctx, c.At, c.At.Add(time.Second), "")
		return AppendHours(nil, rows), err
	}
	var lines []string
	err := s.o.Counts.Frames(ctx, c.At, c.At.Add(time.Second), func(f counts.Frame) error {
		lines = AppendFrame(lines, f)
		return nil
	})
	return lines, err
}

// advance moves the cursor past changes that were taken.
func (s *Sink) advance(ctx context.Context, taken []store.Change) error {
	next := s.cursor
	next.N = taken[len(taken)-1].N
	for _, c := range taken {
		if c.At.After(next.At) {
			next.At = c.At
		}
	}
	value, err := json.Marshal(next)
	if err == nil {
		err = s.o.Cursors.SetMeta(ctx, map[string][]byte{CursorName(s.config.Name): value})
	}
	if err != nil {
		return fmt.Errorf("series: sink %s: move the cursor: %w", s.config.Name, err)
	}
	s.cursor = next
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.At = next.At
	return nil
}

// Backfill ships all minutes and hours with from <= At < to again, without moving the cursor, and returns the lines that are refused for what they
// are. done is told of each minute that was taken; it may be nil.
func Backfill(ctx context.Context, c Config, o Options, from, to time.Time, done func(at time.Time)) (Status, []store.Aside, error) {
	s := newSink(c, o)
	defer s.close()
	var refused []store.Aside
	var lines []string
	var minutes []time.Time
	flush := func() error {
		p, err := s.shipPatiently(ctx, lines)
		if err != nil {
			return err
		}
		refused = append(refused, p.asides...)
		for _, at := range minutes {
			if done != nil {
				done(at)
			}
		}
		lines, minutes = lines[:0], minutes[:0]
		return nil
	}
	err := o.Counts.Frames(ctx, from, to, func(f counts.Frame) error {
		if len(lines)+len(f.Rows) > maxLines {
			if err := flush(); err != nil {
				return err
			}
		}
		lines, minutes = AppendFrame(lines, f), append(minutes, f.At)
		return nil
	})
	if err == nil {
		err = flush()
	}
	if err == nil {
		err = s.eachHours(ctx, from, to, func(rows []counts.HourRow) error {
			lines = AppendHours(nil, rows)
			return flush()
		})
	}
	if err != nil {
		err = fmt.Errorf("backfill of sink %s: %w", c.Name, err)
	}
	return s.Status(), refused, err
}

// eachHours gives the hours of a time, some at once.
func (s *Sink) eachHours(ctx context.Context, from, to time.Time, each func([]counts.HourRow) error) error {
	const atOnce = 6 * time.Hour
	first, last, err := s.o.Counts.HourRange(ctx)
	if err != nil || first.IsZero() {
		return err
	}
	if from.Before(first) {
		from = first
	}
	if end := last.Add(time.Second); end.Before(to) {
		to = end
	}
	for at := from; at.Before(to); at = at.Add(atOnce) {
		end := at.Add(atOnce)
		if to.Before(end) {
			end = to
		}
		rows, err := s.o.Counts.Hours(ctx, at, end, "")
		if err == nil {
			err = each(rows)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// shipPatiently tries again what may pass, for a while.
func (s *Sink) shipPatiently(ctx context.Context, lines []string) (parcel, error) {
	return backoff.Retry(ctx, func() (parcel, error) {
		p, err := s.ship(ctx, lines)
		var e *answerError
		if errors.As(err, &e) && e.Action == Refused {
			return p, backoff.Permanent(err)
		}
		if err == nil {
			s.count(p)
		}
		return p, err
	}, backoff.WithMaxElapsedTime(2*time.Minute))
}
