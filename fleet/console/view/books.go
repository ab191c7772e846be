package view

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/farebeat/farebeat/fleet"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/fleet/presence"
	"github.com/farebeat/farebeat/schemas"
)

// BookRow is one machine on one service day.
type BookRow struct {
	Machine  string         `json:"machine"`
	Records  uint64         `json:"records"`
	Sums     []ledger.Money `json:"sums"`
	Epochs   []BookEpoch    `json:"epochs"`
	Gaps     []ledger.Gap   `json:"gaps,omitempty"` // those that may belong to the day, at most MaxRowGaps
	AllGaps  int            `json:"all_gaps"`
	Missing  uint64         `json:"missing"` // numbers in all of them
	Pending  uint32         `json:"pending"` // the machine last declared, over all days
	Money    *ledger.Money  `json:"pending_money,omitempty"`
	Oldest   time.Time      `json:"oldest_pending,omitzero"`
	Evidence int            `json:"evidence"` // pieces against the machine, over all days
	Revision uint32         `json:"certificate_revision,omitempty"`
	Complete bool           `json:"certificate_complete,omitempty"`
}

// BookEpoch are the records of one epoch.
type BookEpoch struct {
	Epoch   uint32 `json:"epoch"`
	First   uint32 `json:"first"`
	Last    uint32 `json:"last"`
	Records uint64 `json:"records"`
}

// Full reports whether nothing is missing that may belong to the day.
func (b BookRow) Full() bool { return b.AllGaps == 0 }

// MaxRowGaps bounds the gaps that a row names.
const MaxRowGaps = 5

// BookSum adds up a service day.
type BookSum struct {
	Machines     int                         `json:"machines"`
	Records      uint64                      `json:"records"`
	Sums         []ledger.Money              `json:"sums"`
	Incomplete   int                         `json:"incomplete"` // machines with a gap
	Missing      uint64                      `json:"missing"`    // numbers in gaps
	States       map[schemas.GapState]uint64 `json:"missing_by_state"`
	Pending      uint64                      `json:"pending"` // transactions that machines say they still hold, over all days
	Holding      int                         `json:"holding"` // machines that hold any
	Evidence     map[ledger.Kind]int         `json:"evidence"`
	Certified    int                         `json:"certified"`     // machines whose day has a certificate
	CertComplete int                         `json:"cert_complete"` // of them, with one that says complete
	Duplicates   uint64                      `json:"duplicates"`    // that came again since the service started, and were dropped
}

// Book is the ledger of one service day.
type Book struct {
	State State     `json:"state"`
	Day   Day       `json:"day"`
	AsOf  time.Time `json:"as_of"` // of the ledger
	Sum   BookSum   `json:"sum"`
	Rows  []BookRow `json:"machines"`
	All   int       `json:"all"`
	Page  int       `json:"page"`
	Pages int       `json:"pages"`
	Query BookQuery `json:"-"`
}

// BookQuery selects a page of a book.
type BookQuery struct {
	Day   string // YYYY-MM-DD; "": today
	Show  string // "all", "gaps" or "evidence"; "": all
	Find  string // only machines whose id contains this, case ignored
	Page  int
	Limit int
}

// bookOf is a day's book as it was made.
type bookOf struct {
	rows []BookRow // in order
	sum  BookSum
	asOf time.Time     // of the service's clock
	made time.Time     // on the wall
	cost time.Duration // of making it
}

// bookShelf remembers the books of some days. Making one reads the ledger machine by machine, so that one that is a little old is shown while
// the next is made.
type bookShelf struct {
	mu    sync.Mutex
	books map[string]*bookOf
	wish  chan string // day of a book that is too old
}

const (
	// maxShelf bounds the days that are remembered.
	maxShelf = 32
	// A book is good for this long at least, and for this many times of what it cost to make.
	bookAge   = 3 * time.Second
	bookTimes = 20
	// oldBook is how old a book may be and still be shown while the next is made.
	oldBook = time.Minute
)

