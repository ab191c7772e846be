package act

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
	"github.com/farebeat/farebeat/topics/session"
)

// Command is what was asked of a gateway, and how it goes.
type Command struct {
	ID      string               `json:"id"`
	At      time.Time            `json:"at"`
	By      string               `json:"by"`
	Machine string               `json:"machine"`
	Vehicle string               `json:"vehicle"`
	Expires time.Time            `json:"expires_at"`
	State   schemas.CommandState `json:"state"` // WAITING until the gateway says something
	Text    string               `json:"text,omitempty"`
	AsOf    time.Time            `json:"as_of"` // of State
}

// Over reports whether the gateway is done with it, well or badly.
func (c Command) Over() bool {
	return c.State == schemas.CommandFinished || c.State == schemas.CommandFailed
}

// maxCommands bounds the commands that are remembered: the newest.
const maxCommands = 1000

// commands remembers what was asked since the start.
type commands struct {
	mu   sync.Mutex
	list []Command // oldest first
}

// Commands lists what was asked about a machine, newest first; "" for all.
func (a *Actions) Commands(machine string) []Command {
	a.commands.mu.Lock()
	defer a.commands.mu.Unlock()
	out := []Command{}
	for _, c := range slices.Backward(a.commands.list) {
		if machine != "" && c.Machine != machine {
			continue
		}
		if !c.Over() && a.o.Now().After(c.Expires) {
			c.State, c.Text = schemas.CommandFailed, "The gateway did not answer in time."
		}
		out = append(out, c)
	}
	return out
}

// Command gives one of them.
func (a *Actions) Command(id string) (Command, error) {
	for _, c := range a.Commands("") {
		if c.ID == id {
			return c, nil
		}
	}
	return Command{}, fmt.Errorf("command %s: %w: it is older than the last start of the service, or than its newest %d", id, ErrNotFound, maxCommands)
}

// Collect has the gateway of a vehicle read a machine now.
func (a *Actions) Collect(ctx context.Context, who Actor, machine, vehicle string) (Command, error) {
	now := a.o.Now().UTC().Truncate(time.Millisecond)
	c := Command{
		ID: rand.Text(), At: now, By: who.Name, Machine: machine, Vehicle: vehicle, Expires: now.Add(a.o.Patience),
		State: schemas.CommandWaiting, Text: "Sent; the gateway has not answered yet.", AsOf: now,
	}
	err := a.do(ctx, who, access.Operator, "collect", "machine "+machine, "by the gateway of vehicle "+vehicle, func() error {
		if machine == "" || vehicle == "" {
			return fmt.Errorf("%w: say which machine is to be read, and which vehicle's gateway is to do it", ErrUsage)
		}
		a.remember(c) // before the answer can come
		m := schemas.Command{ID: c.ID, At: now, By: who.Name, Verb: schemas.VerbCollect, Machine: machine, ExpiresAt: c.Expires}
		return a.publish(ctx, topics.Address{Kind: topics.Command, Vehicle: vehicle, Command: c.ID}, &m)
	})
	if err != nil {
		a.forget(c.ID)
	}
	return c, err
}

// Report reports a fault by hand: r.Machine or r.Route, r.Vehicle and r.Text are the caller's.
func (a *Actions) Report(ctx context.Context, who Actor, r schemas.Report) (string, error) {
	r.ID, r.At, r.By = rand.Text(), a.o.Now().UTC().Truncate(time.Millisecond), who.Name
	subject := "machine " + r.Machine
	if r.Machine == "" {
		subject = "route " + r.Route
	}
	return r.ID, a.do(ctx, who, access.Operator, "report", subject, r.Text, func() error {
		return a.publish(ctx, topics.Address{Kind: topics.Report, Source: "console"}, &r)
	})
}

// sendWithin bounds the wait for the broker's acknowledgement.
const sendWithin = 10 * time.Second

func (a *Actions) publish(ctx context.Context, to topics.Address, m schemas.Message) error {
	topic, err := a.o.Tree.Build(to)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUsage, err)
	}
	payload, err := schemas.Encode(m)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUsage, err)
	}
	spec, _ := a.o.Tree.Spec(to.Kind)
	ctx, cancel := context.WithTimeout(ctx, sendWithin)
	defer cancel()
	return a.session.Publish(ctx, session.Message{Topic: topic, QoS: spec.QoS, Retain: spec.Retain, Payload: payload})
}

func (a *Actions) remember(c Command) {
	a.commands.mu.Lock()
	defer a.commands.mu.Unlock()
	a.commands.list = append(a.commands.list, c)
	a.commands.list = a.commands.list[max(0, len(a.commands.list)-maxCommands):]
}

func (a *Actions) forget(id string) {
	a.commands.mu.Lock()
	defer a.commands.mu.Unlock()
	a.commands.list = slices.DeleteFunc(a.commands.list, func(c Command) bool { return c.ID == id })
}

// onResult takes a gateway's answer to one of our commands. Those to others', and what is no answer, change nothing.
func (a *Actions) onResult(_ context.Context, d *session.Delivery) error {
	to, err := a.o.Tree.Parse(d.Topic)
	if err != nil || len(d.Payload) == 0 {
		return nil //nolint:nilerr // not ours
	}
	var r schemas.CommandResult
	if err := schemas.Decode(d.Payload, schemas.NameCommandResult, &r); err != nil || r.ID != to.Command {
		a.o.Logger.Warn("an answer to a command is not understood", "vehicle", to.Vehicle, "error", err)
		return nil
	}
	a.commands.mu.Lock()
	defer a.commands.mu.Unlock()
	for i := range a.commands.list {
		c := &a.commands.list[i]
		if c.ID == r.ID && c.Vehicle == to.Vehicle && !c.Over() {
			c.State, c.Text, c.AsOf = r.State, r.Text, r.AsOf
		}
	}
	return nil
}
