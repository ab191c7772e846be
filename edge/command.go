package edge

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/farebeat/farebeat/schemas"
)

// commanded accepts or refuses a command. A command that comes twice is done once
// and answered twice.
func (s *state) commanded(now time.Time, c schemas.Command) []effect {
	if known, twice := s.known[c.ID]; twice {
		known.AsOf = now.UTC().Truncate(time.Millisecond)
		return []effect{publishResult{known}}
	}
	waiting := 0
	for _, t := range s.tasks {
		waiting += len(t.commands)
	}
	refuse := func(text string) []effect { return []effect{s.answer(now, c.ID, schemas.CommandFailed, text, nil)} }
	switch {
	case !c.ExpiresAt.After(now):
		return refuse(fmt.Sprintf("The command expired at %s, before it reached the gateway.", c.ExpiresAt.UTC().Format(time.RFC3339)))
	case c.Verb == schemas.VerbReboot:
		return refuse("A machine cannot be restarted over Bluetooth: its Offline Record Service has no such request. Restart it by hand.")
	case c.Verb != schemas.VerbCollect && c.Verb != schemas.VerbProbe && c.Verb != schemas.VerbSetTime:
		return refuse(fmt.Sprintf("This gateway does not know the command %q. Update it, or ask for collect, probe or set_time.", c.Verb))
	case waiting >= maxWaitingCommands:
		return refuse(fmt.Sprintf("%d commands wait on this gateway already. Try again when they are answered.", waiting))
	}
	t := s.task(now, c.Machine)
	t.commands = append(t.commands, c)
	t.due = now
	text := "The gateway looks for the machine."
	if _, ok := s.tickets[c.Machine]; !ok {
		text = "The gateway waits for the fleet's ticket for the machine; it looks for the machine as soon as it has one."
	}
	return []effect{s.answer(now, c.ID, schemas.CommandWaiting, text, nil)}
}

// answer remembers the latest result of a command and publishes it.
func (s *state) answer(now time.Time, id string, st schemas.CommandState, text string, detail json.RawMessage) effect {
	r := schemas.CommandResult{ID: id, AsOf: now.UTC().Truncate(time.Millisecond), State: st, Text: shorten(text), Detail: detail}
	if _, ok := s.known[id]; !ok {
		if len(s.order) >= maxKnownResults {
			delete(s.known, s.order[0])
			s.order = s.order[1:]
		}
		s.order = append(s.order, id)
	}
	s.known[id] = r
	return publishResult{r}
}

// expire fails the commands whose time is over, and gives up farewells.
func (s *state) expire(now time.Time) []effect {
	var out []effect
	for _, t := range s.sorted() {
		t.commands = slices.DeleteFunc(t.commands, func(c schemas.Command) bool {
			if c.ExpiresAt.After(now) {
				return false
			}
			out = append(out, s.answer(now, c.ID, schemas.CommandFailed,
				"The command expired: "+cmp.Or(t.lastErr, t.waitedFor())+".", nil))
			return true
		})
		if t.farewell && !t.giveUp.After(now) {
			t.farewell = false
		}
		s.drop(t)
	}
	return out
}

// waitedFor says what kept a machine from being contacted, where no contact failed.
func (t *task) waitedFor() string {
	if t.unticketed {
		return "no ticket for the machine came from the fleet"
	}
	return "the gateway's radio was busy with other machines"
}

// sighted takes in who was heard.
func (s *state) sighted(seen []schemas.Sighting) {
	for _, g := range seen {
		before, ok := s.sightings[g.Machine]
		if !ok || before.Pending != g.Pending {
			s.changed = true
		}
		s.sightings[g.Machine] = g
	}
}

// gateway forgets who was not heard for long and publishes the list when somebody
// came, went or wrote records, and otherwise now and then.
func (s *state) gateway(now time.Time) []effect {
	for machine, g := range s.sightings {
		if now.Sub(g.SeenAt) > s.timings.forget {
			delete(s.sightings, machine)
			s.changed = true
		}
	}
	stale := len(s.sightings) > 0 && now.Sub(s.sightingsAt).Abs() >= s.timings.sightings
	if !s.changed && !stale {
		return nil
	}
	s.changed, s.sightingsAt = false, now
	out := make([]schemas.Sighting, 0, len(s.sightings))
	for _, g := range s.sightings {
		out = append(out, g)
	}
	if len(out) > maxSightings { // those heard last
		slices.SortFunc(out, func(a, b schemas.Sighting) int {
			return cmp.Or(b.SeenAt.Compare(a.SeenAt), cmp.Compare(a.Machine, b.Machine))
		})
		out = out[:maxSightings]
	}
	slices.SortFunc(out, func(a, b schemas.Sighting) int { return cmp.Compare(a.Machine, b.Machine) })
	return []effect{publishGateway{out}}
}
