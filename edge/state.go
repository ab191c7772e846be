package edge

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/farebeat/farebeat/edge/outbox"
	"github.com/farebeat/farebeat/schemas"
)

// Bounds of what the state remembers.
const (
	maxWaitingCommands = 64
	maxTasks           = 1000
	maxKnownResults    = 256
	maxAvoided         = 1000
	maxSightings       = 64  // published at a time
	maxText            = 300 // characters of an error in a message
)

// timings are the durations that decisions are made with, on the agent's clock.
type timings struct {
	recollect  time.Duration // from one good contact to the next while a fault stands
	backoffMin time.Duration // from the first failed contact to the next
	backoffMax time.Duration
	listen     time.Duration // from one idle listening to the next
	sightings  time.Duration // a sighting is published again at least this often
	forget     time.Duration // a machine not heard for this long is no longer listed; a farewell is given up
}

// state is all that the agent decides on. One goroutine owns it.
type state struct {
	vehicle  string
	timings  timings
	tasks    map[string]*task
	busy     bool      // the radio is in use
	listenAt time.Time // when to listen next without a task
	asOf     time.Time // of the latest progress message

	machines []string // the vehicle's own machines, as configured

	tickets map[string]ticket // by machine

	known map[string]schemas.CommandResult // latest result of the latest commands, by id
	order []string                         // their ids, oldest first

	sightings   map[string]schemas.Sighting
	sightingsAt time.Time // when they were published
	changed     bool      // somebody came or went since
}

func newState(vehicle string, machines []string, tm timings) *state {
	return &state{
		vehicle: vehicle, machines: machines, timings: tm, tasks: map[string]*task{}, tickets: map[string]ticket{},
		known: map[string]schemas.CommandResult{}, sightings: map[string]schemas.Sighting{},
	}
}

// step takes in one input and says what is to be done about it. It reads no
// clock and does nothing else.
func (s *state) step(now time.Time, in input) []effect {
	var out []effect
	switch in := in.(type) {
	case faultStands:
		out = s.faultStands(now, in.fault)
	case faultGone:
		out = s.faultGone(now, in.machine)
	case connecting:
		for _, t := range s.tasks {
			t.confirmed = false
		}
		s.doubtTickets()
	case ticketed:
		out = s.ticketed(now, in)
	case ticketGone:
		delete(s.tickets, in.machine)
	case settled:
		out = s.settled(now)
	case receipted:
		out = s.receipted(now, in)
	case commanded:
		out = s.commanded(now, in.command)
	case found:
		out = s.found(now, in.machine)
	case declared:
		out = s.declared(now, in)
	case stored:
		out = s.stored(now, in)
	case contactEnded:
		out = s.contactEnded(now, in.result)
	case listened:
		s.busy = false
		s.listenAt = now.Add(s.timings.listen)
		s.sighted(in.seen)
	case ticked:
	}
	out = append(out, s.expire(now)...)
	out = append(out, s.gateway(now)...)
	return append(out, s.nextContact(now)...)
}

func (s *state) task(now time.Time, machine string) *task {
	t := s.tasks[machine]
	if t == nil {
		t = &task{machine: machine, seenAt: now, due: now, phase: schemas.RecoveryWaiting}
		s.tasks[machine] = t
	}
	return t
}

func (s *state) faultStands(now time.Time, f schemas.MachineFault) []effect {
	if s.tasks[f.Machine] == nil && len(s.tasks) >= maxTasks {
		return []effect{refused{fmt.Sprintf("fault %s of machine %s: %d machines of this vehicle have faults already", f.Fault, f.Machine, maxTasks)}}
	}
	t := s.task(now, f.Machine)
	fresh := t.fault == nil || t.fault.Fault != f.Fault
	begins := fresh || (f.Collect && !t.fault.Collect)
	t.fault, t.confirmed, t.farewell = &f, true, false
	if begins {
		t.due, t.attempts, t.lastErr, t.blocked = now, 0, "", false
	}
	if fresh {
		// Progress is of this fault; what is on its way is still known to the outbox.
		t.contacted, t.declared, t.told, t.avoid, t.rate, t.phase = false, nil, nil, nil, 0, schemas.RecoveryWaiting
		return s.progress(now, t, true)
	}
	return nil
}

// faultGone ends a recovery. Where the machine was told of the fault, or does not
// know yet all that the ledger holds, it is told once more.
func (s *state) faultGone(now time.Time, machine string) []effect {
	t := s.tasks[machine]
	if t == nil || t.fault == nil {
		return nil
	}
	t.fault, t.farewell = nil, t.contacted
	t.due, t.attempts, t.giveUp = now, 0, now.Add(s.timings.forget)
	s.drop(t)
	return []effect{clearRecovery{machine}}
}

// drop forgets a task that nobody wants any more.
func (s *state) drop(t *task) {
	if t.fault == nil && !t.wanted() {
		delete(s.tasks, t.machine)
	}
}

