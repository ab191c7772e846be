package city

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// OutageKind is what an outage takes away.
type OutageKind string

// The kinds of outage.
const (
	Cut  OutageKind = "cut"  // the uplink; the radio stays alive
	Stop OutageKind = "stop" // all power
)

// Outage is a fault to inject: which machines lose what, when, for how long.
// Empty selectors match all; of the machines that match and are on, Share or
// Count are hit.
type Outage struct {
	Kind    OutageKind
	Route   string
	Vehicle string
	Machine string
	Share   float64       // of the machines that match, over 0 to 1; at least one is hit
	Count   int           // instead of Share where it is over 0
	At      time.Time     // simulated time
	For     time.Duration // 0: until the end
}

// ParseOutage reads a specification such as "route=36,share=0.3,at=07:20,for=15m".
// Keys: route, vehicle, machine, share (over 0 to 1, default 1) or count, at, for.
//
// at is a local time on the day of start (07:20, 07:20:30, up to 47:59 as in
// GTFS), a time after start (+90s) or RFC 3339; without it the outage begins at
// start. Without for it lasts until the end.
func ParseOutage(kind OutageKind, spec string, start time.Time, zone *time.Location) (Outage, error) {
	o := Outage{Kind: kind, Share: 1, At: start}
	seen := map[string]bool{}
	for part := range strings.SplitSeq(spec, ",") {
		key, value, ok := strings.Cut(part, "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if !ok || value == "" {
			return Outage{}, fmt.Errorf("--%s %q: %q is not key=value; give for example route=36,share=0.3,at=07:20,for=15m", kind, spec, part)
		}
		if seen[key] {
			return Outage{}, fmt.Errorf("--%s %q: %s stands there twice", kind, spec, key)
		}
		seen[key] = true
		if err := o.set(key, value, start, zone); err != nil {
			return Outage{}, fmt.Errorf("--%s %q: %s=%s: %w", kind, spec, key, value, err)
		}
	}
	if seen["share"] && seen["count"] {
		return Outage{}, fmt.Errorf("--%s %q: give share or count, not both", kind, spec)
	}
	return o, nil
}

func (o *Outage) set(key, value string, start time.Time, zone *time.Location) error {
	var err error
	switch key {
	case "route":
		o.Route = value
	case "vehicle":
		o.Vehicle = value
	case "machine":
		o.Machine = value
	case "share":
		o.Share, err = strconv.ParseFloat(value, 64)
		if err != nil || !(o.Share > 0 && o.Share <= 1) {
			return fmt.Errorf("want a number over 0 and at most 1")
		}
	case "count":
		o.Count, err = strconv.Atoi(value)
		if err != nil || o.Count < 1 {
			return fmt.Errorf("want a whole number from 1")
		}
	case "at":
		o.At, err = parseAt(value, start, zone)
		return err
	case "for":
		o.For, err = time.ParseDuration(value)
		if err != nil || o.For <= 0 {
			return fmt.Errorf("want a duration such as 90s, 15m or 2h")
		}
	default:
		return fmt.Errorf("the key is not one of route, vehicle, machine, share, count, at, for")
	}
	return nil
}

func parseAt(value string, start time.Time, zone *time.Location) (time.Time, error) {
	if after, ok := strings.CutPrefix(value, "+"); ok {
		d, err := time.ParseDuration(after)
		if err != nil || d < 0 {
			return time.Time{}, fmt.Errorf("want a duration after the plus sign, such as +90s")
		}
		return start.Add(d), nil
	}
	if t, err := time.Parse(time.RFC3339, value); err == nil {
		return t, nil
	}
	parts := strings.Split(value, ":")
	var n [3]int
	bad := len(parts) < 2 || len(parts) > 3
	for i, p := range parts {
		if bad {
			break
		}
		v, err := strconv.Atoi(p)
		bad = err != nil || len(p) > 2 || v < 0 || v > []int{47, 59, 59}[i]
		n[i] = v
	}
	if bad {
		return time.Time{}, fmt.Errorf("want a local time such as 07:20, a time after the start such as +90s, or RFC 3339")
	}
	y, m, d := start.In(zone).Date()
	return time.Date(y, m, d, n[0], n[1], n[2], 0, zone), nil
}

// matches says whether the outage may hit a machine.
func (o *Outage) matches(machine, vehicle, route string) bool {
	return (o.Route == "" || o.Route == route) && (o.Vehicle == "" || o.Vehicle == vehicle) && (o.Machine == "" || o.Machine == machine)
}

// hits is how many of n matching machines the outage takes.
func (o *Outage) hits(n int) int {
	if o.Count > 0 {
		return min(o.Count, n)
	}
	return min(n, max(1, int(math.Round(o.Share*float64(n)))))
}

// byTime orders outages.
func byTime(list []Outage) []Outage {
	out := slices.Clone(list)
	slices.SortStableFunc(out, func(a, b Outage) int { return a.At.Compare(b.At) })
	return out
}
