package api

import (
	"bytes"
	"encoding/csv"
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNoCellIsAFormula(t *testing.T) {
	for cell, want := range map[string]string{
		"": "", "36": "36", "-36": "-36", "+36": "+36", "-3.50": "-3.50", "plain": "plain", "a=1": "a=1", "2026-11-23": "2026-11-23", "M-01": "M-01",
		"=1+1": "'=1+1", "=cmd|'/C calc'!A0": "'=cmd|'/C calc'!A0", "+cmd": "'+cmd", "-cmd": "'-cmd", "@SUM(A1)": "'@SUM(A1)", "\t=1": "'\t=1",
		"\r=1": "'\r=1", "\n=1": "'\n=1", "-": "'-", "+": "'+", "-1+2": "'-1+2", "--1": "'--1", "+-1": "'+-1", "-1.": "'-1.", "-.5": "'-.5", "-1e5": "'-1e5",
		"-Inf": "'-Inf", "-0x1": "'-0x1", "＝1": "'＝1", "＋1": "'＋1", "－1": "'－1", "＠a": "'＠a", " =1": " =1",
	} {
		if got := harmless(cell); got != want {
			t.Errorf("%q became %q, want %q", cell, got, want)
		}
	}
}

func FuzzHarmless(f *testing.F) {
	for _, seed := range []string{"", "=1", "-1", "-1.5", "+a", "@", "\x00=", "＝", "-\xff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, cell string) {
		got := harmless(cell)
		if got != cell && got != "'"+cell {
			t.Errorf("%q became %q", cell, got)
		}
		if harmless(got) != got {
			t.Errorf("%q is not harmless", got)
		}
	})
}

func TestATablePassesThroughHarmless(t *testing.T) {
	rows := [][]string{{"a", "b"}, {"=1,\"x\"\n", "-2.25"}, {"", "@"}, {"only one"}}
	var in, out bytes.Buffer
	w := csv.NewWriter(&in)
	if err := w.WriteAll(rows); err != nil {
		t.Fatal(err)
	}
	copyAll := func(to io.Writer) error { _, err := to.Write(in.Bytes()); return err }
	if err := harmlessCSV(&out, copyAll); err != nil {
		t.Fatal(err)
	}
	r := csv.NewReader(&out)
	r.FieldsPerRecord = -1
	got, err := r.ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	want := [][]string{{"a", "b"}, {"'=1,\"x\"\n", "-2.25"}, {"", "'@"}, {"only one"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	broken := errors.New("the disk is gone")
	if err := harmlessCSV(&out, func(to io.Writer) error { _, _ = io.WriteString(to, "a,b\n"); return broken }); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	if err := harmlessCSV(full{}, func(to io.Writer) error {
		for {
			if _, err := io.WriteString(to, "a,b,c,d\n"); err != nil {
				return err
			}
		}
	}); !errors.Is(err, errFull) {
		t.Errorf("%v", err)
	}
}

var errFull = errors.New("full")

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errFull }
