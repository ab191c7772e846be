package ledger_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/farebeat/farebeat/fleet/keys"
	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/fleet/ledger/ledgertest"
	"github.com/farebeat/farebeat/fleet/store"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

// house is a ledger over a real store.
type house struct {
	*ledger.Ledger
	t     testing.TB
	store *store.Store
	clock time.Time
}

func newHouse(t testing.TB) *house {
	t.Helper()
	s, err := store.Open(context.Background(), filepath.Join(t.TempDir(), "fleet.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	h := &house{t: t, store: s, clock: time.Date(2018, 6, 12, 12, 0, 0, 0, time.UTC)}
	h.Ledger = ledger.New(s.Ledger(), ledgertest.Keys(t), func() time.Time { return h.clock })
	return h
}

func (h *house) take(m *ledgertest.Machine, first, last uint32) ledger.Outcome {
	h.t.Helper()
	slot, payload := m.Batch(first, last)
	return h.takePayload(slot, payload)
}

func (h *house) takePayload(slot topics.Address, payload []byte) ledger.Outcome {
	h.t.Helper()
	out, err := h.Ingest(context.Background(), slot, payload)
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}

func (h *house) epoch(machine string, epoch uint32) schemas.EpochReceipt {
	h.t.Helper()
	r, err := h.Receipt(context.Background(), machine)
	if err != nil {
		h.t.Fatal(err)
	}
	if err := r.Validate(); err != nil {
		h.t.Fatal(err)
	}
	for _, e := range r.Epochs {
		if e.Epoch == epoch {
			return e
		}
	}
	return schemas.EpochReceipt{}
}

func (h *house) evidence(machine string) []ledger.Quarantined {
	h.t.Helper()
	var all []ledger.Quarantined
	if err := h.Quarantine(context.Background(), machine, func(q ledger.Quarantined) error {
		all = append(all, q)
		return nil
	}); err != nil {
		h.t.Fatal(err)
	}
	return all
}

func (h *house) prove() ledger.Proof {
	h.t.Helper()
	p, err := h.Verify(context.Background(), ledger.Filter{}, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	return p
}

func TestEachRecordOnce(t *testing.T) {
	h := newHouse(t)
	m := ledgertest.New(t, "01216-1", "01216", 3).Mint(300)
	got := h.take(m, 1, 200)
	want := ledger.Outcome{
		Machine: "01216-1", Vehicle: "01216", Epoch: 3, First: 1, Last: 200, New: 200,
		Money: []ledger.Money{{Currency: "USD", Minor: 200 * 225}}, CompleteTo: 200,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
	if got := h.take(m, 1, 200); got.New != 0 || got.Duplicate != 200 || !got.Clean() || got.CompleteTo != 200 || len(got.Money) != 0 {
		t.Errorf("the same batch again: %+v", got)
	}
	if got := h.take(m, 150, 300); got.New != 100 || got.Duplicate != 51 || !got.Clean() || got.CompleteTo != 300 {
		t.Errorf("an overlapping batch: %+v", got)
	}
	if p := h.prove(); !p.OK() || p.Records != 300 || p.Missing != 0 || p.Money[0].Minor != 300*225 {
		t.Errorf("proof: %+v", p)
	}
	if s := h.Stats(); s.New != 300 || s.Duplicate != 251 || s.Batches != 3 {
		t.Errorf("stats: %+v", s)
	}
	if len(h.evidence("")) != 0 {
		t.Errorf("evidence: %+v", h.evidence(""))
	}
}

func TestReceiptStatesWhatIsHere(t *testing.T) {
	h := newHouse(t)
	m := ledgertest.New(t, "01216-1", "01216", 1).Mint(60)
	if e := h.epoch("01216-1", 1); e.Epoch != 0 {
		t.Fatalf("a machine that was never heard of has %+v", e)
	}
	for _, step := range []struct {
		first, last uint32
		complete    uint32
		highest     uint32
		gaps        [][2]uint32
	}{
		{11, 20, 0, 20, [][2]uint32{{1, 10}}},
		{41, 50, 0, 50, [][2]uint32{{1, 10}, {21, 40}}},
		{1, 10, 20, 50, [][2]uint32{{21, 40}}},
		{30, 35, 20, 50, [][2]uint32{{21, 29}, {36, 40}}},
		{21, 40, 50, 50, nil},
		{51, 60, 60, 60, nil},
	} {
		out := h.take(m, step.first, step.last)
		e := h.epoch("01216-1", 1)
		if err := schemas.VerifyReceipt(m.Key[:], m.ID, e); err != nil {
			t.Fatal(err)
		}
		e.MAC = ""
		want := schemas.EpochReceipt{Epoch: 1, CompleteTo: step.complete, Highest: step.highest, Gaps: step.gaps}
		if diff := cmp.Diff(want, e); diff != "" {
			t.Errorf("after %d-%d: %s", step.first, step.last, diff)
		}
		if out.CompleteTo != step.complete {
			t.Errorf("after %d-%d the outcome is complete to %d, want %d", step.first, step.last, out.CompleteTo, step.complete)
		}
	}
}

func TestReceiptForEpochsThatSomebodyWaitsFor(t *testing.T) {
	h := newHouse(t)
	for epoch := uint32(1); epoch <= 12; epoch++ {
		h.take(ledgertest.New(t, "m", "v", epoch).Mint(2), 1, 2)
	}
	r, err := h.Receipt(context.Background(), "m", 2)
	if err != nil {
		t.Fatal(err)
	}
	var epochs []uint32
	for _, e := range r.Epochs {
		epochs = append(epochs, e.Epoch)
	}
	if diff := cmp.Diff([]uint32{12, 11, 10, 9, 8, 7, 6, 2}, epochs); diff != "" {
		t.Error(diff)
	}
	if err := r.Validate(); err != nil {
		t.Error(err)
	}
}

func TestConflictKeepsBothAndHoldsTheFirst(t *testing.T) {
	h := newHouse(t)
	m := ledgertest.New(t, "m", "v", 1).Mint(5)
	h.take(m, 1, 5)
	twin := ledgertest.New(t, "m", "w", 1) // a machine that lost its journal and began anew in the same epoch
	twin.Change = func(tx *schemas.Transaction) {
		tx.Vehicle = "v"
		if tx.Seq >= 3 {
			tx.AmountMinor = 999
		}
	}
	twin.Mint(7)
	out := h.take(twin, 1, 7)
	if out.Duplicate != 2 || out.Conflict != 3 || out.New != 2 || out.Broken != 1 {
		t.Fatalf("outcome %+v", out)
	}
	evidence := h.evidence("m")
	if len(evidence) != 4 {
		t.Fatalf("%d pieces of evidence: %+v", len(evidence), evidence)
	}
	for i, q := range evidence[:3] {
		seq := uint32(i + 3)
		if q.Kind != ledger.Conflict || q.Seq != seq || q.Vehicle != "w" || !bytes.Equal(q.Record, twin.Records[seq-1]) || !bytes.Equal(q.Held, m.Records[seq-1]) {
			t.Errorf("conflict %d: %+v", i, q)
		}
	}
	if q := evidence[3]; q.Kind != ledger.BrokenChain || q.Seq != 6 || !bytes.Equal(q.Held, m.Records[4]) {
		t.Errorf("chain: %+v", q)
	}
	h.clock = h.clock.Add(time.Hour)
	if again := h.take(twin, 1, 7); again.Conflict != 3 || again.Duplicate != 4 || again.Broken != 0 {
		t.Errorf("the same again: %+v", again)
	}
	evidence = h.evidence("m")
	if len(evidence) != 4 || evidence[0].Times != 2 || evidence[0].LastAt.Sub(evidence[0].FirstAt) != time.Hour {
		t.Errorf("after the same again: %+v", evidence)
	}
	p := h.prove()
	if p.Records != 7 || p.Problems != 1 || p.Findings[0].Seq != 6 || !strings.Contains(p.Findings[0].Problem, "chain is broken") {
		t.Errorf("proof %+v", p)
	}
	if p.Quarantined[ledger.Conflict] != 3 || p.Money[0].Minor != 5*225+2*999 {
		t.Errorf("proof %+v", p)
	}
}

func TestBrokenChainIsFoundFromEitherSide(t *testing.T) {
	for name, order := range map[string][][2]uint32{
		"forward":   {{1, 3}, {4, 6}},
		"backward":  {{4, 6}, {1, 3}},
		"middle":    {{1, 2}, {5, 6}, {3, 4}},
		"all":       {{1, 6}},
		"with gaps": {{1, 1}, {3, 3}, {5, 5}, {2, 2}, {6, 6}, {4, 4}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			m := ledgertest.New(t, "m", "v", 1).Mint(3)
			other := ledgertest.New(t, "m", "v", 1)
			other.Change = func(tx *schemas.Transaction) { tx.AmountMinor = 1 }
			m.Records = append(m.Records, other.Mint(6).Records[3:]...) // 4 does not follow 3
			broken := 0
			for _, b := range order {
				broken += h.take(m, b[0], b[1]).Broken
			}
			if e := h.evidence("m"); broken != 1 || len(e) != 1 || e[0].Seq != 4 || e[0].Kind != ledger.BrokenChain {
				t.Errorf("%d breaks, evidence %+v", broken, e)
			}
			if got := h.epoch("m", 1); got.CompleteTo != 6 {
				t.Errorf("receipt %+v", got)
			}
		})
	}
}

func TestFirstRecordMustBeginTheEpoch(t *testing.T) {
	h := newHouse(t)
	m := ledgertest.New(t, "m", "v", 2)
	_, hash, err := schemas.MintTransaction(m.Key[:], [32]byte{9}, &schemas.Transaction{
		Machine: "m", Epoch: 2, Seq: 1, EventTime: ledgertest.Start(), TZ: "UTC", ServiceDate: "2018-06-12", Currency: "USD", FareAction: "Enter", Media: "Bank card",
	})
	if err != nil {
		t.Fatal(err)
	}
	tx := schemas.Transaction{Machine: "m", Epoch: 2, Seq: 1, EventTime: ledgertest.Start(), TZ: "UTC", ServiceDate: "2018-06-12", Currency: "USD", FareAction: "Enter", Media: "Bank card"}
	record, _, err := schemas.MintTransaction(m.Key[:], hash, &tx)
	if err != nil {
		t.Fatal(err)
	}
	m.Records = [][]byte{record}
	if out := h.take(m, 1, 1); out.New != 1 || out.Broken != 1 {
		t.Errorf("outcome %+v", out)
	}
	if p := h.prove(); p.Problems != 1 {
		t.Errorf("proof %+v", p)
	}
}

func TestForgedNeverEnters(t *testing.T) {
	h := newHouse(t)
	m := ledgertest.New(t, "m", "v", 1).Mint(5)
	genuine := m.Records[2]
	m.Records[2] = bytes.Replace(genuine, []byte(`"amount_minor":225`), []byte(`"amount_minor":1`), 1)
	out := h.take(m, 1, 5)
	if out.New != 4 || out.Forged != 1 || out.CompleteTo != 2 {
		t.Fatalf("outcome %+v", out)
	}
	if e := h.epoch("m", 1); e.Holds(3) || !e.Holds(4) {
		t.Errorf("receipt %+v", e)
	}
	if e := h.evidence("m"); len(e) != 1 || e[0].Kind != ledger.Forged || e[0].Vehicle != "v" || !strings.Contains(e[0].Detail, "MAC") {
		t.Errorf("evidence %+v", e)
	}
	m.Records[2] = genuine // the true one still gets in, and closes the chain
	if out := h.take(m, 3, 3); out.New != 1 || out.Broken != 0 || out.CompleteTo != 5 {
		t.Errorf("outcome of the true one %+v", out)
	}
	if p := h.prove(); !p.OK() {
		t.Errorf("proof %+v", p)
	}
}

func TestEvidenceOfBadRecordsIsBounded(t *testing.T) {
	h := newHouse(t)
	for i := range 8 {
		m := ledgertest.New(t, ledgertest.Name(i), "bad-bus", 1).Mint(200)
		m.ID = "victim" // batches say victim, records say otherwise
		for j, r := range m.Records {
			m.Records[j] = bytes.Replace(r, []byte(ledgertest.Name(i)), []byte("victim"), 1)
		}
		if out := h.take(m, 1, 200); out.Forged != 200 || out.New != 0 {
			t.Fatalf("outcome %+v", out)
		}
	}
	if n := len(h.evidence("")); n != ledger.MaxBadRecords {
		t.Errorf("%d pieces of evidence, want %d", n, ledger.MaxBadRecords)
	}
	if s := h.Stats(); s.Forged != 1600 {
		t.Errorf("%d counted", s.Forged)
	}
	good := ledgertest.New(t, "victim", "good-bus", 1).Mint(3)
	good.Records[1] = bytes.Replace(good.Records[1], []byte("225"), []byte("226"), 1)
	if out := h.take(good, 1, 3); out.New != 2 || out.Forged != 1 {
		t.Errorf("outcome of the good bus %+v", out)
	}
	if n := len(h.evidence("")); n != ledger.MaxBadRecords+1 {
		t.Errorf("another vehicle's evidence has no room: %d", n)
	}
}

func TestWhatIsRefused(t *testing.T) {
	h := newHouse(t)
	m := ledgertest.New(t, "m", "v", 1).Mint(202)
	slot, payload := m.Batch(1, 3)
	edit := func(old, new string) []byte { return bytes.Replace(payload, []byte(old), []byte(new), 1) }
	moved := func(change func(*topics.Address)) topics.Address {
		a := slot
		change(&a)
		return a
	}
	_, tooMany := m.Batch(1, 201)
	for name, c := range map[string]struct {
		slot    topics.Address
		payload []byte
		want    string
	}{
		"empty":         {slot, nil, "transactions: the JSON ends too early"},
		"not JSON":      {slot, []byte("\x00\x01"), "transactions: not JSON"},
		"cut off":       {slot, payload[:len(payload)-9], "transactions: "},
		"array":         {slot, []byte("[]"), "array"},
		"huge":          {slot, append(bytes.Repeat([]byte(" "), ledger.MaxPayload), payload...), "at most 1048576"},
		"no machine":    {slot, edit(`"machine":"m"`, `"machine":""`), `field "machine": is required`},
		"epoch 0":       {slot, edit(`"epoch":1`, `"epoch":0`), `field "epoch": is 0`},
		"epoch -1":      {slot, edit(`"epoch":1`, `"epoch":-1`), `field "epoch": `},
		"backward":      {slot, edit(`"first":1`, `"first":9`), "first"},
		"hole":          {slot, edit(`"last":3`, `"last":4`), `field "records": 3, want 4`},
		"too many":      {moved(func(a *topics.Address) { a.Batch.Last = 201 }), tooMany, `field "records": 201, at most 200`},
		"text after it": {slot, append(bytes.Clone(payload), "{}"...), "bytes after the end"},
		"other machine": {moved(func(a *topics.Address) { a.Machine = "n" }), payload, `it says machine "m" on vehicle "v", its topic says "n" on "v"`},
		"other vehicle": {moved(func(a *topics.Address) { a.Vehicle = "w" }), payload, `it says machine "m" on vehicle "v", its topic says "m" on "w"`},
		"other slot":    {moved(func(a *topics.Address) { a.Batch.First = 2 }), payload, "it is batch 1-1-3, its topic says 1-2-3"},
		"other topic":   {moved(func(a *topics.Address) { a.Kind = topics.Receipt }), payload, `topic "vehicle/receipt" does not carry transactions`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := h.Ingest(context.Background(), c.slot, c.payload)
			if !errors.Is(err, ledger.ErrRefused) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v, want %q", err, c.want)
			}
		})
	}
	if s := h.Stats(); s.Refused != 16 || s.Batches != 0 {
		t.Errorf("stats %+v", s)
	}
	if p := h.prove(); p.Records != 0 || len(h.evidence("")) != 0 {
		t.Errorf("refused payloads changed the ledger: %+v", p)
	}
}

func TestBadRecordsAmongGoodOnes(t *testing.T) {
	for name, c := range map[string]struct {
		record func(m *ledgertest.Machine) []byte
		want   string
	}{
		"null":        {func(*ledgertest.Machine) []byte { return []byte("null") }, "null"},
		"number":      {func(*ledgertest.Machine) []byte { return []byte("7") }, "number"},
		"another seq": {func(m *ledgertest.Machine) []byte { return m.Records[4] }, `it is record 1-5 of machine "m", in the place of record 1-3 of machine "m"`},
		"another machine": {func(m *ledgertest.Machine) []byte {
			other := ledgertest.New(m.TB(), "n", "v", 1).Mint(3)
			other.Key = m.Key
			return other.Records[2]
		}, "MAC"},
		"absurd amount": {func(m *ledgertest.Machine) []byte {
			other := ledgertest.New(m.TB(), "m", "v", 1)
			other.Change = func(tx *schemas.Transaction) { tx.AmountMinor = 1 << 62 }
			return other.Mint(3).Records[2]
		}, "which no fare is"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			m := ledgertest.New(t, "m", "v", 1).Mint(5)
			m.Records[2] = c.record(m)
			out := h.take(m, 1, 4)
			if out.New != 3 || out.Malformed+out.Forged != 1 || out.CompleteTo != 2 {
				t.Fatalf("outcome %+v", out)
			}
			if e := h.evidence("m"); len(e) != 1 || e[0].Seq != 3 || !strings.Contains(e[0].Detail, c.want) {
				t.Errorf("evidence %+v, want %q", e, c.want)
			}
		})
	}
}

