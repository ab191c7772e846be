package dispatch

import (
	"fmt"
	"time"

	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

// The CloudEvents types of what this package makes.
const (
	TypeMachineFault = "io.farebeat.machine.fault"
	TypeRouteFault   = "io.farebeat.route.fault"
	TypeCommonFault  = "io.farebeat.common.fault"
	TypeFaultEvent   = "io.farebeat.fault." // followed by the change
)

// Event makes the event of a change, QoS 1 and not retained. false where there is none to be told of: the
// change only saved the fault, or a parent or maintenance explains it, so that one cause is told once. The same change
// gives the same event, to the byte: consumers deduplicate by source and id.
func (d *Dispatcher) Event(c faults.Change) (Message, bool, error) {
	if !c.Told() {
		return Message{}, false, nil
	}
	f, e := c.Fault, c.Event
	data := schemas.FaultEvent{
		Fault: f.ID, Change: e.Change, Kind: string(e.Kind), Severity: e.Severity, Condition: e.Condition,
		Attention: e.Attention, Route: f.Subject.Route, Machine: f.Subject.Machine, Vehicle: f.Subject.Vehicle,
		Depot: f.Subject.Depot, Network: f.Subject.Network, Firmware: f.Subject.Firmware, Service: f.Subject.Service, Reason: short(e.Reason),
	}
	if f.Machine != nil {
		data.Vehicle = f.Machine.Vehicle
		if data.Route == "" {
			data.Route = f.Machine.Route
		}
	}
	topic, err := d.tree.Build(topics.Address{Kind: topics.Event, Severity: string(e.Severity), EventKind: string(e.Kind)})
	if err != nil {
		return Message{}, false, fmt.Errorf("event %s: %w", e.ID(), err)
	}
	payload, err := schemas.Encode(cloudEvent(d, e.ID(), TypeFaultEvent+e.Change, f.ID, e.At, data))
	if err != nil {
		return Message{}, false, fmt.Errorf("event %s: %w", e.ID(), err)
	}
	return Message{topic, payload}, true, nil
}

// maxText is the longest reason that the schemas admit, in characters.
const maxText = 500

func cloudEvent[T any](d *Dispatcher, id, kind, subject string, at time.Time, data T) *schemas.CloudEvent[T] {
	return &schemas.CloudEvent[T]{
		SpecVersion: "1.0", ID: id, Source: d.source(), Type: kind, Subject: subject,
		Time: milli(at), DataContentType: "application/json", Data: data,
	}
}

// milli is a time as all messages carry it.
func milli(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }

// machineFault is the notice to a gateway. Its id changes with each revision and with the order to
// collect, which may change while the fault does not.
func (d *Dispatcher) machineFault(f faults.Fault, collect bool) schemas.Message {
	m := f.Machine
	entry := f.Kind.Entry()
	data := schemas.MachineFault{
		Fault: f.ID, Kind: string(f.Kind), Severity: f.Severity, Title: entry.Title, Condition: f.Condition,
		Machine: f.Subject.Machine, Vehicle: m.Vehicle, Route: m.Route, OpenedAt: milli(f.OpenedAt), AsOf: milli(f.UpdatedAt),
		Reason: short(f.Reason), NextStep: entry.NextStep, Collect: collect,
		Pending: m.Pending, PendingMinor: m.PendingMinor, Currency: m.Currency,
	}
	if !m.LastHeartbeat.IsZero() {
		at := milli(m.LastHeartbeat)
		data.LastHeartbeat = &at
	}
	if len(m.Custody) > 0 {
		data.Epoch, data.LastSeq = m.Custody[0].Epoch, m.Custody[0].LastSeq
	}
	order := "wait"
	if collect {
		order = "collect"
	}
	return cloudEvent(d, fmt.Sprintf("%s.r%d.%s", f.ID, f.Revision, order), TypeMachineFault, f.Subject.Machine, f.UpdatedAt, data)
}

func (d *Dispatcher) routeFault(f faults.Fault) schemas.Message {
	entry := f.Kind.Entry()
	data := schemas.RouteFault{
		Fault: f.ID, Kind: string(f.Kind), Severity: f.Severity, Title: entry.Title, Condition: f.Condition,
		Route: f.Subject.Route, OpenedAt: milli(f.OpenedAt), AsOf: milli(f.UpdatedAt),
		Reason: short(f.Reason), NextStep: entry.NextStep,
	}
	if f.Route != nil {
		data.Online, data.Expected, data.Threshold = f.Route.Online, f.Route.Expected, f.Route.Threshold
	}
	return cloudEvent(d, fmt.Sprintf("%s.r%d", f.ID, f.Revision), TypeRouteFault, f.Subject.Route, f.UpdatedAt, data)
}

func (d *Dispatcher) commonFault(f faults.Fault) schemas.Message {
	entry := f.Kind.Entry()
	data := schemas.CommonFault{
		Fault: f.ID, Kind: string(f.Kind), Severity: f.Severity, Title: entry.Title, Condition: f.Condition,
		Vehicle: f.Subject.Vehicle, Depot: f.Subject.Depot, Network: f.Subject.Network, Firmware: f.Subject.Firmware, Service: f.Subject.Service,
		OpenedAt: milli(f.OpenedAt), AsOf: milli(f.UpdatedAt), Reason: short(f.Reason), NextStep: entry.NextStep,
	}
	if f.Route != nil {
		data.Lost, data.Known = f.Route.Expected-f.Route.Online, f.Route.Expected
	}
	return cloudEvent(d, fmt.Sprintf("%s.r%d", f.ID, f.Revision), TypeCommonFault, f.Subject.String(), f.UpdatedAt, data)
}
