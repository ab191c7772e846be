package ledger_test

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/fleet/ledger/ledgertest"
	"github.com/farebeat/farebeat/schemas"
)

// twoDays is a machine with 10 records on each of two service days, the second paid in yen.
func twoDays(t testing.TB, id string) *ledgertest.Machine {
	m := ledgertest.New(t, id, "v", 1)
	m.Change = func(tx *schemas.Transaction) {
		if tx.Seq > 10 {
			tx.ServiceDate, tx.Currency, tx.AmountMinor = "2018-06-13", "JPY", 100
		}
	}
	return m.Mint(20)
}

func TestStatusByServiceDay(t *testing.T) {
	h := newHouse(t)
	m := twoDays(t, "m")
	h.take(m, 1, 4)
	h.take(m, 7, 9)
	h.take(m, 12, 20)
	s, err := h.Status(context.Background(), "m")
	if err != nil {
		t.Fatal(err)
	}
	want := ledger.Status{
		Machine: "m", Records: 16, Quarantined: map[ledger.Kind]int{},
		Epochs: []ledger.EpochStatus{{Epoch: 1, Records: 16, CompleteTo: 4, Highest: 20, Missing: 4, Gaps: ledger.Spans{{First: 5, Last: 6}, {First: 10, Last: 11}}}},
		Days: []ledger.DayStatus{
			{
				Day:  ledger.Day{Machine: "m", ServiceDate: "2018-06-12", Epoch: 1, Currency: "USD", First: 1, Last: 9, Records: 7, SumMinor: 7 * 225},
				Gaps: ledger.Spans{{First: 5, Last: 6}, {First: 10, Last: 11}},
			},
			{
				Day:  ledger.Day{Machine: "m", ServiceDate: "2018-06-13", Epoch: 1, Currency: "JPY", First: 12, Last: 20, Records: 9, SumMinor: 900},
				Gaps: ledger.Spans{{First: 10, Last: 11}}, // nobody knows to which day they belong
			},
		},
	}
	if diff := cmp.Diff(want, s); diff != "" {
		t.Fatal(diff)
	}
	if s.Complete() || s.Days[0].Complete() {
		t.Error("complete with gaps")
	}
	h.take(m, 1, 20)
	if s, err = h.Status(context.Background(), "m"); err != nil || !s.Complete() || !s.Days[0].Complete() || !s.Days[1].Complete() || s.Records != 20 {
		t.Errorf("after all came: %+v, %v", s, err)
	}
	unknown, err := h.Status(context.Background(), "nobody")
	if err != nil || unknown.Records != 0 || len(unknown.Epochs) != 0 {
		t.Errorf("unknown machine: %+v, %v", unknown, err)
	}
}

