package ledger_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/fleet/ledger/ledgertest"
	"github.com/farebeat/farebeat/schemas"
)

// reconcile compares with an order file and returns the differences in one word each, and the days.
func (h *house) reconcile(file string, f ledger.Filter, d ledger.Declarations) (diffs []string, days []ledger.Reconciled, sum ledger.Reconciliation) {
	h.t.Helper()
	orders, err := ledger.ReadOrders(strings.NewReader(file), h.t.TempDir())
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() {
		if err := orders.Close(); err != nil {
			h.t.Error(err)
		}
	}()
	sum, err = h.Reconcile(context.Background(), orders, f, d,
		func(d ledger.Difference) error {
			diffs = append(diffs, fmt.Sprintf("%s %s/%d/%d line %d", d.Kind, d.Machine, d.Epoch, d.Seq, d.Line))
			return nil
		},
		func(r ledger.Reconciled) error { days = append(days, r); return nil })
	if err != nil {
		h.t.Fatal(err)
	}
	return diffs, days, sum
}

// TestReconcileAgreesWithAModel: whatever the ledger holds and whatever was ordered in whatever order, every record is
// judged as a table of all keys would judge it, and the sums are those of the table.
func TestReconcileAgreesWithAModel(t *testing.T) {
	rounds, most := 0, 100
	if underRace {
		most = 15 // each has a ledger of its own
	}
	defer func() { t.Logf("%d ledgers were compared", rounds) }()
	rapid.Check(t, func(rt *rapid.T) {
		if rounds == most {
			return
		}
		rounds++
		h := newHouse(t)
		type held struct {
			minor int64
			date  string
		}
		type key struct {
			machine    string
			epoch, seq uint32
		}
		ledgerHas := map[key]held{}
		for _, id := range []string{"a", "b", "b!"} {
			for epoch := uint32(1); epoch <= 2; epoch++ {
				m := ledgertest.New(t, id, "v", epoch)
				all := map[uint32]held{}
				m.Change = func(tx *schemas.Transaction) {
					tx.AmountMinor = rapid.Int64Range(-1, 2).Draw(rt, "amount")
					tx.ServiceDate = rapid.SampledFrom([]string{"2018-06-12", "2018-06-13"}).Draw(rt, "date")
					all[tx.Seq] = held{tx.AmountMinor, tx.ServiceDate}
				}
				m.Mint(4)
				for seq := uint32(1); seq <= 4; seq++ {
					if rapid.Bool().Draw(rt, "home") {
						h.take(m, seq, seq)
						ledgerHas[key{id, epoch, seq}] = all[seq]
					}
				}
			}
		}
		ordered := map[key][]int64{}
		file := []string{"machine,epoch,seq,amount"}
		for range rapid.IntRange(0, 25).Draw(rt, "orders") {
			k := key{rapid.SampledFrom([]string{"a", "b", "b!", "c"}).Draw(rt, "machine"), rapid.Uint32Range(1, 2).Draw(rt, "epoch"), rapid.Uint32Range(1, 5).Draw(rt, "seq")}
			amount := rapid.Int64Range(-1, 2).Draw(rt, "ordered")
			ordered[k] = append(ordered[k], amount)
			file = append(file, fmt.Sprintf("%s,%d,%d,%d", k.machine, k.epoch, k.seq, amount))
		}
		filter := ledger.Filter{Machine: rapid.SampledFrom([]string{"", "", "b"}).Draw(rt, "only"), From: rapid.SampledFrom([]string{"", "2018-06-13"}).Draw(rt, "from")}
		selected := func(k key) bool {
			h, there := ledgerHas[k]
			return (filter.Machine == "" || k.machine == filter.Machine) && (!there || h.date >= filter.From)
		}
		want := map[ledger.DifferenceKind]uint64{}
		var received, orders, unpriced, outside uint64
		var receivedSum, orderedSum int64
		for k, r := range ledgerHas {
			if !selected(k) {
				continue
			}
			received++
			receivedSum += r.minor
			switch o := ordered[k]; {
			case len(o) == 0 && r.minor != 0:
				want[ledger.NotOrdered]++
			case len(o) == 0:
				unpriced++
			case o[0] != r.minor:
				want[ledger.AmountDiffers]++
			}
		}
		for k, o := range ordered {
			if !selected(k) {
				outside += uint64(len(o))
				continue
			}
			orders++
			orderedSum += o[0]
			if _, there := ledgerHas[k]; !there {
				want[ledger.NotInLedger]++
			}
			if len(o) > 1 {
				want[ledger.OrderedTwice] += uint64(len(o) - 1)
			}
		}
		diffs, days, sum := h.reconcile(strings.Join(file, "\n"), filter, nil)
		if diff := cmp.Diff(want, sum.Kinds); diff != "" {
			rt.Fatalf("%s\n%v", diff, diffs)
		}
		if sum.Received.Records != received || sum.Verified.Records != received || sum.Ordered.Records != orders || sum.Unpriced != unpriced || sum.Outside != outside {
			rt.Fatalf("%+v; want %d received, %d ordered, %d unpriced, %d outside", sum, received, orders, unpriced, outside)
		}
		of := func(sums []ledger.Money) (n int64) {
			for _, m := range sums {
				n += m.Minor
			}
			return n
		}
		var byDay ledger.Reconciliation
		for i, d := range days {
			byDay.Differences += d.Differences
			byDay.Received.Records += d.Received.Records
			byDay.Ordered.Records += d.Ordered.Records
			if i > 0 && (days[i-1].Machine > d.Machine || days[i-1].Machine == d.Machine && days[i-1].ServiceDate >= d.ServiceDate) {
				rt.Fatalf("day %v after %v", d, days[i-1])
			}
		}
		if of(sum.Received.Sums) != receivedSum || of(sum.Ordered.Sums) != orderedSum || uint64(len(diffs)) != sum.Differences ||
			byDay.Differences != sum.Differences || byDay.Received.Records != received || byDay.Ordered.Records != orders {
			rt.Fatalf("sums %+v, by day %+v; want %d received, %d ordered", sum, byDay, receivedSum, orderedSum)
		}
	})
}

