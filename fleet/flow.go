package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/fleet/tickets"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
	"github.com/farebeat/farebeat/topics/session"
)

// Heartbeat is where it begins: a machine says that it is alive. Presence notes it; nothing else
// happens until the next round. It is safe for concurrent use and keeps nothing of the payload.
func (f *Fleet) Heartbeat(machine string, payload []byte) {
	if err := f.engine.Heartbeat(f.o.Now(), machine, payload); err != nil {
		f.refuse("machine "+machine, err)
		return
	}
	f.stats.Heartbeats.Add(1)
}

// SessionUp is evidence that a machine is connected.
func (f *Fleet) SessionUp(machine string) { f.engine.presence.SessionUp(f.o.Now(), machine) }

// SessionDown is evidence that a machine's connection was lost.
func (f *Fleet) SessionDown(machine, reason string) {
	f.engine.presence.SessionDown(f.o.Now(), machine, reason)
}

// round goes forward from what was heard to who is told: presence and counts, expectation and
// rules, faults, the store, and only then the topics of faults.
func (f *Fleet) round(ctx context.Context, now time.Time) {
	f.endMinute(ctx, now)
	f.mu.Lock()
	inputs := f.inputs
	f.inputs = nil
	f.mu.Unlock()
	inputs = append(inputs, f.unticketed.bound(f.tickets.isBound)...)

	if f.o.Rules != nil {
		f.engine.SetRules(f.o.Rules())
	}
	ordered, changes := f.takeOrders(ctx, now)
	r := f.engine.Round(now, f.checkSelf(append(inputs, ordered...)))
	for _, t := range r.Transitions {
		f.tellMachine(now, t.Machine)
	}
	f.tellRoutes(r)
	if !f.save(ctx, append(changes, r.Changes...)) {
		return // nobody is told of a fault that is not on disk; the next round tries again
	}
	f.ordersDone()
	f.tellFaults(ctx, now)
	if f.o.Watch != nil {
		f.o.Watch(r)
	}
}

// checkSelf adds whether the parts of Farebeat itself work.
func (f *Fleet) checkSelf(inputs []faults.Input) []faults.Input {
	for _, p := range f.o.Parts {
		v := faults.Verdict{Kind: p.Kind, Reason: "It works again."}
		if err := p.Failure(); err != nil {
			v.Firing, v.Reason = true, err.Error()
		}
		inputs = append(inputs, faults.ServiceCheck{Service: p.Name, Verdict: v})
	}
	for _, s := range f.engine.book.Subjects(faults.FamilyService) {
		if !slices.ContainsFunc(f.o.Parts, func(p Part) bool { return p.Name == s.Service }) {
			v := faults.Verdict{Reason: "It is not configured any more."}
			inputs = append(inputs, faults.ServiceCheck{Service: s.Service, Verdict: v})
		}
	}
	if f.o.BrokerFailure == nil {
		return inputs
	}
	v := faults.Verdict{Kind: faults.BrokerStore, Reason: "The broker's disk is written again."}
	if err := f.o.BrokerFailure(); err != nil {
		v.Firing, v.Reason = true, err.Error()
	}
	return append(inputs, faults.StoreCheck{Verdict: v})
}

// clockSlack is how far our clock may go back and its minutes be waited for.
const clockSlack = 2 * time.Minute

// endMinute stores the counts of a minute that is over, and what a restart needs.
func (f *Fleet) endMinute(ctx context.Context, now time.Time) {
	begun := now.Truncate(time.Minute)
	if back := f.minute.Sub(begun); back >= 0 && back <= clockSlack {
		return
	} // else it is over, or our clock was ahead and was put right: its time would not come again for long
	f.minute = begun
	f.clearSlots(now)
	f.frames = append(f.frames, f.engine.Minute(now))
	f.hours = append(f.hours, f.engine.Hours(now)...)
	f.saveCounts(ctx)
	if f.o.CountsSaved != nil {
		f.o.CountsSaved()
	}
	if err := f.remember(ctx, now); err != nil {
		f.o.Logger.Error("what a restart needs could not be written", "error", err)
	}
}

