package view

import (
	"fmt"
	"time"
)

// State says whether what is shown may be believed.
type State struct {
	Now   time.Time `json:"now"`            // of the service's clock
	AsOf  time.Time `json:"as_of,omitzero"` // of the newest round; zero: there was none
	Round uint64    `json:"round"`          // number of the newest round
	Blind bool      `json:"blind"`          // the service cannot hear, or only just can again: silence is no evidence
	Ready bool      `json:"ledger_ready"`   // the ledger takes transactions in, and faults are kept
	// Trouble is why the numbers are not those of now, in a sentence or two for a person; empty where they are.
	Trouble string `json:"trouble,omitempty"`
	// Since is when that began, as far as it is known.
	Since time.Time `json:"trouble_since,omitzero"`
}

// patience is how many rounds may be missing before the numbers count as old, and the least time.
const (
	patience      = 3
	leastPatience = 4 * time.Second
)

// State tells how the service stands. It never fails: what cannot be known is trouble.
func (r *Reader) State() State {
	s := State{Now: r.o.Now()}
	f := r.o.Fleet()
	if f == nil {
		s.Trouble = "Farebeat is starting."
		return s
	}
	o := r.round.Load()
	s.Ready = f.Ready()
	if o != nil {
		s.AsOf, s.Round, s.Blind = o.At, o.number, o.Blind
	}
	link := f.Link()
	switch {
	case o == nil:
		s.Trouble = "Farebeat is starting: the first numbers come within seconds."
	case !link.Up:
		s.Since = link.Since
		s.Trouble = fmt.Sprintf("The broker is away since %s (%s). Nothing is heard, so the numbers are from then: nobody knows what is online now.",
			r.clock(link.Since), link.Why)
	case r.o.Wall().Sub(o.came) > max(patience*r.o.Tick, leastPatience):
		s.Since = o.At
		s.Trouble = fmt.Sprintf("No new numbers since %s: Farebeat could not finish a round. See its log; a disk that is full is the usual cause.", r.clock(o.At))
	case o.Blind:
		s.Trouble = "Farebeat cannot hear, or only just can again. Silence is no evidence now, and no new fault is opened until machines had time to report."
	case !s.Ready:
		s.Trouble = "The ledger cannot write: gateways and machines keep their transactions until it can. See the log; a disk that is full is the usual cause."
	}
	return s
}

// clock is a time as a person reads it on the day.
func (r *Reader) clock(t time.Time) string { return t.In(r.o.Zone).Format("15:04:05") }
