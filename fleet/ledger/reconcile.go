package ledger

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/farebeat/farebeat/schemas"
)

// DifferenceKind is how ledger and order file disagree about a record.
type DifferenceKind string

// The kinds of difference.
const (
	NotOrdered    DifferenceKind = "not_ordered"   // in the ledger with an amount other than 0, and not ordered
	NotInLedger   DifferenceKind = "not_in_ledger" // ordered, and not in the ledger
	AmountDiffers DifferenceKind = "amount"        // ordered with another amount or currency
	OrderedTwice  DifferenceKind = "ordered_twice" // ordered before, on First
	NotVerified   DifferenceKind = "not_verified"  // in the ledger, and its MAC does not prove it: verify the ledger
)

// DifferenceKinds lists the kinds of difference.
func DifferenceKinds() []DifferenceKind {
	return []DifferenceKind{NotOrdered, NotInLedger, AmountDiffers, OrderedTwice, NotVerified}
}

// Difference is one record about which ledger and order file disagree.
type Difference struct {
	Kind        DifferenceKind `json:"kind"`
	Machine     string         `json:"machine"`
	Epoch       uint32         `json:"epoch"`
	Seq         uint32         `json:"seq"`
	ServiceDate string         `json:"service_date,omitempty"` // of the record in the ledger
	Held        *Money         `json:"held,omitempty"`         // in the ledger
	Ordered     *Money         `json:"ordered,omitempty"`      // currency empty: the file does not say
	Line        int            `json:"line,omitempty"`         // of the order
	First       int            `json:"first_line,omitempty"`   // of the first order of the same record
	// Gap is what is known of a record that the ledger lacks; empty where nothing says that it was ever written.
	Gap schemas.GapState `json:"gap,omitempty"`
}

// Amounts counts records and adds up their money by currency.
type Amounts struct {
	Records uint64  `json:"records"`
	Sums    []Money `json:"sums"`
}

func noAmounts() Amounts { return Amounts{Sums: []Money{}} }

func (a *Amounts) add(m Money) (err error) {
	a.Records++
	a.Sums, err = addMoney(a.Sums, m.Currency, m.Minor)
	return err
}

// Reconciled compares one service day of a machine. Orders that the ledger lacks have no service day: they stand under
// an empty one.
type Reconciled struct {
	Machine     string `json:"machine"`
	ServiceDate string `json:"service_date"`
	// Declared is how many records there are by the machine: those received, and the numbers missing that may belong to
	// the day. A gap between two days counts for both.
	Declared    uint64  `json:"declared"`
	Received    Amounts `json:"received"` // in the ledger
	Verified    Amounts `json:"verified"` // of them, those whose MAC was proved just now
	Ordered     Amounts `json:"ordered"`  // each record's first order
	Differences uint64  `json:"differences"`
}

// Reconciliation is the result of Reconcile over all machines.
type Reconciliation struct {
	Orders      uint64                    `json:"orders"`   // lines read
	Outside     uint64                    `json:"outside"`  // of them, those of machines and days that were not asked for
	Unpriced    uint64                    `json:"unpriced"` // records of amount 0 without an order, which is no difference
	Received    Amounts                   `json:"received"`
	Verified    Amounts                   `json:"verified"`
	Ordered     Amounts                   `json:"ordered"`
	Differences uint64                    `json:"differences"`
	Kinds       map[DifferenceKind]uint64 `json:"kinds"`
}

// Reconcile compares the records that the filter selects with orders, which it uses up. difference is called for each
// disagreement and day after them, machine by machine in ascending order. It keeps the days of one machine in
// memory and one page of records. With a filter by day, an order of a record of another day is counted as outside.
func (l *Ledger) Reconcile(ctx context.Context, orders *Orders, f Filter, declared Declarations,
	difference func(Difference) error, day func(Reconciled) error,
) (Reconciliation, error) {
	r := &reconciler{
		ctx: ctx, ledger: l, orders: orders, filter: f, declared: declared, difference: difference, day: day,
		sum: Reconciliation{
			Orders: orders.Count, Received: noAmounts(), Verified: noAmounts(), Ordered: noAmounts(), Kinds: map[DifferenceKind]uint64{},
		},
	}
	err := f.Check()
	if err == nil {
		err = l.machines(ctx, f, r.of)
	}
	if err == nil {
		err = r.foreign(func(orderKey) bool { return true })
	}
	if err != nil {
		return r.sum, fmt.Errorf("ledger: reconcile: %w", err)
	}
	return r.sum, nil
}

