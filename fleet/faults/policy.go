package faults

import (
	"slices"
	"time"

	"github.com/farebeat/farebeat/schemas"
)

// Policy says how patient a fault's life is. A zero field stands for its default.
type Policy struct {
	HeardAgain   int           // heartbeats after a silence until a machine counts as heard; 2
	ClearFor     time.Duration // a fault code or wrong clock must be gone for this long; 1 min
	ReopenWithin time.Duration // what comes back this soon after it closed is the same fault; 10 min
	ReportHold   time.Duration // a report by hand keeps its fault open for at least this long; 10 min
	Flaps        int           // this many silences within FlapWindow are an unstable link; 4
	FlapWindow   time.Duration // 1 h
	StableFor    time.Duration // an unstable link must be heard without a break for this long; 10 min
	NumbersEvery time.Duration // where only a route's numbers change, a revision at most this often; 30 s
	FoldBack     time.Duration // faults opened this long before their parent are its children too; 3 min
	TellAgain    time.Duration // that a silent machine which goes on working is recovered is told again this long after it was told; 1 h
	Linger       time.Duration // a parent explains its children for this long after it ended; 5 min
}

func (p Policy) withDefaults() Policy {
	def := func(v *time.Duration, d time.Duration) {
		if *v <= 0 {
			*v = d
		}
	}
	if p.HeardAgain <= 0 {
		p.HeardAgain = 2
	}
	if p.Flaps <= 0 {
		p.Flaps = 4
	}
	p.Flaps = min(p.Flaps, maxOnsets)
	def(&p.ClearFor, time.Minute)
	def(&p.ReopenWithin, 10*time.Minute)
	def(&p.ReportHold, 10*time.Minute)
	def(&p.FlapWindow, time.Hour)
	def(&p.StableFor, 10*time.Minute)
	def(&p.NumbersEvery, 30*time.Second)
	def(&p.FoldBack, 3*time.Minute)
	def(&p.Linger, 5*time.Minute)
	def(&p.TellAgain, time.Hour)
	return p
}

// maxOnsets bounds the silences that a fault remembers.
const maxOnsets = 16

// step is one application of one input to one fault.
type step struct {
	Policy
	now   time.Time
	fault Fault
	event string // the most telling change so far, empty for none
	hush  bool   // of which people were told shortly before
	by    string
	note  string
	dirty bool // something is to be saved
}

// Step applies one input to a fault and returns the fault after it and what to save: nothing or
// one Change. It is pure, and f is not changed. A fault that has not begun has a
// Subject and any Kind of its family, and no ID; its SuspectedAt, if any, is the earliest at which it can have begun. It stays so
// unless the input opens it. An input about another subject or family changes nothing, as does one that came before.
func (p Policy) Step(now time.Time, f Fault, in Input) (Fault, []Change) {
	s := step{Policy: p.withDefaults(), now: now, fault: f.clone()}
	switch in := in.(type) {
	case Attend:
		if f.ID != "" && in.Fault == f.ID {
			s.attend(in)
		}
	case Abandon:
		if f.ID != "" && in.Fault == f.ID {
			s.abandon(in)
		}
	case Note:
		if f.ID != "" && in.Fault == f.ID && in.ID != f.Noted {
			s.fault.Noted, s.by, s.note = in.ID, in.By, in.Text
			s.tell(ChangeUpdated)
			s.hush = true // it is for those who read the fault's life
		}
	default:
		if in.subject() != f.Subject || !slices.Contains(in.families(), f.Family()) {
			return f, nil
		}
		s.evidence(in)
	}
	return s.commit(f)
}

func (s *step) evidence(in Input) {
	switch in := in.(type) {
	case MachineCheck:
		s.machineCheck(in)
	case RecoveryReport:
		s.recoveryReport(in)
	case LedgerProgress:
		s.ledgerProgress(in)
	case RouteCheck:
		s.routeCheck(in)
	case CauseCheck:
		s.countCheck(in.Verdict, in.Blind, in.Context, RouteFacts{Online: in.Known - min(in.Lost, in.Known), Expected: in.Known})
	case StoreCheck:
		s.countCheck(in.Verdict, false, Context{}, RouteFacts{})
	case ServiceCheck:
		s.countCheck(in.Verdict, false, Context{}, RouteFacts{})
	case HandReport:
		s.handReport(in)
	}
}