// settled drops the faults that were over before this connection was made.
func (s *state) settled(now time.Time) []effect {
	var out []effect
	for _, t := range s.sorted() {
		if t.fault != nil && !t.confirmed {
			out = append(out, s.faultGone(now, t.machine)...)
		}
	}
	s.dropTickets()
	return out
}

func (s *state) receipted(now time.Time, in receipted) []effect {
	t := s.tasks[in.machine]
	if t == nil {
		return nil
	}
	t.ledger, t.held = in.ledger, in.held
	if t.blocked {
		t.blocked, t.due, t.attempts = false, now, 0
	}
	if len(t.untold()) > 0 && t.home() {
		t.due = now
	}
	idle := t.phase == schemas.RecoveryWaiting || t.phase == schemas.RecoverySending || t.phase == schemas.RecoveryFailed
	if idle && t.home() {
		t.phase = schemas.RecoveryComplete
		return s.progress(now, t, true)
	}
	return s.progress(now, t, false)
}

func (s *state) found(now time.Time, machine string) []effect {
	t := s.tasks[machine]
	if t == nil {
		return nil
	}
	t.served = now
	var out []effect
	for _, c := range t.commands {
		out = append(out, s.answer(now, c.ID, schemas.CommandRunning, "The gateway found the machine.", nil))
	}
	for _, o := range s.sorted() { // who was looked for as well waits for the next turn
		if o != t && o.phase == schemas.RecoveryScanning {
			o.phase = schemas.RecoveryWaiting
			out = append(out, s.progress(now, o, true)...)
		}
	}
	if t.phase != schemas.RecoveryComplete { // looking again is no news until there is something new
		t.phase = schemas.RecoveryConnecting
	}
	return append(out, s.progress(now, t, true)...)
}

func (s *state) declared(now time.Time, in declared) []effect {
	t := s.tasks[in.machine]
	if t == nil {
		return nil
	}
	t.contacted = true
	t.declared = t.declared.Union(in.all)
	t.ledger, t.held = in.ledger, in.held
	t.epoch, t.lastSeq = in.newest, in.newestLast
	t.minor, t.minorOf = in.minor, in.all.Count()
	t.began, t.beganAt = now, t.declared.Count()-t.missing().Count()
	if len(t.missing()) > 0 {
		t.phase = schemas.RecoveryReading
	}
	return s.progress(now, t, true)
}

func (s *state) stored(now time.Time, in stored) []effect {
	t := s.tasks[in.machine]
	if t == nil {
		return nil
	}
	t.held = in.held
	t.measure(now)
	return s.progress(now, t, false)
}

// measure brings the reading rate up to date.
func (t *task) measure(now time.Time) {
	read := t.declared.Count() - t.missing().Count()
	if took := now.Sub(t.began).Seconds(); took > 0 && read > t.beganAt {
		t.rate = float64(read-t.beganAt) / took
	}
}

func (s *state) contactEnded(now time.Time, r contactResult) []effect {
	s.busy = false
	s.listenAt = now.Add(s.timings.listen)
	s.sighted(r.seen)
	var out []effect
	for _, machine := range r.absent {
		if t := s.tasks[machine]; t != nil {
			out = append(out, s.failed(now, t, "the machine was not heard over Bluetooth")...)
		}
	}
	t := s.tasks[r.machine]
	if t == nil {
		return out
	}
	t.told = t.told.Union(r.told)
	if r.stopped != nil && t.avoid.Count() < maxAvoided {
		t.avoid = t.avoid.Union(Records{r.stopped.Epoch: outbox.Of(outbox.Interval{First: r.stopped.First, Last: r.stopped.Last})})
	}
	if r.err != nil {
		if r.read > 0 {
			t.attempts = 0 // it brings the machine home, if in pieces: no reason to wait ever longer
		}
		t.blocked = r.full
		out = append(out, s.failed(now, t, r.err.Error())...)
	} else {
		out = append(out, s.succeeded(now, t, r)...)
	}
	s.drop(t)
	return out
}

func (s *state) failed(now time.Time, t *task, why string) []effect {
	t.attempts++
	t.lastErr = shorten(why)
	t.due = now.Add(backoff(s.timings.backoffMin, s.timings.backoffMax, t.attempts))
	if t.home() {
		t.phase = schemas.RecoveryComplete // the money is; only the machine does not know
	} else {
		t.phase = schemas.RecoveryFailed
	}
	return s.progress(now, t, true)
}

func (s *state) succeeded(now time.Time, t *task, r contactResult) []effect {
	t.attempts, t.lastErr, t.blocked, t.avoid = 0, "", false, nil
	t.due = now.Add(s.timings.recollect)
	switch {
	case t.home():
		t.phase = schemas.RecoveryComplete
		if len(t.untold()) > 0 { // a receipt came meanwhile
			t.due = now.Add(s.timings.backoffMin)
		}
	case r.refused > 0:
		t.phase = schemas.RecoveryFailed
		t.lastErr = fmt.Sprintf("%d records of the machine are damaged: they stay on it; have it looked at", r.refused)
	case r.collected && len(t.missing()) > 0:
		t.phase = schemas.RecoveryFailed
		t.lastErr = fmt.Sprintf("%d records that the machine declared before are no longer on it", t.missing().Count())
	case len(t.missing()) > 0:
		t.phase = schemas.RecoveryWaiting // it was not asked for its records
	default:
		t.phase = schemas.RecoverySending
	}
	// A machine that has yet to hear of receipts is not left without them.
	if r.farewell && len(t.untold()) == 0 && len(t.declared.Minus(t.declared.Minus(t.held))) == 0 {
		t.farewell = false
	}
	var out []effect
	for _, c := range t.commands {
		out = append(out, s.finished(now, c, r))
	}
	t.commands = nil
	return append(out, s.progress(now, t, true)...)
}