// reconciler walks ledger and orders side by side, both by machine, epoch and seq.
type reconciler struct {
	ctx        context.Context
	ledger     *Ledger
	orders     *Orders
	filter     Filter
	declared   Declarations
	difference func(Difference) error
	day        func(Reconciled) error
	sum        Reconciliation

	machine string // that is compared now
	key     []byte
	gaps    []Gap
	days    map[string]*Reconciled
}

// of compares one machine of the ledger.
func (r *reconciler) of(machine string) error {
	if err := r.foreign(func(k orderKey) bool { return k.machine < machine }); err != nil {
		return err
	}
	key, err := r.ledger.keys.Machine(r.ctx, machine)
	if err != nil {
		return err
	}
	r.key = key[:]
	if err := r.begin(machine); err != nil {
		return err
	}
	ranges, err := r.ledger.ranges(r.ctx, machine, r.filter)
	for i := 0; err == nil && i < len(ranges); i++ {
		err = r.ledger.Rows(r.ctx, machine, ranges[i].epoch, ranges[i].span, r.row)
	}
	if err == nil {
		err = r.before(orderKey{machine + "\x00", 0, 0})
	}
	if err != nil {
		return err
	}
	return r.end()
}

// begin reads what is missing of a machine, and how much of it may belong to each day.
func (r *reconciler) begin(machine string) error {
	d, known := r.declared[machine]
	var days []Day
	var held bool
	err := r.ledger.store.View(r.ctx, func(v View) (err error) {
		days = nil
		if r.gaps, err = gapsOf(v, machine, Filter{}, d, known); err != nil {
			return err
		}
		epochs, err := epochStatuses(v, machine)
		if err != nil {
			return err
		}
		held = d.holdsTails(withDeclared(epochs, d))
		return v.Days(machine, r.filter.From, r.filter.To, func(day Day) error {
			days = append(days, day)
			return nil
		})
	})
	r.machine, r.days = machine, map[string]*Reconciled{}
	for len(days) > 0 {
		n := 1 // days of the same date
		for n < len(days) && days[n].ServiceDate == days[0].ServiceDate {
			n++
		}
		for _, day := range joinCurrencies(days[:n]) {
			for _, g := range r.gaps {
				if g.mayBeOf(d, held)(day) {
					r.on(day.ServiceDate).Declared += g.Len()
				}
			}
		}
		days = days[n:]
	}
	return err
}

func (r *reconciler) on(date string) *Reconciled {
	d := r.days[date]
	if d == nil {
		d = &Reconciled{Machine: r.machine, ServiceDate: date, Received: noAmounts(), Verified: noAmounts(), Ordered: noAmounts()}
		r.days[date] = d
	}
	return d
}

// end tells the days of the machine.
func (r *reconciler) end() error {
	for _, date := range slices.Sorted(maps.Keys(r.days)) {
		if err := r.day(*r.days[date]); err != nil {
			return err
		}
	}
	return nil
}

// row compares one record of the ledger with its orders.
func (r *reconciler) row(row Row) error {
	k := orderKey{r.machine, row.Epoch, row.Seq}
	if err := r.before(k); err != nil {
		return err
	}
	if !r.filter.includes(row.ServiceDate) {
		return r.skip(func(o orderKey) bool { return o == k })
	}
	held := Money{row.Currency, row.AmountMinor}
	d := r.on(row.ServiceDate)
	d.Declared++
	err := errors.Join(d.Received.add(held), r.sum.Received.add(held))
	diff := Difference{Machine: r.machine, Epoch: row.Epoch, Seq: row.Seq, ServiceDate: row.ServiceDate, Held: &held}
	if _, problem := proveRow(r.machine, r.key, row); problem == "" {
		err = errors.Join(err, d.Verified.add(held), r.sum.Verified.add(held))
	} else {
		err = errors.Join(err, r.tell(d, diff, NotVerified))
	}
	if err != nil {
		return err
	}
	first, there := r.orders.peek()
	if !there || first.key() != k {
		if held.Minor == 0 {
			r.sum.Unpriced++
			return nil
		}
		return r.tell(d, diff, NotOrdered)
	}
	return r.ordered(d, diff, first, held.Currency)
}

