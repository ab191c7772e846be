package edge

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

func tampa(t testing.TB) topics.Tree {
	t.Helper()
	tree, err := topics.New("tampa")
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

const root = "farebeat/v1/tampa/"

func faultEvent(t testing.TB, f schemas.MachineFault) string {
	t.Helper()
	ev := schemas.CloudEvent[schemas.MachineFault]{
		SpecVersion: "1.0", ID: "e-1", Source: "/farebeat/tampa", Type: "com.farebeat.fault", Time: dawn, DataContentType: "application/json", Data: f,
	}
	b, err := schemas.Encode(&ev)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

const goodReceipt = `{"machine":"m-1","as_of":"2026-03-01T06:00:00Z","epochs":[{"epoch":3,"complete_to":9,"highest":9,"mac":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}]}`

const goodCommand = `{"id":"c-1","at":"2026-03-01T06:00:00Z","by":"lena","verb":"collect","machine":"m-1","expires_at":"2026-03-01T07:00:00Z"}`

const goodFleet = `{"as_of":"2026-03-01T06:00:00Z","status":"ONLINE","ledger_ready":true,"since":"2026-03-01T06:00:00Z","session":7}`

func TestWhatTheBrokerDelivers(t *testing.T) {
	f := fault("m-1", 5, 0)
	for name, c := range map[string]struct {
		topic, payload string
		want           any
	}{
		"a fault":          {"vehicle/bus-1/fault/m-1", faultEvent(t, f), faultStands{f}},
		"the end of it":    {"vehicle/bus-1/fault/m-1", "", faultGone{"m-1"}},
		"no fleet":         {"fleet", "", cleared{}},
		"no receipt":       {"vehicle/bus-1/receipt/m-1", "", cleared{}},
		"no command":       {"command/bus-1/c-1", "", cleared{}},
		"the fleet":        {"fleet", goodFleet, schemas.Fleet{AsOf: dawn, Status: schemas.Online, LedgerReady: true, Since: dawn, Session: 7}},
		"an unknown field": {"fleet", strings.Replace(goodFleet, "{", `{"new":[1],`, 1), schemas.Fleet{AsOf: dawn, Status: schemas.Online, LedgerReady: true, Since: dawn, Session: 7}},
		"a command":        {"command/bus-1/c-1", goodCommand, commanded{schemas.Command{ID: "c-1", At: dawn, By: "lena", Verb: schemas.VerbCollect, Machine: "m-1", ExpiresAt: dawn.Add(time.Hour)}}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parse(tampa(t), "bus-1", root+c.topic, []byte(c.payload))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(faultStands{}, faultGone{}, commanded{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestWhatIsRefused(t *testing.T) {
	good := faultEvent(t, fault("m-1", 5, 0))
	for name, c := range map[string]struct{ topic, payload, want string }{
		"not JSON":               {"vehicle/bus-1/fault/m-1", "m-1 is broken", "not JSON"},
		"cut off":                {"vehicle/bus-1/fault/m-1", good[:len(good)-5], "the JSON ends too early"},
		"two objects":            {"vehicle/bus-1/fault/m-1", good + good, "bytes after the end"},
		"an array":               {"vehicle/bus-1/fault/m-1", "[]", "array"},
		"null":                   {"vehicle/bus-1/fault/m-1", "null", "got null"},
		"a wrong type":           {"vehicle/bus-1/fault/m-1", strings.Replace(good, `"pending":5`, `"pending":"5"`, 1), "pending"},
		"a negative count":       {"vehicle/bus-1/fault/m-1", strings.Replace(good, `"pending":5`, `"pending":-5`, 1), "pending"},
		"a number out of range":  {"vehicle/bus-1/fault/m-1", strings.Replace(good, `"pending":5`, `"pending":4294967296`, 1), "pending"},
		"no time":                {"vehicle/bus-1/fault/m-1", regexp.MustCompile(`"opened_at":"[^"]*"`).ReplaceAllString(good, `"opened_at":"yesterday"`), "RFC 3339"},
		"no kind":                {"vehicle/bus-1/fault/m-1", strings.Replace(good, `"kind":"machine_silent"`, `"kind":""`, 1), `"data.kind": is required`},
		"another severity":       {"vehicle/bus-1/fault/m-1", strings.Replace(good, `"severity":"major"`, `"severity":"huge"`, 1), `"huge"`},
		"another machine":        {"vehicle/bus-1/fault/m-2", good, `the fault is of machine "m-1" on vehicle "bus-1", the topic of "m-2" on "bus-1"`},
		"another vehicle inside": {"vehicle/bus-1/fault/m-1", strings.Replace(good, `"vehicle":"bus-1"`, `"vehicle":"bus-2"`, 1), `on vehicle "bus-2"`},
		"another vehicle":        {"vehicle/bus-2/fault/m-1", good, `it is addressed to vehicle "bus-2", this is "bus-1"`},
		"too large":              {"vehicle/bus-1/fault/m-1", strings.Repeat(" ", 5000) + good, "at most 4096"},
		"another operator":       {"../berlin/vehicle/bus-1/fault/m-1", good, "topic"},
		"a topic that is not":    {"vehicle/bus-1/faults/m-1", good, "not in the tree"},
		"a topic of others":      {"machine/m-1/state", "{}", "it is addressed to vehicle"},
		"a topic of its own":     {"vehicle/bus-1/gateway", "{}", "does not read"},
		"a receipt for another":  {"vehicle/bus-1/receipt/m-2", goodReceipt, `the receipt is for machine "m-1", the topic of "m-2"`},
		"a receipt upside down":  {"vehicle/bus-1/receipt/m-1", strings.Replace(goodReceipt, `"complete_to":9`, `"complete_to":10`, 1), "complete_to"},
		"a receipt without MAC":  {"vehicle/bus-1/receipt/m-1", strings.Replace(goodReceipt, `"mac":"A`, `"mac":"`, 1), "mac"},
		"another command":        {"command/bus-1/c-2", goodCommand, `the command is "c-1", the topic of "c-2"`},
		"an unknown verb":        {"command/bus-1/c-1", strings.Replace(goodCommand, "collect", "dance", 1), `"dance"`},
		"an unknown status":      {"fleet", strings.Replace(goodFleet, "ONLINE", "SLEEPING", 1), `"SLEEPING"`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parse(tampa(t), "bus-1", root+c.topic, []byte(c.payload))
			if err == nil || !strings.Contains(err.Error(), c.want) || got != nil {
				t.Fatalf("got %v, error %v, want %q", got, err, c.want)
			}
		})
	}
}

// Whatever comes in, it is an error or something that may be acted on.
func FuzzParse(f *testing.F) {
	for topic, payload := range map[string]string{
		"vehicle/bus-1/fault/m-1":   faultEvent(f, fault("m-1", 5, 0)),
		"vehicle/bus-1/receipt/m-1": goodReceipt,
		"command/bus-1/c-1":         goodCommand,
		"fleet":                     goodFleet,
		"vehicle/bus-1/fault/m-2":   "",
		"vehicle/bus-1/fault/%2F":   `{"data":{}}`,
	} {
		f.Add(root+topic, []byte(payload))
	}
	tree := tampa(f)
	f.Fuzz(func(t *testing.T, topic string, payload []byte) {
		got, err := parse(tree, "bus-1", topic, payload)
		if (got == nil) == (err == nil) {
			t.Fatalf("got %v and error %v", got, err)
		}
		if err != nil {
			return
		}
		s := newState("bus-1", nil, testTimings())
		switch got := got.(type) {
		case faultStands:
			if got.fault.Vehicle != "bus-1" || got.fault.Machine == "" {
				t.Fatalf("fault %+v", got.fault)
			}
			for _, e := range s.step(dawn, got) {
				if r, ok := e.(publishRecovery); ok {
					if _, err := schemas.Encode(&r.recovery); err != nil {
						t.Fatal(err)
					}
				}
			}
		case commanded:
			for _, e := range s.step(dawn, got) {
				if r, ok := e.(publishResult); ok {
					if _, err := schemas.Encode(&r.result); err != nil {
						t.Fatal(err)
					}
				}
			}
		case schemas.Receipt:
			if _, err := json.Marshal(got); err != nil {
				t.Fatal(err)
			}
		case faultGone, cleared, schemas.Fleet:
		default:
			t.Fatalf("%T is nothing that the agent knows", got)
		}
	})
}
