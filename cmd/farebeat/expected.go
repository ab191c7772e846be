package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/fleet/expect"
	"github.com/farebeat/farebeat/fleet/expect/gtfs"
	"github.com/farebeat/farebeat/fleet/store"
)

const (
	// watchEvery is how often files of expectations are looked at. One that changed is read after two looks.
	watchEvery = 30 * time.Second
	// expiryDays is how long before its last date a feed is warned of.
	expiryDays = 14
	// learnAgain is when history is tried again after it could not be read.
	learnAgain = time.Hour
)

// expectations keeps the sources of what should be online up to date: numbers set by hand, then the timetable, then
// history.
type expectations struct {
	config  configs.Config
	zone    *time.Location
	now     func() time.Time
	logger  *slog.Logger
	live    *expect.Live
	watcher *expect.Watcher  // nil: no files
	failed  atomic.Uint64    // reloads
	hangup  <-chan os.Signal // asks for a reload; nil for never

	mu      sync.Mutex // held while the chain is changed
	sources sources
	problem error // of the last reload
}

// failure is what is wrong with the files, or will be soon: the last reload failed, or the feed does not cover today or some day of the next two
// weeks.
func (e *expectations) failure() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.problem != nil || e.sources.feed == nil {
		return e.problem
	}
	if w := e.sources.feed.Expiry(gtfs.DateOf(e.now().In(e.sources.feed.Location)), expiryDays); w != "" {
		return errors.New(w)
	}
	return nil
}

// calendar is what is known of the types of days.
func (e *expectations) calendar() expect.Days {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.sources.days
}

// timetable is a source that names its routes.
type timetable interface {
	expect.Source
	Named() []string
}

// sources are what a chain is made of.
type sources struct {
	hand      expect.Source
	timetable timetable
	retired   expect.Retired
	feed      *gtfs.Feed // of the timetable; nil if it is no feed
	days      expect.Days
	history   *expect.History // nil until it was learned
}

func (s sources) chain() expect.Chain {
	chain := expect.Chain{s.hand}
	if s.timetable != nil {
		chain = append(chain, s.timetable)
	}
	if s.history != nil {
		chain = append(chain, s.history.WithDays(s.days).Without(s.retired.Gone))
	}
	return chain
}

// retiredBy is what is to be remembered of routes that are gone, with another timetable in force; nil for none, which
// names no route and does not say that others are gone.
func (s sources) retiredBy(t timetable) expect.Retired {
	if t == nil {
		return s.retired
	}
	return s.retired.After(t.Named())
}

// replayedExpectation is what stored minutes are judged by again: live where the configuration says what should be online. Else it is nil, for the
// numbers that stand in the counts: history, which is all that live has then, was learned with the very days that are judged.
func replayedExpectation(c configs.Fleet, live expect.Source) expect.Source {
	if c.GTFS != "" || c.ExpectedFile != "" || len(c.Expected) > 0 {
		return live
	}
	return nil
}

// newExpectations reads what the configuration names. History is learned by run.
func newExpectations(ctx context.Context, c configs.Config, now func() time.Time, logger *slog.Logger) (*expectations, error) {
	zone, err := time.LoadLocation(c.TimeZone)
	if err != nil {
		return nil, usageError(err)
	}
	e := &expectations{config: c, zone: zone, now: now, logger: logger}
	var files []string
	for _, name := range []string{c.Fleet.GTFS, c.Fleet.ExpectedFile, c.Fleet.HolidaysFile} {
		if name != "" {
			files = append(files, name)
		}
	}
	if len(files) > 0 {
		e.watcher = expect.NewWatcher(files, e.reload)
		return e, e.watcher.Reload(ctx)
	}
	return e, e.reload(ctx)
}

// reload reads all files and puts them in force, or leaves what is.
func (e *expectations) reload(ctx context.Context) error {
	read, err := readSources(ctx, e.config, e.zone)
	if err != nil {
		return err
	}
	now := e.now()
	if read.timetable != nil {
		read.timetable.Routes(now) // works out the day, so that the service need not wait for it
	}
	e.put(read, now)
	if read.feed != nil {
		for _, w := range read.feed.Warnings {
			e.logger.Warn("timetable: "+w, "file", e.config.Fleet.GTFS)
		}
	}
	e.warnOfExpiry(now)
	return nil
}