// ordered takes the orders of one record: the first counts, the others are too many.
func (r *reconciler) ordered(d *Reconciled, diff Difference, first Order, currency string) error {
	if first.Currency != "" {
		currency = first.Currency
	}
	money := Money{currency, first.Minor}
	if err := errors.Join(r.orders.take(), d.Ordered.add(money), r.sum.Ordered.add(money)); err != nil {
		return err
	}
	diff.Line, diff.Ordered = first.Line, &money
	kind := AmountDiffers
	if diff.Held == nil {
		kind = NotInLedger
	}
	if diff.Held == nil || *diff.Held != money {
		if err := r.tell(d, diff, kind); err != nil {
			return err
		}
	}
	for {
		again, there := r.orders.peek()
		if !there || again.key() != first.key() {
			return nil
		}
		if again.Currency != "" {
			currency = again.Currency
		}
		diff.Line, diff.First, diff.Ordered = again.Line, first.Line, &Money{currency, again.Minor}
		if err := errors.Join(r.orders.take(), r.tell(d, diff, OrderedTwice)); err != nil {
			return err
		}
	}
}

func (r *reconciler) tell(d *Reconciled, diff Difference, kind DifferenceKind) error {
	diff.Kind = kind
	d.Differences++
	r.sum.Differences++
	r.sum.Kinds[kind]++
	return r.difference(diff)
}

// before takes the machine's orders below k: the ledger has none of them among the selected records.
func (r *reconciler) before(k orderKey) error {
	for {
		o, there := r.orders.peek()
		if !there || o.key().compare(k) >= 0 {
			return nil
		}
		if err := r.lacking(o); err != nil {
			return err
		}
	}
}

// lacking takes an order of which the ledger has no record among the selected.
func (r *reconciler) lacking(o Order) error {
	if r.filter.dated() {
		there := false
		err := r.ledger.store.View(r.ctx, func(v View) error {
			there = false
			return v.Records(o.Machine, o.Epoch, Span{o.Seq, o.Seq}, func(Row) error { there = true; return nil })
		})
		if err != nil {
			return err
		}
		if there { // of another day
			return r.skip(func(k orderKey) bool { return k == o.key() })
		}
	}
	diff := Difference{Machine: o.Machine, Epoch: o.Epoch, Seq: o.Seq, Gap: r.gap(o)}
	return r.ordered(r.on(""), diff, o, "")
}

// gap tells what is known of a record that is not here.
func (r *reconciler) gap(o Order) schemas.GapState {
	for _, g := range r.gaps {
		if g.Epoch == o.Epoch && g.First <= o.Seq && o.Seq <= g.Last {
			return g.State
		}
	}
	return ""
}

// foreign takes the orders of machines of which the ledger has nothing, as long as they are so.
func (r *reconciler) foreign(so func(orderKey) bool) error {
	for {
		o, there := r.orders.peek()
		if !there || !so(o.key()) {
			return nil
		}
		if r.filter.Machine != "" && o.Machine != r.filter.Machine {
			if err := r.skip(func(k orderKey) bool { return k.machine == o.Machine }); err != nil {
				return err
			}
			continue
		}
		if err := r.begin(o.Machine); err != nil {
			return err
		}
		if err := r.before(orderKey{o.Machine + "\x00", 0, 0}); err != nil {
			return err
		}
		if err := r.end(); err != nil {
			return err
		}
	}
}

// skip takes orders that were not asked for.
func (r *reconciler) skip(so func(orderKey) bool) error {
	for {
		o, there := r.orders.peek()
		if !there || !so(o.key()) {
			return nil
		}
		r.sum.Outside++
		if err := r.orders.take(); err != nil {
			return err
		}
	}
}
