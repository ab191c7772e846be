package rulestest

import (
	"fmt"
	"strings"
	"time"

	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/rules/internal/yamlfile"
)

// Failure is one thing that is not as the test wants it.
type Failure struct {
	File string
	Line int
	At   time.Duration // from the test's start
	What string        // "open", "opened" or "closed"
	Want string
	Got  string
}

// String is the failure in one line, as compilers write theirs.
func (f Failure) String() string {
	return fmt.Sprintf("%s:%d: at %s: %s: want %s, got %s", f.File, f.Line, yamlfile.Short(f.At), f.What, f.Want, f.Got)
}

const nothing = "nothing"

func (r *run) fail(line int, at time.Duration, what, want, got string) {
	r.failures = append(r.failures, Failure{File: r.file, Line: line, At: at, What: what, Want: want, Got: got})
}

// compareOpen compares the faults that have not ended with all that are wanted at an instant.
func (r *run) compareOpen(w *wantAt) {
	open := r.book.Open()
	taken := make([]bool, len(open))
	for i := range *w.Faults {
		want := &(*w.Faults)[i]
		left := want.Count.number()
		for j := 0; j < len(open) && left > 0; j++ {
			if !taken[j] && want.names(r.test, &open[j]) {
				taken[j] = true
				left--
				r.details(want, w.At.Duration, "open", &open[j])
			}
		}
		if left > 0 {
			r.fail(want.Kind.line, w.At.Duration, "open", want.String(), gotOf(want.Count.number()-left))
		}
	}
	for j := range open {
		if !taken[j] {
			r.fail(w.At.line, w.At.Duration, "open", "nothing else", describe(&open[j]))
		}
	}
}

func gotOf(n int) string {
	if n == 0 {
		return nothing
	}
	return fmt.Sprintf("%d of them", n)
}

// compareEvents compares what opened or closed with the whole list of what is wanted.
func (r *run) compareEvents(what string, opened bool, list *[]wantEvent) {
	if list == nil {
		return
	}
	for i := range *list {
		want := &(*list)[i]
		left, near := want.Count.number(), nothing
		for j := 0; j < len(r.events) && left > 0; j++ {
			e := &r.events[j]
			switch {
			case e.opened != opened || e.told || !want.names(r.test, &e.fault):
			case e.at >= want.At.Duration && e.at < want.At.Duration+r.test.interval:
				e.told = true
				left--
				r.details(&want.wantFault, want.At.Duration, what, &e.fault)
			case near == nothing:
				near = "it at " + yamlfile.Short(e.at)
			}
		}
		if left > 0 {
			r.fail(want.At.line, want.At.Duration, what, want.String(), near)
		}
	}
	for i := range r.events {
		e := &r.events[i]
		if e.opened == opened && !e.told {
			r.fail(r.test.Name.line, e.at, what, "nothing else", describe(&e.fault))
		}
	}
}

// names reports whether the fault is of the wanted kind and subject.
func (w *wantFault) names(c *caseOf, f *faults.Fault) bool {
	want, got := w.subject(), f.Subject
	want.Route, got.Machine = w.Route.string, ""
	if string(f.Kind) != w.Kind.string || got != want {
		return false
	}
	return f.Subject.Machine == w.Machine.string || c.groups[f.Subject.Machine] == w.Machine.string
}

// details compares what a wanted fault says beyond its kind and subject.
func (r *run) details(w *wantFault, at time.Duration, what string, f *faults.Fault) {
	if w.Severity.string != "" && w.Severity.string != string(f.Severity) {
		r.fail(w.Severity.line, at, what, w.String()+" of severity "+w.Severity.string, string(f.Severity))
	}
	if !strings.Contains(f.Reason, w.Reason.string) {
		r.fail(w.Reason.line, at, what, fmt.Sprintf("%s because of %q", w, w.Reason.string), fmt.Sprintf("%q", f.Reason))
	}
	if w.Folded != nil && *w.Folded != (f.Parent != "") {
		r.fail(w.Kind.line, at, what, fmt.Sprintf("%s folded: %v", w, *w.Folded), fmt.Sprint(f.Parent != ""))
	}
}

// String names the fault as failures do.
func (w *wantFault) String() string {
	switch {
	case w.Route.string != "":
		return w.Kind.string + " of route " + w.Route.string
	case w.Count > 1:
		return fmt.Sprintf("%s of %d machines %s", w.Kind.string, w.Count, w.Machine.string)
	case w.Machine.string != "":
		return w.Kind.string + " of machine " + w.Machine.string
	case w.subject() != faults.Subject{}:
		return w.Kind.string + " of " + w.subject().String()
	}
	return w.Kind.string
}

func describe(f *faults.Fault) string {
	s := string(f.Kind)
	if f.Subject != (faults.Subject{}) {
		s += " of " + f.Subject.String()
	}
	return fmt.Sprintf("%s (%s: %s)", s, f.Severity, f.Reason)
}
