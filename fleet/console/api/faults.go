package api

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/console/act"
	"github.com/farebeat/farebeat/fleet/console/view"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/schemas"
)

// FaultFilter are the parameters of lists of faults.
type FaultFilter struct {
	Show    string    `query:"show" enum:"open,all_open,unseen,all" doc:"open: those that stand by themselves; all_open: with those that a greater one explains; unseen: those nobody saw; all: with those that ended. open without it"`
	Machine string    `query:"machine" maxLength:"256" doc:"Only of this machine"`
	Route   string    `query:"route" maxLength:"256" doc:"Only of this route and the machines on it"`
	Vehicle string    `query:"vehicle" maxLength:"256" doc:"Only those that this vehicle's gateway acts on"`
	Kind    string    `query:"kind" maxLength:"64" doc:"Only of this kind, such as machine_silent"`
	Parent  string    `query:"parent" maxLength:"64" doc:"Only those that this fault explains"`
	From    time.Time `query:"from" doc:"Only those that stood at this time or later"`
	To      time.Time `query:"to" doc:"Only those that were opened before this time"`
}

func (f FaultFilter) query() view.FaultQuery {
	return view.FaultQuery{
		Show: f.Show, Machine: f.Machine, Route: f.Route, Vehicle: f.Vehicle, Kind: f.Kind, Parent: f.Parent, From: f.From, To: f.To,
	}
}

type faultsIn struct {
	FaultFilter
	After string `query:"after" maxLength:"64" doc:"The last fault of the page before"`
	Limit int    `query:"limit" minimum:"1" maximum:"500" doc:"Faults of a page; 50 without it"`
}

// FaultID names a fault.
type FaultID struct {
	ID string `path:"id" maxLength:"64"`
}

// Ordered is what became of an order about a fault.
type Ordered struct {
	Fault string `json:"fault"`
	Order string `json:"order"`
	State string `json:"state" enum:"done,waits" doc:"waits: it is on disk, and will be done with one of the next rounds"`
}

type orderedOut struct {
	Status   int
	Location string `header:"Location" doc:"The fault"`
	Body     Ordered
}

// TimedOrder is an order that may end by itself.
type TimedOrder struct {
	Note  string    `json:"note,omitempty" maxLength:"500" doc:"Why, for those who read it later"`
	Until time.Time `json:"until,omitzero" doc:"Until when; without it until the fault ends"`
	For   string    `json:"for,omitempty" maxLength:"32" doc:"In place of until: for how long, such as 2h or 90m; at most 720h"`
}

// PlainOrder is an order that needs no reason, and may have one.
type PlainOrder struct {
	Note string `json:"note,omitempty" maxLength:"500" doc:"Why, for those who read it later"`
}

// NotedOrder is an order that needs a reason.
type NotedOrder struct {
	Note string `json:"note" minLength:"1" maxLength:"500" doc:"Why, for those who read it later"`
}

type timedIn struct {
	FaultID
	Body *TimedOrder
}

type plainIn struct {
	FaultID
	Body *PlainOrder
}

type notedIn struct {
	FaultID
	Body NotedOrder
}

type doneIn struct {
	From  time.Time `query:"from" doc:"From this time on"`
	To    time.Time `query:"to" doc:"Before this time"`
	By    string    `query:"by" maxLength:"128" doc:"Only what this person did"`
	Limit int       `query:"limit" minimum:"1" maximum:"10000" doc:"At most this many, the newest; 50 without it"`
}

type reportIn struct {
	Body ReportRequest
}

// ReportRequest is a fault that a person saw.
type ReportRequest struct {
	Machine string `json:"machine,omitempty" maxLength:"64" doc:"The machine that it is about; this or route"`
	Route   string `json:"route,omitempty" maxLength:"64" doc:"The route that it is about"`
	Vehicle string `json:"vehicle,omitempty" maxLength:"64" doc:"Where the machine is, if you know"`
	Text    string `json:"text" minLength:"1" maxLength:"500" doc:"What is wrong"`
}

// Reported says that a report was sent.
type Reported struct {
	ID string `json:"id"`
}

