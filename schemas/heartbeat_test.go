package schemas_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/farebeat/farebeat/schemas"
)

// examples returns every good and bad heartbeat of testdata by name.
func examples(t testing.TB) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("testdata/*/heartbeat/*.json")
	if err != nil || len(files) < 40 {
		t.Fatalf("%d heartbeats in testdata (%v)", len(files), err)
	}
	all := map[string][]byte{}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all[file] = b
	}
	return all
}

// sameAsDecode checks that the hand-written decoder and Decode agree on a payload; and what is accepted means to encoding/json what it means to us.
func sameAsDecode(t *testing.T, d *schemas.HeartbeatDecoder, payload []byte) {
	t.Helper()
	var fast, slow, std schemas.Heartbeat
	fastErr := d.Decode(payload, &fast)
	slowErr := schemas.Decode(payload, schemas.NameHeartbeat, &slow)
	if (fastErr == nil) != (slowErr == nil) { // where two things are wrong, either may be named
		t.Fatalf("decoder: %v\nDecode:  %v\n%s", fastErr, slowErr, payload)
	}
	if fastErr != nil {
		return
	}
	if !reflect.DeepEqual(fast, slow) {
		t.Fatalf("decoder: %+v\nDecode:  %+v\n%s", fast, slow, payload)
	}
	if misnamed(payload) {
		return
	}
	if err := json.Unmarshal(payload, &std); err != nil {
		if !strings.Contains(err.Error(), "parsing time") { // it takes no escapes in times
			t.Fatalf("encoding/json refuses: %v\n%s", err, payload)
		}
		return
	}
	if err := std.Validate(); err != nil || !reflect.DeepEqual(fast, std) {
		t.Fatalf("decoder:       %+v\nencoding/json: %+v (%v)\n%s", fast, std, err, payload)
	}
}

// misnamed reports a member that encoding/json takes for one of ours though its case differs.
func misnamed(payload []byte) bool {
	var members map[string]json.RawMessage
	_ = json.Unmarshal(payload, &members)
	for name := range members {
		for f := range reflect.TypeFor[schemas.Heartbeat]().Fields() {
			if ours, _, _ := strings.Cut(f.Tag.Get("json"), ","); ours != name && strings.EqualFold(ours, name) {
				return true
			}
		}
	}
	return false
}

func TestHeartbeatDecoderAgrees(t *testing.T) {
	d := schemas.NewHeartbeatDecoder()
	for name, payload := range examples(t) {
		t.Run(name, func(t *testing.T) { sameAsDecode(t, d, payload) })
	}
}

func FuzzHeartbeat(f *testing.F) {
	for _, payload := range examples(f) {
		f.Add(payload)
	}
	f.Add([]byte("{}0"))
	d := schemas.NewHeartbeatDecoder()
	f.Fuzz(func(t *testing.T, payload []byte) {
		sameAsDecode(t, d, payload)
		var hb, again schemas.Heartbeat
		if d.Decode(payload, &hb) != nil {
			return
		}
		written := schemas.AppendHeartbeat(nil, &hb)
		if err := schemas.NewHeartbeatDecoder().Decode(written, &again); err != nil {
			t.Fatalf("what was accepted is refused when written anew: %v\n%s", err, written)
		}
		if twice := schemas.AppendHeartbeat(nil, &again); string(twice) != string(written) {
			t.Fatalf("not stable:\n%s\n%s", written, twice)
		}
	})
}

