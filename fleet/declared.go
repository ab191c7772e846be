package fleet

import (
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/fleet/presence"
)

// Declared is what machines said last of their journals: in heartbeats, as the roster has it, and over Bluetooth LE, as
// the faults that have not ended have it.
func Declared(roster []presence.Saved, open []faults.Fault) ledger.Declarations {
	out := make(ledger.Declarations, len(roster))
	for _, m := range roster {
		if m.LastHeartbeat.IsZero() {
			continue
		}
		d := ledger.Declaration{
			At: m.LastHeartbeat, Epochs: map[uint32]uint32{},
			Pending: m.Pending, PendingMinor: m.PendingMinor, Currency: m.Currency, OldestPending: m.OldestPending,
		}
		if m.Epoch > 0 {
			d.Epochs[m.Epoch] = m.LastSeq
		}
		out[m.Machine] = d
	}
	for _, f := range open {
		if f.Machine == nil || len(f.Machine.Custody) == 0 {
			continue
		}
		d, known := out[f.Subject.Machine]
		if !known {
			d = ledger.Declaration{
				At: f.Machine.LastHeartbeat, Epochs: map[uint32]uint32{},
				Pending: f.Machine.Pending, PendingMinor: f.Machine.PendingMinor, Currency: f.Machine.Currency,
			}
		}
		if r := f.Machine.Recovery; r != nil && r.AsOf.After(d.At) {
			d.At, d.Pending = r.AsOf, f.Machine.Pending
		}
		for _, c := range f.Machine.Custody {
			if c.LastSeq > d.Epochs[c.Epoch] {
				d.Epochs[c.Epoch] = c.LastSeq
			}
		}
		if !d.At.IsZero() {
			out[f.Subject.Machine] = d
		}
	}
	return out
}
