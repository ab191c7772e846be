package explore_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/farebeat/farebeat/fleet/console/explore"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics/session"
)

// TestLongPayloads: what is kept of a payload is bounded and ends with a character; it is judged whole.
func TestLongPayloads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, explore.Options{Idle: time.Hour, MaxPayload: 20})
		defer h.end()
		h.put("vehicle/1216/gateway", gateway("1216"))
		h.warm()
		v, _ := h.Topic(t.Context(), "vehicle/1216/gateway")
		if !v.Cut || len(v.Payload) != 20 || v.Size != len(gateway("1216")) || v.Verdict.State != explore.Valid {
			t.Errorf("%+v", v.Message)
		}
		h.put("vehicle/1216/gateway", strings.Repeat("x", 19)+"ääää")
		if v, _ = h.Topic(t.Context(), "vehicle/1216/gateway"); v.Text != strings.Repeat("x", 19) || v.Hex != "" || v.Verdict.State != explore.Invalid {
			t.Errorf("a character was cut: %+v", v.Message)
		}
	})
}

// TestAFullBatchIsJudged: one that stood before anybody looked, and of which only a part is kept, is judged by all its records.
func TestAFullBatchIsJudged(t *testing.T) {
	const slot = "vehicle/v1/transactions/m1/1-1-200"
	full := string(fullBatch(t))
	bad := full[:len(full)-200] + strings.Repeat(" ", 100) + full[len(full)-100:] // within the last record
	for payload, want := range map[string]string{full: "As the schema transactions says.", bad: `transactions: field "records[199]`} {
		synctest.Test(t, func(t *testing.T) {
			h := newHouse(t, explore.Options{})
			defer h.end()
			h.put(slot, payload)
			h.warm()
			if v, ok := h.Topic(t.Context(), slot); !ok || !v.Cut || v.Size != len(payload) || !strings.HasPrefix(v.Verdict.Text, want) {
				t.Errorf("%d of %d bytes: %+v, want %s", len(v.Payload), v.Size, v.Verdict, want)
			}
		})
	}
}

// fullBatch holds as many records as a batch may, as long as they are in practice.
func fullBatch(t *testing.T) []byte {
	t.Helper()
	at := time.Date(2026, 11, 22, 5, 0, 0, 0, time.UTC)
	b := schemas.Batch{Machine: "m1", Vehicle: "v1", Epoch: 1, First: 1, Last: schemas.MaxBatch, AsOf: at}
	prev := schemas.Genesis(b.Machine, b.Epoch)
	for seq := b.First; seq <= b.Last; seq++ {
		record, hash, err := schemas.MintTransaction(make([]byte, schemas.TicketKeySize), prev, &schemas.Transaction{
			Machine: b.Machine, Epoch: b.Epoch, Seq: seq, EventTime: at, TZ: "America/New_York", ServiceDate: "2026-11-22", AmountMinor: 200, Currency: "USD",
			FareAction: "Enter", Media: "Contactless bank card", TokenID: "tok_9f1c", Vehicle: b.Vehicle, Route: "36", Trip: "2018-06-12:36:0907", Stop: "6497", Offline: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		prev, b.Records = hash, append(b.Records, record)
	}
	payload, err := schemas.EncodeBatch(&b)
	if err != nil {
		t.Fatal(err)
	}
	return payload
}

// TestInvalidIsCounted at every level above: short messages as they come, longer ones once somebody looked at their topic.
func TestInvalidIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, explore.Options{Idle: time.Hour})
		defer h.end()
		h.put("vehicle/1/gateway", gateway("2"))
		h.warm()
		h.put("vehicle/3/gateway", `{"x":"`+strings.Repeat("y", 5000)+`"}`)
		h.put("vehicle/4/gateway", gateway("4"))
		want := func(prefix, find string, invalid, unjudged int) {
			t.Helper()
			for _, r := range h.level(prefix, find).Rows {
				invalid, unjudged = invalid-r.Invalid, unjudged-r.Unjudged
			}
			if invalid != 0 || unjudged != 0 {
				t.Errorf("below %q, found by %q: %d invalid and %d unjudged are missing", prefix, find, invalid, unjudged)
			}
		}
		want("", "", 1, 1)
		want("vehicle/3", "", 0, 1)
		h.Topic(t.Context(), "vehicle/3/gateway")
		want("", "", 2, 0)
		want("", "gateway", 2, 0)
		h.put("vehicle/1/gateway", gateway("1"))
		h.put("vehicle/3/gateway", "") // cleared
		want("", "", 0, 0)
	})
}

// TestQuestionsThatAreNone are refused, and the error names what is wrong with them.
func TestQuestionsThatAreNone(t *testing.T) {
	e, err := explore.New(explore.Options{Tree: tampa(t), Session: session.Options{Servers: []string{"tcp://127.0.0.1:1"}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		prefix, find string
		limit        int
		want         string
	}{
		{"", "a/#/b", 0, `find: filter "a/#/b": + and # stand alone, # last`},
		{"", "a+", 0, `find: filter "a+": + and # stand alone, # last`},
		{"", "", -1, "limit -1: want 1 to 1000, or 0 for 100"},
		{"", "", 1001, "limit 1001: want 1 to 1000, or 0 for 100"},
		{"vehicle/+", "", 0, `level "vehicle/+": + and # are for filters; find them`},
	} {
		if _, err := e.Levels(t.Context(), tc.prefix, tc.find, "", tc.limit); !errors.Is(err, explore.ErrUsage) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: %v", tc, err)
		}
	}
}
