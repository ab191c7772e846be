package ledger

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/farebeat/farebeat/schemas"
)

// MaxAmount bounds the amount of one transaction, in minor units either way: with it no sum over a
// batch can overflow. Sums over more than that are checked.
const MaxAmount = 1_000_000_000_000

// arrival is one record of a batch whose form and MAC were found good.
type arrival struct {
	tx     schemas.Transaction
	record []byte
}

// incoming is a batch after everything that can be judged without the ledger.
type incoming struct {
	machine, vehicle string
	epoch            uint32
	span             Span
	at               time.Time
	good             []arrival // ascending seq, possibly with holes
	bad              []Quarantined
}

// judge checks every record of a batch: form, that it stands under the right key, MAC. One
// bad record does not keep its neighbors out.
func judge(b *envelope, vehicle string, key []byte, at time.Time) incoming {
	in := incoming{machine: b.Machine, vehicle: vehicle, epoch: b.Epoch, span: Span{b.First, b.Last}, at: at}
	for i, record := range b.Records {
		seq := b.First + uint32(i)
		tx, kind, why := judgeRecord(b.Machine, b.Epoch, seq, key, record)
		if kind == "" {
			in.good = append(in.good, arrival{tx, record})
			continue
		}
		in.bad = append(in.bad, in.evidence(kind, seq, record, nil, why))
	}
	return in
}

func judgeRecord(machine string, epoch, seq uint32, key, record []byte) (schemas.Transaction, Kind, string) {
	tx, err := schemas.VerifyTransaction(key, record)
	if err != nil {
		if errors.Is(err, schemas.ErrMAC) {
			return tx, Forged, err.Error()
		}
		return tx, Malformed, err.Error()
	}
	if tx.Machine != machine || tx.Epoch != epoch || tx.Seq != seq {
		return tx, Malformed, fmt.Sprintf("it is record %d-%d of machine %q, in the place of record %d-%d of machine %q",
			tx.Epoch, tx.Seq, tx.Machine, epoch, seq, machine)
	}
	if bytes.ContainsAny(record, "\r\n") {
		return tx, Malformed, "it is not compact JSON: a line ends within it"
	}
	if tx.AmountMinor > MaxAmount || tx.AmountMinor < -MaxAmount {
		return tx, Malformed, fmt.Sprintf("amount_minor %d is beyond %d, which no fare is", tx.AmountMinor, int64(MaxAmount))
	}
	return tx, "", ""
}

func (in incoming) evidence(kind Kind, seq uint32, record, held []byte, detail string) Quarantined {
	const longest = 500 // of a sentence for a person; the bytes are beside it
	if len(detail) > longest {
		detail = strings.ToValidUTF8(detail[:longest], "")
	}
	return Quarantined{
		Machine: in.machine, Epoch: in.epoch, Seq: seq, Kind: kind, Detail: detail, Vehicle: in.vehicle,
		Record: record, Held: held, FirstAt: in.at, LastAt: in.at, Times: 1,
	}
}

// plan is what a batch does to the ledger.
type plan struct {
	rows       []Row
	added      Spans
	days       []Day
	conflicts  []Quarantined
	broken     []Quarantined
	duplicates int
}

// decide compares a judged batch with held, the bytes that the ledger has under the keys of
// the batch and of its two neighbors.
func decide(in incoming, held map[uint32][]byte) plan {
	var p plan
	after := make(map[uint32]entry, len(held)+len(in.good)) // what the ledger holds afterwards
	for seq, record := range held {
		after[seq] = entry{record: record}
	}
	for _, a := range in.good {
		old, ok := held[a.tx.Seq]
		switch {
		case !ok:
			p.rows = append(p.rows, in.row(a))
			p.added = p.added.Add(Span{a.tx.Seq, a.tx.Seq})
			p.days = addDay(p.days, a.tx)
			after[a.tx.Seq] = entry{a.record, a.tx.Prev}
		case bytes.Equal(old, a.record):
			p.duplicates++
		default:
			p.conflicts = append(p.conflicts, in.evidence(Conflict, a.tx.Seq, a.record, old,
				"the machine signed another record under this key; the one that came first stays"))
		}
	}
	p.broken = in.breaks(p.rows, after)
	return p
}

// entry is a record on either side of a link.
type entry struct {
	record []byte
	prev   string // of the record; empty where it was not read yet
}

// follows reports whether e names want as the hash of its predecessor.
func (e entry) follows(want [sha256.Size]byte) bool {
	if e.prev == "" {
		tx, err := schemas.ParseTransaction(e.record)
		if err != nil {
			return false
		}
		e.prev = tx.Prev
	}
	return e.prev == encodeHash(want)
}

func (in incoming) row(a arrival) Row {
	return Row{
		Machine: in.machine, Epoch: in.epoch, Seq: a.tx.Seq, ServiceDate: a.tx.ServiceDate, EventTime: a.tx.EventTime,
		AmountMinor: a.tx.AmountMinor, Currency: a.tx.Currency, Vehicle: in.vehicle, ReceivedAt: in.at, Record: a.record,
	}
}

// breaks checks every link that came to be with the new rows: from each to the record before
// it, and to it from the one after it where that was here already. So each link is
// checked once, when the second of its two records arrives.
func (in incoming) breaks(rows []Row, after map[uint32]entry) []Quarantined {
	var broken []Quarantined
	fresh := make(map[uint32]bool, len(rows))
	for _, r := range rows {
		fresh[r.Seq] = true
	}
	for _, r := range rows {
		for _, seq := range []uint32{r.Seq, r.Seq + 1} {
			if seq != r.Seq && (fresh[seq] || seq == 0) {
				continue // it is checked as a new row itself, or is beyond the last number
			}
			if q, bad := in.link(seq, after); bad {
				broken = append(broken, q)
			}
		}
	}
	return broken
}

// link reports whether the record seq is here and does not follow the one before it.
func (in incoming) link(seq uint32, after map[uint32]entry) (Quarantined, bool) {
	e, ok := after[seq]
	if !ok {
		return Quarantined{}, false
	}
	if seq == 1 {
		if e.follows(schemas.Genesis(in.machine, in.epoch)) {
			return Quarantined{}, false
		}
		return in.evidence(BrokenChain, seq, e.record, nil, "its prev is not the beginning of its machine's epoch"), true
	}
	before, ok := after[seq-1]
	if !ok || e.follows(schemas.HashRecord(before.record)) {
		return Quarantined{}, false // one that is not here yet is checked when it comes
	}
	return in.evidence(BrokenChain, seq, e.record, before.record,
		"its prev is not the hash of the record before it: one of the two was not written after the other"), true
}

func encodeHash(h [sha256.Size]byte) string { return base64.RawURLEncoding.EncodeToString(h[:]) }

// addDay counts tx in the day that it belongs to. A batch has few days.
func addDay(days []Day, tx schemas.Transaction) []Day {
	for i := range days {
		d := &days[i]
		if d.ServiceDate == tx.ServiceDate && d.Currency == tx.Currency {
			d.First, d.Last = min(d.First, tx.Seq), max(d.Last, tx.Seq)
			d.Records++
			d.SumMinor += tx.AmountMinor
			return days
		}
	}
	return append(days, Day{
		Machine: tx.Machine, ServiceDate: tx.ServiceDate, Epoch: tx.Epoch, Currency: tx.Currency,
		First: tx.Seq, Last: tx.Seq, Records: 1, SumMinor: tx.AmountMinor,
	})
}