// put puts what was read in force, beside the history that is.
func (e *expectations) put(read sources, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	read.history, read.retired = e.sources.history, e.sources.retiredBy(read.timetable)
	e.sources = read
	if e.live == nil {
		e.live = expect.NewLive(read.chain())
	} else {
		e.live.Swap(now, read.chain())
	}
}

// warnOfExpiry tells that the feed has come to its end, or soon will.
func (e *expectations) warnOfExpiry(now time.Time) {
	e.mu.Lock()
	feed := e.sources.feed
	e.mu.Unlock()
	if feed == nil {
		return
	}
	if w := feed.Expiry(gtfs.DateOf(now.In(feed.Location)), expiryDays); w != "" {
		e.logger.Warn(w, "file", e.config.Fleet.GTFS)
	}
}

// readSources reads all but history. Errors of content are usage errors.
func readSources(ctx context.Context, c configs.Config, zone *time.Location) (s sources, err error) {
	s.hand = expect.NewByHand(handRows(c.Fleet.Expected), zone)
	switch {
	case c.Fleet.GTFS != "":
		if s.feed, err = readFeed(ctx, c.Fleet.GTFS); err != nil {
			return s, err
		}
		s.timetable = expect.NewTimetable(s.feed)
	case c.Fleet.ExpectedFile != "":
		if s.timetable, err = readExpected(c.Fleet.ExpectedFile, zone); err != nil {
			return s, err
		}
	}
	s.days = expect.Days{Feed: s.feed}
	s.days.Holidays, err = readHolidays(c)
	return s, err
}

func readFeed(ctx context.Context, path string) (*gtfs.Feed, error) {
	feed, err := gtfs.Open(ctx, path)
	if err != nil && ctx.Err() == nil {
		err = usageError(err)
	}
	return feed, err
}

// readHolidays joins the holidays of the configuration and those of its file.
func readHolidays(c configs.Config) (map[gtfs.Date]bool, error) {
	holidays := map[gtfs.Date]bool{}
	if path := c.Fleet.HolidaysFile; path != "" {
		f, err := os.Open(path)
		if err != nil {
			return nil, usageError(err)
		}
		defer f.Close()
		listed, err := expect.ReadHolidays(path, f)
		if err != nil {
			return nil, usageError(err)
		}
		maps.Copy(holidays, listed)
	}
	for _, day := range c.Fleet.Holidays {
		date, err := gtfs.ParseDate(day)
		must(err) // validated by configs
		holidays[date] = true
	}
	return holidays, nil
}

func handRows(list []configs.HandExpectation) []expect.RouteHour {
	var rows []expect.RouteHour
	for _, e := range list {
		from, to, err := configs.ParseHours(e.Hours)
		must(err) // validated by configs
		for h := from; h < to; h++ {
			rows = append(rows, expect.RouteHour{Date: gtfs.Date{}, Route: e.Route, Hour: h, Vehicles: e.Expected})
		}
	}
	return rows
}

// run keeps the sources up to date until ctx ends: files that change or when a signal asks for it, history once a day.
func (e *expectations) run(ctx context.Context, db *store.Store) {
	var wg sync.WaitGroup
	if e.watcher != nil {
		wg.Go(func() { e.watcher.Watch(ctx, watchEvery, e.reloaded) })
		wg.Go(func() { e.reloadOnSignal(ctx) })
	}
	wg.Go(func() { e.keepLearning(ctx, db) })
	wg.Wait()
}

// reloaded tells what became of a reload.
func (e *expectations) reloaded(err error) {
	e.mu.Lock()
	e.problem = err
	e.mu.Unlock()
	if err != nil {
		e.failed.Add(1)
		e.logger.Error("what should be online could not be read again, what was read before stays in force", "error", err)
		return
	}
	e.logger.Info("what should be online was read again", "generation", e.live.Generation(), "transition", expect.Transition)
}

func (e *expectations) reloadOnSignal(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.hangup:
			e.reloaded(e.watcher.Reload(ctx))
		}
	}
}