// TestHeartbeatRoundTrip writes and reads any valid heartbeat.
func TestHeartbeatRoundTrip(t *testing.T) {
	d := schemas.NewHeartbeatDecoder()
	id := rapid.StringMatching(`[a-zA-Z0-9 /:"\\<>&%{}éø北🚍]{0,64}`)
	at := rapid.Custom(func(t *rapid.T) time.Time {
		return time.UnixMilli(rapid.Int64Range(0, 253402300799999).Draw(t, "ms")).UTC()
	})
	rapid.Check(t, func(t *rapid.T) {
		hb := schemas.Heartbeat{
			Seq: rapid.Uint64().Draw(t, "seq"), Boot: "b" + rapid.StringMatching(`[ -~]{0,63}`).Draw(t, "boot"), At: at.Draw(t, "at"),
			Vehicle: id.Draw(t, "vehicle"), Route: id.Draw(t, "route"), Trip: id.Draw(t, "trip"),
			State:   rapid.SampledFrom([]schemas.RunState{schemas.Running, schemas.Warning, schemas.Defective, schemas.NotAvailable, schemas.ReadyForShutdown}).Draw(t, "state"),
			Pending: rapid.Uint32().Draw(t, "pending"), PendingMinor: rapid.Int64().Draw(t, "minor"), Currency: rapid.SampledFrom([]string{"", "EUR", "CNY"}).Draw(t, "currency"),
			LastSeq: rapid.Uint32().Draw(t, "last"), Epoch: rapid.Uint32().Draw(t, "epoch"), Firmware: id.Draw(t, "fw"), Fault: id.Draw(t, "fault"),
		}
		if rapid.Bool().Draw(t, "oldest there") {
			oldest := at.Draw(t, "oldest")
			hb.OldestPending = &oldest
		}
		written := schemas.AppendHeartbeat(nil, &hb)
		var got schemas.Heartbeat
		if err := d.Decode(written, &got); err != nil {
			t.Fatalf("%v\n%s", err, written)
		}
		if !reflect.DeepEqual(got, hb) {
			t.Fatalf("got  %+v\nwant %+v\n%s", got, hb, written)
		}
		if encoded, err := schemas.Encode(&hb); err != nil || string(encoded) != string(written) {
			t.Fatalf("Encode differs: %v\n%s\n%s", err, encoded, written)
		}
	})
}

func TestHeartbeatDecoderDoesNotAllocate(t *testing.T) {
	d := schemas.NewHeartbeatDecoder()
	var hb schemas.Heartbeat
	for _, name := range []string{"full", "minimal", "unknown-members", "ids-as-gtfs-has-them", "escapes"} {
		payload := golden(t, "heartbeat", name)
		if n := testing.AllocsPerRun(100, func() {
			if err := d.Decode(payload, &hb); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations a heartbeat", name, n)
		}
	}
	buf := make([]byte, 0, 1024)
	if n := testing.AllocsPerRun(100, func() { buf = schemas.AppendHeartbeat(buf[:0], &hb) }); n != 0 {
		t.Errorf("%v allocations to write one", n)
	}
}

// TestHeartbeatKeepsNothingOfThePayload reuses the payload's memory, as a broker does.
func TestHeartbeatKeepsNothingOfThePayload(t *testing.T) {
	d := schemas.NewHeartbeatDecoder()
	for _, name := range []string{"full", "escapes"} {
		payload := golden(t, "heartbeat", name)
		var hb, fresh schemas.Heartbeat
		if err := schemas.Decode(payload, schemas.NameHeartbeat, &fresh); err != nil {
			t.Fatal(err)
		}
		if err := d.Decode(payload, &hb); err != nil {
			t.Fatal(err)
		}
		clear(payload)
		if !reflect.DeepEqual(hb, fresh) {
			t.Errorf("%s: %+v\nwant %+v", name, hb, fresh)
		}
	}
}

func BenchmarkHeartbeatDecode(b *testing.B) {
	payload := golden(b, "heartbeat", "full")
	b.SetBytes(int64(len(payload)))
	b.Run("hand-written", func(b *testing.B) {
		d := schemas.NewHeartbeatDecoder()
		var hb schemas.Heartbeat
		b.ReportAllocs()
		for b.Loop() {
			if err := d.Decode(payload, &hb); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Decode", func(b *testing.B) {
		var hb schemas.Heartbeat
		b.ReportAllocs()
		for b.Loop() {
			if err := schemas.Decode(payload, schemas.NameHeartbeat, &hb); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("encoding-json", func(b *testing.B) {
		var hb schemas.Heartbeat
		b.ReportAllocs()
		for b.Loop() {
			if err := json.Unmarshal(payload, &hb); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkVerifyTransaction(b *testing.B) {
	record := chain(b, 1)[0]
	b.SetBytes(int64(len(record)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := schemas.VerifyTransaction(key(), record); err != nil {
			b.Fatal(err)
		}
	}
}