func (a *API) registerFaults() {
	register(a, op{id: "faults", method: http.MethodGet, path: "/faults", tag: "faults", need: access.Viewer, summary: "Faults, latest opened first"},
		func(c call, in *faultsIn) (*page[view.FaultList], error) {
			q := in.query()
			q.After, q.Limit = in.After, in.Limit
			list, err := a.o.View.Faults(c, q)
			return &page[view.FaultList]{c.next("after", list.Next), list}, err
		})
	register(a, op{
		id: "faults_audit", method: http.MethodGet, path: "/faults/audit", tag: "faults", need: access.Viewer, summary: "What people did about faults, oldest first",
	}, func(c call, in *doneIn) (*body[view.DoneList], error) {
		list, err := a.o.View.Done(c, in.From, in.To, in.By, in.Limit)
		return &body[view.DoneList]{list}, err
	})
	register(a, op{id: "fault", method: http.MethodGet, path: "/faults/{id}", tag: "faults", need: access.Viewer, summary: "One fault: why, its life so far, its recovery"},
		func(c call, in *FaultID) (*body[view.FaultPage], error) {
			p, err := a.o.View.Fault(c, in.ID)
			return &body[view.FaultPage]{p}, err
		})
	a.registerVerbs()
	register(a, op{
		id: "report", method: http.MethodPost, path: "/reports", tag: "faults", need: access.Operator, hides: "report", status: http.StatusAccepted,
		summary: "Report a fault that a person saw", description: "It becomes a fault, or joins the one that stands, with the next round.",
	}, func(c call, in *reportIn) (*body[Reported], error) {
		if in.Body.Machine == "" && in.Body.Route == "" {
			return nil, fmt.Errorf("%w: say which machine or route it is about", view.ErrUsage)
		}
		id, err := a.o.Act.Report(c, c.who, schemas.Report{Machine: in.Body.Machine, Route: in.Body.Route, Vehicle: in.Body.Vehicle, Text: in.Body.Text})
		return &body[Reported]{Reported{id}}, err
	})
}

// registerVerbs makes the operations of what a person orders about a fault.
func (a *API) registerVerbs() {
	verb := func(v faults.Verb, summary, description string) op {
		return op{
			id: "fault_" + string(v), method: http.MethodPost, path: "/faults/{id}/" + string(v), tag: "faults", need: access.Operator,
			hides: string(v), summary: summary, description: description + " Status 202: it is on disk, and will be done.", waits: true,
		}
	}
	for _, o := range []op{
		verb(faults.VerbAcknowledge, "Say that somebody saw a fault", "It ends with the fault: one that comes back is unseen again."),
		verb(faults.VerbAssign, "Say that you work on a fault", "It ends with the fault."),
		verb(faults.VerbShelve, "Put a fault aside until a time", "It is kept and acted upon, but not notified again until then. It needs until or for."),
	} {
		v := faults.Verb(o.hides)
		register(a, o, func(c call, in *timedIn) (*orderedOut, error) {
			order := faults.Order{Verb: v, Fault: in.ID}
			if in.Body != nil {
				order.Note, order.Until = in.Body.Note, in.Body.Until
				if err := a.setEnd(&order, in.Body.For); err != nil {
					return nil, err
				}
			}
			return a.attend(c, order)
		})
	}
	register(a, verb(faults.VerbUnsee, "Take an acknowledgement, assignment or shelf back", "It is as if nobody had seen the fault."),
		func(c call, in *plainIn) (*orderedOut, error) {
			order := faults.Order{Verb: faults.VerbUnsee, Fault: in.ID}
			if in.Body != nil {
				order.Note = in.Body.Note
			}
			return a.attend(c, order)
		})
	for _, o := range []op{
		verb(faults.VerbNote, "Note something about a fault", "It is for those who read its life. Nobody is notified."),
		verb(faults.VerbAbandon, "Give a fault up", "Gateways stop collecting, and it stays quiet until its machine or route has been well once."),
	} {
		v := faults.Verb(o.hides)
		register(a, o, func(c call, in *notedIn) (*orderedOut, error) {
			return a.attend(c, faults.Order{Verb: v, Fault: in.ID, Note: in.Body.Note})
		})
	}
}

// maxShelf is the longest time that an order may hold for.
const maxShelf = 30 * 24 * time.Hour

// setEnd says until when an order holds by for how long it does.
func (a *API) setEnd(o *faults.Order, text string) error {
	if text == "" {
		return nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 || d > maxShelf || !o.Until.IsZero() {
		return fmt.Errorf("%w: for %q: want a duration such as 2h, at most 720h, and no until beside it", view.ErrUsage, text)
	}
	o.Until = a.o.View.Clock().Add(d).UTC().Truncate(time.Millisecond)
	return nil
}

func (a *API) attend(c call, o faults.Order) (*orderedOut, error) {
	out := &orderedOut{Status: http.StatusOK, Location: Prefix + view.FaultLink(o.Fault), Body: Ordered{Fault: o.Fault, Order: string(o.Verb), State: "done"}}
	err := a.o.Act.Attend(c, c.who, o)
	if errors.Is(err, act.ErrWaits) {
		out.Status, out.Body.State = http.StatusAccepted, "waits"
		err = nil
	}
	return out, err
}
