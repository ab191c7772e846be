package rulestest

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/rules/internal/yamlfile"
	"github.com/farebeat/farebeat/schemas"
)

// Tick is how often the rules are evaluated, as in a live fleet by default.
const Tick = 5 * time.Second

// Bounds of one test.
const (
	MaxLength   = 8 * 24 * time.Hour
	maxMachines = 10_000 // in one test
	maxLooks    = 20_000_000
)

// File is a file of tests that was read and found right.
type File struct {
	name     string
	location *time.Location
	doc      document
}

// document is the YAML document.
type document struct {
	Rules     text     `yaml:"rules"`     // the rules file, beside this one; none: the default rules
	Timezone  text     `yaml:"timezone"`  // of the rules' hours; UTC
	Start     text     `yaml:"start"`     // local time of minute 0
	Interval  span     `yaml:"interval"`  // how long one value of a series holds; 1 min
	Heartbeat span     `yaml:"heartbeat"` // between two heartbeats of a machine; 15 s
	Tests     []caseOf `yaml:"tests"`
}

// caseOf is one test.
type caseOf struct {
	Name     text            `yaml:"name"`
	Start    text            `yaml:"start"`    // in place of the file's
	Interval span            `yaml:"interval"` // in place of the file's
	Series   []routeSeries   `yaml:"series"`
	Machines []machineSeries `yaml:"machines"`
	Blind    numbers         `yaml:"blind"` // 1: we cannot hear
	Want     []wantAt        `yaml:"want"`
	Opened   *[]wantEvent    `yaml:"opened"` // all that open, or open again; left out: not looked at
	Closed   *[]wantEvent    `yaml:"closed"` // all that close

	start    time.Time
	interval time.Duration
	beat     time.Duration
	length   time.Duration
	groups   map[string]string // the name in the file of each machine
}

// routeSeries are the numbers of one route.
type routeSeries struct {
	Route       text    `yaml:"route"`
	Online      numbers `yaml:"online"`
	Known       numbers `yaml:"known"`        // left out: the most online so far
	Late        numbers `yaml:"late"`         // of those online; left out: those that go off line with the next value, for two heartbeats before
	Heard       numbers `yaml:"heard"`        // 0: none of its machines is heard; left out: heard while any is online
	Expected    numbers `yaml:"expected"`     // left out: nobody knows
	ExpectedNow numbers `yaml:"expected_now"` // left out: as expected
	Lowest      numbers `yaml:"lowest"`       // left out: the least of expected_now within 10 min
	Low         numbers `yaml:"low"`          // the learned low quantile; 0: not known
	Source      text    `yaml:"source"`       // hand where expected is given, else none
}

// machineSeries is what one machine, or count equal ones, say of themselves.
type machineSeries struct {
	Machine text  `yaml:"machine"`
	Count   count `yaml:"count"` // so many of them, NAME-1 to NAME-COUNT; 1, and then NAME itself
	Route   text  `yaml:"route"`
	Common  `yaml:",inline"`
	Heard   numbers `yaml:"heard"`   // 1: heartbeats arrive; left out: always
	State   words   `yaml:"state"`   // left out: UP, LATE or DARK after its silence
	Fault   words   `yaml:"fault"`   // its own fault code, - for none
	Pending numbers `yaml:"pending"` // stored transactions without a receipt; 0
	Skew    numbers `yaml:"skew"`    // seconds that its clock is ahead; 0
}

// Common is what machines can have in common, and what a fault of all of them names.
type Common struct {
	Vehicle  text `yaml:"vehicle"`
	Depot    text `yaml:"depot"`
	Network  text `yaml:"network"` // mobile network
	Firmware text `yaml:"fw"`
}

// subject is what a fault about it is about.
func (c Common) subject() faults.Subject {
	return faults.Subject{Vehicle: c.Vehicle.string, Depot: c.Depot.string, Network: c.Network.string, Firmware: c.Firmware.string}
}

// wantAt are the faults that have not ended at one instant, all of them.
type wantAt struct {
	At     span         `yaml:"at"`
	Faults *[]wantFault `yaml:"faults"`
}

// wantFault is one fault, or count machines' of a kind.
type wantFault struct {
	Kind     text `yaml:"kind"`
	Route    text `yaml:"route"`
	Machine  text `yaml:"machine"`
	Common   `yaml:",inline"`
	Count    count `yaml:"count"`
	Severity text  `yaml:"severity"` // left out: any
	Reason   text  `yaml:"reason"`   // what its sentence contains; left out: anything
	Folded   *bool `yaml:"folded"`   // whether another fault explains it; left out: either
}

// wantEvent is a fault that opened or closed within the interval that begins at At.
type wantEvent struct {
	At        span `yaml:"at"`
	wantFault `yaml:",inline"`
}

// text is a word with its line.
type text struct {
	string
	line int
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (t *text) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.ScalarNode {
		return fmt.Errorf("line %d: want one word or number here", n.Line)
	}
	t.string, t.line = n.Value, n.Line
	return nil
}