// Any order, any cutting into batches, any repetition ends in the same ledger.
func TestAnyOrderOfBatches(t *testing.T) {
	m := ledgertest.New(t, "m", "v", 1).Mint(40)
	h := newHouse(t)
	round := uint32(0)
	rapid.Check(t, func(rt *rapid.T) {
		round++ // a machine of its own for each case, in one store
		id := ledgertest.Name(int(round))
		m := ledgertest.New(t, id, "v", 1).Mint(len(m.Records))
		var want ledger.Spans
		for range rapid.IntRange(1, 12).Draw(rt, "batches") {
			first := rapid.Uint32Range(1, 40).Draw(rt, "first")
			last := rapid.Uint32Range(first, 40).Draw(rt, "last")
			before := want.Len()
			want = want.Add(ledger.Span{First: first, Last: last})
			out := h.take(m, first, last)
			if uint64(out.New) != want.Len()-before || out.New+out.Duplicate != int(last-first+1) || !out.Clean() {
				rt.Fatalf("batch %d-%d: %+v", first, last, out)
			}
		}
		held, err := h.Held(context.Background(), id)
		if err != nil {
			rt.Fatal(err)
		}
		if diff := cmp.Diff(want, held[1]); diff != "" {
			rt.Fatal(diff)
		}
		p, err := h.Verify(context.Background(), ledger.Filter{Machine: id}, nil)
		if err != nil || !p.OK() || p.Records != want.Len() || p.Missing != want.Gaps().Len() {
			rt.Fatalf("proof %+v, %v", p, err)
		}
	})
}

