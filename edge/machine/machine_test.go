package machine_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/edge/machine"
	"github.com/farebeat/farebeat/edge/machine/journal"
	"github.com/farebeat/farebeat/schemas"
)

// bench is a machine on a workbench: its clock stands where the test puts it.
type bench struct {
	*machine.Machine
	t   *testing.T
	now time.Time
	key []byte
	dir string
}

func newBench(t *testing.T, change func(*machine.Options)) *bench {
	t.Helper()
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, now: time.Date(2026, 10, 24, 22, 0, 0, 0, time.UTC), key: bytes.Repeat([]byte{3}, 32), dir: filepath.Join(t.TempDir(), "journal")}
	o := machine.Options{
		ID: "4711-1", Vehicle: "4711", Key: b.key, Dir: b.dir, Zone: zone, Currency: "EUR", Firmware: "2.4.1",
		Now: func() time.Time { return b.now }, Journal: journal.Options{NoSync: true},
	}
	if change != nil {
		change(&o)
	}
	if b.Machine, err = machine.New(o); err != nil {
		t.Fatal(err)
	}
	if err := b.PowerOn(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.PowerOff() })
	return b
}

func (b *bench) beat() schemas.Heartbeat {
	b.t.Helper()
	var hb schemas.Heartbeat
	if err := b.Heartbeat(b.now, &hb); err != nil {
		b.t.Fatal(err)
	}
	if err := hb.Validate(); err != nil {
		b.t.Fatalf("heartbeat %+v: %v", hb, err)
	}
	return hb
}

func (b *bench) taps(n int) {
	b.t.Helper()
	for range n {
		b.now = b.now.Add(time.Second)
		if _, err := b.Tap(b.now, machine.Fare{AmountMinor: 250}); err != nil {
			b.t.Fatal(err)
		}
	}
}

func (b *bench) receipt(e schemas.EpochReceipt) error {
	e.MAC = schemas.ReceiptMAC(b.key, "4711-1", e)
	return b.Receipt(b.t.Context(), []schemas.EpochReceipt{e})
}