// maxFrames bounds the minutes whose counts wait for a disk that fails: a day. The oldest go first.
const maxFrames = 24 * 60

// saveCounts stores the counts that are not on disk yet.
func (f *Fleet) saveCounts(ctx context.Context) {
	series := f.o.Store.Counts()
	for len(f.frames) > 0 {
		if err := series.SaveFrame(ctx, f.frames[0]); err != nil {
			f.o.Logger.Error("counts could not be saved; they wait", "minutes", len(f.frames), "error", err)
			f.frames = f.frames[max(0, len(f.frames)-maxFrames):]
			return
		}
		f.frames = f.frames[1:]
	}
	if len(f.hours) == 0 {
		return
	}
	if err := series.SaveHours(ctx, f.hours); err != nil {
		f.o.Logger.Error("counts of hours could not be saved; they wait", "rows", len(f.hours), "error", err)
		return
	}
	f.hours = nil
}

// save makes changes durable, with those of rounds before whose saving failed, and queues their
// events.
func (f *Fleet) save(ctx context.Context, changes []faults.Change) bool {
	f.unsaved = append(f.unsaved, changes...)
	if len(f.unsaved) == 0 {
		return true
	}
	if err := f.o.Store.Faults().Save(ctx, f.unsaved...); err != nil {
		f.stats.SaveFailed.Add(1)
		f.setReady(false)
		f.o.Logger.Error("faults could not be saved; nobody is told until they are", "changes", len(f.unsaved), "error", err)
		return false
	}
	if f.o.FaultsSaved != nil {
		f.o.FaultsSaved()
	}
	for _, c := range f.unsaved {
		m, told, err := f.dispatch.Event(c)
		if err != nil {
			f.o.Logger.Error("event not sent", "fault", c.Fault.ID, "error", err)
		} else if told {
			f.out.event(session.Message{Topic: m.Topic, QoS: 1, Payload: m.Payload})
		}
	}
	f.unsaved = nil
	f.setReady(true)
	return true
}

// tellMachine publishes the state of a machine.
func (f *Fleet) tellMachine(now time.Time, machine string) {
	v, ok := f.engine.presence.View(machine)
	if !ok {
		return
	}
	m := schemas.MachineState{
		AsOf: milli(now), Machine: v.Machine, State: v.State, Since: milli(v.Since), Reason: v.Reason,
		Vehicle: v.Vehicle, Route: v.Route, Pending: v.Pending, PendingMinor: v.PendingMinor, Currency: v.Currency,
	}
	if !v.LastHeartbeat.IsZero() {
		at := milli(v.LastHeartbeat)
		m.LastHeartbeat = &at
	}
	f.put(topics.Address{Kind: topics.MachineState, Machine: v.Machine}, &m)
}

// shownRoute is what was published of a route last.
type shownRoute struct {
	at                                    time.Time
	online, known, expected, threshold, n int
	blind                                 bool
}

// tellRoutes publishes the counts of routes that changed, and of every route once a minute.
func (f *Fleet) tellRoutes(r Round) {
	for _, v := range r.Routes {
		s := shownRoute{r.At.Truncate(time.Minute), v.Online, v.Known, v.Expected, v.Threshold, len(v.Missing), r.Blind}
		if f.shown[v.Route] == s {
			continue
		}
		f.shown[v.Route] = s
		f.put(topics.Address{Kind: topics.RouteOnline, Route: v.Route}, &schemas.RouteOnline{
			AsOf: milli(r.At), Route: v.Route, Online: v.Online, Min: v.Min, Max: v.Max, Known: v.Known,
			Expected: v.Expected, Threshold: v.Threshold, Source: v.Expectation.Source, SampleSize: v.Expectation.SampleSize,
			Missing: v.Missing, Blind: r.Blind,
		})
	}
}

