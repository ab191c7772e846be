// Package draft is the desk at which the rules of what is a fault are changed: a text is checked, its tests are run, it is tried on stored
// days, and it is saved into the rules file, from where the service takes it within seconds.
//
// A draft is known by the SHA-256 of its text, so that what is saved is what was checked and tried, letter by letter. Drafts are kept in
// memory, the latest few; the file on disk is the only record.
package draft

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/farebeat/farebeat/fleet/expect"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/replay"
	"github.com/farebeat/farebeat/fleet/rules"
)

// Errors to branch on. The error that wraps one says what to do.
var (
	// ErrInvalid says that what was asked cannot be done as it is.
	ErrInvalid = errors.New("not understood")
	// ErrGone says that there is no such draft any more.
	ErrGone = errors.New("this draft is not known here")
	// ErrBusy says that another draft is being tried.
	ErrBusy = errors.New("another trial is running")
	// ErrChanged says that the file is not what it was when the draft was begun.
	ErrChanged = errors.New("the rules file was changed meanwhile")
	// ErrNoFile says that no rules file is configured.
	ErrNoFile = errors.New("no rules file is configured: set fleet.rules_file to a file that exists, such as one that `farebeat rules show` printed, and start the service again")
)

// MaxText bounds a draft in bytes.
const MaxText = 256 << 10

// maxDrafts is how many drafts are kept.
const maxDrafts = 16

// Options say what a Desk works with. All but File, Expect, Policy, Limit, Wall and Logger are required.
type Options struct {
	Live   *rules.Live // what is in force
	File   string      // that Live takes; empty: none
	Zone   *time.Location
	Frames replay.Frames
	Faults replay.Faults
	Routes func() map[string]bool // those that are known; nil map: nobody knows
	// Expect is what trials expect where Span.Source does not say otherwise; nil: the numbers that stand in the counts.
	Expect   expect.Source
	Deadline time.Duration // as replay.Options
	Policy   faults.Policy // as replay.Options
	Now      func() time.Time
	// Limit bounds a trial on the wall; 0: 10 min. Wall is that clock; nil: time.Now.
	Limit  time.Duration
	Wall   func() time.Time
	Logger *slog.Logger
}

// Desk keeps drafts, tries and saves them. It is safe for concurrent use. Trials need Run.
type Desk struct {
	o    Options
	jobs chan *job

	mu     sync.Mutex
	drafts map[string]*entry
	order  []string // ids, the least used first
	trial  *Trial   // the latest
	stop   func()   // ends it; nil while none runs
	disk   disk

	saving sync.Mutex // held while a file is written
}

// entry is what is known of a draft.
type entry struct {
	text    string
	checked Checked
	set     *rules.Set // nil: it is wrong
	tried   *Trial     // the last one of all routes that was done: one route says nothing of the others
}

// disk is what the file said when it was read last.
type disk struct {
	modified time.Time
	size     int64
	set      *rules.Set
	err      error
}

