package faults_test

import (
	"testing"
	"time"

	"github.com/farebeat/farebeat/schemas"
)

// Our clock was a day ahead when a fault opened, and was set right: the fault's life goes on at once, not in a day.
func TestAClockThatWasAhead(t *testing.T) {
	const day = 24 * time.Hour
	l := newLife(t)
	l.check.LastSeq = 4
	l.heartbeat(day)
	l.silent(day + 75*s)
	l.report(day+76*s, "r1")
	l.ble(day+80*s, schemas.RecoveryReading, 4, 0, 4, 0)
	l.heartbeat(60*s, pending(4, 4))
	f := l.one()
	for what, got := range map[string]time.Time{
		"opened": f.OpenedAt, "suspected": f.SuspectedAt, "reported": f.Reports[0].At, "last heartbeat": f.Machine.LastHeartbeat,
		"silent": f.Machine.Onsets[0], "recovery": f.Machine.Recovery.AsOf,
	} {
		if !got.Equal(at(60 * s)) {
			t.Errorf("%s at %s, want the time at which the clock was right again", what, got)
		}
	}
	l.ble(70*s, schemas.RecoveryComplete, 4, 4, 4, 0)
	if r := l.one().Machine.Recovery; r.State != schemas.RecoveryComplete {
		t.Errorf("the gateway's word at %s was ignored: %+v", at(70*s), r)
	}
	l.ledger(75*s, 4)
	l.heartbeat(80*s, pending(0, 4))
	l.heartbeat(95*s, pending(0, 4))
	l.heartbeat(11*time.Minute+1*s, pending(0, 4)) // the report by hand has held it open
	l.want("24h1m15s opened machine_silent open", "24h1m16s updated machine_silent open", "24h1m20s updated machine_silent recovering",
		"1m15s recovered machine_silent recovered", "11m1s closed machine_silent closed")
}

// A gateway's clock may be a little ahead of ours: that changes nothing.
func TestAClockALittleAhead(t *testing.T) {
	l := newLife(t)
	l.silent(75 * s)
	l.ble(75*s, schemas.RecoveryScanning, 0, 0, 0, 0)
	before := l.one()
	l.apply(45*s, l.check)
	if after := l.one(); !after.Machine.Recovery.AsOf.Equal(before.Machine.Recovery.AsOf) {
		t.Errorf("the recovery of %s became one of %s", before.Machine.Recovery.AsOf, after.Machine.Recovery.AsOf)
	}
}