type brokenKeys struct{ keys.Keys }

func (brokenKeys) Machine(context.Context, string) ([keys.Size]byte, error) {
	return [keys.Size]byte{}, errors.New("the key module does not answer")
}

func TestWithoutKeysNothingIsRefused(t *testing.T) {
	h := newHouse(t)
	l := ledger.New(h.store.Ledger(), brokenKeys{}, time.Now)
	slot, payload := ledgertest.New(t, "m", "v", 1).Mint(1).Batch(1, 1)
	_, err := l.Ingest(context.Background(), slot, payload)
	if err == nil || errors.Is(err, ledger.ErrRefused) {
		t.Errorf("error %v: the batch would be given up", err)
	}
	if _, err := l.Receipt(context.Background(), "m"); err == nil {
		t.Error("a receipt without a key")
	}
}

func TestClosedStoreRefusesNothing(t *testing.T) {
	h := newHouse(t)
	if err := h.store.Close(); err != nil {
		t.Fatal(err)
	}
	slot, payload := ledgertest.New(t, "m", "v", 1).Mint(1).Batch(1, 1)
	_, err := h.Ingest(context.Background(), slot, payload)
	if !errors.Is(err, store.ErrClosed) || errors.Is(err, ledger.ErrRefused) {
		t.Errorf("error %v", err)
	}
	if s := h.Stats(); s.Failed != 1 || s.New != 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestPayloadIsWhatTheGatewayMakes(t *testing.T) {
	m := ledgertest.New(t, "m", "v", 1).Mint(3)
	b := schemas.Batch{Machine: "m", Vehicle: "v", Epoch: 1, First: 1, Last: 3, AsOf: ledgertest.Start()}
	for _, r := range m.Records {
		b.Records = append(b.Records, json.RawMessage(r))
	}
	payload, err := schemas.EncodeBatch(&b)
	if err != nil {
		t.Fatal(err)
	}
	if out := newHouse(t).takePayload(ledgertest.Slot(b), payload); out.New != 3 || !out.Clean() {
		t.Errorf("outcome %+v", out)
	}
}
