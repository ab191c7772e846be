// Package view reads what the console and the HTTP API show: who is online against who should be, what is broken and for how long, what
// money is still inside machines, and whether any of that may be believed now. It decides nothing and changes nothing.
//
// A Reader is told of every round and keeps the newest. What a round does not hold it reads from the store and from presence, at most once
// a round where all who look share it.
package view

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/farebeat/farebeat/fleet"
	"github.com/farebeat/farebeat/fleet/expect"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/rules"
	"github.com/farebeat/farebeat/fleet/store"
)

// Errors to branch on.
var (
	// ErrNotFound says that there is no such thing; the error that wraps it names it.
	ErrNotFound = errors.New("not found")
	// ErrStarting says that the service has not made its first round yet.
	ErrStarting = errors.New("the service is starting: its first numbers come within seconds")
	// ErrUsage says that what was asked is not a question; the error that wraps it says why.
	ErrUsage = errors.New("not understood")
)

// Options say what a Reader reads. All but Why, Sinks, Days and Broker are required.
type Options struct {
	Fleet  func() *fleet.Fleet // nil until the service is made
	Store  *store.Store
	Expect expect.Source
	Rules  func() *rules.Set
	Days   func() expect.Days // what type of day a date is; nil: by its weekday
	Zone   *time.Location     // the operator's
	Now    func() time.Time   // the service's clock
	Wall   func() time.Time   // the clock on the wall, by which the age of a round is judged
	Tick   time.Duration      // between two rounds, on the wall
	Broker BrokerSource       // may be nil: there is no broker in this process
	// Why tells what each source says of a route; nil: only what Expect says is told.
	Why   func(route string, at time.Time) expect.Why
	Sinks []string // names of the InfluxDBs that counts are shipped to
}

// Reader answers. It is safe for concurrent use.
type Reader struct {
	o     Options
	round atomic.Pointer[observed]
	dirty atomic.Uint64 // grows with every saving of faults

	openMu sync.Mutex
	open   []faults.Fault // those that have not ended
	openOf uint64         // the value of dirty that open is of, plus one; 0: none

	pastMu sync.Mutex
	past   map[int64]pastHour // hours that are over, by their start

	book    bookCache
	shelf   bookShelf
	grid    gridCache
	meter   meter
	weeksMu sync.Mutex
	weeks   map[pastKey]map[string][]pastSample // hours of the last weeks
}

// observed is a round, and when it came.
type observed struct {
	fleet.Round
	came time.Time // on the wall

	once   sync.Once
	fleet  fleetSummary
	number uint64
}

// New makes a reader.
func New(o Options) *Reader {
	return &Reader{o: o, past: map[int64]pastHour{}, shelf: bookShelf{books: map[string]*bookOf{}, wish: make(chan string)}}
}

// Observe takes a round. It is for fleet.Options.Watch.
func (r *Reader) Observe(round fleet.Round) {
	next := &observed{Round: round, came: r.o.Wall()}
	if old := r.round.Load(); old != nil {
		next.number = old.number
	}
	next.number++
	r.round.Store(next)
}

// FaultsSaved notes that faults changed. It is for fleet.Options.FaultsSaved.
func (r *Reader) FaultsSaved() { r.dirty.Add(1) }

// Zone is the operator's time zone.
func (r *Reader) Zone() *time.Location { return r.o.Zone }

// Clock is the service's time now.
func (r *Reader) Clock() time.Time { return r.o.Now() }

func (r *Reader) current() (*observed, error) {
	if o := r.round.Load(); o != nil {
		return o, nil
	}
	return nil, ErrStarting
}

// openFaults lists the faults that have not ended, latest opened first. The slice is shared and not to be changed.
func (r *Reader) openFaults(ctx context.Context) ([]faults.Fault, error) {
	r.openMu.Lock()
	defer r.openMu.Unlock()
	dirty := r.dirty.Load()
	if r.openOf == dirty+1 {
		return r.open, nil
	}
	list, err := r.o.Store.Faults().List(ctx, faults.Query{Live: true, Limit: faults.MaxLimit})
	if err != nil {
		return nil, fmt.Errorf("read the open faults: %w", err)
	}
	r.open, r.openOf = list, dirty+1
	return list, nil
}