// Tick ends what has an end of its own, an acknowledgement or a shelf that ran out, and sets right what a clock that was
// ahead has noted.
func (p Policy) Tick(now time.Time, f Fault) (Fault, []Change) {
	a := f.Attention
	over := a.State != schemas.Unseen && !a.Until.IsZero() && !now.Before(a.Until)
	if !over && (f.Ended() || !f.ahead(now)) {
		return f, nil
	}
	s := step{Policy: p.withDefaults(), now: now, fault: f.clone()}
	if over {
		s.fault.Attention = Attention{State: schemas.Unseen, At: now}
		s.tell(ChangeUpdated)
	}
	s.notAhead()
	return s.commit(f)
}

// commit makes the Change of the step, or none.
func (s *step) commit(before Fault) (Fault, []Change) {
	if s.fault.ID == "" {
		return before, nil
	}
	if !s.dirty {
		return before, nil // so that one revision is one content
	}
	f := &s.fault
	f.Revision++
	f.UpdatedAt = s.now
	c := Change{}
	if s.event != "" {
		quiet := s.quiet()
		f.Events++
		c.Event = Event{
			Fault: f.ID, Number: f.Events, At: s.now, Change: s.event, Kind: f.Kind, Severity: f.Severity,
			Condition: f.Condition, Attention: f.Attention.State, Reason: f.Reason, By: s.by, Note: s.note, Quiet: quiet,
		}
	}
	c.Fault = f.clone()
	return s.fault, []Change{c}
}

// quiet reports whether nobody is told of the event: the fault was explained from its beginning, or put aside, and still is. What is
// told first of a fault that stands is that it is open.
func (s *step) quiet() bool {
	f := &s.fault
	aside := f.Attention.State == schemas.Shelved && s.by == ""
	if f.Told {
		return s.hush || aside && s.event == ChangeUpdated
	}
	if f.Parent != "" || f.Maintenance != "" || f.Ended() || f.Condition == schemas.Abandoned || aside {
		return true
	}
	if s.event != ChangeReopened {
		s.event = ChangeOpened
	}
	f.Told = true
	return false
}

// context takes over what explains the fault.
func (s *step) context(c Context) {
	f := &s.fault
	if !c.found {
		c.parent = f.Parent
	}
	if f.Parent == c.parent && f.Maintenance == c.Maintenance {
		return
	}
	f.Parent, f.Maintenance = c.parent, c.Maintenance
	if f.ID == "" || f.Ended() {
		return // for when it begins
	}
	s.dirty = true
	if !f.Told && f.Parent == "" && f.Maintenance == "" && f.Condition != schemas.Abandoned {
		s.tell(ChangeUpdated)
	}
}

// tell notes a change that people are told of; of several in one step the most telling wins.
func (s *step) tell(change string) {
	s.dirty, s.hush = true, false
	order := []string{"", ChangeUpdated, ChangeRecovered, ChangeAcknowledged, ChangeShelved, ChangeAbandoned, ChangeClosed, ChangeReopened, ChangeOpened}
	if slices.Index(order, change) > slices.Index(order, s.event) {
		s.event = change
	}
}

// begin opens a fault that has not begun, or opens again one that closed.
func (s *step) begin(kind Kind, since time.Time, reason string) {
	f := &s.fault
	if f.ID != "" {
		f.ClosedAt, f.Told = time.Time{}, false
		f.Reopened++
		if f.Attention.State != schemas.Shelved {
			f.Attention = Attention{State: schemas.Unseen, At: s.now}
		}
		s.tell(ChangeReopened)
	} else {
		if since.IsZero() || since.After(s.now) {
			since = s.now
		}
		id := since
		if id.Before(f.SuspectedAt) {
			id, since = f.SuspectedAt, s.now
		}
		family := kind.Entry().Family
		*f = Fault{
			ID: NewID(family, f.Subject, id), Subject: f.Subject, Parent: f.Parent, Maintenance: f.Maintenance, SuspectedAt: since, OpenedAt: s.now,
			Attention: Attention{State: schemas.Unseen, At: s.now},
		}
		s.tell(ChangeOpened)
	}
	f.Condition = schemas.Open
	s.name(kind, reason)
}

