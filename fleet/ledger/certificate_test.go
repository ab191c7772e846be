package ledger_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/farebeat/farebeat/fleet/keys"
	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/fleet/ledger/ledgertest"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/schemas/check"
)

func (h *house) certifier(d ledger.Declarations) *ledger.Certifier {
	return h.Certifier(ledgertest.Keys(h.t).(keys.Signer), d)
}

func (h *house) issue(c *ledger.Certifier, machine, date string) (ledger.Certified, bool) {
	h.t.Helper()
	out, fresh, err := c.Issue(context.Background(), machine, date)
	if err != nil {
		h.t.Fatal(err)
	}
	public, err := ledgertest.Keys(h.t).(keys.Signer).Public(context.Background())
	if err != nil {
		h.t.Fatal(err)
	}
	if opened, err := schemas.OpenCertificate(public, out.Body); err != nil || !cmp.Equal(opened, out.Certificate) {
		h.t.Fatalf("what was issued does not open: %v", err)
	}
	checker, err := check.New()
	if err == nil {
		err = checker.Validate(schemas.NameCertificate, out.Body)
	}
	if err != nil {
		h.t.Fatalf("what was issued breaks its schema: %v", err)
	}
	return out, fresh
}

func (h *house) check(c *ledger.Certifier, b []byte) ledger.Judgment {
	h.t.Helper()
	_, j, err := c.Check(context.Background(), b)
	if err != nil {
		h.t.Fatal(err)
	}
	return j
}

// hashOf is the documented formula, spelled out.
func hashOf(records [][]byte) string {
	var all []byte
	for _, r := range records {
		one := sha256.Sum256(r)
		all = append(all, one[:]...)
	}
	sum := sha256.Sum256(all)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func TestCertificateOfADay(t *testing.T) {
	h := newHouse(t)
	old := twoDays(t, "m") // epoch 1: records 1 to 10 on the 12th in dollars, 11 to 20 on the 13th in yen
	h.take(old, 1, 20)
	next := ledgertest.New(t, "m", "v", 2)
	next.Change = func(tx *schemas.Transaction) { tx.ServiceDate = "2018-06-13" }
	h.take(next.Mint(9), 1, 2)
	h.take(next, 5, 9)
	at := h.clock.Add(-time.Hour)
	c := h.certifier(ledger.Declarations{"m": {At: at, Epochs: map[uint32]uint32{2: 12}, Pending: 10}})
	got, fresh := h.issue(c, "m", "2018-06-13")
	want := schemas.Certificate{
		Machine: "m", ServiceDate: "2018-06-13", Revision: 1, IssuedAt: h.clock,
		Epochs: []schemas.CertifiedEpoch{
			{Epoch: 1, First: 11, Last: 20, Records: 10, CompleteTo: 20},
			{Epoch: 2, First: 1, Last: 9, Records: 7, CompleteTo: 2, Gaps: []schemas.DayGap{{First: 3, Last: 4, State: schemas.GapAwaited}, {First: 10, Last: 12, State: schemas.GapAwaited}}},
		},
		Received: 17, Verified: 17, Missing: 5, Sums: []schemas.CertifiedSum{{Currency: "JPY", Minor: 1000}, {Currency: "USD", Minor: 7 * 225}},
		Declared:    &schemas.DeclaredJournal{At: at, Epoch: 2, LastSeq: 12, Pending: 10},
		RecordsHash: hashOf(slices.Concat(old.Records[10:], next.Records[:2], next.Records[4:9])), Signature: got.Signature,
	}
	if diff := cmp.Diff(want, got.Certificate); !fresh || diff != "" {
		t.Error(fresh, diff)
	}
	before, _ := h.issue(c, "m", "2018-06-12")
	if !before.Complete || before.Missing != 0 || before.Epochs[0].CompleteTo != 10 {
		t.Errorf("the day before: %+v", before.Certificate)
	}
	if _, there, err := c.Certify(context.Background(), "m", "2018-06-14"); there || err != nil {
		t.Errorf("a day without records: %v, %v", there, err)
	}
	if _, _, err := c.Certify(context.Background(), "m", "today"); err == nil {
		t.Error("a date that is none was taken")
	}
}

func TestIssuedCertificatesNeverChange(t *testing.T) {
	h := newHouse(t)
	m := ledgertest.New(t, "m", "v", 1).Mint(20)
	h.take(m, 1, 4)
	h.take(m, 7, 10)
	c := h.certifier(nil)
	first, _ := h.issue(c, "m", "2018-06-12")
	if first.Complete || first.Missing != 2 || h.check(c, first.Body) != ledger.Holds {
		t.Errorf("with a gap: %+v", first.Certificate)
	}
	h.clock = h.clock.Add(time.Hour)
	if again, fresh := h.issue(c, "m", "2018-06-12"); fresh || !bytes.Equal(again.Body, first.Body) {
		t.Error("the same day was issued anew")
	}
	h.take(m, 5, 6) // what was missing comes
	if j := h.check(c, first.Body); j != ledger.Differs {
		t.Errorf("before it is issued anew: %s", j)
	}
	second, fresh := h.issue(c, "m", "2018-06-12")
	if !fresh || !second.Complete || second.Revision != 2 || second.Previous != first.Signature {
		t.Errorf("the second: %v %+v", fresh, second.Certificate)
	}
	if h.check(c, first.Body) != ledger.Superseded || h.check(c, second.Body) != ledger.Holds {
		t.Error("the first holds beside the second")
	}
	h.take(m, 11, 12) // late records of the same day
	third, fresh := h.issue(c, "m", "2018-06-12")
	if !fresh || third.Revision != 3 || third.Previous != second.Signature || third.Received != 12 {
		t.Errorf("the third: %v %+v", fresh, third.Certificate)
	}
	// A complete day stays complete: that the machine writes on after it changes nothing.
	on := h.certifier(ledger.Declarations{"m": {At: h.clock, Epochs: map[uint32]uint32{1: 13}, Pending: 1}})
	if again, fresh := h.issue(on, "m", "2018-06-12"); fresh || !bytes.Equal(again.Body, third.Body) {
		t.Errorf("a complete day was opened again: %+v", again.Certificate)
	}
	// A conflict that comes later is said.
	twin := ledgertest.New(t, "m", "v", 1)
	twin.Change = func(tx *schemas.Transaction) { tx.AmountMinor = 999 }
	h.take(twin.Mint(1), 1, 1)
	fourth, fresh := h.issue(c, "m", "2018-06-12")
	if !fresh || fourth.Quarantined.Conflicts != 1 || fourth.RecordsHash != third.RecordsHash || !fourth.Complete {
		t.Errorf("the fourth: %v %+v", fresh, fourth.Certificate)
	}
	var kept []uint32
	if err := c.Issued(context.Background(), ledger.Filter{Machine: "m"}, func(i ledger.Issued) error { kept = append(kept, i.Revision); return nil }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]uint32{1, 2, 3, 4}, kept); diff != "" {
		t.Error(diff)
	}
	// A ledger that was restored from a backup does not know what it issued later.
	restored := newHouse(t)
	restored.take(m, 1, 12)
	if j := restored.check(restored.certifier(nil), fourth.Body); j != ledger.Unknown {
		t.Errorf("a certificate of another ledger: %s", j)
	}
	drawn, _, err := restored.certifier(nil).Certify(context.Background(), "m", "2018-06-12")
	if err != nil || drawn.Revision != 0 || restored.check(restored.certifier(nil), drawn.Body) != ledger.Holds {
		t.Errorf("one that was not issued: %+v, %v", drawn.Certificate, err)
	}
	if _, _, err := c.Check(context.Background(), bytes.Replace(fourth.Body, []byte(`"received":12`), []byte(`"received":13`), 1)); err == nil {
		t.Error("a changed certificate holds")
	}
}

