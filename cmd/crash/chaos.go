//go:build unix

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/farebeat/farebeat/edge/outbox"
)

// Counts are what was done and what came of it.
type Counts struct {
	Kills        map[string]int `json:"kills"` // by kind of process; those of wipes, replacements and clock jumps among them
	Wipes        int            `json:"wipes"`
	Replacements int            `json:"replacements"`
	Inside       int            `json:"records_inside"` // gateways that were replaced
	Fills        int            `json:"disk_fulls"`
	Jumps        int            `json:"clock_jumps"`
	Cuts         int64          `json:"cuts"`
	Outages      int            `json:"outages"`   // of a link to the broker or of a radio, for some seconds
	Unasked      int            `json:"unasked"`   // times that a program ended by itself, for want of a disk
	Skipped      map[string]int `json:"skipped"`   // steps that this system does not allow
	Witnessed    int            `json:"witnessed"` // transactions told of by the machines
	Transactions int            `json:"transactions"`
	Recoveries   int            `json:"recoveries"` // faults of machines that closed with all their money in the ledger
	Checkpoints  int            `json:"checkpoints"`
}

func (c *Counts) killed() int {
	n := 0
	for _, k := range c.Kills {
		n += k
	}
	return n
}

// event is one line of the run's log.
type event struct {
	At   time.Time `json:"at"`
	Step *Step     `json:"step,omitempty"`
	Did  string    `json:"did"`
}

// undo is the end of what lasts for a while.
type undo struct {
	at   time.Time
	what string
	do   func() error
}

// chaos does the steps of a plan to a world. One goroutine has it.
type chaos struct {
	w      *world
	plan   *Plan
	counts Counts
	undos  []undo
	events []event
	log    *os.File
}

func newChaos(w *world, seed uint64) (*chaos, error) {
	log, err := os.Create(w.path("logs", "steps.jsonl"))
	return &chaos{w: w, plan: NewPlan(seed), log: log, counts: Counts{Kills: map[string]int{}, Skipped: map[string]int{}}}, err
}

func (c *chaos) note(step *Step, format string, args ...any) {
	e := event{time.Now().UTC(), step, fmt.Sprintf(format, args...)}
	c.events = append(c.events, e)
	_ = json.NewEncoder(c.log).Encode(e) // a log that cannot be written spoils no run
}