// name gives the fault a kind of its family.
func (s *step) name(kind Kind, reason string) {
	if s.fault.Kind != kind || s.fault.Severity == "" {
		s.tell(ChangeUpdated)
	}
	s.fault.Kind, s.fault.Severity = kind, kind.Entry().Severity
	if reason != "" {
		s.fault.Reason = reason
	}
}

func (s *step) close(reason string) {
	s.fault.Condition, s.fault.ClosedAt, s.fault.Reason, s.fault.Firing = schemas.Closed, s.now, reason, false
	s.tell(ChangeClosed)
}

// firing notes whether a rule fires and since when none does.
func (s *step) firing(yes bool) {
	f := &s.fault
	if f.Firing != yes {
		f.Firing, s.dirty = yes, true
	}
	switch {
	case yes:
		f.WellSince = time.Time{}
	case f.WellSince.IsZero():
		f.WellSince, s.dirty = s.now, true
	}
}

// live reports whether the fault can be acted on, and puts an abandoned one to rest once its
// subject is well.
func (s *step) live(well bool) bool {
	if s.fault.Condition != schemas.Abandoned {
		return true
	}
	if well && !s.fault.Ended() {
		s.fault.ClosedAt, s.dirty = s.now, true
	}
	return false
}

// reopenable reports whether a fault that ended is the same one if it comes back now.
func (p Policy) reopenable(now time.Time, f Fault) bool {
	return f.Condition == schemas.Closed && now.Sub(f.ClosedAt) <= p.withDefaults().ReopenWithin
}

func (s *step) attend(in Attend) {
	change := ChangeUpdated
	switch in.To {
	case schemas.Unseen, schemas.Assigned:
	case schemas.Acknowledged:
		change = ChangeAcknowledged
	case schemas.Shelved:
		if !in.Until.After(s.now) {
			return // a shelf without an end hides a fault for ever
		}
		change = ChangeShelved
	default:
		return
	}
	a := s.fault.Attention
	if a.State == in.To && a.By == in.By && a.Until.Equal(in.Until) && a.Note == in.Note {
		return
	}
	s.fault.Attention = Attention{State: in.To, By: in.By, At: s.now, Until: in.Until, Note: in.Note}
	s.by, s.note = in.By, in.Note
	s.tell(change)
}

func (s *step) abandon(in Abandon) {
	if s.fault.Ended() || s.fault.Condition == schemas.Abandoned {
		return
	}
	s.fault.Condition, s.fault.Reason = schemas.Abandoned, in.Reason
	if !s.fault.Firing {
		s.fault.ClosedAt = s.now
	}
	s.by, s.note = in.By, in.Reason
	s.tell(ChangeAbandoned)
}

// handReport merges a report into the fault, or opens it.
func (s *step) handReport(in HandReport) {
	f := &s.fault
	if slices.ContainsFunc(f.Reports, func(r Reported) bool { return r.ID == in.ID }) {
		return
	}
	if f.Ended() && !s.reopenable(s.now, *f) {
		return
	}
	kind := RouteReported
	if f.Subject.Machine != "" {
		kind = MachineReported
	}
	if f.ID == "" || f.Ended() {
		s.begin(kind, s.now, "Reported by "+in.By+": "+in.Text)
	}
	f.Reports = append(f.Reports, Reported{ID: in.ID, At: s.now, By: in.By, Text: in.Text})
	if n := len(f.Reports); n > MaxReports {
		f.Reports = f.Reports[n-MaxReports:]
	}
	if f.Subject.Machine != "" {
		if f.Machine == nil {
			f.Machine = &MachineFacts{}
		}
		if f.Machine.Vehicle == "" {
			f.Machine.Vehicle = in.Vehicle
		}
		if f.Machine.Route == "" {
			f.Machine.Route = in.Route
		}
	}
	s.by, s.note = in.By, in.Text
	s.tell(ChangeUpdated)
}

// reported reports whether a report by hand still holds the fault open.
func (s *step) reported() bool {
	n := len(s.fault.Reports)
	return n > 0 && s.now.Sub(s.fault.Reports[n-1].At) < s.ReportHold
}

// strongest is the firing verdict of a family that names the fault.
func strongest(verdicts []Verdict, family Family) (Verdict, bool) {
	var top Verdict
	found := false
	for _, v := range verdicts {
		e := v.Kind.Entry()
		if v.Firing && e.Family == family && (!found || e.Rank > top.Kind.Entry().Rank) {
			top, found = v, true
		}
	}
	return top, found
}
