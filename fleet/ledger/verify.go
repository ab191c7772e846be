package ledger

import (
	"context"
	"errors"
	"fmt"

	"github.com/farebeat/farebeat/schemas"
)

// Proof is the result of Verify.
type Proof struct {
	Machines    uint64       `json:"machines"`
	Epochs      uint64       `json:"epochs"`
	Records     uint64       `json:"records"`
	Money       []Money      `json:"money"`       // sums of the records that were proved, by currency
	Missing     uint64       `json:"missing"`     // numbers in gaps: not yet here, no damage
	Unlinked    uint64       `json:"unlinked"`    // records behind a gap: their link waits for the record before them
	Quarantined map[Kind]int `json:"quarantined"` // evidence that waits for a person
	Problems    uint64       `json:"problems"`    // findings, also those beyond MaxFindings
	Findings    []Finding    `json:"findings"`    // the first MaxFindings
}

// OK reports whether every record was proved and the ledger's own bookkeeping agrees with them.
func (p Proof) OK() bool { return p.Problems == 0 }

// MaxFindings bounds the findings that a Proof lists.
const MaxFindings = 1000

// Finding is one thing that Verify could not prove.
type Finding struct {
	Machine string `json:"machine"`
	Epoch   uint32 `json:"epoch"`
	Seq     uint32 `json:"seq,omitempty"` // 0: the epoch as a whole
	Problem string `json:"problem"`
}

// String is the finding in one line.
func (f Finding) String() string {
	if f.Seq == 0 {
		return fmt.Sprintf("machine %s, epoch %d: %s", f.Machine, f.Epoch, f.Problem)
	}
	return fmt.Sprintf("machine %s, record %d-%d: %s", f.Machine, f.Epoch, f.Seq, f.Problem)
}

// progressEvery is how many records Verify proves between two words on its progress.
const progressEvery = 10_000

// Progress is how far Verify is.
type Progress struct {
	Machines uint64 // proved
	Records  uint64 // proved
	Total    uint64 // records in the ledger at the beginning
}

// Verify proves the ledger anew from the records' bytes: form and MAC of every record, every
// link of every chain, and that spans and day sums say exactly what the records say. Each
// machine is read in one snapshot; taking in goes on meanwhile. Of f only Machine selects: a chain
// has no days. progress (nil for none) is called after each machine and every progressEvery records. The error is about
// reading; what is wrong is in the Proof. What it keeps in memory grows with gaps and days, not with records.
func (l *Ledger) Verify(ctx context.Context, f Filter, progress func(Progress)) (Proof, error) {
	totals, err := l.Totals(ctx, Filter{Machine: f.Machine})
	if err != nil {
		return Proof{}, err
	}
	p := &prover{proof: Proof{Quarantined: totals.Quarantined, Findings: []Finding{}}}
	p.tell = func() {
		if progress != nil {
			progress(Progress{p.proof.Machines, p.proof.Records, max(totals.Records, p.proof.Records)})
		}
	}
	err = l.machines(ctx, Filter{Machine: f.Machine}, func(machine string) error {
		key, err := l.keys.Machine(ctx, machine)
		if err != nil {
			return fmt.Errorf("ledger: verify machine %q: %w", machine, err)
		}
		p.machine, p.key = machine, key[:]
		if err := l.store.View(ctx, p.prove); err != nil {
			return fmt.Errorf("ledger: verify machine %q: %w", machine, err)
		}
		p.proof.Machines++
		p.tell()
		return nil
	})
	return p.proof, err
}

// prover goes through one machine after the other.
type prover struct {
	proof   Proof
	tell    func() // of progress
	machine string
	key     []byte
	days    map[dayKey]Day // as the machine's records add up
}

type dayKey struct {
	date     string
	epoch    uint32
	currency string
}

func (p *prover) find(epoch, seq uint32, format string, args ...any) {
	p.proof.Problems++
	if len(p.proof.Findings) < MaxFindings {
		p.proof.Findings = append(p.proof.Findings, Finding{p.machine, epoch, seq, fmt.Sprintf(format, args...)})
	}
}

func (p *prover) prove(v View) error {
	epochs, err := v.Epochs(p.machine)
	if err != nil {
		return err
	}
	p.days = map[dayKey]Day{}
	for _, epoch := range epochs {
		if err := p.proveEpoch(v, epoch); err != nil {
			return err
		}
	}
	return p.proveDays(v)
}

// proveEpoch walks the records and builds the spans anew. Records come in order, so only the
// last span grows.
func (p *prover) proveEpoch(v View, epoch uint32) error {
	p.proof.Epochs++
	var built Spans
	var before Row
	err := v.Records(p.machine, epoch, Every(), func(r Row) error {
		if p.proof.Records++; p.proof.Records%progressEvery == 0 {
			p.tell()
		}
		if n := len(built); n > 0 && built[n-1].Last+1 == r.Seq {
			built[n-1].Last = r.Seq
		} else {
			built = append(built, Span{r.Seq, r.Seq})
		}
		p.proveRecord(r, before)
		before = r
		return nil
	})
	if err != nil {
		return err
	}
	stored, err := v.Spans(p.machine, epoch, Every(), 0)
	if err != nil {
		return err
	}
	p.proof.Missing += stored.Gaps().Len()
	p.compareSpans(epoch, stored, built)
	return nil
}

