package explore

import (
	"errors"
	"fmt"

	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

// State is what a Verdict comes to.
type State string

// The states of a verdict.
const (
	Valid   State = "valid"
	Invalid State = "invalid"
	Cleared State = "cleared" // an empty payload: nothing stands on the topic
	Unknown State = "unknown" // there is no schema
)

// Verdict says whether a payload is what its topic wants.
type Verdict struct {
	State State `json:"state"`
	// Text is the exact complaint of an invalid one; else one sentence.
	Text string `json:"text"`
}

// Judge says whether a payload is what its topic wants: the topic is in the tree, the payload within its size, as its schema says, and
// names the same machine, vehicle and so on as the topic.
func Judge(tree topics.Tree, topic string, payload []byte) Verdict {
	a, err := tree.Parse(topic)
	if err != nil {
		return Verdict{Invalid, err.Error()}
	}
	spec, _ := tree.Spec(a.Kind)
	switch {
	case len(payload) > spec.MaxBytes:
		return Verdict{Invalid, fmt.Sprintf("topic %q: %d bytes, at most %d", topic, len(payload), spec.MaxBytes)}
	case len(payload) == 0 && spec.Retain:
		return Verdict{Cleared, "The topic was cleared: nothing stands on it."}
	case spec.Schema == "":
		return Verdict{Unknown, "There is no schema for " + string(a.Kind) + "."}
	}
	if err := check(a, spec.Schema, payload); err != nil {
		return Verdict{Invalid, err.Error()}
	}
	return Verdict{Valid, "As the schema " + spec.Schema + " says."}
}

// check decodes a payload and compares the identifiers in it with those of its topic.
func check(a topics.Address, schema string, payload []byte) error {
	if a.Kind == topics.Transactions {
		b, err := schemas.DecodeBatch(payload)
		if err != nil {
			return err
		}
		return sameIDs(a, schema, b)
	}
	m, ok := schemas.NewMessage(schema)
	if !ok {
		return fmt.Errorf("there is no message called %q", schema)
	}
	if err := schemas.Decode(payload, schema, m); err != nil {
		return err
	}
	return sameIDs(a, schema, m)
}

// sameIDs compares what a message says of itself with its topic. A heartbeat says nothing of its machine, a report nothing of its source.
func sameIDs(a topics.Address, schema string, m schemas.Message) error {
	c := comparison{schema: schema}
	switch m := m.(type) {
	case *schemas.MachineState:
		c.same("machine", m.Machine, a.Machine)
	case *schemas.Gateway:
		c.same("vehicle", m.Vehicle, a.Vehicle)
	case *schemas.CloudEvent[schemas.MachineFault]:
		c.same("data.machine", m.Data.Machine, a.Machine)
		c.same("data.vehicle", m.Data.Vehicle, a.Vehicle)
	case *schemas.Recovery:
		c.same("machine", m.Machine, a.Machine)
		c.same("vehicle", m.Vehicle, a.Vehicle)
	case *schemas.Batch:
		c.same("machine", m.Machine, a.Machine)
		c.same("vehicle", m.Vehicle, a.Vehicle)
		c.same("first", topics.BatchID{Epoch: m.Epoch, First: m.First, Last: m.Last}.String(), a.Batch.String())
	case *schemas.Receipt:
		c.same("machine", m.Machine, a.Machine)
	case *schemas.Ticket:
		c.same("machine", m.Machine, a.Machine)
		c.same("vehicle", m.Vehicle, a.Vehicle)
	case *schemas.RouteOnline:
		c.same("route", m.Route, a.Route)
	case *schemas.CloudEvent[schemas.RouteFault]:
		c.same("data.route", m.Data.Route, a.Route)
		c.same("data.fault", m.Data.Fault, a.Fault)
	case *schemas.CloudEvent[schemas.CommonFault]:
		c.same("data.fault", m.Data.Fault, a.Fault)
	case *schemas.Command:
		c.same("id", m.ID, a.Command)
	case *schemas.CommandResult:
		c.same("id", m.ID, a.Command)
	case *schemas.CloudEvent[schemas.FaultEvent]:
		c.same("data.severity", string(m.Data.Severity), a.Severity)
		c.same("data.kind", m.Data.Kind, a.EventKind)
	}
	return errors.Join(c.errs...)
}

type comparison struct {
	schema string
	errs   []error
}

func (c *comparison) same(field, in, on string) {
	if in != on {
		c.errs = append(c.errs, &schemas.Error{Message: c.schema, Field: field, Problem: fmt.Sprintf("is %q on the topic of %q", in, on)})
	}
}