func TestGapsOfDays(t *testing.T) {
	h := newHouse(t)
	m := twoDays(t, "m")
	for _, b := range [][2]uint32{{1, 4}, {7, 14}, {17, 20}} {
		h.take(m, b[0], b[1])
	}
	h.take(twoDays(t, "n"), 1, 20)
	for _, c := range []struct {
		f    ledger.Filter
		want []string
	}{
		{ledger.Filter{}, []string{"m 1 5-6", "m 1 15-16"}},
		{ledger.Filter{From: "2018-06-12", To: "2018-06-12"}, []string{"m 1 5-6"}},
		{ledger.Filter{From: "2018-06-13"}, []string{"m 1 15-16"}},
		{ledger.Filter{From: "2018-06-14"}, nil},
		{ledger.Filter{Machine: "n"}, nil},
	} {
		var got []string
		if err := h.Gaps(context.Background(), c.f, nil, func(g ledger.Gap) error {
			got = append(got, fmt.Sprintf("%s %d %d-%d", g.Machine, g.Epoch, g.First, g.Last))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%+v: %s", c.f, diff)
		}
	}
}

func TestEveryMachineOnceOverPages(t *testing.T) {
	h := newHouse(t)
	const machines = 2100 // more than two pages
	var wg sync.WaitGroup
	for w := range 70 { // together they share commits
		wg.Go(func() {
			for i := w; i < machines; i += 70 {
				slot, payload := ledgertest.New(t, ledgertest.Name(i), "v", 1).Mint(1).Batch(1, 1)
				if _, err := h.Ingest(context.Background(), slot, payload); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	i := 0
	if err := h.Each(context.Background(), ledger.Filter{}, func(s ledger.Status) error {
		if s.Machine != ledgertest.Name(i) || s.Records != 1 {
			t.Fatalf("machine %d is %+v", i, s)
		}
		i++
		return nil
	}); err != nil || i != machines {
		t.Errorf("%d machines, %v", i, err)
	}
	totals, err := h.Totals(context.Background(), ledger.Filter{})
	if err != nil || totals.Machines != machines || totals.Records != machines || totals.Money[0].Minor != machines*225 {
		t.Errorf("totals %+v, %v", totals, err)
	}
	stop := errors.New("stop")
	if err := h.Each(context.Background(), ledger.Filter{}, func(ledger.Status) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the caller's error became %v", err)
	}
}

func TestCompleteTellsTheNewestEpoch(t *testing.T) {
	h := newHouse(t)
	h.take(ledgertest.New(t, "a", "v", 1).Mint(9), 1, 9)
	h.take(ledgertest.New(t, "a", "v", 2).Mint(9), 1, 5)
	h.take(ledgertest.New(t, "b", "v", 7).Mint(9), 4, 5)
	var got []string
	if err := h.Complete(context.Background(), func(machine string, epoch, to uint32) error {
		got = append(got, fmt.Sprint(machine, epoch, to))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{fmt.Sprint("a", 2, 5), fmt.Sprint("b", 7, 0)}, got); diff != "" {
		t.Error(diff)
	}
}

func TestExportCSV(t *testing.T) {
	h := newHouse(t)
	m := ledgertest.New(t, "bus, \"7\"", "v 1", 3)
	m.Change = func(tx *schemas.Transaction) {
		tx.TokenID, tx.Trip, tx.Stop, tx.Evidence = "tok-1", "t9", "s4", "AQID"
	}
	h.take(m.Mint(1), 1, 1)
	var b bytes.Buffer
	n, err := h.Export(context.Background(), &b, ledger.CSV, ledger.Filter{})
	if err != nil || n != 1 {
		t.Fatal(n, err)
	}
	rows, err := csv.NewReader(&b).ReadAll()
	if err != nil || len(rows) != 2 {
		t.Fatal(rows, err)
	}
	tx, err := schemas.ParseTransaction(m.Records[0])
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`bus, "7"/3/1`, "2018-06-12", "2018-06-12T05:00:30Z", "2.25", "USD", "Enter",
		"t9", "v 1", `bus, "7"`, "s4", "Bank card", "false", "tok-1",
		"36", "3", "1", "225", "2018-06-12T05:00:30.000Z", "America/New_York", "true", "Enter", "Bank card",
		"AQID", tx.Prev, tx.MAC, "v 1", "2018-06-12T12:00:00.000Z",
	}
	if diff := cmp.Diff([][]string{ledger.FareColumns(), want}, rows); diff != "" {
		t.Error(diff)
	}
}

func TestExportJSONLinesKeepsTheBytes(t *testing.T) {
	h := newHouse(t)
	m := ledgertest.New(t, "m", "v", 1)
	m.Change = func(tx *schemas.Transaction) { tx.Route = "<36 & Ü>" }
	h.take(m.Mint(3), 1, 3)
	var b bytes.Buffer
	if n, err := h.Export(context.Background(), &b, ledger.JSONLines, ledger.Filter{}); err != nil || n != 3 {
		t.Fatal(n, err)
	}
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	if len(lines) != 3 {
		t.Fatalf("%d lines", len(lines))
	}
	for i, line := range lines {
		var got struct {
			BroughtBy  string          `json:"brought_by"`
			ReceivedAt time.Time       `json:"received_at"`
			Record     json.RawMessage `json:"record"`
		}
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Record, m.Records[i]) || got.BroughtBy != "v" || !got.ReceivedAt.Equal(h.clock) {
			t.Errorf("line %d: %s", i, line)
		}
		if _, err := schemas.VerifyTransaction(m.Key[:], got.Record); err != nil {
			t.Error(err)
		}
	}
}

func TestExportOfDays(t *testing.T) {
	h := newHouse(t)
	h.take(twoDays(t, "a"), 1, 20)
	late := ledgertest.New(t, "b", "v", 1) // days that interleave: a tap of yesterday's service after midnight
	late.Change = func(tx *schemas.Transaction) {
		if tx.Seq%2 == 0 {
			tx.ServiceDate = "2018-06-13"
		}
	}
	for range 15 {
		late.Mint(180)
		h.take(late, uint32(len(late.Records))-179, uint32(len(late.Records)))
	}
	for _, c := range []struct {
		f    ledger.Filter
		want uint64
	}{
		{ledger.Filter{}, 20 + 2700},
		{ledger.Filter{From: "2018-06-13", To: "2018-06-13"}, 10 + 1350},
		{ledger.Filter{To: "2018-06-12"}, 10 + 1350},
		{ledger.Filter{From: "2018-06-12", To: "2018-06-13", Machine: "b"}, 2700},
		{ledger.Filter{From: "2018-06-14"}, 0},
		{ledger.Filter{Machine: "nobody"}, 0},
	} {
		var b bytes.Buffer
		n, err := h.Export(context.Background(), &b, ledger.CSV, c.f)
		if err != nil || n != c.want {
			t.Errorf("%+v: %d records, %v; want %d", c.f, n, err, c.want)
		}
		rows, err := csv.NewReader(&b).ReadAll()
		if err != nil || uint64(len(rows)) != c.want+1 {
			t.Errorf("%+v: %d rows, %v", c.f, len(rows), err)
		}
		seen := map[string]bool{}
		for _, r := range rows[1:] {
			if seen[r[0]] || r[1] < c.f.From || c.f.To != "" && r[1] > c.f.To {
				t.Fatalf("%+v: row %v", c.f, r)
			}
			seen[r[0]] = true
		}
	}
}

func TestExportRefuses(t *testing.T) {
	h := newHouse(t)
	if _, err := h.Export(context.Background(), &bytes.Buffer{}, "xml", ledger.Filter{}); err == nil || !strings.Contains(err.Error(), `format "xml": want csv or jsonl`) {
		t.Error(err)
	}
	if _, err := h.Export(context.Background(), &bytes.Buffer{}, ledger.CSV, ledger.Filter{From: "12.6.2018"}); err == nil || !strings.Contains(err.Error(), "want YYYY-MM-DD") {
		t.Error(err)
	}
	h.take(ledgertest.New(t, "m", "v", 1).Mint(3), 1, 3)
	if _, err := h.Export(context.Background(), fullDisk{}, ledger.JSONLines, ledger.Filter{}); !errors.Is(err, errFull) {
		t.Errorf("a full disk: %v", err)
	}
}

var errFull = errors.New("no space left")

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errFull }

func TestVerifyTellsHowFarItIs(t *testing.T) {
	h := newHouse(t)
	for i := range 5 {
		h.take(ledgertest.New(t, ledgertest.Name(i), "v", 1).Mint(10), 1, 10)
	}
	var steps []ledger.Progress
	p, err := h.Verify(context.Background(), ledger.Filter{}, func(p ledger.Progress) { steps = append(steps, p) })
	if err != nil || !p.OK() || p.Machines != 5 || p.Epochs != 5 {
		t.Fatalf("%+v, %v", p, err)
	}
	want := []ledger.Progress{{Machines: 1, Records: 10, Total: 50}, {Machines: 2, Records: 20, Total: 50}, {Machines: 3, Records: 30, Total: 50}, {Machines: 4, Records: 40, Total: 50}, {Machines: 5, Records: 50, Total: 50}}
	if diff := cmp.Diff(want, steps); diff != "" {
		t.Error(diff)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := h.Verify(ctx, ledger.Filter{}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
}

func BenchmarkVerify(b *testing.B) {
	h := newHouse(b)
	m := ledgertest.New(b, "m", "v", 1)
	for range 25 {
		m.Mint(200)
		h.take(m, uint32(len(m.Records))-199, uint32(len(m.Records)))
	}
	b.ReportAllocs()
	for b.Loop() {
		if p := h.prove(); !p.OK() || p.Records != 5000 {
			b.Fatal(p)
		}
	}
	b.ReportMetric(5000*float64(b.N)/b.Elapsed().Seconds(), "records/s")
}

func BenchmarkReceipt(b *testing.B) {
	h := newHouse(b)
	h.take(ledgertest.New(b, "m", "v", 1).Mint(200), 1, 200)
	b.ReportAllocs()
	for b.Loop() {
		if e := h.epoch("m", 1); e.CompleteTo != 200 {
			b.Fatal(e)
		}
	}
}

// TestDatedGapsHideNoMoney: what may be of the asked days is listed, also where these days have no record, or the ledger
// has nothing at all of a machine that declared.
func TestDatedGapsHideNoMoney(t *testing.T) {
	h := newHouse(t)
	m := ledgertest.New(t, "m", "v", 1)
	m.Change = func(tx *schemas.Transaction) { // 1-5 on the 12th, 6-15 on the 14th, 16-20 on the 16th
		tx.ServiceDate = "2018-06-12"
		if tx.Seq > 5 {
			tx.ServiceDate = "2018-06-14"
		}
		if tx.Seq > 15 {
			tx.ServiceDate = "2018-06-16"
		}
	}
	m.Mint(20)
	h.take(m, 1, 5)
	h.take(m, 16, 18)
	at := time.Date(2018, 6, 16, 20, 0, 0, 0, time.UTC)
	declared := ledger.Declarations{
		"m":     {At: at, Epochs: map[uint32]uint32{1: 20}, Pending: 12, OldestPending: time.Date(2018, 6, 14, 6, 0, 0, 0, time.UTC)},
		"never": {At: at, Epochs: map[uint32]uint32{3: 9}, Pending: 9, OldestPending: time.Date(2018, 6, 14, 6, 0, 0, 0, time.UTC)},
	}
	inside, tail, never := "m 6-15", "m 19-20", "never 1-9"
	for _, c := range []struct {
		from, to string
		want     []string
	}{
		{"", "", []string{inside, tail, never}},
		{"2018-06-14", "2018-06-14", []string{inside, never}}, // no record of the day is here
		{"2018-06-13", "2018-06-15", []string{inside, never}},
		{"2018-06-12", "2018-06-12", []string{inside}}, // 6 may be of the 12th; the machine holds nothing so old
		{"2018-06-16", "", []string{inside, tail, never}},
		{"2018-06-17", "", []string{tail, never}}, // a zone east of Greenwich may have the 17th already
		{"2018-06-18", "", nil},                   // nobody declared so late
		{"", "2018-06-11", nil},
	} {
		var got []string
		if err := h.Gaps(context.Background(), ledger.Filter{From: c.from, To: c.to}, declared, func(g ledger.Gap) error {
			got = append(got, fmt.Sprintf("%s %d-%d", g.Machine, g.First, g.Last))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s to %s: %s", c.from, c.to, diff)
		}
	}
}