func (p *prover) compareSpans(epoch uint32, stored, built Spans) {
	if !stored.valid() {
		p.find(epoch, 0, "the spans %v overlap or are out of order", stored)
		return
	}
	for _, s := range built.minus(stored) {
		p.find(epoch, s.First, "records %d to %d are here, but the ledger does not say so: receipts leave them out", s.First, s.Last)
	}
	for _, s := range stored.minus(built) {
		p.find(epoch, s.First, "records %d to %d are gone: the ledger says that it holds them", s.First, s.Last)
	}
}

func (p *prover) proveRecord(r, before Row) {
	tx, problem := proveRow(p.machine, p.key, r)
	if tx.MAC == "" {
		p.find(r.Epoch, r.Seq, "%s", problem)
		return
	}
	p.addUp(r, tx)
	if problem != "" {
		p.find(r.Epoch, r.Seq, "%s", problem)
	}
	switch proveLink(r, before, tx.Prev) {
	case linkWaits:
		p.proof.Unlinked++
	case linkBroken:
		p.find(r.Epoch, r.Seq, "the chain is broken: prev is not the hash of the record before it")
	}
}

// proveRow proves a record's form and MAC, and holds the columns beside it against it. The transaction is empty where
// the record itself is not good; problem says what is wrong.
func proveRow(machine string, key []byte, r Row) (tx schemas.Transaction, problem string) {
	tx, kind, why := judgeRecord(machine, r.Epoch, r.Seq, key, r.Record)
	if kind != "" {
		return schemas.Transaction{}, fmt.Sprintf("%s: %s", kind, why)
	}
	if r.ServiceDate != tx.ServiceDate || r.AmountMinor != tx.AmountMinor || r.Currency != tx.Currency || r.EventTime.UnixMilli() != tx.EventTime.UnixMilli() {
		problem = fmt.Sprintf("the columns beside the record say %s, %d %s, %d ms; the record says %s, %d %s, %d ms", r.ServiceDate, r.AmountMinor,
			r.Currency, r.EventTime.UnixMilli(), tx.ServiceDate, tx.AmountMinor, tx.Currency, tx.EventTime.UnixMilli())
	}
	return tx, problem
}

// How a record is linked to the one before it.
const (
	linkHolds  = iota
	linkWaits  // the record before it is not here: a gap, no damage
	linkBroken // it does not name the record before it
)

// proveLink proves the link from r, whose prev is prev, to the record before it; before is the last one of its epoch that
// is here, empty for none.
func proveLink(r, before Row, prev string) int {
	want := schemas.Genesis(r.Machine, r.Epoch)
	if r.Seq != 1 {
		if before.Seq != r.Seq-1 {
			return linkWaits
		}
		want = schemas.HashRecord(before.Record)
	}
	if prev != encodeHash(want) {
		return linkBroken
	}
	return linkHolds
}

// addUp adds a proved record to the sums.
func (p *prover) addUp(r Row, tx schemas.Transaction) {
	k := dayKey{tx.ServiceDate, tx.Epoch, tx.Currency}
	d, ok := p.days[k]
	if !ok {
		d = Day{Machine: p.machine, ServiceDate: tx.ServiceDate, Epoch: tx.Epoch, Currency: tx.Currency, First: tx.Seq}
	}
	d.First, d.Last = min(d.First, tx.Seq), max(d.Last, tx.Seq)
	d.Records++
	var errDay, errAll error
	d.SumMinor, errDay = addMinor(d.SumMinor, tx.AmountMinor)
	p.proof.Money, errAll = addMoney(p.proof.Money, tx.Currency, tx.AmountMinor)
	if err := errors.Join(errDay, errAll); err != nil {
		p.find(r.Epoch, r.Seq, "%v", err)
	}
	p.days[k] = d
}

// proveDays holds the stored day sums against those of the records.
func (p *prover) proveDays(v View) error {
	err := v.Days(p.machine, "", "", func(d Day) error {
		k := dayKey{d.ServiceDate, d.Epoch, d.Currency}
		if got := p.days[k]; got != d {
			p.find(d.Epoch, 0, "service day %s says %d records from %d to %d and %d %s; the records give %d from %d to %d and %d",
				d.ServiceDate, d.Records, d.First, d.Last, d.SumMinor, d.Currency, got.Records, got.First, got.Last, got.SumMinor)
		}
		delete(p.days, k)
		return nil
	})
	for k, d := range p.days {
		p.find(k.epoch, 0, "service day %s has %d records of %s, but the ledger does not list it", k.date, d.Records, k.currency)
	}
	return err
}

// minus are the numbers of s that are not in o.
func (s Spans) minus(o Spans) Spans {
	var out Spans
	for _, span := range s {
		for len(o) > 0 && o[0].Last < span.First {
			o = o[1:]
		}
		next, open := span.First, true // what is left of span begins at next
		for i := 0; open && i < len(o) && o[i].First <= span.Last; i++ {
			if o[i].First > next {
				out = append(out, Span{next, o[i].First - 1})
			}
			if open = o[i].Last < span.Last; open {
				next = o[i].Last + 1
			}
		}
		if open {
			out = append(out, Span{next, span.Last})
		}
	}
	return out
}