// Run makes the books of days anew that somebody looks at, until ctx ends. Without it they are made while somebody waits.
func (r *Reader) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case day := <-r.shelf.wish:
			// Whoever looks next is told what is wrong.
			_, _ = r.newBook(ctx, day)
		}
	}
}

// Ledger gives a page of the book of a service day: what is missing first, then the oldest money.
func (r *Reader) Ledger(ctx context.Context, q BookQuery) (Book, error) {
	q.Show = cmp.Or(q.Show, "all")
	b := Book{State: r.State(), Rows: []BookRow{}, Query: q}
	limit, err := pageSize(q.Limit)
	if err != nil {
		return b, err
	}
	if b.Day, err = r.Day(q.Day); err != nil {
		return b, err
	}
	if !slices.Contains([]string{"all", "gaps", "evidence"}, q.Show) {
		return b, fmt.Errorf("%w: show %q: want all, gaps or evidence", ErrUsage, q.Show)
	}
	made, err := r.bookOf(ctx, b.Day.Date)
	if err != nil {
		return b, err
	}
	b.AsOf, b.Sum = made.asOf, made.sum
	find := strings.ToLower(q.Find)
	var rows []BookRow
	for _, row := range made.rows {
		if find != "" && !strings.Contains(strings.ToLower(row.Machine), find) || q.Show == "gaps" && row.Full() || q.Show == "evidence" && row.Evidence == 0 {
			continue
		}
		rows = append(rows, row)
	}
	b.Rows, b.All, b.Page, b.Pages = pageOf(rows, q.Page, limit)
	return b, nil
}

// bookOf gives a day's book: the one that is there while it is good enough.
func (r *Reader) bookOf(ctx context.Context, date string) (*bookOf, error) {
	r.shelf.mu.Lock()
	b := r.shelf.books[date]
	r.shelf.mu.Unlock()
	if b == nil {
		return r.newBook(ctx, date)
	}
	age := r.o.Wall().Sub(b.made)
	if age < max(bookAge, bookTimes*b.cost) {
		return b, nil
	}
	if age > max(oldBook, 2*bookTimes*b.cost) {
		return r.newBook(ctx, date)
	}
	select {
	case r.shelf.wish <- date:
	default: // another is being made
	}
	return b, nil
}

// newBook makes a book and remembers it.
func (r *Reader) newBook(ctx context.Context, date string) (*bookOf, error) {
	begun := r.o.Wall()
	b, err := r.makeBook(ctx, date)
	if err != nil {
		return nil, fmt.Errorf("read the ledger of %s: %w", date, err)
	}
	b.made = r.o.Wall()
	b.cost = b.made.Sub(begun)
	r.shelf.mu.Lock()
	defer r.shelf.mu.Unlock()
	if len(r.shelf.books) >= maxShelf {
		clear(r.shelf.books)
	}
	r.shelf.books[date] = b
	return b, nil
}