// TestTheChainOfADayReachesBack: the first record of a day is held against the last of the day before.
func TestTheChainOfADayReachesBack(t *testing.T) {
	h := newHouse(t)
	h.take(twoDays(t, "m"), 1, 10)
	other := ledgertest.New(t, "m", "v", 1)
	other.Change = func(tx *schemas.Transaction) { tx.AmountMinor = 300; tx.ServiceDate = "2018-06-13" }
	h.take(other.Mint(20), 11, 20)
	c, _, err := h.certifier(nil).Certify(context.Background(), "m", "2018-06-13")
	if err != nil || !c.Complete || c.Verified != 10 || c.Quarantined.BrokenChain != 1 {
		t.Errorf("%+v, %v", c.Certificate, err)
	}
	if p := h.prove(); p.OK() || p.Problems != 1 || p.Unlinked != 0 {
		t.Errorf("proof %+v", p)
	}
}

func TestIssueDueIssuesWhatIsNew(t *testing.T) {
	h := newHouse(t)
	for i := range 3 {
		h.take(twoDays(t, ledgertest.Name(i)), 1, 20)
	}
	c := h.certifier(nil)
	due := func(from, to int) int { // of June
		t.Helper()
		day := func(n int) time.Time { return time.Date(2018, 6, n, 23, 0, 0, 0, time.UTC) }
		n, err := c.IssueDue(context.Background(), day(from), day(to))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for i, step := range []struct {
		from, to, want int
	}{{1, 12, 3}, {1, 12, 0}, {1, 13, 3}, {14, 30, 0}, {13, 12, 0}} {
		if n := due(step.from, step.to); n != step.want {
			t.Errorf("step %d: %d issued, want %d", i, n, step.want)
		}
	}
	late := twoDays(t, ledgertest.Name(1)).Mint(1) // 21 of the 13th
	h.take(late, 21, 21)
	if n := due(1, 30); n != 1 {
		t.Errorf("%d issued after a late record", n)
	}
	var days []string
	if err := c.Days(context.Background(), ledger.Filter{From: "2018-06-13"}, func(d ledger.MachineDay) error {
		days = append(days, d.Date+" "+d.Machine)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"2018-06-13 00000-1", "2018-06-13 00001-1", "2018-06-13 00002-1"}, days); diff != "" {
		t.Error(diff)
	}
}

// noKeyOf is a key store that does not know one machine.
type noKeyOf struct {
	keys.Keys
	machine string
}

func (k noKeyOf) Machine(ctx context.Context, machine string) ([keys.Size]byte, error) {
	if machine == k.machine {
		return [keys.Size]byte{}, errors.New("the module does not know it")
	}
	return k.Keys.Machine(ctx, machine)
}

func TestOneMachineDoesNotHoldUpTheOthers(t *testing.T) {
	h := newHouse(t)
	for i := range 3 {
		h.take(twoDays(t, ledgertest.Name(i)), 1, 20)
	}
	master := ledgertest.Keys(t)
	l := ledger.New(h.store.Ledger(), noKeyOf{master, ledgertest.Name(1)}, func() time.Time { return h.clock })
	n, err := l.Certifier(master.(keys.Signer), nil).IssueDue(context.Background(), h.clock, h.clock.AddDate(0, 0, 1))
	if n != 4 || err == nil || !strings.Contains(err.Error(), `2 days of machines are not certified, the first: ledger: certify machine "00001-1"`) {
		t.Errorf("%d issued, %v", n, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := l.Certifier(master.(keys.Signer), nil).IssueDue(ctx, h.clock, h.clock); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
}

type noSigner struct{ keys.Signer }

func (noSigner) Sign(context.Context, []byte) ([]byte, error) {
	return nil, errors.New("the module is locked")
}

func TestWithoutASignatureNothingIsIssued(t *testing.T) {
	h := newHouse(t)
	h.take(ledgertest.New(t, "m", "v", 1).Mint(2), 1, 2)
	c := h.Certifier(noSigner{}, nil)
	if _, fresh, err := c.Issue(context.Background(), "m", "2018-06-12"); fresh || err == nil {
		t.Errorf("%v, %v", fresh, err)
	}
	if err := c.Issued(context.Background(), ledger.Filter{}, func(ledger.Issued) error { return errors.New("there is one") }); err != nil {
		t.Error(err)
	}
}

// TestCertificateAgreesWithTheRecords: in whatever order batches of whatever days came, a certificate says of every day
// what the records say, and is complete exactly if no number is missing that may be of the day.
func TestCertificateAgreesWithTheRecords(t *testing.T) {
	h := newHouse(t)
	c := h.certifier(nil)
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		id := ledgertest.Name(round)
		dates := []string{"2018-06-11", "2018-06-12", "2018-06-13"}
		m := ledgertest.New(t, id, "v", 1)
		of := map[uint32]string{}
		m.Change = func(tx *schemas.Transaction) {
			tx.ServiceDate = rapid.SampledFrom(dates).Draw(rt, "date")
			of[tx.Seq] = tx.ServiceDate
		}
		m.Mint(12)
		here := map[uint32]bool{}
		for range rapid.IntRange(1, 5).Draw(rt, "batches") {
			first := rapid.Uint32Range(1, 12).Draw(rt, "first")
			last := rapid.Uint32Range(first, 12).Draw(rt, "last")
			h.take(m, first, last)
			for seq := first; seq <= last; seq++ {
				here[seq] = true
			}
		}
		for _, date := range dates {
			var records [][]byte
			var first, last, highest uint32
			for seq := uint32(1); seq <= 12; seq++ {
				if here[seq] {
					highest = seq
					if of[seq] == date {
						records = append(records, m.Records[seq-1])
						if last = seq; first == 0 {
							first = seq
						}
					}
				}
			}
			cert, there, err := c.Certify(context.Background(), id, date)
			if err != nil || there != (len(records) > 0) {
				rt.Fatalf("%s: %v, %v", date, there, err)
			}
			if !there {
				continue
			}
			complete := true // no hole between, next before and next after the day's records
			for seq := max(first, 2) - 1; seq <= last+1 && seq < highest; seq++ {
				complete = complete && here[seq]
			}
			if cert.RecordsHash != hashOf(records) || cert.Received != uint64(len(records)) || cert.Verified != cert.Received || cert.Complete != complete {
				rt.Fatalf("%s: %+v, want %d records, complete %v", date, cert.Certificate, len(records), complete)
			}
		}
	})
}

func TestWhatBecomesOfGaps(t *testing.T) {
	heard := time.Date(2018, 6, 12, 11, 0, 0, 0, time.UTC)
	says := func(pending uint32, epochs map[uint32]uint32) ledger.Declarations {
		return ledger.Declarations{"m": {At: heard, Epochs: epochs, Pending: pending}}
	}
	for name, c := range map[string]struct {
		declared ledger.Declarations
		forge    []uint32
		want     []string
	}{
		"never heard":             {nil, nil, []string{"1 5-6 unknown 0 false"}},
		"it holds some":           {says(3, map[uint32]uint32{1: 10}), nil, []string{"1 5-6 awaited 0 false"}},
		"it holds none":           {says(0, map[uint32]uint32{1: 10}), nil, []string{"1 5-6 gone 0 false"}},
		"heard before it wrote":   {says(0, map[uint32]uint32{1: 4}), nil, []string{"1 5-6 unknown 0 false"}},
		"heard of a newer epoch":  {says(0, map[uint32]uint32{2: 3}), nil, []string{"2 1-3 gone 0 true", "1 5-6 gone 0 false"}},
		"heard of an older epoch": {says(0, map[uint32]uint32{}), nil, []string{"1 5-6 unknown 0 false"}},
		"it wrote more":           {says(9, map[uint32]uint32{1: 12}), nil, []string{"1 5-6 awaited 0 false", "1 11-12 awaited 0 true"}},
		"one was forged":          {says(9, map[uint32]uint32{1: 10}), []uint32{5}, []string{"1 5-6 awaited 1 false"}},
		"both were forged":        {says(9, map[uint32]uint32{1: 10}), []uint32{5, 6}, []string{"1 5-6 unreadable 2 false"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			m := ledgertest.New(t, "m", "v", 1).Mint(10)
			h.take(m, 1, 4)
			h.take(m, 7, 10)
			for _, seq := range c.forge {
				forger := ledgertest.New(t, "m", "v", 1)
				forger.Key[0] ^= 1
				forger.Mint(10)
				h.take(forger, seq, seq)
			}
			var got []string
			if err := h.Gaps(context.Background(), ledger.Filter{}, c.declared, func(g ledger.Gap) error {
				got = append(got, fmt.Sprintf("%d %d-%d %s %d %v", g.Epoch, g.First, g.Last, g.State, g.Quarantined, g.Tail))
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestTheTailOfAnotherDay: what a machine still holds cannot be of a day that was over before the oldest of it was written.
func TestTheTailOfAnotherDay(t *testing.T) {
	h := newHouse(t)
	h.take(ledgertest.New(t, "m", "v", 1).Mint(3), 1, 3)
	for oldest, missing := range map[string]uint64{"2018-06-12T23:00:00Z": 2, "2018-06-13T23:59:59Z": 2, "2018-06-14T00:00:00Z": 0, "": 2} {
		d := ledger.Declaration{At: h.clock, Epochs: map[uint32]uint32{1: 5}, Pending: 5}
		if oldest != "" {
			var err error
			if d.OldestPending, err = time.Parse(time.RFC3339, oldest); err != nil {
				t.Fatal(err)
			}
		}
		c, _, err := h.certifier(ledger.Declarations{"m": d}).Certify(context.Background(), "m", "2018-06-12")
		if err != nil || c.Missing != missing || c.Complete != (missing == 0) {
			t.Errorf("oldest %q: %+v, %v", oldest, c.Certificate, err)
		}
	}
	// It holds one of the two, from the 14th: the other is gone, and may be of any day.
	gone := ledger.Declaration{At: h.clock, Epochs: map[uint32]uint32{1: 5}, Pending: 1, OldestPending: time.Date(2018, 6, 14, 0, 0, 0, 0, time.UTC)}
	if c, _, err := h.certifier(ledger.Declarations{"m": gone}).Certify(context.Background(), "m", "2018-06-12"); err != nil || c.Missing != 2 || c.Complete {
		t.Errorf("with a part of the tail gone: %+v, %v", c.Certificate, err)
	}
	// An epoch that only the machine speaks of may be of the day too.
	d := ledger.Declaration{At: h.clock, Epochs: map[uint32]uint32{1: 3, 2: 4}, Pending: 4}
	c, _, err := h.certifier(ledger.Declarations{"m": d}).Certify(context.Background(), "m", "2018-06-12")
	if err != nil || c.Missing != 4 || c.Declared.Epoch != 2 {
		t.Errorf("a new epoch: %+v, %v", c.Certificate, err)
	}
}