// New makes a desk.
func New(o Options) *Desk {
	if o.Limit <= 0 {
		o.Limit = 10 * time.Minute
	}
	if o.Wall == nil {
		o.Wall = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Desk{o: o, jobs: make(chan *job, 1), drafts: map[string]*entry{}}
}

// Text is the rules file as it is on disk.
type Text struct {
	File string `json:"file,omitempty"` // empty: none is configured
	Body string `json:"text"`
	// Sum is the SHA-256 of the file's bytes, in hex: Saving.Was. Empty where there is no file.
	Sum string `json:"sum,omitempty"`
	// Default says that Body is the rules in force, since there is no file.
	Default bool `json:"default,omitempty"`
}

// Current reads the file; where there is none, it writes out what is in force.
func (d *Desk) Current() (Text, error) {
	t := Text{File: d.o.File}
	if t.File != "" {
		b, err := readBounded(t.File)
		if err == nil {
			t.Body, t.Sum = plain(string(b)), sumOf(b)
			return t, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return t, fmt.Errorf("read the rules file: %w", err)
		}
	}
	b, err := d.o.Live.Set().YAML()
	t.Body, t.Default = string(b), true
	return t, err
}

// readBounded reads a file that may be edited here.
func readBounded(file string) ([]byte, error) {
	info, err := os.Stat(file)
	switch {
	case err != nil:
		return nil, err
	case info.Size() > MaxText:
		return nil, fmt.Errorf("%w: %s has %d bytes, and at most %d can be changed here: change it on disk", ErrInvalid, file, info.Size(), MaxText)
	}
	return os.ReadFile(file)
}

// plain gives a text the line ends of a file: a form sends others.
func plain(text string) string { return strings.ReplaceAll(text, "\r\n", "\n") }

func sumOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// Draft is a text that was checked, and what became of it.
type Draft struct {
	Text    string  `json:"text"`
	Checked Checked `json:"checked"`
	Tried   *Trial  `json:"tried,omitempty"` // the last trial of it on all routes that was done
}

// Draft gives a draft by its id. The error wraps ErrGone.
func (d *Desk) Draft(id string) (Draft, error) {
	e, err := d.find(id)
	if err != nil {
		return Draft{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return Draft{e.text, e.checked, e.tried}, nil
}

func (d *Desk) find(id string) (*entry, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.drafts[id]
	if e == nil {
		return nil, fmt.Errorf("%w: check the text again, then go on", ErrGone)
	}
	i := slices.Index(d.order, id)
	d.order = append(slices.Delete(d.order, i, i+1), id)
	return e, nil
}

// keep remembers a draft, and forgets the one that was not used for longest.
func (d *Desk) keep(id string, e *entry) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if old := d.drafts[id]; old != nil {
		e.tried = old.tried
		d.order = slices.DeleteFunc(d.order, func(o string) bool { return o == id })
	}
	d.drafts[id], d.order = e, append(d.order, id)
	for len(d.order) > maxDrafts {
		delete(d.drafts, d.order[0])
		d.order = d.order[1:]
	}
}

// Standing says which rules are in force, and how the file stands to them.
type Standing struct {
	File     string    `json:"file,omitempty"`          // empty: none, the rules never change
	LoadedAt time.Time `json:"in_force_since,omitzero"` // when the rules in force were taken; zero: at the start
	Loads    int       `json:"loads"`                   // how often rules were taken, the first time counted
	Saved    time.Time `json:"file_changed,omitzero"`   // when the file was written, by the clock on the wall
	InForce  bool      `json:"in_force"`                // what the file says now is what is decided by
	Error    string    `json:"error,omitempty"`         // why it is not
}

// Standing looks at the file. It reads it only where it changed.
func (d *Desk) Standing() Standing {
	live := d.o.Live.Status()
	s := Standing{File: d.o.File, LoadedAt: live.LoadedAt, Loads: live.Loads, InForce: true}
	if s.File == "" {
		return s
	}
	set, modified, err := d.onDisk()
	s.Saved = modified
	s.InForce = err == nil && set.Equal(d.o.Live.Set())
	if err == nil && !s.InForce {
		err = live.Err // its own words, where it has some
	}
	if err != nil {
		s.Error = err.Error()
	}
	return s
}

// onDisk is the set that the file says.
func (d *Desk) onDisk() (*rules.Set, time.Time, error) {
	info, err := os.Stat(d.o.File)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("rules file: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.disk.size == info.Size() && d.disk.modified.Equal(info.ModTime()) {
		return d.disk.set, d.disk.modified, d.disk.err
	}
	d.disk = disk{modified: info.ModTime(), size: info.Size()}
	switch b, err := os.ReadFile(d.o.File); {
	case err != nil:
		d.disk.err = fmt.Errorf("rules file: %w", err)
	case len(b) == 0:
		d.disk.err = fmt.Errorf("rules file %s: is empty; for the default rules write overrides: []", d.o.File)
	default:
		d.disk.set, d.disk.err = rules.Parse(d.o.File, b, d.o.Zone)
	}
	return d.disk.set, d.disk.modified, d.disk.err
}