// finished answers a command whose contact went well.
func (s *state) finished(now time.Time, c schemas.Command, r contactResult) effect {
	detail, err := json.Marshal(r.status)
	if err != nil || r.status == nil {
		detail = nil
	}
	switch {
	case c.Verb == schemas.VerbSetTime && r.clockErr != nil:
		return s.answer(now, c.ID, schemas.CommandFailed, "The machine did not set its clock: "+r.clockErr.Error(), detail)
	case c.Verb == schemas.VerbSetTime:
		return s.answer(now, c.ID, schemas.CommandFinished, "The machine's clock is set.", detail)
	case c.Verb == schemas.VerbCollect && r.refused > 0:
		return s.answer(now, c.ID, schemas.CommandFailed, fmt.Sprintf("%d new records are on the gateway; %d damaged ones stay on the machine.", r.read, r.refused), detail)
	case c.Verb == schemas.VerbCollect:
		return s.answer(now, c.ID, schemas.CommandFinished, fmt.Sprintf("%d new records are on the gateway.", r.read), detail)
	}
	return s.answer(now, c.ID, schemas.CommandFinished, "The machine answers.", detail)
}

// shorten keeps a text within what messages allow: one line of printable
// characters. Errors that are joined come on several lines.
func shorten(text string) string {
	text = strings.ReplaceAll(strings.ToValidUTF8(text, "?"), "\n", "; ")
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, text)
	if r := []rune(text); len(r) > maxText {
		return string(r[:maxText-1]) + "…"
	}
	return text
}

// backoff doubles from lo to hi with the number of failures, which is at least 1.
func backoff(lo, hi time.Duration, failures int) time.Duration {
	d := lo
	for range failures - 1 {
		if d >= hi {
			break
		}
		d *= 2
	}
	return min(d, hi)
}

func (s *state) progress(now time.Time, t *task, urgent bool) []effect {
	if t.fault == nil {
		return nil
	}
	// Each is later than the one before it, also within a millisecond, since readers
	// keep the latest.
	before := s.asOf
	if s.asOf = now.UTC().Truncate(time.Millisecond); !s.asOf.After(before) {
		s.asOf = before.Add(time.Millisecond)
	}
	return []effect{publishRecovery{t.recovery(now, s.asOf, s.vehicle), urgent}}
}

// sorted returns the tasks, the first to be served first.
func (s *state) sorted() []*task {
	out := make([]*task, 0, len(s.tasks))
	for _, t := range s.tasks {
		out = append(out, t)
	}
	slices.SortFunc(out, (*task).before)
	return out
}

// nextContact decides what the radio does next.
func (s *state) nextContact(now time.Time) []effect {
	if s.busy {
		return nil
	}
	var (
		out        []effect
		candidates []job
	)
	latest := now.Add(max(s.timings.recollect, s.timings.backoffMax))
	for _, t := range s.sorted() {
		if t.due.After(latest) {
			t.due = latest // the clock was set back
		}
		if !t.wanted() || t.due.After(now) {
			continue
		}
		may, effects := s.mayContact(now, t)
		out = append(out, effects...)
		if !may {
			continue
		}
		candidates = append(candidates, s.job(t))
		if t.phase != schemas.RecoveryComplete {
			t.phase = schemas.RecoveryScanning
		}
		out = append(out, s.progress(now, t, true)...)
	}
	switch {
	case len(candidates) > 0:
		s.busy = true
		return append(out, contact{candidates, s.near()})
	case s.timings.listen > 0 && (!s.listenAt.After(now) || s.listenAt.Sub(now) > s.timings.listen):
		s.busy = true
		return append(out, listen{s.near()})
	}
	return out
}

// near returns the names of all machines that may be near, sorted. An
// advertisement carries a hint only, which means something to who knows the name.
func (s *state) near() []string {
	out := slices.Clone(s.machines)
	for machine := range s.tasks {
		out = append(out, machine)
	}
	for machine := range s.sightings {
		out = append(out, machine)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (s *state) job(t *task) job {
	j := job{machine: t.machine, ticket: s.tickets[t.machine], fault: t.fault, farewell: t.farewell, avoid: t.avoid, collect: t.fault != nil && t.fault.Collect}
	for _, c := range t.commands {
		j.collect = j.collect || c.Verb == schemas.VerbCollect
		j.setTime = j.setTime || c.Verb == schemas.VerbSetTime
	}
	return j
}
