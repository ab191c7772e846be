package api

import (
	"fmt"
	"net/http"

	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/console/act"
	"github.com/farebeat/farebeat/fleet/console/view"
)

// MachineFilter are the parameters of lists of machines.
type MachineFilter struct {
	State string `query:"state" maxLength:"32" doc:"DARK, STRANDED, LATE, UP, PARKED or OUT_OF_SERVICE; lost: DARK and STRANDED"`
	Find  string `query:"find" maxLength:"256" doc:"Only those whose machine, vehicle, route or depot contains this, case ignored"`
	Order string `query:"order" enum:"worst,name,money" doc:"worst without it"`
}

func (f MachineFilter) query() view.MachineQuery {
	return view.MachineQuery{State: f.State, Find: f.Find, Order: f.Order}
}

type machinesIn struct {
	MachineFilter
	Paged
}

// MachineID names a machine.
type MachineID struct {
	ID string `path:"id" maxLength:"256"`
}

type collectIn struct {
	MachineID
	Body *CollectRequest
}

// CollectRequest says whose gateway is to read a machine.
type CollectRequest struct {
	Vehicle string `json:"vehicle,omitempty" maxLength:"64" doc:"The vehicle whose gateway is to do it; without it the one that would by itself"`
}

type commandOut struct {
	Location string `header:"Location" doc:"Where to look how it goes"`
	Body     act.Command
}

type commandsIn struct {
	Machine string `query:"machine" maxLength:"256" doc:"Only about this machine"`
}

// Commands are what was asked of gateways since the start.
type Commands struct {
	Commands []act.Command `json:"commands"` // newest first
}

type commandIn struct {
	ID string `path:"id" maxLength:"64"`
}

func (a *API) registerMachines() {
	register(a, op{id: "machines", method: http.MethodGet, path: "/machines", tag: "machines", need: access.Viewer, summary: "Machines"},
		func(c call, in *machinesIn) (*page[view.MachineList], error) {
			q := in.query()
			q.Page, q.Limit = in.Page, in.Limit
			list, err := a.o.View.Machines(c, q)
			return &page[view.MachineList]{c.nextPage(list.Page, list.Pages), list}, err
		})
	register(a, op{id: "machine", method: http.MethodGet, path: "/machines/{id}", tag: "machines", need: access.Viewer, summary: "One machine: what is heard of it, its faults, its records"},
		func(c call, in *MachineID) (*body[view.MachinePage], error) {
			p, err := a.o.View.Machine(c, in.ID)
			return &body[view.MachinePage]{p}, err
		})
	register(a, op{
		id: "collect", method: http.MethodPost, path: "/machines/{id}/collect", tag: "machines", need: access.Operator, hides: "collect", status: http.StatusAccepted,
		summary: "Have a gateway read a machine now", description: "The answer comes at once; how it goes is told under Location.",
	}, func(c call, in *collectIn) (*commandOut, error) {
		vehicle := ""
		if in.Body != nil {
			vehicle = in.Body.Vehicle
		}
		if vehicle == "" {
			m, err := a.o.View.Machine(c, in.ID)
			if err != nil {
				return nil, err
			}
			if vehicle = m.Gateway; vehicle == "" {
				return nil, fmt.Errorf("%w: no vehicle is known that carries machine %s: say whose gateway is to do it", view.ErrUsage, in.ID)
			}
		}
		command, err := a.o.Act.Collect(c, c.who, in.ID, vehicle)
		return &commandOut{Prefix + "/commands/" + command.ID, command}, err
	})
	register(a, op{id: "commands", method: http.MethodGet, path: "/commands", tag: "machines", need: access.Viewer, summary: "What was asked of gateways since the start, newest first"},
		func(_ call, in *commandsIn) (*body[Commands], error) {
			return &body[Commands]{Commands{a.o.Act.Commands(in.Machine)}}, nil
		})
	register(a, op{id: "command", method: http.MethodGet, path: "/commands/{id}", tag: "machines", need: access.Viewer, summary: "What was asked of a gateway, and how it goes"},
		func(_ call, in *commandIn) (*body[act.Command], error) {
			command, err := a.o.Act.Command(in.ID)
			return &body[act.Command]{command}, err
		})
}