func TestReconcileSaysWhatIsDeclared(t *testing.T) {
	h := newHouse(t)
	m := twoDays(t, "m")
	h.take(m, 1, 4)
	h.take(m, 7, 12)
	d := ledger.Declarations{"m": {At: h.clock, Epochs: map[uint32]uint32{1: 15}, Pending: 11}}
	file := "machine,epoch,seq,amount\nm,1,5,225\nm,1,14,100\nm,1,99,1\n"
	diffs, days, _ := h.reconcile(file, ledger.Filter{}, d)
	if len(diffs) != 13 || len(days) != 3 || days[1].Declared != 10 || days[2].Declared != 5 || days[2].Received.Records != 2 {
		t.Errorf("%v %+v", diffs, days)
	}
	var states []string
	orders, err := ledger.ReadOrders(strings.NewReader(file), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer orders.Close()
	_, err = h.Reconcile(context.Background(), orders, ledger.Filter{}, d, func(d ledger.Difference) error {
		if d.Kind == ledger.NotInLedger {
			states = append(states, fmt.Sprintf("%d %s", d.Seq, d.Gap))
		}
		return nil
	}, func(ledger.Reconciled) error { return nil })
	if !slices.Equal(states, []string{"5 awaited", "14 awaited", "99 "}) || err != nil {
		t.Errorf("%v, %v", states, err)
	}
}

func BenchmarkReconcile(b *testing.B) {
	h := newHouse(b)
	const records = 20_000
	var file strings.Builder
	file.WriteString("machine,epoch,seq,amount_minor,currency\n")
	for i := range 10 {
		m := ledgertest.New(b, ledgertest.Name(i), "v", 1)
		for range records / 10 / 200 {
			m.Mint(200)
			h.take(m, uint32(len(m.Records))-199, uint32(len(m.Records)))
		}
		for seq := records / 10; seq > 0; seq-- { // the other way round, so that there is something to sort
			fmt.Fprintf(&file, "%s,1,%d,225,USD\n", m.ID, seq)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, _, sum := h.reconcile(file.String(), ledger.Filter{}, nil); sum.Differences != 0 || sum.Verified.Records != records {
			b.Fatal(sum)
		}
	}
	b.ReportMetric(records*float64(b.N)/b.Elapsed().Seconds(), "records/s")
}

func BenchmarkExport(b *testing.B) {
	h := newHouse(b)
	m := ledgertest.New(b, "m", "v", 1)
	for range 50 {
		m.Mint(200)
		h.take(m, uint32(len(m.Records))-199, uint32(len(m.Records)))
	}
	for _, format := range []ledger.Format{ledger.CSV, ledger.JSONLines} {
		b.Run(string(format), func(b *testing.B) {
			for b.Loop() {
				if n, err := h.Export(context.Background(), discard{}, format, ledger.Filter{}); n != 10_000 || err != nil {
					b.Fatal(n, err)
				}
			}
			b.ReportMetric(10_000*float64(b.N)/b.Elapsed().Seconds(), "records/s")
		})
	}
	b.Run("tides", func(b *testing.B) {
		for b.Loop() {
			if n, err := h.ExportTIDES(context.Background(), discard{}, discard{}, ledger.Filter{}); n.Transactions != 10_000 || err != nil {
				b.Fatal(n, err)
			}
		}
		b.ReportMetric(10_000*float64(b.N)/b.Elapsed().Seconds(), "records/s")
	})
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
