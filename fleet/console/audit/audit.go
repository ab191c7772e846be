// Package audit is the book of what people did at the console and over its API: who, in which role, by which way in, did what
// to what, and what came of it. An entry is never changed and never taken out; refusals stand in it beside what was done.
package audit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// What came of an action.
const (
	Asked   = "asked"   // it begins: what came of it is the next entry about it, or nobody knows, since the service ended meanwhile
	Done    = "done"    // it is in force
	Waits   = "waits"   // it is on disk and will be done
	Refused = "refused" // to who asked: a wrong password, a role that is too low
	Failed  = "failed"  // it was allowed, and could not be done
)

// Entry is one action. Texts may hold anything that people typed: whoever shows them escapes them.
type Entry struct {
	N       int64     `json:"n"`                // grows; 0 before it is kept
	At      time.Time `json:"at"`               // UTC, kept to the millisecond
	By      string    `json:"by"`               // the name of who did it; empty where nobody known did
	Role    string    `json:"role"`             // that they had; empty where they had none
	Via     string    `json:"via"`              // access.Identity.Via
	Action  string    `json:"action"`           // "sign_in", "acknowledge", "collect", "export", "rules_save" ...: a word of a to z, 0 to 9 and _
	Subject string    `json:"subject"`          // what it was done to: "fault M-01...", "machine 1216-1", "ledger"
	Detail  string    `json:"detail,omitempty"` // what else is worth knowing: a note, a reason, why it was refused
	Outcome string    `json:"outcome"`          // Asked, Done, Waits, Refused or Failed
	Remote  string    `json:"remote,omitempty"` // address of the client, without its port
}

// How long the parts of an entry may be, in bytes. Of what is longer the beginning is kept, with Cut at its end.
const (
	MaxName    = 128 // By, Remote
	MaxWord    = 32  // Role, Via, Action
	MaxSubject = 256
	MaxDetail  = 2000
)

// Cut marks the end of a text that was too long.
const Cut = "…"

// ErrInvalid says that an entry lacks what every entry has.
var ErrInvalid = errors.New("not an audit entry")

// Clean gives the entry as it is kept: over-long texts are cut, control characters and those that turn the direction of a line
// around are replaced by U+FFFD, as is what is not UTF-8, so that an entry is one line wherever it is shown.
func (e Entry) Clean() Entry {
	e.At = e.At.UTC().Truncate(time.Millisecond)
	for _, f := range []struct {
		text *string
		most int
	}{
		{&e.By, MaxName},
		{&e.Role, MaxWord},
		{&e.Via, MaxWord},
		{&e.Subject, MaxSubject},
		{&e.Detail, MaxDetail},
		{&e.Outcome, MaxWord},
		{&e.Remote, MaxName},
	} {
		*f.text = Text(*f.text, f.most)
	}
	return e
}

// Text is s as an entry keeps it, in at most most bytes.
func Text(s string, most int) string {
	if len(s) > most+utf8.UTFMax { // however long it is, no more than this is looked at
		s = s[:most+utf8.UTFMax]
	}
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.In(r, unicode.Bidi_Control, unicode.Zl, unicode.Zp) {
			return utf8.RuneError
		}
		return r
	}, s) // gives U+FFFD for what is not UTF-8, too
	if len(s) <= most {
		return s
	}
	end := most - len(Cut)
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + Cut
}

// Validate says what an entry lacks that no cleaning can add: ErrInvalid.
func (e Entry) Validate() error {
	word := func(r rune) bool { return r != '_' && (r < 'a' || r > 'z') && (r < '0' || r > '9') }
	switch {
	case e.At.IsZero():
		return fmt.Errorf("%w: it says not when", ErrInvalid)
	case e.Action == "" || len(e.Action) > MaxWord || strings.ContainsFunc(e.Action, word):
		return fmt.Errorf("%w: action %.40q, want a word of a to z, 0 to 9 and _ of at most %d bytes", ErrInvalid, e.Action, MaxWord)
	case !slices.Contains(outcomes(), e.Outcome):
		return fmt.Errorf("%w: outcome %.40q, want one of %v", ErrInvalid, e.Outcome, outcomes())
	}
	return nil
}

func outcomes() []string { return []string{Asked, Done, Waits, Refused, Failed} }

// Query narrows Log.List down; its zero value asks for the newest entries.
type Query struct {
	From, To   time.Time // From included, To not; zero: open
	By, Action string    // empty: all
	Before     int64     // entries with a smaller number only, to page on from the last one seen; 0: from the newest
	Limit      int       // at most; 0 is DefaultLimit, more than MaxLimit is MaxLimit
}

// How many entries a query gives.
const (
	DefaultLimit = 100
	MaxLimit     = 1000
)

// Most is how many entries the query gives at most.
func (q Query) Most() int {
	if q.Limit <= 0 {
		return DefaultLimit
	}
	return min(q.Limit, MaxLimit)
}

// Log keeps entries. It is safe for concurrent use.
type Log interface {
	// Append keeps an entry as Clean makes it, under the next number whatever N says. It is on disk when Append returns nil.
	// An entry that Validate refuses is not kept.
	Append(ctx context.Context, e Entry) error
	// List gives entries, newest first: by number, which is the order in which they were kept.
	List(ctx context.Context, q Query) ([]Entry, error)
}
