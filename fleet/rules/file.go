package rules

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/farebeat/farebeat/fleet/rules/internal/yamlfile"
)

// MaxFile is the greatest rules file in bytes that Parse reads.
const MaxFile = yamlfile.MaxSize

// file is the YAML document.
type file struct {
	Route     *layer         `yaml:"route,omitempty"`
	Overrides []override     `yaml:"overrides,omitempty"`
	Machine   *machineLayer  `yaml:"machine,omitempty"`
	Platform  *platformLayer `yaml:"platform,omitempty"`
	Causes    *causesLayer   `yaml:"causes,omitempty"`

	Maintenance []maintenanceLayer `yaml:"maintenance,omitempty"`
}

// layer sets some fields of a Rule and leaves the others.
type layer struct {
	Off        *bool      `yaml:"off,omitempty"`
	MinOnline  *int       `yaml:"min_online,omitempty"`
	MinRatio   *float64   `yaml:"min_ratio,omitempty"`
	Auto       *autoLayer `yaml:"auto,omitempty,flow"`
	For        *forLayer  `yaml:"for,omitempty,flow"`
	KeepFiring *duration  `yaml:"keep_firing_for,omitempty"`
	Silent     *duration  `yaml:"silent_after,omitempty"`
	NeverHeard *duration  `yaml:"never_heard_after,omitempty"`
}

type autoLayer struct {
	Availability *float64 `yaml:"availability,omitempty"`
	FalseAlarms  *float64 `yaml:"false_alarms,omitempty"`
}

type forLayer struct {
	M     *int      `yaml:"m,omitempty"`
	Of    *int      `yaml:"of,omitempty"`
	Every *duration `yaml:"every,omitempty"`
}

// override is a layer for some routes, hours and sources. A later one wins.
type override struct {
	Routes  []string `yaml:"routes,omitempty,flow"`  // empty: all
	Hours   []string `yaml:"hours,omitempty,flow"`   // "07-09" is from 07:00 to 09:00; empty: all
	Sources []string `yaml:"sources,omitempty,flow"` // empty: all
	layer   `yaml:",inline"`

	line   int
	inHour [24]bool
}

type machineLayer struct {
	Silence     *duration `yaml:"silence,omitempty"`
	Cap         *uint32   `yaml:"cap,omitempty"`
	Pending     []int     `yaml:"pending,omitempty,flow"`
	ClockSkew   *duration `yaml:"clock_skew,omitempty"`
	UnsentAfter *duration `yaml:"unsent_after,omitempty"`
}

type platformLayer struct {
	Machines *int      `yaml:"machines,omitempty"`
	Share    *float64  `yaml:"share,omitempty"`
	Routes   *int      `yaml:"routes,omitempty"`
	Within   *duration `yaml:"within,omitempty"`
	Silent   *duration `yaml:"silent_after,omitempty"`
}

// duration is a time.Duration that must be written with its unit.
type duration time.Duration

// UnmarshalYAML implements yaml.Unmarshaler.
func (d *duration) UnmarshalYAML(n *yaml.Node) error {
	v, err := time.ParseDuration(n.Value)
	if err != nil || n.Kind != yaml.ScalarNode {
		return fmt.Errorf("line %d: %q is no duration; write it with its unit, such as 45s or 10m", n.Line, n.Value)
	}
	*d = duration(v)
	return nil
}

// MarshalYAML implements yaml.Marshaler.
func (d duration) MarshalYAML() (any, error) { return yamlfile.Short(time.Duration(d)), nil }

// Parse reads a rules file over the defaults: what the file leaves out stays as in
// Default. Hours are those of location. An error names the file, the line, what is
// wrong and what would be right.
func Parse(name string, b []byte, location *time.Location) (*Set, error) {
	s, err := parse(b, location)
	if err != nil {
		return nil, fmt.Errorf("rules file %s: %w", name, err)
	}
	return s, nil
}

func parse(b []byte, location *time.Location) (*Set, error) {
	var f file
	if err := yamlfile.Decode(b, &f); err != nil {
		return nil, err
	}
	lines := linesOf(b)
	rule, machine, platform, overrides := defaults()
	if f.Route != nil {
		rule = f.Route.apply(rule)
		if err := f.Route.check(rule); err != nil {
			return nil, fmt.Errorf("line %d: route: %w", lines.route, err)
		}
		// What the file says for all routes holds for all sources too. Set.YAML relies on it.
		if f.Route.For != nil {
			overrides[0].For = nil
		}
		if f.Route.KeepFiring != nil {
			overrides[0].KeepFiring = nil
		}
		if f.Route.NeverHeard != nil {
			overrides[0].NeverHeard = nil
		}
		if a := f.Route.Auto; f.Route.MinOnline != nil || f.Route.MinRatio != nil || a != nil && a.FalseAlarms != nil {
			overrides[0].Auto = nil
		}
	}
	if f.Machine != nil {
		machine = f.Machine.apply(machine)
		if err := machine.check(); err != nil {
			return nil, fmt.Errorf("line %d: machine: %w", lines.machine, err)
		}
	}
	if f.Platform != nil {
		platform = f.Platform.apply(platform)
		if err := platform.check(); err != nil {
			return nil, fmt.Errorf("line %d: platform: %w", lines.platform, err)
		}
	}
	for i := range f.Overrides {
		o := &f.Overrides[i]
		if i < len(lines.overrides) {
			o.line = lines.overrides[i]
		}
		if err := o.prepare(); err != nil {
			return nil, fmt.Errorf("line %d: overrides: %w", o.line, err)
		}
	}
	s, err := compile(location, rule, machine, platform, append(overrides, f.Overrides...))
	if err != nil {
		return nil, err
	}
	if f.Causes != nil {
		if s.causes, err = f.Causes.apply(s.causes); err != nil {
			return nil, fmt.Errorf("line %d: causes: %w", lines.causes, err)
		}
	}
	for i, l := range f.Maintenance {
		w, err := l.window(location)
		if err != nil {
			line := 0
			if i < len(lines.maintenance) {
				line = lines.maintenance[i]
			}
			return nil, fmt.Errorf("line %d: maintenance: %w", line, err)
		}
		s.maintenance, s.windows = append(s.maintenance, w), append(s.windows, l)
	}
	return s, nil
}

