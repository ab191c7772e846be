package check_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/schemas/check"
)

// beyondSchema names the bad examples that only the Go decoders refuse, and why JSON Schema
// cannot: it compares no two members, sees no order and not the bytes of the JSON.
func beyondSchema() map[string]string {
	const (
		compare = "compares two members"
		bytes   = "is about the bytes, not the value"
		later   = "is about the order of array elements"
	)
	return map[string]string{
		"heartbeat/seq-twice":                 bytes,
		"heartbeat/seq-exponent":              bytes,
		"heartbeat/seq-with-fraction-0":       bytes,
		"heartbeat/deep":                      bytes,
		"route-online/min-above-max":          compare,
		"recovery/read-above-total":           compare,
		"ticket/expires-before-issue":         compare,
		"recovery/receipted-above-total":      compare,
		"transaction/mac-first":               bytes,
		"transaction/mac-twice":               bytes,
		"transaction/not-compact":             bytes,
		"transaction/space-after":             bytes,
		"transaction/space-before":            bytes,
		"transaction/too-long":                bytes,
		"transactions/hole":                   compare,
		"transactions/too-few":                compare,
		"transactions/wrong-order":            later,
		"transactions/other-machine":          compare,
		"transactions/last-before-first":      compare,
		"receipt/gaps-out-of-order":           later,
		"receipt/gap-reversed":                compare,
		"receipt/gap-not-after-complete":      compare,
		"receipt/gap-at-highest":              compare,
		"receipt/complete-above-highest":      compare,
		"receipt/oldest-first":                later,
		"certificate/complete-with-missing":   compare,
		"certificate/complete-not-verified":   compare,
		"certificate/verified-above-received": compare,
		"certificate/received-not-the-sum":    compare,
		"certificate/newest-first":            later,
		"certificate/last-before-first":       compare,
		"certificate/records-too-many":        compare,
		"certificate/gap-before-complete-to":  compare,
		"certificate/gaps-out-of-order":       later,
		"certificate/currency-twice":          later,
		"certificate/previous-in-the-first":   compare,
		"certificate/previous-missing":        compare,
	}
}

func newChecker(t testing.TB) *check.Checker {
	t.Helper()
	c, err := check.New()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// decode reads a payload as its consumers do.
func decode(t testing.TB, name string, payload []byte) (schemas.Message, error) {
	t.Helper()
	switch name {
	case schemas.NameHeartbeat:
		var hb schemas.Heartbeat
		err := schemas.NewHeartbeatDecoder().Decode(payload, &hb)
		return &hb, err
	case schemas.NameTransaction:
		tx, err := schemas.ParseTransaction(payload)
		return &tx, err
	}
	m, ok := schemas.NewMessage(name)
	if !ok {
		t.Fatalf("no message is called %q", name)
	}
	return m, schemas.Decode(payload, name, m)
}

// examples lists the files of schemas/testdata/{kind}/{name}; at least least of them.
func examples(t testing.TB, kind, name string, least int) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", "testdata", kind, name, "*.json"))
	if err != nil || len(files) < least {
		t.Fatalf("%d %s examples of %s, want at least %d (%v)", len(files), kind, name, least, err)
	}
	return files
}

