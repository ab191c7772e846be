package ledger_test

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/fleet/ledger/ledgertest"
	"github.com/farebeat/farebeat/schemas"
)

// tidesTable is what TIDES says of a table.
type tidesTable struct {
	PrimaryKey    string       `json:"primaryKey"`
	MissingValues []string     `json:"missingValues"`
	Fields        []tidesField `json:"fields"`
}

type tidesField struct {
	Name     string   `json:"name"`
	Type     string   `json:"type"`
	Required bool     `json:"required"`
	Unique   bool     `json:"unique"`
	Enum     []string `json:"enum"`
}

type tidesFacts struct {
	Tables   map[string]tidesTable `json:"tables"`
	Profile  map[string]any        `json:"profile"`
	Resource struct {
		Required []string `json:"required"`
		Name     string   `json:"name"`
		Path     string   `json:"path"`
		Hash     string   `json:"hash"`
		Tables   []string `json:"tides-table"`
	} `json:"resource"`
}

func readFacts(t *testing.T) (f tidesFacts) {
	t.Helper()
	b, err := os.ReadFile("testdata/tides-1.0.json")
	if err == nil {
		err = json.Unmarshal(b, &f)
	}
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// hold checks a table against what TIDES says of it, and returns its rows without the header.
func (table tidesTable) hold(t *testing.T, file []byte) [][]string {
	t.Helper()
	rows, err := csv.NewReader(bytes.NewReader(file)).ReadAll()
	if err != nil || len(rows) == 0 {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	for i, name := range rows[0] {
		known := slices.ContainsFunc(table.Fields, func(f tidesField) bool { return f.Name == name })
		if known == strings.HasPrefix(name, "x_") || slices.Index(rows[0], name) != i {
			t.Errorf("column %q: TIDES knows it: %v", name, known)
		}
	}
	for _, f := range table.Fields {
		column := slices.Index(rows[0], f.Name)
		if column < 0 {
			if f.Required {
				t.Errorf("column %q is required and not there", f.Name)
			}
			continue
		}
		seen := map[string]bool{}
		for n, row := range rows[1:] {
			v := row[column]
			if slices.Contains(table.MissingValues, v) {
				if f.Required {
					t.Errorf("row %d: %s is required and missing: %q", n+1, f.Name, v)
				}
				continue
			}
			if f.Unique && seen[v] {
				t.Errorf("row %d: %s %q is there twice", n+1, f.Name, v)
			}
			seen[v] = true
			if len(f.Enum) > 0 && !slices.Contains(f.Enum, v) {
				t.Errorf("row %d: %s %q is no word of TIDES", n+1, f.Name, v)
			}
			if err := tidesType(f.Type, v); err != nil {
				t.Errorf("row %d: %s %q is no %s: %v", n+1, f.Name, v, f.Type, err)
			}
		}
	}
	return rows[1:]
}

// tidesType checks a value against a type of the Table Schema, with its default format.
func tidesType(kind, v string) (err error) {
	switch kind {
	case "date":
		_, err = time.Parse(time.DateOnly, v)
	case "datetime":
		_, err = time.Parse("2006-01-02T15:04:05Z", v)
	case "number":
		_, err = strconv.ParseFloat(v, 64)
	case "integer":
		_, err = strconv.ParseInt(v, 10, 64)
	case "boolean":
		if !slices.Contains([]string{"true", "True", "TRUE", "1", "false", "False", "FALSE", "0"}, v) {
			err = strconv.ErrSyntax
		}
	}
	return err
}

func TestTIDESTablesHoldTheirSchema(t *testing.T) {
	h := newHouse(t)
	bus := ledgertest.New(t, "bus, \"7\"", "v 1", 3)
	words := []struct{ action, media, tidesAction, tidesMedia string }{
		{"Enter", "Contactless bank card", "Enter", "Bank card"},
		{"Transfer exit", "Optical scan", "Transfer exit", "Optical scan"},
		{"Tap", "Palm", "Other", "Other type"},
		{"Void", "Bank card", "Void", "Bank card"},
	}
	bus.Change = func(tx *schemas.Transaction) {
		w := words[(tx.Seq-1)%4]
		tx.FareAction, tx.Media, tx.Trip, tx.Stop, tx.TokenID = w.action, w.media, "t9", "s4", "tok"
		if tx.Seq%4 == 0 {
			tx.AmountMinor = -225
		}
		if tx.Seq == 8 {
			tx.Currency, tx.ServiceDate = "JPY", "2018-06-13"
		}
	}
	h.take(bus.Mint(8), 1, 8)
	gate := ledgertest.New(t, "gate", "v", 1)
	gate.Change = func(tx *schemas.Transaction) { tx.Vehicle, tx.Stop = "", "s1" }
	h.take(gate.Mint(3), 2, 3)
	nowhere := ledgertest.New(t, "nowhere", "v", 1)
	nowhere.Change = func(tx *schemas.Transaction) { tx.Vehicle = "" }
	h.take(nowhere.Mint(1), 1, 1)

	var fares, devices bytes.Buffer
	n, err := h.ExportTIDES(context.Background(), &fares, &devices, ledger.Filter{})
	if err != nil || n != (ledger.TIDESRows{Transactions: 11, Devices: 3}) {
		t.Fatal(n, err)
	}
	facts := readFacts(t)
	rows := facts.Tables[ledger.FareTable].hold(t, fares.Bytes())
	at := func(name string) int { return slices.Index(ledger.FareColumns(), name) }
	for i, row := range rows[:4] {
		got := []string{row[at("x_fare_action")], row[at("x_media")], row[at("fare_action")], row[at("fare_media_id")]}
		w := words[i]
		if diff := cmp.Diff([]string{w.action, w.media, w.tidesAction, w.tidesMedia}, got); diff != "" {
			t.Error(diff)
		}
	}
	if rows[7][at("amount")] != "-225" || rows[3][at("amount")] != "-2.25" {
		t.Errorf("amounts %q and %q", rows[7][at("amount")], rows[3][at("amount")])
	}
	got := facts.Tables[ledger.DeviceTable].hold(t, devices.Bytes())
	want := [][]string{
		{`bus, "7"`, "", "v 1", "Farebox", "8", "2018-06-12", "2018-06-13", "0"},
		{"gate", "s1", "", "Fare gate", "2", "2018-06-12", "2018-06-12", "1"},
		{"nowhere", "", "", "", "1", "2018-06-12", "2018-06-12", "0"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, err := h.ExportTIDES(context.Background(), fullDisk{}, &devices, ledger.Filter{}); err == nil {
		t.Error("a full disk was not noticed")
	}
	if _, err := h.ExportTIDES(context.Background(), &fares, fullDisk{}, ledger.Filter{}); err == nil {
		t.Error("a full disk was not noticed")
	}
}

// TestTIDESPackageHoldsItsProfile checks what TIDES' profile of a data package requires.
func TestTIDESPackageHoldsItsProfile(t *testing.T) {
	b, err := ledger.TIDESPackage("hart", ledger.Filter{Machine: "m", From: "2018-06-12"},
		ledger.TIDESFile{Table: ledger.FareTable, Path: "fare_transactions.csv", Bytes: 12, SHA256: strings.Repeat("0a", 32)},
		ledger.TIDESFile{Table: ledger.DeviceTable, Path: "devices.csv", Bytes: 7, SHA256: strings.Repeat("0b", 32)})
	if err != nil {
		t.Fatal(err)
	}
	var p map[string]any
	if err := json.Unmarshal(b, &p); err != nil {
		t.Fatal(err)
	}
	facts := readFacts(t)
	for _, name := range facts.Profile["required"].([]any) {
		if p[name.(string)] == nil {
			t.Errorf("%v is required", name)
		}
	}
	if p["title"] != "Fare transactions of hart, machine m, from 2018-06-12" || !regexp.MustCompile(facts.Profile["name"].(string)).MatchString(p["name"].(string)) {
		t.Errorf("title %q, name %q", p["title"], p["name"])
	}
	resources := p["resources"].([]any)
	if len(resources) != 2 {
		t.Fatalf("%d resources", len(resources))
	}
	for _, r := range resources {
		r := r.(map[string]any)
		for _, name := range facts.Resource.Required {
			if r[name] == nil {
				t.Errorf("%v is required of a resource", name)
			}
		}
		for name, pattern := range map[string]string{"name": facts.Resource.Name, "path": facts.Resource.Path, "hash": facts.Resource.Hash} {
			if !regexp.MustCompile(pattern).MatchString(r[name].(string)) {
				t.Errorf("%s %q does not match %s", name, r[name], pattern)
			}
		}
		if r["profile"] != "tabular-data-resource" || !slices.Contains(facts.Resource.Tables, r["tides-table"].(string)) || strings.HasPrefix(r["path"].(string), ".") {
			t.Errorf("resource %v", r)
		}
	}
}