// span is a duration with its line.
type span struct {
	time.Duration
	line int
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (s *span) UnmarshalYAML(n *yaml.Node) error {
	d, err := time.ParseDuration(n.Value)
	if err != nil || n.Kind != yaml.ScalarNode {
		return fmt.Errorf("line %d: %q is no duration; write it with its unit, such as 17m or 1m15s", n.Line, n.Value)
	}
	s.Duration, s.line = d, n.Line
	return nil
}

// count is a number of things, with its line; 0 where it is left out.
type count int

// UnmarshalYAML implements yaml.Unmarshaler.
func (c *count) UnmarshalYAML(n *yaml.Node) error {
	var v int
	if err := n.Decode(&v); err != nil || v < 1 || v > maxMachines {
		return fmt.Errorf("line %d: count: %q is not between 1 and %d", n.Line, n.Value, maxMachines)
	}
	*c = count(v)
	return nil
}

func (c count) number() int { return max(int(c), 1) }

// Parse reads a file of tests. An error names the file, the line, what is wrong and what would be
// right.
func Parse(name string, b []byte) (*File, error) {
	f := &File{name: name}
	if err := f.parse(b); err != nil {
		return nil, fmt.Errorf("rules test %s: %w", name, err)
	}
	return f, nil
}

func (f *File) parse(b []byte) error {
	if err := yamlfile.Decode(b, &f.doc); err != nil {
		return err
	}
	zone := f.doc.Timezone
	if zone.string == "" {
		zone.string = "UTC"
	}
	var err error
	if f.location, err = time.LoadLocation(zone.string); err != nil || zone.string == "Local" {
		return fmt.Errorf("line %d: timezone: %q is no time zone such as Europe/Berlin", zone.line, zone.string)
	}
	if len(f.doc.Tests) == 0 {
		return errors.New("holds no tests; write them as a list under tests")
	}
	names := map[string]int{}
	for i := range f.doc.Tests {
		c := &f.doc.Tests[i]
		if c.Name.string == "" {
			return fmt.Errorf("test %d has no name", i+1)
		}
		if other, ok := names[c.Name.string]; ok {
			return fmt.Errorf("line %d: the test of line %d is called %q too", c.Name.line, other, c.Name.string)
		}
		names[c.Name.string] = c.Name.line
		if err := f.prepare(c); err != nil {
			return fmt.Errorf("%w (test %q)", err, c.Name.string)
		}
	}
	return nil
}

// prepare works out when a test begins, its interval and its length, and checks all of it.
func (f *File) prepare(c *caseOf) error {
	start := c.Start
	if start.string == "" {
		start = f.doc.Start
	}
	var err error
	if c.start, err = parseStart(start.string, f.location); err != nil {
		return fmt.Errorf("line %d: start: %w", orLine(start.line, c.Name.line), err)
	}
	for _, d := range []struct {
		key      string
		span     span
		fallback time.Duration
		into     *time.Duration
	}{
		{"interval", orSpan(c.Interval, f.doc.Interval), time.Minute, &c.interval},
		{"heartbeat", f.doc.Heartbeat, 15 * time.Second, &c.beat},
	} {
		if *d.into = d.span.Duration; d.span.line == 0 {
			*d.into = d.fallback
		}
		if *d.into < Tick || *d.into > 24*time.Hour || *d.into%Tick != 0 {
			return fmt.Errorf("line %d: %s: %v is not a multiple of %v, up to 24h", d.span.line, d.key, *d.into, Tick)
		}
	}
	if len(c.Series) == 0 && len(c.Machines) == 0 {
		return fmt.Errorf("line %d: has neither series nor machines", c.Name.line)
	}
	if len(c.Want) == 0 && c.Opened == nil && c.Closed == nil {
		return fmt.Errorf("line %d: expects nothing; write want, opened or closed", c.Name.line)
	}
	for _, check := range []func() error{c.checkRoutes, c.checkMachines, c.checkWants, c.checkLength} {
		if err := check(); err != nil {
			return err
		}
	}
	return c.Blind.check("blind", 1)
}

func orLine(line, other int) int {
	if line == 0 {
		return other
	}
	return line
}

func orSpan(a, b span) span {
	if a.line != 0 {
		return a
	}
	return b
}

func parseStart(s string, loc *time.Location) (time.Time, error) {
	for _, layout := range []string{"2006-01-02T15:04", "2006-01-02T15:04:05", "2006-01-02 15:04", "2006-01-02 15:04:05"} {
		if t, err := time.ParseInLocation(layout, s, loc); err == nil {
			return t, nil
		}
	}
	if s == "" {
		return time.Time{}, errors.New("is missing; say when minute 0 is, such as start: 2026-11-23T07:00")
	}
	return time.Time{}, fmt.Errorf("%q is no local time such as 2026-11-23T07:00", s)
}

// RulesFile is the path of the rules that the tests are of, empty for the default rules.
func (f *File) RulesFile() string {
	path := f.doc.Rules.string
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(f.name), path)
}

// Location is the zone of the rules' hours.
func (f *File) Location() *time.Location { return f.location }

// Names lists the tests in their order.
func (f *File) Names() []string {
	out := make([]string, len(f.doc.Tests))
	for i, c := range f.doc.Tests {
		out[i] = c.Name.string
	}
	return out
}

func kindNames() []string {
	var out []string
	for _, k := range faults.Kinds() {
		out = append(out, string(k))
	}
	return out
}

func stateNames() []string {
	return []string{string(schemas.Up), string(schemas.Late), string(schemas.Stranded), string(schemas.Dark), string(schemas.Parked), string(schemas.OutOfService)}
}

func severityNames() []string {
	return []string{string(schemas.Info), string(schemas.Minor), string(schemas.Major), string(schemas.Critical)}
}

func oneOf(key string, t text, names []string) error {
	if t.string == "" || slices.Contains(names, t.string) {
		return nil
	}
	return fmt.Errorf("line %d: %s: %q is none of %v", t.line, key, t.string, names)
}