// lines says where the parts of a file begin, for errors.
type lines struct {
	route, machine, platform, causes int
	overrides, maintenance           []int
}

func linesOf(b []byte) lines {
	var l lines
	var doc yaml.Node
	if err := yaml.Unmarshal(b, &doc); err != nil || len(doc.Content) == 0 {
		return l // it was decoded once: an empty file
	}
	top := doc.Content[0].Content
	for i := 0; i+1 < len(top); i += 2 {
		switch top[i].Value {
		case "route":
			l.route = top[i].Line
		case "machine":
			l.machine = top[i].Line
		case "platform":
			l.platform = top[i].Line
		case "causes":
			l.causes = top[i].Line
		case "maintenance":
			for _, item := range top[i+1].Content {
				l.maintenance = append(l.maintenance, item.Line)
			}
		case "overrides":
			for _, item := range top[i+1].Content {
				l.overrides = append(l.overrides, item.Line)
			}
		}
	}
	return l
}

// prepare checks the filters of an override and works out its hours.
func (o *override) prepare() error {
	if len(o.Routes) == 0 && len(o.Hours) == 0 && len(o.Sources) == 0 {
		return errors.New("names no routes, hours or sources; what holds for all belongs under route")
	}
	if slices.Contains(o.Routes, "") {
		return errors.New("routes: an id is empty")
	}
	names := sourceNames()
	for _, s := range o.Sources {
		if !slices.Contains(names[:], s) {
			return fmt.Errorf("sources: %q is none of %s", s, strings.Join(names[:], ", "))
		}
	}
	for _, h := range o.Hours {
		from, to, err := parseHours(h)
		if err != nil {
			return err
		}
		for hour := from; hour != to; hour = (hour + 1) % 24 {
			o.inHour[hour] = true
		}
	}
	rule, _, _, _ := defaults()
	return o.check(o.apply(rule))
}

// parseHours reads "07-09", from 07:00 to 09:00, and "22-02", over midnight. "00-24" is the
// whole day, which no override needs to say.
func parseHours(s string) (from, to int, err error) {
	a, b, ok := strings.Cut(s, "-")
	from, errA := strconv.Atoi(a)
	to, errB := strconv.Atoi(b)
	if !ok || errA != nil || errB != nil || from < 0 || from > 23 || to < 0 || to > 24 || from == to%24 {
		return 0, 0, fmt.Errorf(`hours: %q is no span of hours; "07-09" is from 07:00 to 09:00, "22-02" goes over midnight`, s)
	}
	return from, to % 24, nil
}

func (o *override) applies(hour, source int) bool {
	return (len(o.Hours) == 0 || o.inHour[hour]) &&
		(len(o.Sources) == 0 || slices.Contains(o.Sources, sourceNames()[source]))
}

func (l *layer) check(r Rule) error {
	kinds := 0
	for _, set := range []bool{l.MinOnline != nil, l.MinRatio != nil, l.Auto != nil} {
		if set {
			kinds++
		}
	}
	switch {
	case kinds > 1:
		return errors.New("give one of min_online, min_ratio and auto, not several")
	case l.MinOnline != nil && *l.MinOnline < 1:
		return fmt.Errorf("min_online: %d is not at least 1; to switch a rule off write off: true", *l.MinOnline)
	case l.MinRatio != nil && !(*l.MinRatio > 0):
		return fmt.Errorf("min_ratio: %v is not above 0; to switch a rule off write off: true", *l.MinRatio)
	}
	return r.check()
}

func (l *layer) apply(r Rule) Rule {
	set(&r.Off, l.Off)
	if l.MinOnline != nil || l.MinRatio != nil || l.Auto != nil {
		r.MinOnline, r.MinRatio = 0, 0
	}
	set(&r.MinOnline, l.MinOnline)
	set(&r.MinRatio, l.MinRatio)
	if l.Auto != nil {
		set(&r.Availability, l.Auto.Availability)
		set(&r.FalseAlarms, l.Auto.FalseAlarms)
	}
	if l.For != nil {
		set(&r.For.M, l.For.M)
		set(&r.For.Of, l.For.Of)
		setDuration(&r.For.Every, l.For.Every)
	}
	setDuration(&r.KeepFiring, l.KeepFiring)
	setDuration(&r.SilentAfter, l.Silent)
	setDuration(&r.NeverHeardAfter, l.NeverHeard)
	return r
}

func (l *machineLayer) apply(m MachineRules) MachineRules {
	setDuration(&m.Silence, l.Silence)
	set(&m.Cap, l.Cap)
	if n := len(l.Pending); n > 0 {
		m.Filling, m.Full = l.Pending[:n-1], l.Pending[n-1]
	}
	setDuration(&m.ClockSkew, l.ClockSkew)
	setDuration(&m.UnsentAfter, l.UnsentAfter)
	return m
}

func (l *platformLayer) apply(p PlatformRule) PlatformRule {
	set(&p.Machines, l.Machines)
	set(&p.Share, l.Share)
	set(&p.Routes, l.Routes)
	setDuration(&p.Within, l.Within)
	setDuration(&p.SilentAfter, l.Silent)
	return p
}

func set[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

func setDuration(to *time.Duration, from *duration) {
	if from != nil {
		*to = time.Duration(*from)
	}
}
