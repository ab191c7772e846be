package edge

import (
	"cmp"
	"fmt"
	"math"
	"time"

	"github.com/farebeat/farebeat/schemas"
)

// task is what the agent knows of one machine and what it owes it.
type task struct {
	machine string
	seenAt  time.Time // when the agent first heard of it

	fault     *schemas.MachineFault // nil: no fault stands
	confirmed bool                  // the fault was delivered on this connection
	farewell  bool                  // the fault is over and the machine does not know it yet
	giveUp    time.Time             // farewells are dropped then
	commands  []schemas.Command     // begin at the next contact

	contacted bool    // declared means something
	declared  Records // all that the machine said it holds, since the fault began
	ledger    Records // what the latest receipt covers
	held      Records // what the outbox holds
	told      Records // what the machine was told that the ledger holds
	epoch     uint32  // newest epoch that the machine declared
	lastSeq   uint32  // its last record
	minor     int64   // the sum of what it held at the latest contact, minor units
	minorOf   uint64  // of so many records

	unticketed bool // it was due and there was no ticket
	phase      schemas.RecoveryState
	blocked    bool      // the outbox took no more: a receipt makes it due
	avoid      Records   // records at which reports ended: read last
	attempts   int       // contacts that failed since the last good one
	due        time.Time // when to contact it next
	served     time.Time // when it was contacted last
	lastErr    string
	rate       float64 // records per second of the latest contact that read any
	began      time.Time
	beganAt    uint64 // records read before this contact
}

// missing returns what the machine declared and nobody else holds yet.
func (t *task) missing() Records { return t.declared.Minus(t.ledger).Minus(t.held) }

// home reports whether the ledger holds all that the machine declared.
func (t *task) home() bool { return t.contacted && len(t.declared.Minus(t.ledger)) == 0 }

// untold returns what the machine may give up and does not know of.
func (t *task) untold() Records { return t.declared.Minus(t.declared.Minus(t.ledger)).Minus(t.told) }

// atRisk estimates what would be lost with the machine: money in minor units, of what is taken to be one currency on one
// vehicle, and records.
func (t *task) atRisk() (minor float64, records uint64) {
	switch {
	case t.contacted && t.minorOf > 0:
		records = t.missing().Count()
		return float64(t.minor) * float64(records) / float64(t.minorOf), records
	case t.contacted:
		return 0, t.missing().Count()
	case t.fault != nil:
		return float64(t.fault.PendingMinor), uint64(t.fault.Pending)
	}
	return 0, 0
}

// wanted reports whether there is a reason to contact the machine.
func (t *task) wanted() bool {
	return len(t.commands) > 0 || (t.fault != nil && t.fault.Collect) || t.farewell
}

// before orders tasks: a person who waits, then money at risk, then records at risk, then who was not
// served for longest, then the older fault, then the name, so that the order is
// total and nobody is passed over for ever.
func (t *task) before(o *task) int {
	waits := func(t *task) int { return min(len(t.commands), 1) }
	opened := func(t *task) time.Time {
		if t.fault != nil {
			return t.fault.OpenedAt
		}
		return t.seenAt
	}
	minor, records := t.atRisk()
	oMinor, oRecords := o.atRisk()
	return cmp.Or(
		cmp.Compare(waits(o), waits(t)),
		cmp.Compare(oMinor, minor),
		cmp.Compare(oRecords, records),
		t.served.Compare(o.served),
		opened(t).Compare(opened(o)),
		cmp.Compare(t.machine, o.machine),
	)
}

// recovery returns the progress message of a standing fault.
func (t *task) recovery(now, asOf time.Time, vehicle string) schemas.Recovery {
	total := t.declared.Count()
	home := total - t.declared.Minus(t.ledger).Count()
	return schemas.Recovery{
		AsOf: asOf, Machine: t.machine, Vehicle: vehicle, Fault: t.fault.Fault, State: t.phase,
		Epoch: t.epoch, LastSeq: t.lastSeq, Total: clamp(total), Read: clamp(total - t.missing().Count()), Receipted: clamp(home),
		PerSecond: math.Round(t.rate*10) / 10, Attempts: t.attempts, LastError: t.lastErr, NextAction: t.next(now),
	}
}

// next says in one sentence what happens next.
func (t *task) next(now time.Time) string {
	switch t.phase {
	case schemas.RecoveryWaiting:
		if t.unticketed {
			return "The gateway begins as soon as the fleet gives it a ticket for the machine."
		}
		return "The gateway begins as soon as its radio is free."
	case schemas.RecoveryScanning:
		return "The gateway listens for the machine."
	case schemas.RecoveryConnecting:
		return "The gateway asks the machine what it holds."
	case schemas.RecoveryReading:
		return "The gateway reads the machine's records."
	case schemas.RecoverySending:
		return "The ledger confirms the records."
	case schemas.RecoveryComplete:
		if len(t.untold()) > 0 {
			return "The machine is told what the ledger holds."
		}
		return "Nothing is missing; the gateway looks again while the fault stands."
	case schemas.RecoveryFailed:
		if t.blocked {
			return "Reading goes on when the ledger confirms what was read."
		}
		return fmt.Sprintf("The gateway tries again in %s.", max(t.due.Sub(now), 0).Round(time.Second))
	}
	return ""
}

func clamp(n uint64) uint32 { return uint32(min(n, math.MaxUint32)) }