func TestTapsAreStoredOnlyWithoutAnUplink(t *testing.T) {
	b := newBench(t, nil)
	b.SetDuty(machine.Duty{Route: "36", Trip: "t1"}, false)
	b.SetUplink(true)
	if out, err := b.Tap(b.now, machine.Fare{AmountMinor: 100}); err != nil || !out.Online {
		t.Errorf("with the uplink up: %+v, %v", out, err)
	}
	if _, err := os.Stat(b.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an online tap touched the journal: %v", err)
	}
	b.SetUplink(false)
	first := b.now.Add(time.Second)
	b.taps(3)
	hb := b.beat()
	want := schemas.Heartbeat{
		Seq: 1, Boot: hb.Boot, At: b.now, Vehicle: "4711", Route: "36", Trip: "t1", State: schemas.Running, Pending: 3, PendingMinor: 750,
		Currency: "EUR", OldestPending: &first, LastSeq: 3, Epoch: 1, Firmware: "2.4.1",
	}
	if diff := cmp.Diff(want, hb); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	b.SetUplink(true)
	if out, err := b.Tap(b.now, machine.Fare{AmountMinor: 100}); err != nil || !out.Online {
		t.Errorf("the uplink is back, and money is still stored: %+v, %v", out, err)
	}
	if diff := cmp.Diff(machine.Counters{Online: 2, Written: 3, WrittenMinor: 750}, b.Counters()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestMoneyLeavesOnlyOnTheLedgersReceipt(t *testing.T) {
	b := newBench(t, nil)
	b.taps(5)
	forged := schemas.EpochReceipt{Epoch: 1, CompleteTo: 5, Highest: 5, MAC: "AAAA"}
	if err := b.Receipt(t.Context(), []schemas.EpochReceipt{forged}); !errors.Is(err, schemas.ErrMAC) {
		t.Errorf("forged: %v", err)
	}
	if hb := b.beat(); hb.Pending != 5 {
		t.Errorf("a forged receipt left %d pending", hb.Pending)
	}
	if err := b.receipt(schemas.EpochReceipt{Epoch: 1, CompleteTo: 3, Highest: 5, Gaps: [][2]uint32{{4, 4}}}); err != nil {
		t.Fatal(err)
	}
	if hb := b.beat(); hb.Pending != 2 || hb.PendingMinor != 500 || hb.LastSeq != 5 {
		t.Errorf("after a receipt with a gap: %+v", hb)
	}
	if err := b.receipt(schemas.EpochReceipt{Epoch: 1, CompleteTo: 5, Highest: 5}); err != nil {
		t.Fatal(err)
	}
	if hb := b.beat(); hb.Pending != 0 || hb.Currency != "" || hb.OldestPending != nil || hb.LastSeq != 5 {
		t.Errorf("after the whole receipt: %+v", hb)
	}
	if c := b.Counters(); c.Released != 5 {
		t.Errorf("counted %d released", c.Released)
	}
}

func TestMoneySurvivesALossOfPower(t *testing.T) {
	b := newBench(t, nil)
	b.SetUplink(true)
	b.SetUplink(false)
	b.taps(4)
	before := b.beat()
	if err := b.PowerOff(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Tap(b.now, machine.Fare{AmountMinor: 1}); !errors.Is(err, machine.ErrOff) {
		t.Errorf("a tap without power: %v", err)
	}
	var hb schemas.Heartbeat
	if err := b.Heartbeat(b.now, &hb); !errors.Is(err, machine.ErrOff) {
		t.Errorf("a heartbeat without power: %v", err)
	}
	if err := b.receipt(schemas.EpochReceipt{}); !errors.Is(err, machine.ErrOff) {
		t.Errorf("a receipt without power: %v", err)
	}
	if s, ok := b.Journal(); !ok || s.Pending != 4 {
		t.Errorf("the audit sees %+v, %v", s, ok)
	}
	if err := b.PowerOn(); err != nil {
		t.Fatal(err)
	}
	after := b.beat()
	if after.Pending != 4 || after.LastSeq != 4 || after.Boot == before.Boot || after.Seq != 1 {
		t.Errorf("before %+v\nafter %+v", before, after)
	}
	if diff := cmp.Diff([]journal.EpochAudit{{Epoch: 1, Last: 4}}, b.Audit()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	b.taps(1)
	if got := b.Audit()[0].Last; got != 5 {
		t.Errorf("the next record has number %d", got)
	}
}

func TestTheMachineTellsWhatIsWrongWithIt(t *testing.T) {
	b := newBench(t, func(o *machine.Options) { o.Journal.MaxRecords = 10 })
	b.taps(8)
	if hb := b.beat(); hb.State != schemas.Warning || hb.Fault != "" {
		t.Errorf("at 80 %%: %+v", hb)
	}
	b.taps(2)
	if _, err := b.Tap(b.now, machine.Fare{AmountMinor: 1}); !errors.Is(err, journal.ErrFull) {
		t.Fatalf("the 11th tap of 10: %v", err)
	}
	if hb := b.beat(); hb.State != schemas.Warning || hb.Fault != machine.FaultJournalFull {
		t.Errorf("full: %+v", hb)
	}
	if err := b.receipt(schemas.EpochReceipt{Epoch: 1, CompleteTo: 10, Highest: 10}); err != nil {
		t.Fatal(err)
	}
	if hb := b.beat(); hb.State != schemas.Running || hb.Fault != "" {
		t.Errorf("collected: %+v", hb)
	}
	if _, err := b.Tap(b.now, machine.Fare{AmountMinor: 1, TokenID: strings.Repeat("x", 200)}); err == nil {
		t.Error("a token of 200 characters was stored")
	}
	if hb := b.beat(); hb.Fault != "" {
		t.Errorf("a bad fare made the machine call itself %s", hb.Fault)
	}
	if err := b.receipt(schemas.EpochReceipt{Epoch: 1, CompleteTo: 99, Highest: 99}); !errors.Is(err, journal.ErrAhead) {
		t.Errorf("a receipt ahead: %v", err)
	}
	if hb := b.beat(); hb.Fault != machine.FaultRolledBack || hb.Epoch != 2 || hb.State != schemas.Warning {
		t.Errorf("rolled back: %+v", hb)
	}
	b.SetDuty(machine.Duty{}, true)
	if hb := b.beat(); hb.State != schemas.ReadyForShutdown {
		t.Errorf("parking: %+v", hb)
	}
}

func TestADamagedJournalShows(t *testing.T) {
	b := newBench(t, nil)
	b.taps(3)
	if err := b.PowerOff(); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(b.dir, "*.seg"))
	if err != nil || len(names) != 1 {
		t.Fatalf("segments %v: %v", names, err)
	}
	data, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(names[0], data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.PowerOn(); err != nil {
		t.Fatal(err)
	}
	if hb := b.beat(); hb.Fault != machine.FaultJournalDamaged || hb.Pending != 2 {
		t.Errorf("%+v", hb)
	}
}

func TestABrokenDiskRefusesTheTap(t *testing.T) {
	b := newBench(t, nil)
	if err := os.WriteFile(b.dir, []byte("not a directory"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Tap(b.now, machine.Fare{AmountMinor: 1}); err == nil {
		t.Fatal("the tap was taken")
	}
	if hb := b.beat(); hb.Fault != machine.FaultJournalBroken || hb.State != schemas.Defective {
		t.Errorf("%+v", hb)
	}
	if c := b.Counters(); c.Refused != 1 || c.Written != 0 {
		t.Errorf("%+v", c)
	}
	if err := os.Remove(b.dir); err != nil {
		t.Fatal(err)
	}
	b.taps(1)
	if hb := b.beat(); hb.Fault != "" || hb.Pending != 1 {
		t.Errorf("the disk is well again: %+v", hb)
	}
}

func TestTheClockIsSetWhereItIsWrong(t *testing.T) {
	b := newBench(t, func(o *machine.Options) { o.Skew = -90 * time.Second })
	for _, tc := range []struct {
		name        string
		off         time.Duration // of what the gateway says, from true time
		uncertainty time.Duration
		want        time.Duration // the machine's clock afterwards, from true time
		fails       bool
	}{
		{"uncertain by more than it is off", 0, 55 * time.Second, 0, false},
		{"within a second", 900 * time.Millisecond, 0, 0, false},
		{"wrong by an hour, and the machine believes it", time.Hour, time.Second, time.Hour, false},
		{"a year that cannot be", -30 * 365 * 24 * time.Hour, 0, time.Hour, true},
		{"too uncertain", 0, 2 * time.Minute, time.Hour, true},
		{"right again", 0, time.Second, 0, false},
	} {
		if err := b.SetTime(t.Context(), b.now.Add(tc.off), tc.uncertainty); (err != nil) != tc.fails {
			t.Errorf("%s: %v", tc.name, err)
		}
		if got := b.beat().At.Sub(b.now); got != tc.want {
			t.Errorf("%s: the clock is off by %s, want %s", tc.name, got, tc.want)
		}
	}
}

func TestServiceDates(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	for at, want := range map[string]string{
		"2026-11-22T23:41:00+01:00": "2026-11-22",
		"2026-11-23T02:59:59+01:00": "2026-11-22",
		"2026-11-23T03:00:00+01:00": "2026-11-23",
		"2026-10-25T02:30:00+02:00": "2026-10-24", // the first 2:30 of the night the clock goes back
		"2026-10-25T02:30:00+01:00": "2026-10-24", // the second
		"2026-10-25T03:00:00+01:00": "2026-10-25",
		"2026-03-29T01:59:59+01:00": "2026-03-28",
		"2026-03-29T03:00:00+02:00": "2026-03-29", // a second later: the clock went forward
		"2027-01-01T01:00:00+01:00": "2026-12-31",
	} {
		when, err := time.Parse(time.RFC3339, at)
		if err != nil {
			t.Fatal(err)
		}
		if got := machine.ServiceDate(when.UTC(), berlin, 3*time.Hour); got != want {
			t.Errorf("%s is service day %s, want %s", at, got, want)
		}
	}
}

func TestOptionsNameWhatIsMissing(t *testing.T) {
	_, err := machine.New(machine.Options{ID: "m"})
	if err == nil || err.Error() != `machine "m": options missing or wrong: Currency, Dir, Key, Now, Vehicle, Zone` {
		t.Errorf("got %v", err)
	}
}
