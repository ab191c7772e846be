package edge

import (
	"fmt"

	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

// cleared is the receipt or fleet topic without a message: it says nothing.
type cleared struct{}

// parse reads one message that the broker delivered to the gateway of vehicle. It
// returns a faultStands, faultGone, ticketed, ticketGone, commanded, schemas.Receipt,
// schemas.Fleet or cleared. A message that is malformed, too large, or that speaks of another
// vehicle, machine or command than its topic is an error, and nothing else.
func parse(tree topics.Tree, vehicle, topic string, payload []byte) (any, error) {
	to, err := tree.Parse(topic)
	if err != nil {
		return nil, err
	}
	if spec, ok := topics.Lookup(to.Kind); !ok || len(payload) > spec.MaxBytes {
		return nil, fmt.Errorf("%d bytes, at most %d are allowed", len(payload), spec.MaxBytes)
	}
	if to.Kind != topics.Fleet && to.Vehicle != vehicle {
		return nil, fmt.Errorf("it is addressed to vehicle %q, this is %q", to.Vehicle, vehicle)
	}
	switch to.Kind {
	case topics.VehicleFault:
		return parseFault(to, payload)
	case topics.Receipt:
		return parseReceipt(to, payload)
	case topics.Command:
		return parseCommand(to, payload)
	case topics.Ticket:
		return parseTicket(to, payload)
	case topics.Fleet:
		if len(payload) == 0 {
			return cleared{}, nil
		}
		var f schemas.Fleet
		if err := schemas.Decode(payload, schemas.NameFleet, &f); err != nil {
			return nil, err
		}
		return f, nil
	}
	return nil, fmt.Errorf("a gateway does not read %s messages", to.Kind)
}

func parseFault(to topics.Address, payload []byte) (any, error) {
	if len(payload) == 0 {
		return faultGone{to.Machine}, nil
	}
	var ev schemas.CloudEvent[schemas.MachineFault]
	if err := schemas.Decode(payload, schemas.NameVehicleFault, &ev); err != nil {
		return nil, err
	}
	f := ev.Data
	if f.Machine != to.Machine || f.Vehicle != to.Vehicle {
		return nil, fmt.Errorf("the fault is of machine %q on vehicle %q, the topic of %q on %q", f.Machine, f.Vehicle, to.Machine, to.Vehicle)
	}
	return faultStands{f}, nil
}

func parseReceipt(to topics.Address, payload []byte) (any, error) {
	if len(payload) == 0 {
		return cleared{}, nil
	}
	var r schemas.Receipt
	if err := schemas.Decode(payload, schemas.NameReceipt, &r); err != nil {
		return nil, err
	}
	if r.Machine != to.Machine {
		return nil, fmt.Errorf("the receipt is for machine %q, the topic of %q", r.Machine, to.Machine)
	}
	return r, nil
}

func parseCommand(to topics.Address, payload []byte) (any, error) {
	if len(payload) == 0 {
		return cleared{}, nil
	}
	var c schemas.Command
	if err := schemas.Decode(payload, schemas.NameCommand, &c); err != nil {
		return nil, err
	}
	if c.ID != to.Command {
		return nil, fmt.Errorf("the command is %q, the topic of %q", c.ID, to.Command)
	}
	return commanded{c}, nil
}