// makeBook reads what the ledger has of a day and what machines say that they hold.
func (r *Reader) makeBook(ctx context.Context, date string) (*bookOf, error) {
	f := r.o.Fleet()
	if f == nil {
		return nil, ErrStarting
	}
	now := r.o.Now()
	declared, err := r.declaredByAll(ctx, f, now)
	if err != nil {
		return nil, err
	}
	rows := map[string]*BookRow{}
	row := func(machine string) *BookRow {
		if rows[machine] == nil {
			rows[machine] = &BookRow{Machine: machine, Epochs: []BookEpoch{}, Sums: []ledger.Money{}}
		}
		return rows[machine]
	}
	b := &bookOf{asOf: now, sum: BookSum{States: map[schemas.GapState]uint64{}, Duplicates: f.Ledger().Stats().Duplicate}}
	evidence := map[string]int{}
	err = r.o.Store.Ledger().View(ctx, func(v ledger.View) error {
		err := v.Days("", date, date, func(d ledger.Day) error {
			row(d.Machine).add(d)
			return nil
		})
		if err != nil {
			return err
		}
		if err := v.EachIssued("", date, date, func(c ledger.Issued) error {
			at := row(c.Machine)
			at.Revision, at.Complete = c.Revision, c.Complete
			return nil
		}); err != nil {
			return err
		}
		if b.sum.Evidence, err = v.CountQuarantined("", ""); err != nil || len(b.sum.Evidence) == 0 {
			return err
		}
		return v.Quarantined("", 0, 0, func(q ledger.Quarantined) error {
			evidence[q.Machine]++
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	err = f.Ledger().Gaps(ctx, ledger.Filter{From: date, To: date}, declared, func(g ledger.Gap) error {
		at := row(g.Machine)
		at.AllGaps++
		at.Missing += g.Len()
		b.sum.States[g.State] += g.Len()
		if len(at.Gaps) < MaxRowGaps {
			at.Gaps = append(at.Gaps, g)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for machine, n := range evidence {
		row(machine).Evidence = n
	}
	b.finish(rows, declared)
	return b, nil
}

// add puts one epoch and currency of a day into a row.
func (b *BookRow) add(d ledger.Day) {
	b.Records += d.Records
	b.Epochs = append(b.Epochs, BookEpoch{d.Epoch, d.First, d.Last, d.Records})
	for i := range b.Sums {
		if b.Sums[i].Currency == d.Currency {
			b.Sums[i].Minor += d.SumMinor
			return
		}
	}
	b.Sums = append(b.Sums, ledger.Money{Currency: d.Currency, Minor: d.SumMinor})
}

// finish adds up and puts in order.
func (b *bookOf) finish(rows map[string]*BookRow, declared ledger.Declarations) {
	sums := map[string]int64{}
	for machine, row := range rows {
		if d, ok := declared[machine]; ok && d.Pending > 0 {
			row.Pending, row.Oldest = d.Pending, d.OldestPending
			if d.Currency != "" {
				row.Money = &ledger.Money{Currency: d.Currency, Minor: d.PendingMinor}
			}
		}
		s := &b.sum
		if row.Records > 0 {
			s.Machines++
		}
		s.Records += row.Records
		for _, m := range row.Sums {
			sums[m.Currency] += m.Minor
		}
		if !row.Full() {
			s.Incomplete++
			s.Missing += row.Missing
		}
		if row.Revision > 0 {
			s.Certified++
			if row.Complete {
				s.CertComplete++
			}
		}
		b.rows = append(b.rows, *row)
	}
	for _, d := range declared {
		if d.Pending > 0 {
			b.sum.Holding++
			b.sum.Pending += uint64(d.Pending)
		}
	}
	b.sum.Sums = moneyOf(sums)
	slices.SortFunc(b.rows, func(x, y BookRow) int {
		return cmp.Or(compareBool(x.Full(), y.Full()), compareBool(y.Evidence > 0, x.Evidence > 0), compareOldest(x.Oldest, y.Oldest), CompareNatural(x.Machine, y.Machine))
	})
}

// compareBool puts false before true.
func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// compareOldest puts the older before the newer, and none last.
func compareOldest(a, b time.Time) int {
	if a.IsZero() || b.IsZero() {
		return compareBool(a.IsZero(), b.IsZero())
	}
	return a.Compare(b)
}

// MachineBook is all that the ledger has of one machine.
type MachineBook struct {
	State        State                `json:"state"`
	Machine      string               `json:"machine"`
	Status       ledger.Status        `json:"status"`
	Declared     *ledger.Declaration  `json:"declared,omitempty"`
	Gaps         []ledger.Gap         `json:"gaps"`
	Evidence     []ledger.Quarantined `json:"evidence"`     // the newest MaxEvidence
	Certificates []ledger.Issued      `json:"certificates"` // every revision, by day
}

// MaxEvidence bounds the evidence of one page.
const MaxEvidence = 100

// MachineBook tells all that the ledger has of a machine.
func (r *Reader) MachineBook(ctx context.Context, machine string) (MachineBook, error) {
	b := MachineBook{State: r.State(), Machine: machine, Gaps: []ledger.Gap{}, Evidence: []ledger.Quarantined{}, Certificates: []ledger.Issued{}}
	f := r.o.Fleet()
	if f == nil {
		return b, ErrStarting
	}
	mine, err := r.declared(ctx, f, machine)
	if err != nil {
		return b, err
	}
	d, said := mine[machine]
	if said {
		b.Declared = &d
	}
	if b.Status, err = f.Ledger().Status(ctx, machine); err != nil {
		return b, err
	}
	if b.Status.Records == 0 && !said && len(b.Status.Quarantined) == 0 {
		return b, fmt.Errorf("machine %s: %w: the ledger has nothing of it, and it declared nothing", machine, ErrNotFound)
	}
	err = f.Ledger().Gaps(ctx, ledger.Filter{Machine: machine}, mine, func(g ledger.Gap) error {
		b.Gaps = append(b.Gaps, g)
		return nil
	})
	if err != nil {
		return b, err
	}
	err = f.Ledger().Quarantine(ctx, machine, func(q ledger.Quarantined) error {
		b.Evidence = append(b.Evidence, q)
		b.Evidence = b.Evidence[max(0, len(b.Evidence)-MaxEvidence):]
		return nil
	})
	if err != nil {
		return b, err
	}
	slices.Reverse(b.Evidence)
	err = r.o.Store.Ledger().View(ctx, func(v ledger.View) error {
		b.Certificates = b.Certificates[:0]
		return v.EachIssued(machine, "", "", func(c ledger.Issued) error {
			b.Certificates = append(b.Certificates, c)
			return nil
		})
	})
	slices.Reverse(b.Certificates)
	return b, err
}

// declaredByAll is what all machines said last of their journals.
func (r *Reader) declaredByAll(ctx context.Context, f *fleet.Fleet, now time.Time) (ledger.Declarations, error) {
	open, err := r.openFaults(ctx)
	if err != nil {
		return nil, err
	}
	return fleet.Declared(f.Engine().Presence().Snapshot(now), open), nil
}

// declared is what one machine said last of its journal.
func (r *Reader) declared(ctx context.Context, f *fleet.Fleet, machine string) (ledger.Declarations, error) {
	var roster []presence.Saved
	if v, ok := f.Engine().Presence().View(machine); ok {
		roster = append(roster, presence.Saved{
			Machine: machine, LastHeartbeat: v.LastHeartbeat, Pending: v.Pending, PendingMinor: v.PendingMinor, Currency: v.Currency,
			OldestPending: v.OldestPending, Epoch: v.Epoch, LastSeq: v.LastSeq,
		})
	}
	open, err := r.openFaults(ctx)
	if err != nil {
		return nil, err
	}
	open = slices.DeleteFunc(slices.Clone(open), func(f faults.Fault) bool { return f.Subject.Machine != machine })
	return fleet.Declared(roster, open), nil
}

// Certificate gives the issued certificate of a machine's service day: that of a revision, or the newest for revision 0.
func (r *Reader) Certificate(ctx context.Context, machine, date string, revision uint32) (*ledger.Issued, error) {
	var c *ledger.Issued
	err := r.o.Store.Ledger().View(ctx, func(v ledger.View) (err error) {
		if revision == 0 {
			c, err = v.Issued(machine, date)
			return err
		}
		return v.EachIssued(machine, date, date, func(of ledger.Issued) error {
			if of.Revision == revision {
				c = &of
			}
			return nil
		})
	})
	if err == nil && c == nil {
		what := "none was issued"
		if revision > 0 {
			what = fmt.Sprintf("none of revision %d was issued", revision)
		}
		err = fmt.Errorf("the certificate of machine %s of %s: %w: %s", machine, date, ErrNotFound, what)
	}
	return c, err
}
