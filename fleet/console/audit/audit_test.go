package audit

import (
	"errors"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

func entry() Entry {
	return Entry{At: time.Date(2026, 11, 23, 5, 10, 0, 0, time.UTC), By: "anna", Role: "operator", Via: "password", Action: "acknowledge", Outcome: Done}
}

func TestTextsAreOneBoundedLine(t *testing.T) {
	for _, c := range []struct {
		name, in, want string
		most           int
	}{
		{"plain", "Küche <b>", "Küche <b>", 20},
		{"exactly as long as may be", "abcdef", "abcdef", 6},
		{"too long", "abcdefg", "abc…", 6},
		{"cut between runes", "aüüü", "aü…", 6},
		{"lines", "a\nb\r\tc\x00", "a\uFFFDb\uFFFD\uFFFDc\uFFFD", 40},
		{"C1 and DEL", "a\u0085b\x7f", "a\uFFFDb\uFFFD", 40},
		{"separators of lines", "a\u2028b\u2029", "a\uFFFDb\uFFFD", 40},
		{"turned around", "a\u202egnp.exe", "a\uFFFDgnp.exe", 40},
		{"not UTF-8", "a\xffb", "a\uFFFDb", 40},
		{"grown over the bound by what was replaced", "\x00\x00\x00", "\uFFFD…", 6},
		{"empty", "", "", 6},
	} {
		if got := Text(c.in, c.most); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func FuzzTexts(f *testing.F) {
	f.Add("anna", 128)
	f.Add("a\n\xff\u202e"+strings.Repeat("ü", 100), 31)
	f.Fuzz(func(t *testing.T, s string, most int) {
		most = len(Cut) + max(most, -most)%3000
		if most < len(Cut) {
			t.Skip("the smallest integer has no counterpart")
		}
		got := Text(s, most)
		if len(got) > most || !utf8.ValidString(got) || strings.ContainsFunc(got, unicode.IsControl) {
			t.Errorf("%q of %q, at most %d bytes", got, s, most)
		}
		if Text(got, most) != got {
			t.Errorf("cleaned twice %q is another text", got)
		}
	})
}

func TestEveryFieldOfAnEntryIsCleaned(t *testing.T) {
	long := strings.Repeat("x\n", 3000)
	e := Entry{
		At: time.Date(2026, 11, 23, 6, 10, 0, 1234567, time.FixedZone("", 3600)),
		By: long, Role: long, Via: long, Action: "export", Subject: long, Detail: long, Outcome: long, Remote: long,
	}.Clean()
	if want := time.Date(2026, 11, 23, 5, 10, 0, 1000000, time.UTC); e.At != want {
		t.Errorf("at %v, want %v", e.At, want)
	}
	for i, text := range []string{e.By, e.Role, e.Via, e.Subject, e.Detail, e.Outcome, e.Remote} {
		if strings.Contains(text, "\n") || !strings.HasSuffix(text, Cut) || len(text) > []int{128, 32, 32, 256, 2000, 32, 128}[i] {
			t.Errorf("field %d: %d bytes, %q", i, len(text), text)
		}
	}
}

func TestAnEntryMustSayWhenWhatAndHowItEnded(t *testing.T) {
	if err := entry().Validate(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Entry){
		"says not when": func(e *Entry) { e.At = time.Time{} },
		`action ""`:     func(e *Entry) { e.Action = "" },
		`action "Sign`:  func(e *Entry) { e.Action = "Sign in" },
		`action "aaaa`:  func(e *Entry) { e.Action = strings.Repeat("a", 33) },
		`outcome "ok"`:  func(e *Entry) { e.Outcome = "ok" },
	} {
		e := entry()
		change(&e)
		if err := e.Validate(); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAQueryIsBounded(t *testing.T) {
	for limit, want := range map[int]int{-1: DefaultLimit, 0: DefaultLimit, 1: 1, MaxLimit + 1: MaxLimit} {
		if got := (Query{Limit: limit}).Most(); got != want {
			t.Errorf("limit %d gives %d, want %d", limit, got, want)
		}
	}
}
