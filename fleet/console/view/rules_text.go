package view

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/farebeat/farebeat/fleet/expect"
	"github.com/farebeat/farebeat/fleet/presence"
	"github.com/farebeat/farebeat/fleet/rules"
)

// RulesGroup is what the rules say of one kind of subject, for a person.
type RulesGroup struct {
	Title string `json:"title"`
	Text  string `json:"text,omitempty"`
	Facts []Fact `json:"facts"`
}

// short is a duration as it stands in a rules file.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func percentText(share float64) string {
	return strconv.FormatFloat(share*100, 'g', 4, 64) + " %"
}

// forText says how long a breach must last.
func forText(f rules.For) string {
	return fmt.Sprintf("%d of %d looks, one every %s", f.M, f.Of, short(f.Every))
}

// whyText says what sets a threshold.
func whyText(t rules.Threshold, e expect.Expectation) string {
	auto := fmt.Sprintf("auto: of %d, each heard %s of the time, so few are together once in %s looks", t.Demand, percentText(t.Rule.Availability), onceIn(t.Rule.FalseAlarms))
	switch t.Basis {
	case rules.BasisOff:
		return "switched off"
	case rules.BasisNobody:
		return "none is expected"
	case rules.BasisUnknown:
		return "nobody says how many should be"
	case rules.BasisMinOnline:
		return fmt.Sprintf("min_online: %d", t.Rule.MinOnline)
	case rules.BasisMinRatio:
		return fmt.Sprintf("min_ratio: %s of %d", percentText(t.Rule.MinRatio), t.Demand)
	case rules.BasisLearned:
		return fmt.Sprintf("auto of %d, lowered to what all but a tenth of %d past days reached", t.Demand, e.LowSample)
	}
	if t.Below == 0 {
		return fmt.Sprintf("auto: of %d, each heard %s of the time, none is too rare to be chance", t.Demand, percentText(t.Rule.Availability))
	}
	return auto
}

// onceIn is 1/p in round numbers.
func onceIn(p float64) string {
	if p <= 0 {
		return "ever so many"
	}
	return strconv.FormatFloat(1/p, 'f', 0, 64)
}

// groupsOf says what a set decides of machines, causes, the platform and maintenance.
func groupsOf(s *rules.Set, now time.Time) []RulesGroup {
	m, p := s.Machine(), s.Platform()
	machine := RulesGroup{Title: "Single machines", Facts: []Fact{
		{Name: "Silent", Text: "no heartbeat for " + short(m.Silence)},
		{Name: "Storage", Text: storageText(m)},
		{Name: "Clock", Text: orOff(m.ClockSkew, "off by more than ")},
		{Name: "Unsent", Text: orOff(m.UnsentAfter, "heard, and holds transactions for longer than ")},
	}}
	platform := RulesGroup{Title: "The platform", Text: "Many machines lost together are one fault, and theirs are folded under it.", Facts: []Fact{
		{Name: "Lost", Text: fmt.Sprintf("%d machines or more, %s of those heard before, on %d routes or more", p.Machines, percentText(p.Share), p.Routes)},
		{Name: "Within", Text: short(p.Within)},
		{Name: "A machine is lost", Text: "after " + short(p.SilentAfter) + " without a heartbeat"},
	}}
	causes := RulesGroup{Title: "Causes", Text: "Machines lost together are one fault of what they have in common."}
	for _, c := range []struct {
		name string
		d    presence.Dimension
	}{{"A vehicle", presence.ByVehicle}, {"A depot", presence.ByDepot}, {"A mobile network", presence.ByNetwork}, {"A firmware", presence.ByFirmware}} {
		text := "never"
		if rule := s.Cause(c.d); rule.Machines > 0 {
			text = fmt.Sprintf("%d machines or more, %s of those heard before", rule.Machines, percentText(rule.Share))
		}
		causes.Facts = append(causes.Facts, Fact{Name: c.name, Text: text})
	}
	works := RulesGroup{Title: "Maintenance windows", Facts: []Fact{}}
	for _, w := range s.Windows(now) {
		works.Facts = append(works.Facts, Fact{Name: w.Name, Text: windowText(w, s.Location())})
	}
	if len(works.Facts) == 0 {
		works.Text = "None: whatever opens, people are told."
	}
	return []RulesGroup{machine, platform, causes, works}
}

func orOff(d time.Duration, text string) string {
	if d == 0 {
		return "no rule"
	}
	return text + short(d)
}

func storageText(m rules.MachineRules) string {
	if m.Cap == 0 {
		return "no rule: how many a machine can store is not known"
	}
	steps := make([]string, 0, len(m.Filling))
	for _, f := range m.Filling {
		steps = append(steps, strconv.Itoa(f)+" %")
	}
	text := fmt.Sprintf("nearly full at %d %% of %d transactions", m.Full, m.Cap)
	if len(steps) > 0 {
		text = "filling at " + strings.Join(steps, ", ") + "; " + text
	}
	return text
}

// windowText says whom a window concerns and when.
func windowText(w rules.Window, loc *time.Location) string {
	var whom []string
	for _, l := range []struct {
		name string
		ids  []string
	}{{"machines", w.Machines}, {"routes", w.Routes}, {"vehicles", w.Vehicles}, {"depots", w.Depots}} {
		if len(l.ids) > 0 {
			whom = append(whom, l.name+" "+strings.Join(l.ids, ", "))
		}
	}
	text := "everything"
	if len(whom) > 0 {
		text = strings.Join(whom, "; ")
	}
	if w.Length == 0 {
		text += fmt.Sprintf(", from %s to %s", w.From.In(loc).Format("2006-01-02 15:04"), w.Until.In(loc).Format("2006-01-02 15:04"))
	} else {
		days := "every day"
		if len(w.Days) > 0 {
			names := make([]string, 0, len(w.Days))
			for _, d := range w.Days {
				names = append(names, d.String())
			}
			days = strings.Join(names, ", ")
		}
		text += fmt.Sprintf(", %s from %s for %s", days, atText(w.Start), short(w.Length))
	}
	if w.Now {
		text += "; it holds now"
	}
	return text
}

// atText is a time after midnight as a clock shows it.
func atText(d time.Duration) string {
	return fmt.Sprintf("%02d:%02d", int(d.Hours()), int(d.Minutes())%60)
}
