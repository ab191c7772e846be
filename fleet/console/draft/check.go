package draft

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/rogpeppe/go-internal/diff"

	"github.com/farebeat/farebeat/fleet/rules"
	"github.com/farebeat/farebeat/fleet/rules/rulestest"
)

// Problem is what is wrong with a line, or worth a second look.
type Problem struct {
	Line int    `json:"line,omitempty"` // from 1; 0: of no single line
	Text string `json:"text"`
}

// Checked is what was found in a text.
type Checked struct {
	ID       string    `json:"draft"`           // SHA-256 of the text, in hex
	Problems []Problem `json:"problems"`        // why it is no rules file; empty: it is one
	Warnings []Problem `json:"warnings"`        // what is right and may not be meant
	Tests    *Tests    `json:"tests,omitempty"` // of the file beside the rules file, if there is one
	Diff     string    `json:"diff,omitempty"`  // against the file on disk, unified; empty: none
	Added    int       `json:"added"`           // lines of Diff
	Removed  int       `json:"removed"`         // lines of Diff
	Alike    bool      `json:"alike,omitempty"` // it decides as the rules in force do
}

// Tests is what the tests beside the rules file said.
type Tests struct {
	File   string   `json:"file"`
	Error  string   `json:"error,omitempty"` // why they were not run to the end
	Ran    int      `json:"ran"`
	Failed int      `json:"failed"`
	Said   []string `json:"said"` // a line for what was not as wanted, the first ones
}

// Passed reports whether nothing speaks against the rules.
func (t *Tests) Passed() bool { return t == nil || t.Error == "" && t.Failed == 0 }

// Bounds of the tests beside.
const (
	testsLimit = 20 * time.Second // on the wall
	maxSaid    = 50
)

// Check reads a text as a rules file, runs the tests that stand beside the file, and keeps it as a draft. What is wrong
// with the text is no error.
func (d *Desk) Check(ctx context.Context, text string) (Checked, error) {
	text = plain(text)
	if len(text) > MaxText {
		return Checked{}, fmt.Errorf("%w: the text has %d bytes, and at most %d can be changed here", ErrInvalid, len(text), MaxText)
	}
	e := &entry{text: text, checked: Checked{ID: sumOf([]byte(text)), Problems: []Problem{}, Warnings: []Problem{}}}
	c := &e.checked
	set, err := rules.Parse("", []byte(text), d.o.Zone)
	switch {
	case !utf8.ValidString(text):
		c.Problems = append(c.Problems, Problem{Text: "it is no UTF-8 text"})
	case strings.TrimSpace(text) == "":
		c.Problems = append(c.Problems, Problem{Text: "it is empty; for the default rules write overrides: []"})
	case err != nil:
		c.Problems = problemsOf(err)
	default:
		e.set = set
		c.Warnings = append(c.Warnings, d.strangers(set)...)
		c.Alike = set.Equal(d.o.Live.Set())
		if c.Tests, err = d.tests(ctx, text); err != nil {
			return Checked{}, err
		}
	}
	if err := d.compare(c, text); err != nil {
		return Checked{}, err
	}
	d.keep(c.ID, e)
	return *c, nil
}

// compare writes how the text differs from what is on disk.
func (d *Desk) compare(c *Checked, text string) error {
	now, err := d.Current()
	if err != nil {
		return err
	}
	name := "in force"
	if !now.Default {
		name = filepath.Base(d.o.File)
	}
	c.Diff = string(diff.Diff(name, []byte(now.Body), "draft", []byte(text)))
	for line := range changes(c.Diff) {
		if line[0] == '+' {
			c.Added++
		} else {
			c.Removed++
		}
	}
	return nil
}

// changes are the lines of a unified diff that were added or removed.
func changes(diff string) iter.Seq[string] {
	return func(yield func(string) bool) {
		begun := false // what is before it names the two texts
		for line := range strings.Lines(diff) {
			begun = begun || strings.HasPrefix(line, "@@")
			if begun && (line[0] == '+' || line[0] == '-') && !yield(line) {
				return
			}
		}
	}
}

// problemsOf takes an error of rules.Parse apart.
func problemsOf(err error) []Problem {
	if inner := errors.Unwrap(err); inner != nil {
		err = inner // without the name of the file
	}
	text := err.Error()
	at := regexp.MustCompile(`(?:^|; )line (\d+): `)
	found := at.FindAllStringSubmatchIndex(text, -1)
	if len(found) == 0 || found[0][0] != 0 {
		return []Problem{{Text: text}}
	}
	var out []Problem
	for i, m := range found {
		end := len(text)
		if i+1 < len(found) {
			end = found[i+1][0]
		}
		line, _ := strconv.Atoi(text[m[2]:m[3]]) // they are digits; too many of them are no line
		out = append(out, Problem{Line: line, Text: text[m[1]:end]})
	}
	return out
}

// strangers are the routes that a set names and nobody knows.
func (d *Desk) strangers(set *rules.Set) []Problem {
	if d.o.Routes == nil {
		return nil
	}
	known := d.o.Routes()
	if known == nil {
		return nil
	}
	var out []Problem
	for _, n := range set.Named() {
		if !known[n.Route] {
			out = append(out, Problem{n.Line, fmt.Sprintf("route %q is not one of the %d known: a rule for it never holds; ids are compared letter by letter", n.Route, len(known))})
		}
	}
	return out
}

// testsFile is the file of tests beside a rules file: rules_test.yaml beside rules.yaml.
func testsFile(file string) string {
	ext := filepath.Ext(file)
	return strings.TrimSuffix(file, ext) + "_test" + ext
}

// tests runs those beside the rules file against a text; nil where there are none. The error is that of ctx.
func (d *Desk) tests(ctx context.Context, text string) (*Tests, error) {
	if d.o.File == "" {
		return nil, nil
	}
	path := testsFile(d.o.File)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	t := &Tests{File: path, Said: []string{}}
	if err != nil {
		t.Error = err.Error()
		return t, nil
	}
	f, err := rulestest.Parse(filepath.Base(path), b)
	if err != nil {
		t.Error = err.Error()
		return t, nil
	}
	if of := f.RulesFile(); filepath.Base(of) != filepath.Base(d.o.File) {
		t.Error = fmt.Sprintf("they are tests of other rules (%q), and were not run", of)
		return t, nil
	}
	set, err := rules.Parse("", []byte(text), f.Location())
	if err != nil {
		t.Error = err.Error()
		return t, nil
	}
	inner, cancel := context.WithTimeout(ctx, testsLimit)
	defer cancel()
	results, err := f.Run(inner, set, nil)
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("run the tests of the rules: %w", ctx.Err())
	case err != nil:
		t.Error = fmt.Sprintf("they took longer than %s and were stopped; run them with `farebeat rules test %s`", testsLimit, path)
	}
	t.Ran = len(results)
	for _, r := range results {
		if r.Failed() {
			t.Failed++
		}
		for _, f := range r.Failures {
			if len(t.Said) < maxSaid {
				t.Said = append(t.Said, r.Name+": "+f.String())
			}
		}
	}
	return t, nil
}