// tellFaults makes the fault topics what they should be. A gateway that is told to collect also gets
// the receipt of what the ledger has, so that it reads nothing twice, and the ticket without which the machine does not
// let it in.
func (f *Fleet) tellFaults(ctx context.Context, now time.Time) {
	open := f.engine.book.Open()
	want, lost := f.dispatch.Want(now, open)
	for _, u := range lost {
		if f.log.Due(u.Fault, now) {
			f.o.Logger.Warn("no gateway can be told of a fault", "fault", u.Fault, "reason", u.Reason)
		}
	}
	reasons, stand := firstFaults(open), map[tickets.Pair]string{}
	for topic := range want {
		a, err := f.o.Tree.Parse(topic)
		if err != nil || a.Kind != topics.VehicleFault {
			continue
		}
		stand[tickets.Pair{Machine: a.Machine, Vehicle: a.Vehicle}] = reasons[a.Machine]
		if !f.out.wants(topic) {
			if _, err := f.receipt(ctx, a.Vehicle, a.Machine); err != nil {
				f.o.Logger.Error("receipt not published", "machine", a.Machine, "error", err)
			}
		}
	}
	f.tickets.setFaults(ctx, stand)
	f.out.setFaults(want)
}

// put encodes a message for its retained topic.
func (f *Fleet) put(a topics.Address, m schemas.Message) {
	topic, err := f.o.Tree.Build(a)
	if err == nil {
		var payload []byte
		if payload, err = schemas.Encode(m); err == nil {
			f.out.set(topic, payload)
			return
		}
	}
	if f.log.Due(string(a.Kind), f.o.Now()) {
		f.o.Logger.Error("message not published", "kind", a.Kind, "error", err)
	}
}

// transactions brings a batch home: the ledger has it on disk, faults hear of it, and the receipt goes
// out. An error means that it must be sent again, but for ledger.ErrRefused.
func (f *Fleet) transactions(ctx context.Context, a topics.Address, payload []byte) (ledger.Outcome, error) {
	out, err := f.ledger.Ingest(ctx, a, payload)
	f.setReady(err == nil || errors.Is(err, ledger.ErrRefused))
	if err != nil {
		return out, err
	}
	if !out.Clean() {
		f.o.Logger.Error("a batch has records that a person must look at", "machine", out.Machine, "vehicle", out.Vehicle,
			"conflicts", out.Conflict, "forged", out.Forged, "malformed", out.Malformed, "broken_chain", out.Broken)
	}
	f.unticketed.brought(ctx, f, out)
	f.engine.LedgerProgress(f.o.Now(), out.Machine, out.Epoch, out.CompleteTo)
	f.apply(faults.LedgerProgress{Machine: out.Machine, Epoch: out.Epoch, CompleteTo: out.CompleteTo})
	r, err := f.receipt(ctx, a.Vehicle, out.Machine, out.Epoch)
	if err != nil {
		return out, err
	}
	if topic, err := f.o.Tree.Build(a); err == nil && covers(r, a.Batch) {
		f.slots.stands(topic, f.o.Now())
	}
	return out, nil
}

// receipt publishes what the ledger holds of a machine to the gateway that asks for it.
func (f *Fleet) receipt(ctx context.Context, vehicle, machine string, also ...uint32) (schemas.Receipt, error) {
	r, err := f.ledger.Receipt(ctx, machine, also...)
	if err != nil {
		return r, fmt.Errorf("receipt: %w", err)
	}
	f.put(topics.Address{Kind: topics.Receipt, Vehicle: vehicle, Machine: machine}, &r)
	return r, nil
}

// clearSlots clears the slots whose gateway did not, for want of a gateway.
func (f *Fleet) clearSlots(now time.Time) {
	for _, topic := range f.slots.overdue(now) {
		f.o.Logger.Info("a slot that its gateway left is cleared; the ledger holds what was in it", "topic", topic)
		f.out.clear(topic)
	}
}

// setReady tells gateways whether the ledger takes transactions in.
func (f *Fleet) setReady(ready bool) {
	if f.ready.Swap(ready) == ready {
		return
	}
	if m, err := f.status(schemas.Online, ready); err == nil {
		f.out.event(m)
	}
}