func read(t testing.TB, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestGoodExamples(t *testing.T) {
	c := newChecker(t)
	for _, name := range schemas.Names() {
		for _, file := range examples(t, "good", name, 1) {
			t.Run(name+"/"+filepath.Base(file), func(t *testing.T) {
				payload := read(t, file)
				if err := c.Validate(name, payload); err != nil {
					t.Errorf("schema: %v", err)
				}
				m, err := decode(t, name, payload)
				if err != nil {
					t.Fatalf("decode: %v", err)
				}
				stable(t, c, name, m)
			})
		}
	}
}

// stable checks that what was decoded encodes, keeps its schema, and encodes to the same
// bytes after another round.
func stable(t *testing.T, c *check.Checker, name string, m schemas.Message) {
	t.Helper()
	first, err := schemas.Encode(m)
	if err != nil {
		t.Fatalf("encode: %v", err)
	}
	if err := c.Validate(name, first); err != nil {
		t.Errorf("schema of what was encoded: %v", err)
	}
	again, err := decode(t, name, first)
	if err != nil {
		t.Fatalf("decode what was encoded: %v", err)
	}
	if second, err := schemas.Encode(again); err != nil || !bytes.Equal(first, second) {
		t.Errorf("encoding is not stable: %v\n%s\n%s", err, first, second)
	}
	if hb, ok := m.(*schemas.Heartbeat); ok {
		if b := schemas.AppendHeartbeat(nil, hb); !bytes.Equal(b, first) {
			t.Errorf("AppendHeartbeat differs from Encode:\n%s\n%s", b, first)
		}
	}
}

func TestBadExamples(t *testing.T) {
	c := newChecker(t)
	beyond := beyondSchema()
	for _, name := range schemas.Names() {
		for _, file := range examples(t, "bad", name, 3) {
			id := name + "/" + strings.TrimSuffix(filepath.Base(file), ".json")
			why, goOnly := beyond[id]
			delete(beyond, id)
			t.Run(id, func(t *testing.T) {
				payload := read(t, file)
				want := strings.TrimSpace(string(read(t, strings.TrimSuffix(file, ".json")+".want")))
				if _, err := decode(t, name, payload); err == nil || want == "" || !strings.Contains(err.Error(), want) {
					t.Errorf("decode: %v\nwant an error with %q", err, want)
				}
				switch err := c.Validate(name, payload); {
				case err == nil && !goOnly:
					t.Error("the schema accepts it")
				case err != nil && goOnly:
					t.Errorf("marked as one that a schema cannot refuse, because it %s; yet: %v", why, err)
				}
			})
		}
	}
	for id := range beyond {
		t.Errorf("beyondSchema names %s, which is no example", id)
	}
}

// TestExamplesAreOfAName keeps examples from being forgotten in a folder that no test reads.
func TestExamplesAreOfAName(t *testing.T) {
	for _, kind := range []string{"good", "bad"} {
		entries, err := os.ReadDir(filepath.Join("..", "testdata", kind))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if _, ok := schemas.NewMessage(e.Name()); !ok {
				t.Errorf("testdata/%s/%s is of no message", kind, e.Name())
			}
		}
	}
}

func TestEveryMemberIsDescribed(t *testing.T) {
	for _, name := range schemas.Names() {
		var doc map[string]any
		if err := json.Unmarshal(check.Schema(name), &doc); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if doc["$schema"] != "https://json-schema.org/draft/2020-12/schema" || doc["$id"] != "urn:farebeat:v1:"+name || doc["title"] == nil {
			t.Errorf("%s: $schema %v, $id %v, title %v", name, doc["$schema"], doc["$id"], doc["title"])
		}
		described(t, name, doc)
	}
}

func described(t *testing.T, path string, node map[string]any) {
	t.Helper()
	if node["$ref"] == nil && node["description"] == nil && node["items"] == nil && node["type"] != "object" {
		t.Errorf("%s has no description", path)
	}
	if node["type"] == "integer" && (node["minimum"] == nil || node["maximum"] == nil) {
		t.Errorf("%s has no bounds", path)
	}
	properties, _ := node["properties"].(map[string]any)
	for k, v := range properties {
		described(t, path+"."+k, v.(map[string]any))
	}
	if items, ok := node["items"].(map[string]any); ok {
		described(t, path+"[]", items)
	}
}

func TestValidateRefuses(t *testing.T) {
	c := newChecker(t)
	for _, tc := range []struct{ name, payload, want string }{
		{"nothing", "{}", `no schema is called "nothing"`},
		{"fleet", "\xff", "fleet: not UTF-8"},
		{"fleet", "{", "fleet: not JSON"},
		{"fleet", "{}", "missing properties"},
	} {
		if err := c.Validate(tc.name, []byte(tc.payload)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s %q: %v, want %q", tc.name, tc.payload, err, tc.want)
		}
	}
	if check.Schema("nothing") != nil {
		t.Error("there is a schema for nothing")
	}
}

// FuzzDecode feeds every decoder: it never panics, and what it accepts is accepted by the
// schema, encodes, and encodes to the same bytes after another round.
func FuzzDecode(f *testing.F) {
	for i, name := range schemas.Names() {
		for _, kind := range []string{"good", "bad"} {
			for _, file := range examples(f, kind, name, 1) {
				f.Add(i, read(f, file))
			}
		}
	}
	c := newChecker(f)
	f.Fuzz(func(t *testing.T, i int, payload []byte) {
		if i < 0 || i >= len(schemas.Names()) {
			return
		}
		name := schemas.Names()[i]
		m, err := decode(t, name, payload)
		if err != nil {
			return
		}
		if err := c.Validate(name, payload); err != nil {
			t.Errorf("the decoder accepts what the schema refuses: %v\n%s", err, payload)
		}
		if name == schemas.NameTransaction {
			return // a record is never encoded anew
		}
		stable(t, c, name, m)
	})
}