// keepLearning learns from history now and then every day at a quiet hour, and lets go of what a swap has left
// behind.
func (e *expectations) keepLearning(ctx context.Context, db *store.Store) {
	ticker := time.NewTicker(time.Minute)
	defer ticker.Stop()
	next := e.now()
	for first := true; ; first = false {
		now := e.now()
		if next.Sub(now) > 25*time.Hour {
			next = now // our clock was ahead and was put right
		}
		if !now.Before(next) {
			if !first { // at the start they were just read
				e.warnOfExpiry(now)
			}
			next = quietHour(now, e.zone)
			if err := e.learn(ctx, db, now); err != nil && ctx.Err() == nil {
				next = now.Add(learnAgain)
				e.logger.Error("history could not be read, what was learned before stays in force", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			e.live.Settle(e.now())
		}
	}
}

// quietHour is the next 03:15 of the local clock after now: the day before is over, and nobody drives.
func quietHour(now time.Time, zone *time.Location) time.Time {
	today := gtfs.DateOf(now.In(zone))
	for days := 0; ; days++ {
		d := today.AddDays(days)
		if at := time.Date(d.Year, d.Month, d.Day, 3, 15, 0, 0, zone); at.After(now) {
			return at
		}
	}
}

// metaRetired is the name in the store of the routes that are gone.
const metaRetired = "expect.retired"

// recallRetired reads what an earlier run knew of routes that are gone.
func recallRetired(ctx context.Context, db *store.Store) (r expect.Retired, err error) {
	b, err := db.Meta(ctx, metaRetired)
	if err == nil && b != nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		err = fmt.Errorf("recall the routes that are gone: %w", err)
	}
	return r, err
}

// learn puts in force what the last weeks teach.
func (e *expectations) learn(ctx context.Context, db *store.Store, now time.Time) error {
	e.mu.Lock()
	days := e.sources.days
	e.mu.Unlock()
	retired, err := recallRetired(ctx, db)
	if err != nil {
		return err
	}
	history, err := learnHistory(ctx, db.Counts(), days, now, e.zone)
	if err != nil {
		return err
	}
	for _, left := range history.LeftOut() {
		e.logger.Debug("history: nothing is learned from a day", "date", left.Date, "it", left.Reason)
	}
	retired = e.putHistory(history, retired)
	e.logger.Info("history was learned", "routes", history.Len(), "days_left_out", len(history.LeftOut()), "routes_gone", len(retired.Gone))
	b, err := json.Marshal(retired)
	if err != nil {
		return err
	}
	return db.SetMeta(ctx, map[string][]byte{metaRetired: b})
}

// putHistory puts history in force, but for routes that are gone, of which stored is what an earlier run knew. It returns those to
// be stored.
func (e *expectations) putHistory(history *expect.History, stored expect.Retired) expect.Retired {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sources.retired.Gone = append(stored.Gone, e.sources.retired.Gone...)
	e.sources.retired.Named = append(stored.Named, e.sources.retired.Named...)
	e.sources.retired = e.sources.retiredBy(e.sources.timetable).Keep(history.Knows)
	switch first := e.sources.history == nil; {
	case first && history.Len() > 0:
		e.sources.history = history
		e.live.Complete(e.sources.chain())
	case !first:
		e.sources.history = history
		e.live.Swap(e.now(), e.sources.chain())
	}
	return e.sources.retired
}

func learnHistory(ctx context.Context, counts *store.Counts, days expect.Days, now time.Time, zone *time.Location) (*expect.History, error) {
	from, to := expect.HistoryWindow(now, zone)
	return expect.BuildHistory(counts.EachHour(ctx, from, to), days, now, zone)
}

// collectors give figures to Prometheus.
func (e *expectations) collectors() []prometheus.Collector {
	return []prometheus.Collector{
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "farebeat_fleet_expectation_reloads_failed_total", Help: "files of expectations that changed and could not be read",
		}, func() float64 { return float64(e.failed.Load()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "farebeat_fleet_timetable_days_left", Help: "days that the GTFS feed covers after today; below 0: it has expired",
		}, e.daysLeft),
	}
}

// daysLeft is how many days the feed covers after today; infinite without one.
func (e *expectations) daysLeft() float64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.sources.feed == nil {
		return math.Inf(1)
	}
	return float64(e.sources.feed.DaysLeft(gtfs.DateOf(e.now().In(e.sources.feed.Location))))
}