// rage does steps until done says so, or ctx ends.
func (c *chaos) rage(ctx context.Context, done func() bool) error {
	c.w.calm.Store(false)
	for !done() {
		s := c.plan.Next()
		if err := c.wait(ctx, time.Now().Add(s.Pause)); err != nil {
			return err
		}
		if err := c.do(s); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return nil
}

// wait ends what is due to end, and starts what ended by itself, until a time.
func (c *chaos) wait(ctx context.Context, until time.Time) error {
	for {
		now := time.Now()
		if err := c.undoDue(now); err != nil {
			return err
		}
		if !now.Before(until) {
			return ctx.Err()
		}
		next := min(until.Sub(now), 100*time.Millisecond)
		if len(c.undos) > 0 {
			next = max(0, min(next, c.undos[0].at.Sub(now)))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(next):
		}
		c.revive()
	}
}

// revive starts again what ended by itself; what a step keeps down stays down.
func (c *chaos) revive() {
	for _, p := range c.w.order {
		if p.alive() || slices.ContainsFunc(c.undos, func(u undo) bool { return u.what == "start "+p.name }) {
			continue
		}
		c.counts.Unasked++
		c.note(nil, "%s ended by itself: %s", p.name, p.lastErr)
		c.later(300*time.Millisecond, "start "+p.name, p.revive)
	}
}

func (c *chaos) later(after time.Duration, what string, do func() error) {
	c.undos = append(c.undos, undo{time.Now().Add(after), what, do})
	slices.SortStableFunc(c.undos, func(a, b undo) int { return a.at.Compare(b.at) })
}

func (c *chaos) undoDue(now time.Time) error {
	for len(c.undos) > 0 && !c.undos[0].at.After(now) {
		u := c.undos[0]
		c.undos = c.undos[1:]
		c.note(nil, "%s", u.what)
		if err := u.do(); err != nil {
			return fmt.Errorf("%s: %w", u.what, err)
		}
	}
	return nil
}

func (c *chaos) do(s Step) error {
	p := c.w.procs[s.Target]
	c.note(&s, "%s", s)
	switch s.Kind {
	case Cut:
		c.w.uplinks[s.Target].cut()
		if r := c.w.radios[s.Target]; r != nil {
			r.cut()
		}
	case Refuse:
		c.hold(s, c.w.uplinks[s.Target])
	case Deaf:
		c.hold(s, c.w.radios[s.Target])
	case Fill:
		return c.fill(s, p)
	case Replace: // what the old one reads while it is cut off is lost with it
		c.hold(s, c.w.uplinks[s.Target])
		c.later(s.For, "replace "+s.Target+" now", func() error { return c.kill(s, p) })
	default:
		return c.kill(s, p)
	}
	return nil
}

// hold keeps a link down for a while.
func (c *chaos) hold(s Step, link *proxy) {
	c.counts.Outages++
	link.refuse(true)
	c.later(s.For, fmt.Sprintf("end of %s %s", s.Kind, s.Target), func() error { link.refuse(false); return nil })
}

func (c *chaos) fill(s Step, p *process) error {
	if !p.mounted {
		c.counts.Skipped[string(Fill)]++
		return nil
	}
	if p.filled {
		return nil
	}
	c.counts.Fills++
	p.filled = true
	c.later(s.For, "free the disk of "+p.name, func() error { p.filled = false; return freeDisk(p.dir) })
	return fillDisk(p.dir, s.Room)
}

func (c *chaos) kill(s Step, p *process) error {
	if p.kill() {
		c.counts.Kills[p.kind]++
	}
	switch s.Kind {
	case Wipe:
		c.counts.Wipes++
		if err := wipeBroker(p.dir); err != nil {
			return err
		}
	case Replace:
		c.counts.Replacements++
		inside, err := recordsInside(p.dir)
		c.counts.Inside += inside
		c.note(nil, "%s had %d records inside (%v)", p.name, inside, err)
		if err := emptyDisk(p.dir); err != nil {
			return err
		}
	case Jump:
		c.counts.Jumps++
		p.offset = s.Offset
	}
	if s.Down == 0 {
		return p.start()
	}
	c.later(s.Down, "start "+p.name, p.revive)
	return nil
}

// recordsInside counts what a gateway that does not run has and no receipt covers.
func recordsInside(dir string) (n int, err error) {
	files, err := filepath.Glob(filepath.Join(dir, "outbox-*.db"))
	if err != nil || len(files) == 0 {
		return 0, err
	}
	ctx := context.Background()
	box, err := outbox.Open(ctx, files[0], outbox.Options{})
	if err != nil {
		return 0, err
	}
	for _, name := range machineNames() {
		held, heldErr := box.Held(ctx, machineID(name))
		err = errors.Join(err, heldErr)
		for _, set := range held {
			n += int(set.Count())
		}
	}
	return n, errors.Join(err, box.Close())
}

// wipeBroker removes what the broker keeps, and nothing of the ledger.
func wipeBroker(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "broker.db") {
			err = errors.Join(err, os.RemoveAll(dir+"/"+e.Name()))
		}
	}
	return err
}

// heal ends all that lasts, sets every clock right, and sees that everything runs.
func (c *chaos) heal() error {
	c.w.calm.Store(true)
	c.note(nil, "heal")
	if err := c.undoDue(time.Now().Add(24 * time.Hour)); err != nil {
		return err
	}
	c.plan.healed()
	for _, p := range c.w.order {
		if p.offset != 0 {
			if p.kill() {
				c.counts.Kills[p.kind]++
			}
			p.offset = 0
		}
	}
	return c.w.startAll()
}
