package topics_test

import (
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

func TestSpecsKeepTheRules(t *testing.T) {
	tree := newTree(t)
	for _, s := range topics.Specs() {
		if n := strings.Count(root+s.Pattern, "/") + 1; n > topics.MaxLevels {
			t.Errorf("%s has %d levels", s.Kind, n)
		}
		if (s.Schema == "") != (s.Kind == topics.AsyncAPI) || s.Schema != "" && schemas.Schema(s.Schema) == nil {
			t.Errorf("%s: there is no schema %q", s.Kind, s.Schema)
		}
		if s.Retain && s.QoS == 0 {
			t.Errorf("%s is state that a newcomer needs, yet may get lost", s.Kind)
		}
		for _, r := range slices.Concat(s.Writers, s.Readers) {
			if !slices.Contains(topics.Roles(), r) {
				t.Errorf("%s: unknown role %q", s.Kind, r)
			}
		}
		if got, ok := tree.Spec(s.Kind); !ok || cmp.Diff(s, got) != "" {
			t.Errorf("Spec(%s) = %+v, %t", s.Kind, got, ok)
		}
	}
	if _, ok := tree.Spec("nothing"); ok {
		t.Error("there is a row for nothing")
	}
}

// TestMaxBytes fills every message with as much ASCII as it may hold: its topic has room for it.
func TestMaxBytes(t *testing.T) {
	largest := largestMessages(t)
	for _, s := range topics.Specs() {
		if s.Schema == "" {
			continue
		}
		m, ok := largest[s.Kind]
		if !ok {
			t.Errorf("no largest message of %s", s.Kind)
			continue
		}
		b, err := schemas.Encode(m)
		if err != nil {
			t.Errorf("%s: %v", s.Kind, err)
		}
		if len(b) > s.MaxBytes {
			t.Errorf("%s: a valid message has %d bytes, the topic takes %d", s.Kind, len(b), s.MaxBytes)
		}
		if len(b) < s.MaxBytes/8 {
			t.Errorf("%s: the largest message has %d bytes, the topic takes %d: too generous", s.Kind, len(b), s.MaxBytes)
		}
	}
}

func largestMessages(t *testing.T) map[topics.Kind]schemas.Message {
	t.Helper()
	const u32, money, count = 1<<32 - 1, -1 << 63, 1<<31 - 1
	id, sentence, at := strings.Repeat("w", 64), strings.Repeat("w", 500), time.Date(2026, 11, 22, 23, 41, 9, 120e6, time.UTC)
	mac := strings.Repeat("A", 43)
	seen := slices.Repeat([]schemas.Sighting{{Machine: id, RSSI: -127, SeenAt: at, Pending: u32}}, schemas.MaxSeen)
	gaps := make([][2]uint32, schemas.MaxGaps)
	for i := range gaps {
		gaps[i] = [2]uint32{u32 - 1000 + 3*uint32(i), u32 - 1000 + 3*uint32(i)}
	}
	epochs := make([]schemas.EpochReceipt, schemas.MaxEpochs)
	for i := range epochs {
		epochs[i] = schemas.EpochReceipt{Epoch: u32 - uint32(i), CompleteTo: gaps[0][0] - 1, Highest: u32, Gaps: gaps, MAC: mac}
	}
	return map[topics.Kind]schemas.Message{
		topics.Heartbeat: &schemas.Heartbeat{
			Seq: 1<<64 - 1, Boot: id, At: at, Vehicle: id, Route: id, Trip: id, State: schemas.ReadyForShutdown, Pending: u32, PendingMinor: money,
			Currency: "USD", OldestPending: &at, LastSeq: u32, Epoch: u32, Firmware: id, Fault: id,
		},
		topics.MachineState: &schemas.MachineState{
			AsOf: at, Machine: id, State: schemas.OutOfService, Since: at, Reason: sentence, Vehicle: id, Route: id, LastHeartbeat: &at, Pending: u32, PendingMinor: money, Currency: "USD",
		},
		topics.Gateway:      &schemas.Gateway{AsOf: at, Vehicle: id, Status: schemas.ConnectionBroken, Session: 1<<64 - 1, Seen: seen},
		topics.VehicleFault: event(schemas.MachineFault{Fault: id, Kind: id, Severity: schemas.Critical, Title: sentence[:200], Condition: schemas.Recovering, Machine: id, Vehicle: id, Route: id, OpenedAt: at, AsOf: at, Reason: sentence, NextStep: sentence, LastHeartbeat: &at, Pending: u32, PendingMinor: money, Currency: "USD", Epoch: u32, LastSeq: u32}),
		topics.Recovery: &schemas.Recovery{
			AsOf: at, Machine: id, Vehicle: id, Fault: id, State: schemas.RecoveryConnecting, Epoch: u32, LastSeq: u32, Read: u32, Total: u32, Receipted: u32,
			PerSecond: 1e9 - 0.123456, Attempts: count, LastError: sentence, NextAction: sentence,
		},
		topics.Transactions: largestBatch(t, id, at),
		topics.Ticket: &schemas.Ticket{
			Machine: id, Vehicle: id, AsOf: at, ExpiresAt: at.Add(time.Hour), Secret: mac,
			Sealed: base64.RawURLEncoding.EncodeToString(make([]byte, schemas.MaxSealedTicket)),
		},
		topics.Receipt:       &schemas.Receipt{Machine: id, AsOf: at, Epochs: epochs},
		topics.RouteOnline:   &schemas.RouteOnline{AsOf: at, Route: id, Online: count, Min: count, Max: count, Known: count, Expected: count, Threshold: count, Source: "timetable", SampleSize: count, Missing: slices.Repeat([]string{id}, schemas.MaxMissing)},
		topics.RouteFault:    event(schemas.RouteFault{Fault: id, Kind: id, Severity: schemas.Critical, Title: sentence[:200], Condition: schemas.Recovering, Route: id, OpenedAt: at, AsOf: at, Online: count, Expected: count, Threshold: count, Reason: sentence, NextStep: sentence}),
		topics.CommonFault:   event(schemas.CommonFault{Fault: id, Kind: id, Severity: schemas.Critical, Title: sentence[:200], Condition: schemas.Recovering, Vehicle: id, Depot: id, Network: id, Firmware: id, Service: id, OpenedAt: at, AsOf: at, Lost: count, Known: count, Reason: sentence, NextStep: sentence}),
		topics.Report:        &schemas.Report{ID: id, At: at, Machine: id, Route: id, Vehicle: id, Text: sentence, By: id},
		topics.Command:       &schemas.Command{ID: id, At: at, By: id, Verb: schemas.VerbCollect, Machine: id, ExpiresAt: at},
		topics.CommandResult: &schemas.CommandResult{ID: id, AsOf: at, State: schemas.CommandFinished, Text: sentence, Detail: json.RawMessage(`{"machine":"` + sentence + `"}`)},
		topics.Event:         event(schemas.FaultEvent{Fault: id, Change: "acknowledged", Kind: id, Severity: schemas.Critical, Condition: schemas.Recovering, Attention: schemas.Acknowledged, Route: id, Machine: id, Vehicle: id, Depot: id, Network: id, Firmware: id, Service: id, Reason: sentence}),
		topics.Fleet:         &schemas.Fleet{AsOf: at, Status: schemas.ConnectionBroken, Since: at, Session: 1<<64 - 1},
	}
}

func event[T any](data T) *schemas.CloudEvent[T] {
	return &schemas.CloudEvent[T]{
		SpecVersion: "1.0", ID: strings.Repeat("w", 128), Source: strings.Repeat("w", 256), Type: strings.Repeat("w", 128), Subject: strings.Repeat("w", 256),
		Time: time.Date(2026, 11, 22, 23, 41, 9, 120e6, time.UTC), DataContentType: "application/json", Data: data,
	}
}

// largestBatch has MaxBatch records of MaxRecordBytes each.
func largestBatch(t *testing.T, id string, at time.Time) *schemas.Batch {
	t.Helper()
	b := &schemas.Batch{Machine: id, Vehicle: id, Epoch: 1<<32 - 1, First: 1<<32 - schemas.MaxBatch, Last: 1<<32 - 1, AsOf: at}
	prev := schemas.Genesis(id, b.Epoch)
	for seq := b.First; seq >= b.First; seq++ { // until it wraps
		tx := schemas.Transaction{Machine: id, Epoch: b.Epoch, Seq: seq, EventTime: at, TZ: "UTC", ServiceDate: "2026-11-22", Currency: "USD", FareAction: "Enter", Media: "QR", Evidence: strings.Repeat("QUJD", 910)}
		record, hash, err := schemas.MintTransaction([]byte("key"), prev, &tx)
		if err != nil {
			t.Fatal(err)
		}
		if len(record) > schemas.MaxRecordBytes || len(record) < schemas.MaxRecordBytes-100 {
			t.Fatalf("the record has %d bytes", len(record))
		}
		prev = hash
		b.Records = append(b.Records, record)
	}
	return b
}

func FuzzBatchID(f *testing.F) {
	for _, s := range []string{"3-1-200", "1-1-1", "0-1-1", "4294967295-4294967295-4294967295", "1-2-3-4", "+1-2-3", "01-2-3", "--", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		b, err := topics.ParseBatchID(s)
		if err == nil && (b.String() != s || b.Epoch == 0 || b.First == 0 || b.Last < b.First) {
			t.Errorf("%q: %+v", s, b)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	tree := newTree(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tree.Parse(root + "vehicle/01216/transactions/01216-1/3-1-200"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBuild(b *testing.B) {
	tree := newTree(b)
	a := topics.Address{Kind: topics.Transactions, Vehicle: "01216", Machine: "01216-1", Batch: topics.BatchID{Epoch: 3, First: 1, Last: 200}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tree.Build(a); err != nil {
			b.Fatal(err)
		}
	}
}
