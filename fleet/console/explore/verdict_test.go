package explore_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/farebeat/farebeat/fleet/console/explore"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

func testdata(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "..", "schemas", "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestJudge(t *testing.T) {
	tree := tampa(t)
	batch := testdata(t, "good/transactions/one.json")
	b, err := schemas.DecodeBatch(batch)
	if err != nil {
		t.Fatal(err)
	}
	slot := "vehicle/" + b.Vehicle + "/transactions/" + b.Machine + "/" + topics.BatchID{Epoch: b.Epoch, First: b.First, Last: b.Last}.String()
	for _, tc := range []struct {
		topic, payload string
		state          explore.State
		text           string // a part of it
	}{
		{"machine/m/heartbeat", heartbeat(1), explore.Valid, "schema heartbeat"},
		{"machine/m/heartbeat", `{"seq":1}`, explore.Invalid, `heartbeat: field "boot": is required`},
		{"machine/m/heartbeat", "", explore.Invalid, "heartbeat: "},
		{"machine/m/heartbeat", heartbeat(1) + strings.Repeat(" ", 2000), explore.Invalid, "bytes, at most 1024"},
		{"machine/m/door", "{}", explore.Invalid, "not in the tree"},
		{"machine/%6D/heartbeat", heartbeat(1), explore.Invalid, "no percent-encoding of ours"},
		{"vehicle/1/gateway", gateway("1"), explore.Valid, "schema gateway"},
		{"vehicle/1/gateway", gateway("2"), explore.Invalid, `field "vehicle": is "2" on the topic of "1"`},
		{"vehicle/1/gateway", "", explore.Cleared, "nothing stands"},
		{"meta/asyncapi", "{}", explore.Unknown, "no schema for meta/asyncapi"},
		{slot, string(batch), explore.Valid, "schema transactions"},
		{slot + "0", string(batch), explore.Invalid, `field "first": is "`},
		{strings.Replace(slot, b.Vehicle, "x", 1), string(batch), explore.Invalid, `field "vehicle"`},
		{slot, strings.Replace(string(batch), `"amount_minor"`, `"amount"`, 1), explore.Invalid, `field "records[0].amount_minor"`},
		{"command/v/c1", string(testdata(t, "good/command/collect.json")), explore.Invalid, `command: field "id": is "`},
		{"event/minor/x", string(testdata(t, "good/event/opened.json")), explore.Invalid, `field "data.kind": is "`},
		{"route/other/fault/f", string(testdata(t, "good/route-fault/open.json")), explore.Invalid, `field "data.route": is "`},
	} {
		v := explore.Judge(tree, root+tc.topic, []byte(tc.payload))
		if v.State != tc.state || !strings.Contains(v.Text, tc.text) {
			t.Errorf("%s %.60s: %+v, want %s: %s", tc.topic, tc.payload, v, tc.state, tc.text)
		}
	}
	if v := explore.Judge(tree, "elsewhere/x", nil); v.State != explore.Invalid || !strings.Contains(v.Text, "does not begin with "+root) {
		t.Errorf("another tree: %+v", v)
	}
}

// topicOf is a topic for the messages of a schema, by the folder of its test data.
func topicOf(folder string) string {
	return root + map[string]string{
		"heartbeat": "machine/V-0042/heartbeat", "machine-state": "machine/V-0042/state", "gateway": "vehicle/01216/gateway", "vehicle-fault": "vehicle/01216/fault/V-0042",
		"recovery": "vehicle/01216/recovery/V-0042", "transactions": "vehicle/01216/transactions/V-0042/3-2-2", "receipt": "vehicle/01216/receipt/V-0042",
		"ticket": "vehicle/01216/ticket/V-0042", "route-online": "route/36/online", "route-fault": "route/36/fault/01JDB70QX2", "common-fault": "fault/01JDB70QX2", "report": "report/driver-app",
		"command": "command/01216/c-20261122-0003", "command-result": "command/01216/c-20261122-0003/result", "event": "event/major/machine_silent", "fleet": "fleet",
	}[folder]
}

// FuzzVerdict: no topic or payload panics, and what is called valid is what its schema decodes.
func FuzzVerdict(f *testing.F) {
	files, err := filepath.Glob("../../../schemas/testdata/*/*/*.json")
	if err != nil || len(files) < 50 {
		f.Fatalf("%d files: %v", len(files), err)
	}
	valid := 0
	tree := tampa(f)
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		topic := topicOf(filepath.Base(filepath.Dir(file)))
		f.Add(topic, b)
		good := filepath.Base(filepath.Dir(filepath.Dir(file))) == "good"
		if v := explore.Judge(tree, topic, b); v.State == explore.Valid {
			valid++
			if !good {
				f.Errorf("%s is called valid", file)
			}
		}
	}
	if valid < 10 {
		f.Errorf("only %d files are valid on their topic", valid)
	}
	f.Add("", []byte(nil))
	f.Add(root+"vehicle/%/gateway", []byte("\xff"))
	f.Fuzz(func(t *testing.T, topic string, payload []byte) {
		v := explore.Judge(tree, topic, payload)
		a, err := tree.Parse(topic)
		if err != nil {
			if v.State != explore.Invalid || v.Text != err.Error() {
				t.Errorf("%q: %+v, want %v", topic, v, err)
			}
			return
		}
		spec, _ := tree.Spec(a.Kind)
		switch v.State {
		case explore.Valid:
			m, _ := schemas.NewMessage(spec.Schema)
			if err := schemas.Decode(payload, spec.Schema, m); err != nil || len(payload) > spec.MaxBytes {
				t.Errorf("%q is called valid: %v", payload, err)
			}
		case explore.Cleared:
			if len(payload) > 0 || !spec.Retain {
				t.Errorf("%q is called cleared", payload)
			}
		case explore.Invalid, explore.Unknown:
			if v.Text == "" {
				t.Errorf("no complaint: %+v", v)
			}
		}
	})
}
