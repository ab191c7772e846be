package fleet

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/fleet/tickets"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
	"github.com/farebeat/farebeat/topics/session"
)

// Stats counts what came in. Refused is 0 on a healthy system.
type Stats struct {
	Heartbeats atomic.Uint64 // valid ones
	Refused    atomic.Uint64 // payloads of any topic that are not what their schema says
	SaveFailed atomic.Uint64 // rounds whose changes could not be saved at once

	TicketsIssued   atomic.Uint64 // first ones of a vehicle for a machine
	TicketsRenewed  atomic.Uint64 // in place of one that stood
	TicketsRevoked  atomic.Uint64 // withdrawn because the vehicle's were revoked
	TicketsFailed   atomic.Uint64 // attempts to issue one that failed
	CommandsRefused atomic.Uint64 // commands that give no ticket: malformed, expired, too many, or to a vehicle whose tickets are revoked

	UnticketedBatches atomic.Uint64 // batches with proved records from a vehicle that never had a ticket for the machine; they are taken in
	UnticketedReports atomic.Uint64 // reports of a recovery by such a vehicle; they change no fault
}

// Stats returns the counters.
func (f *Fleet) Stats() *Stats { return &f.stats }

// refuse counts a bad payload and logs it once per writer and minute.
func (f *Fleet) refuse(writer string, err error) {
	f.stats.Refused.Add(1)
	if f.log.Due(writer, f.o.Now()) {
		f.o.Logger.Warn("message refused", "writer", writer, "error", err)
	}
}

// subscribe names the handlers of all that comes by the broker.
func (f *Fleet) subscribe() error {
	for _, s := range []struct {
		kind    topics.Kind
		handle  func(context.Context, topics.Address, []byte) error
		workers int
		wanted  bool
	}{
		{topics.Heartbeat, f.onHeartbeat, 4, f.o.Listen},
		{topics.Gateway, f.onGateway, 1, true},
		{topics.Recovery, f.onRecovery, 1, true},
		{topics.Transactions, f.onTransactions, 16, true},
		{topics.Report, f.onReport, 1, true},
		{topics.Command, f.onCommand, 1, true},
		{topics.Ticket, f.onTicket, 1, true},
		{topics.VehicleFault, f.onStanding, 1, true},
		{topics.RouteFault, f.onStanding, 1, true},
		{topics.CommonFault, f.onStanding, 1, true},
	} {
		if !s.wanted {
			continue
		}
		filter, err := f.o.Tree.Filter(topics.Address{Kind: s.kind})
		if err != nil {
			return err
		}
		spec, _ := topics.Lookup(s.kind)
		f.session.HandleParallel(filter, spec.QoS, s.workers, func(ctx context.Context, d *session.Delivery) error {
			a, err := f.o.Tree.Parse(d.Topic)
			if err == nil && len(d.Payload) > spec.MaxBytes {
				err = fmt.Errorf("topic %q: %d bytes, at most %d", d.Topic, len(d.Payload), spec.MaxBytes)
			}
			if err != nil {
				f.refuse(d.Topic, err)
				return nil
			}
			return s.handle(ctx, a, d.Payload)
		})
	}
	return nil
}

func (f *Fleet) onHeartbeat(_ context.Context, a topics.Address, payload []byte) error {
	f.Heartbeat(a.Machine, payload)
	return nil
}

func (f *Fleet) onGateway(_ context.Context, a topics.Address, payload []byte) error {
	if len(payload) == 0 {
		return nil // the topic was cleared: says nothing
	}
	var g schemas.Gateway
	err := schemas.Decode(payload, schemas.NameGateway, &g)
	if err == nil && g.Vehicle != a.Vehicle {
		err = &schemas.Error{Message: schemas.NameGateway, Field: "vehicle", Problem: fmt.Sprintf("is %q on the topic of %q", g.Vehicle, a.Vehicle)}
	}
	if err != nil {
		f.refuse("vehicle "+a.Vehicle, err)
		return nil
	}
	f.engine.Gateway(f.o.Now(), g)
	return nil
}

func (f *Fleet) onRecovery(_ context.Context, a topics.Address, payload []byte) error {
	if len(payload) == 0 {
		f.unticketed.forget(tickets.Pair{Machine: a.Machine, Vehicle: a.Vehicle})
		return nil
	}
	var r schemas.Recovery
	err := schemas.Decode(payload, schemas.NameRecovery, &r)
	if err == nil && (r.Vehicle != a.Vehicle || r.Machine != a.Machine) {
		err = &schemas.Error{Message: schemas.NameRecovery, Field: "machine", Problem: fmt.Sprintf("is %q of vehicle %q on the topic of %q of %q", r.Machine, r.Vehicle, a.Machine, a.Vehicle)}
	}
	if err != nil {
		f.refuse("vehicle "+a.Vehicle, err)
		return nil
	}
	f.unticketed.report(f, faults.RecoveryReport{Recovery: r})
	return nil
}

func (f *Fleet) onReport(_ context.Context, a topics.Address, payload []byte) error {
	var r schemas.Report
	if err := schemas.Decode(payload, schemas.NameReport, &r); err != nil {
		f.refuse("report "+a.Source, err)
		return nil
	}
	f.apply(faults.HandReport{Report: r})
	return nil
}

// onStanding learns which fault topics stand at the broker, so that those that should not are cleared.
func (f *Fleet) onStanding(_ context.Context, a topics.Address, payload []byte) error {
	topic, err := f.o.Tree.Build(a)
	if err != nil {
		return nil //nolint:nilerr // it was parsed from a topic, so it can be built
	}
	f.out.stands(topic, payload)
	return nil
}

// onCommand has a ticket issued for a command that an operator sent to a gateway.
func (f *Fleet) onCommand(_ context.Context, a topics.Address, payload []byte) error {
	if len(payload) == 0 {
		return nil
	}
	if err := f.tickets.command(a, payload); err != nil {
		f.stats.CommandsRefused.Add(1)
		f.refuse("commands to vehicle "+a.Vehicle, err)
	}
	return nil
}

// onTicket learns which tickets stand at the broker, so that those that should not are cleared.
func (f *Fleet) onTicket(_ context.Context, a topics.Address, payload []byte) error {
	if topic, err := f.o.Tree.Build(a); err == nil {
		f.tickets.stands(a, topic, payload)
	}
	return nil
}

// onTransactions acknowledges a batch only after the ledger has it on disk. What can never be taken in
// is acknowledged and counted; its gateway keeps it, for want of a receipt.
func (f *Fleet) onTransactions(ctx context.Context, a topics.Address, payload []byte) error {
	if len(payload) == 0 { // the gateway cleared the slot after our receipt
		if topic, err := f.o.Tree.Build(a); err == nil {
			f.slots.cleared(topic)
		}
		return nil
	}
	_, err := f.transactions(ctx, a, payload)
	if errors.Is(err, ledger.ErrRefused) {
		f.refuse("vehicle "+a.Vehicle, err)
		return nil
	}
	return err
}

// apply keeps an input for the next round.
func (f *Fleet) apply(in faults.Input) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.inputs) >= maxInputs {
		f.stats.Refused.Add(1)
		return
	}
	f.inputs = append(f.inputs, in)
}

// maxInputs bounds what may wait for one round, a second or so.
const maxInputs = 200_000
