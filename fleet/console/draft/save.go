package draft

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/farebeat/farebeat/fleet/durable"
)

// beforeSuffix ends the name under which the file of before is kept.
const beforeSuffix = ".before"

// Saving says what is to be saved, and what is done without.
type Saving struct {
	ID  string // of the draft
	Was string // Text.Sum of the file when the draft was begun; empty: there was none
	// Untried saves what was not tried on stored days with all routes; Failing what its tests speak against.
	Untried, Failing bool
}

// Saved is what was written.
type Saved struct {
	File   string `json:"file"`
	Before string `json:"before,omitempty"` // where the text of before is kept; empty: there was none
	Sum    string `json:"sum"`
}

// Summary says in a line what saving a draft would change, for the audit log.
func (d *Desk) Summary(id string) string {
	e, err := d.find(id)
	if err != nil {
		return "an unknown draft"
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	parts := []string{fmt.Sprintf("%d lines added, %d removed", e.checked.Added, e.checked.Removed)}
	switch {
	case e.tried == nil:
		parts = append(parts, "not tried on all routes")
	case e.tried.Result != nil:
		r := e.tried.Result
		parts = append(parts, fmt.Sprintf("tried from %s to %s: %d new faults, %d missed, %d pages", d.minute(r.From), d.minute(r.To), r.New, r.Missed, r.Pages))
	}
	if t := e.checked.Tests; !t.Passed() {
		parts = append(parts, fmt.Sprintf("%d of %d tests fail", t.Failed, t.Ran))
	}
	for line := range changes(e.checked.Diff) {
		parts = append(parts, "first: "+start(strings.TrimSpace(line), 120))
		break
	}
	return strings.Join(parts, "; ") + "; sha256 " + id[:min(12, len(id))]
}

// start is the first so many letters of a text.
func start(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n]) + " ..."
	}
	return s
}

// Save writes a draft into the rules file, all of it or nothing, and keeps the text of before beside it. It is on disk when it returns. The
// service takes it as it takes every change of the file.
func (d *Desk) Save(s Saving) (Saved, error) {
	if d.o.File == "" {
		return Saved{}, ErrNoFile
	}
	e, err := d.find(s.ID)
	if err != nil {
		return Saved{}, err
	}
	d.mu.Lock()
	tried, checked := e.tried != nil, e.checked
	d.mu.Unlock()
	switch {
	case e.set == nil:
		return Saved{}, fmt.Errorf("%w: the text is no rules file: %s", ErrInvalid, checked.Problems[0].String())
	case !checked.Tests.Passed() && !s.Failing:
		return Saved{}, fmt.Errorf("%w: the tests of the rules fail; change the rules or the tests, or say that it is to be saved nevertheless", ErrInvalid)
	case !tried && !s.Untried:
		return Saved{}, fmt.Errorf("%w: this text was not tried on past days with all routes; try it with the route left empty, or say that it is to be saved without", ErrInvalid)
	}
	d.saving.Lock()
	defer d.saving.Unlock()
	// Where the name is a link, what it leads to is replaced.
	path, err := filepath.EvalSymlinks(d.o.File)
	if errors.Is(err, fs.ErrNotExist) {
		path, err = d.o.File, nil
	}
	if err != nil {
		return Saved{}, fmt.Errorf("save the rules: %w", err)
	}
	old, err := os.ReadFile(path)
	missing := errors.Is(err, fs.ErrNotExist)
	switch {
	case err != nil && !missing:
		return Saved{}, fmt.Errorf("save the rules: %w", err)
	case missing && s.Was != "", !missing && sumOf(old) != s.Was:
		return Saved{}, fmt.Errorf("%w, by somebody else or on disk: begin anew with what it says now", ErrChanged)
	case bytes.Equal(old, []byte(e.text)):
		return Saved{}, fmt.Errorf("%w: the file says this already", ErrInvalid)
	}
	out := Saved{File: d.o.File, Sum: s.ID}
	if !missing {
		out.Before = path + beforeSuffix
	}
	if err := replaceFile(path, []byte(e.text), out.Before, old); err != nil {
		return Saved{}, fmt.Errorf("save the rules: %w: the service must be allowed to write into the folder of its rules file", err)
	}
	return out, nil
}

// String is the problem in a line.
func (p Problem) String() string {
	if p.Line == 0 {
		return p.Text
	}
	return fmt.Sprintf("line %d: %s", p.Line, p.Text)
}

// replaceFile puts body in place of a file, whole, and keeps old under the name before, if there is one.
func replaceFile(path string, body []byte, before string, old []byte) error {
	mode := fs.FileMode(0o644)
	if info, err := os.Stat(path); err == nil {
		mode = info.Mode().Perm()
	}
	if before != "" {
		if err := durable.Replace(before, old, mode, nil); err != nil {
			return err
		}
	}
	return durable.Replace(path, body, mode, nil)
}
