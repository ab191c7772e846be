package console

import (
	"fmt"
	"html/template"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/farebeat/farebeat/fleet/console/view"
	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/schemas"
)

// funcs are what templates may call. None of them makes HTML of outside data.
func (c *Console) funcs() template.FuncMap {
	zone := c.o.View.Zone
	local := func(layout string) func(time.Time) string {
		return func(t time.Time) string {
			if t.IsZero() {
				return "–"
			}
			return t.In(zone()).Format(layout)
		}
	}
	return template.FuncMap{
		"clock":    local("15:04:05"),
		"minute":   local("15:04"),
		"date":     local("Mon 2 Jan 2006"),
		"stamp":    local("2006-01-02 15:04:05 -07:00"),
		"running":  func(hour time.Time) bool { d := c.o.View.Clock().Sub(hour); return d >= 0 && d < time.Hour },
		"iso":      func(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z07:00") },
		"when":     func(t time.Time) string { return whenText(t.In(zone()), c.o.View.Clock().In(zone())) },
		"number":   number,
		"money":    func(m ledger.Money) string { return m.String() },
		"length":   lengthText,
		"plural":   plural,
		"level":    levelOf,
		"levels":   levels,
		"machine":  view.MachineLink,
		"route":    view.RouteLink,
		"fault":    view.FaultLink,
		"book":     view.LedgerLink,
		"ruled":    view.RulesLink,
		"days":     view.DayTypes,
		"two":      func(hour int) string { return fmt.Sprintf("%02d:00", hour) },
		"lower":    func(s any) string { return strings.ToLower(fmt.Sprint(s)) },
		"words":    func(s any) string { return strings.ReplaceAll(strings.ToLower(fmt.Sprint(s)), "_", " ") },
		"state":    stateMark,
		"isUp":     func(s schemas.MachineCondition) bool { return s == schemas.Up || s == schemas.Late },
		"percent":  func(part, all int) int { return int(math.Round(float64(part) * 100 / float64(max(all, 1)))) },
		"link":     link,
		"sentence": sentence,
		"record":   recordText,
		"pager":    pagerOf,
		"major": func(minor int64, currency string) string {
			return ledger.Money{Currency: currency, Minor: minor}.String()
		},

		"rate": rateText,
		"clip": func(s string) string { return clip(s, 4096) },

		"machineStates": view.MachineStates,
	}
}

// recordText is a record's bytes as a person may read them.
func recordText(b []byte) string {
	if !utf8.Valid(b) {
		return fmt.Sprintf("%q", b)
	}
	return string(b)
}

// link makes an address of a path and pairs of names and values, leaving out what is empty.
func link(path string, pairs ...any) string {
	var q []string
	for i := 0; i+1 < len(pairs); i += 2 {
		if v := fmt.Sprint(pairs[i+1]); v != "" {
			q = append(q, template.URLQueryEscaper(pairs[i])+"="+template.URLQueryEscaper(v))
		}
	}
	if len(q) == 0 {
		return path
	}
	return path + "?" + strings.Join(q, "&")
}

// pager leads from page to page of a list.
type pager struct {
	Page, Pages, All int
	Noun             string // of what All counts
	Before, After    string // addresses; empty: there is none
}

// pagerOf makes a pager of the path and pairs of a link to the list, to which it adds the page.
func pagerOf(page, pages, all int, noun, path string, pairs ...any) pager {
	p := pager{Page: page, Pages: pages, All: all, Noun: noun}
	if page > 1 {
		p.Before = link(path, append(slices.Clip(pairs), "page", page-1)...)
	}
	if page < pages {
		p.After = link(path, append(slices.Clip(pairs), "page", page+1)...)
	}
	return p
}

// whenText is a time in the zone of now, with its date only where it is another.
func whenText(t, now time.Time) string {
	switch {
	case t.IsZero() || t.Year() <= 1:
		return "–"
	case t.Format(time.DateOnly) == now.Format(time.DateOnly):
		return t.Format("15:04:05")
	case t.Year() == now.Year():
		return t.Format("2 Jan 15:04")
	}
	return t.Format("2 Jan 2006 15:04")
}

// number writes a whole number with thin spaces between thousands.
func number(n any) string {
	var s string
	switch n := n.(type) {
	case int:
		s = strconv.Itoa(n)
	case int64:
		s = strconv.FormatInt(n, 10)
	case uint64:
		s = strconv.FormatUint(n, 10)
	case uint32:
		s = strconv.FormatUint(uint64(n), 10)
	case float64:
		return strconv.FormatFloat(n, 'f', 1, 64)
	default:
		return fmt.Sprint(n)
	}
	sign := ""
	if strings.HasPrefix(s, "-") {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "\u202f" + s[i:]
	}
	return sign + s
}

// lengthText is a duration as a person says it.
func lengthText(d time.Duration) string {
	d = d.Round(time.Second)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d days", int(d.Hours())/24)
}

// plural is a number with its noun.
func plural(n any, one, many string) string {
	if text := number(n); text != "1" {
		return text + " " + many
	}
	return "1 " + one
}

// mark is how a level is shown: with a shape and a word, since colour is never alone.
type mark struct{ Shape, Word, Meaning string }

func levelOf(l view.Level) mark {
	switch l {
	case view.LevelOK:
		return mark{"●", "well", "as many as expected"}
	case view.LevelLow:
		return mark{"◐", "fewer", "fewer than expected, and too few missing for a fault"}
	case view.LevelBelow:
		return mark{"▼", "below", "fewer than the threshold"}
	case view.LevelSilent:
		return mark{"✕", "silent", "expected, and none at all"}
	case view.LevelNoData:
		return mark{"?", "no data", "nobody heard, so nobody knows: it is not 0"}
	case view.LevelAhead:
		return mark{"", "ahead", "what will be expected"}
	}
	return mark{"", "none", "none expected"}
}

// levels are those of the legend.
func levels() []view.Level {
	return []view.Level{view.LevelOK, view.LevelLow, view.LevelBelow, view.LevelSilent, view.LevelNoData, view.LevelAhead}
}

func stateMark(s schemas.MachineCondition) mark {
	switch s {
	case schemas.Up:
		return mark{"●", "up", "heartbeats arrive"}
	case schemas.Late:
		return mark{"◐", "late", "a heartbeat is overdue, and not long enough for a fault"}
	case schemas.Stranded:
		return mark{"▼", "stranded", "not heard, but a gateway sees it over Bluetooth: recovery works now"}
	case schemas.Dark:
		return mark{"✕", "dark", "not heard, and no gateway sees it"}
	case schemas.Parked:
		return mark{"■", "parked", "its silence is planned"}
	case schemas.OutOfService:
		return mark{"□", "out of service", "an operator took it out"}
	}
	return mark{"?", "not known", "nothing was heard of it"}
}
