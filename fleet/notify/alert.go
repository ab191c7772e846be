package notify

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/store"
	"github.com/farebeat/farebeat/schemas"
)

// alert is what Alertmanager's API v2 takes (api/v2/openapi.yaml, postableAlert). It is known there by its labels.
type alert struct {
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	StartsAt    time.Time         `json:"startsAt"`
	EndsAt      time.Time         `json:"endsAt"`
}

// origin is what the first events of a fault say that never changes later. An alert whose labels change is another
// alert, and people are told again: so labels are made only of this and of the fault's id and subject.
type origin struct {
	events         uint64 // of the fault, when this was read
	vehicle, route string // of a machine's fault when it opened
	// levels are the severities that the fault reached, each graver than the one before. Each has an alert of its own: it is
	// routed by severity, and a fault that gets graver is news. One that gets milder stays what it was.
	levels []schemas.Severity
	told   bool // people were told of it
}

func originOf(f faults.Fault, events []store.NumberedEvent) origin {
	o := origin{events: f.Events, told: len(events) == 0}
	for i, e := range events {
		if m := e.Fault.Machine; i == 0 && m != nil {
			o.vehicle, o.route = m.Vehicle, m.Route
		}
		o.told = o.told || e.Told()
		if n := len(o.levels); n == 0 || rank(e.Event.Severity) > rank(o.levels[n-1]) {
			o.levels = append(o.levels, e.Event.Severity)
		}
	}
	if len(o.levels) == 0 { // its events were lost
		o.levels = []schemas.Severity{f.Severity}
	}
	return o
}

// standing reports whether an Alertmanager is to show the fault. A parent explains a child, and maintenance what opened in it; what a
// person shelved or gave up is not to be told of again.
func standing(f faults.Fault) bool {
	told := f.Told || f.Maintenance == "" // an older version noted neither
	return !f.Ended() && told && f.Parent == "" && f.Condition != schemas.Abandoned && f.Condition != schemas.Suspected && f.Attention.State != schemas.Shelved
}

// alerts are those of a fault: firing until the time given where it stands, else resolved when it ceased to.
func alerts(operator string, f faults.Fault, o origin, now, until time.Time) []alert {
	starts, ends := f.OpenedAt, until
	if !standing(f) {
		if !o.told {
			return nil // there is nothing to end
		}
		ends = f.UpdatedAt
		if f.Ended() {
			ends = f.ClosedAt
		}
		if ends.After(now) { // the clock was ahead
			ends = now
		}
	}
	if starts.After(ends) { // which Alertmanager refuses
		starts = ends
	}
	notes := annotations(f)
	out := make([]alert, 0, len(o.levels))
	for _, level := range o.levels {
		labels := subjectLabels(f.Subject)
		labels["alertname"], labels["fault"], labels["operator"], labels["severity"] = alertName(f.Family()), f.ID, operator, string(level)
		labels["vehicle"] = cmp.Or(labels["vehicle"], o.vehicle)
		labels["route"] = cmp.Or(labels["route"], o.route)
		out = append(out, alert{clean(labels), notes, starts.UTC().Truncate(time.Millisecond), ends.UTC().Truncate(time.Millisecond)})
	}
	return out
}

// alertName is that of a family: a fault's kind may change within it.
func alertName(f faults.Family) string {
	var b strings.Builder
	b.WriteString("Farebeat")
	for part := range strings.SplitSeq(string(f), "_") {
		r, size := utf8.DecodeRuneInString(part)
		if size > 0 {
			b.WriteRune(unicode.ToUpper(r))
		}
		b.WriteString(part[size:])
	}
	return b.String()
}

// subjectLabels is what a fault is about, by the names that its JSON has.
func subjectLabels(s faults.Subject) map[string]string {
	labels := map[string]string{}
	var fields map[string]any
	if b, err := json.Marshal(s); err != nil || json.Unmarshal(b, &fields) != nil {
		return labels // a subject of plain texts is always JSON
	}
	for name, value := range fields {
		if text, ok := value.(string); ok {
			labels[name] = text
		}
	}
	return labels
}

func annotations(f faults.Fault) map[string]string {
	entry := f.Kind.Entry()
	subject := subjectLabels(f.Subject)
	var about []string
	for _, name := range slices.Sorted(maps.Keys(subject)) {
		about = append(about, name+" "+subject[name])
	}
	summary := entry.Title
	if len(about) > 0 {
		summary += ": " + strings.Join(about, ", ")
	}
	reason := f.Reason
	if f.Parent != "" {
		reason = fmt.Sprintf("Fault %s explains it.", f.Parent)
	}
	notes := map[string]string{
		"summary": summary, "description": reason, "next_step": entry.NextStep, "kind": string(f.Kind),
		"severity": string(f.Severity), "condition": string(f.Condition), "attention": string(f.Attention.State), "attention_by": f.Attention.By,
	}
	if m := f.Machine; m != nil {
		notes["vehicle"], notes["route"] = m.Vehicle, m.Route
	}
	return clean(notes)
}

// clean leaves out what is empty, as Alertmanager does, and makes the rest text.
func clean(m map[string]string) map[string]string {
	for name, value := range m {
		if value == "" {
			delete(m, name)
			continue
		}
		m[name] = strings.ToValidUTF8(value, "\uFFFD")
	}
	return m
}
