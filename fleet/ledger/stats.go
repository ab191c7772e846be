package ledger

import "sync/atomic"

// Stats counts what came in since the ledger was made.
type Stats struct {
	Batches   uint64 // taken in
	New       uint64 // records that were not there before
	Duplicate uint64
	Conflict  uint64
	Forged    uint64
	Malformed uint64
	Broken    uint64 // links of chains
	Refused   uint64 // payloads that are no batch of their topic
	Failed    uint64 // batches that the store could not write
}

type counters struct {
	batches, fresh, duplicate, conflict, forged, malformed, broken, refused, failed atomic.Uint64
}

func (c *counters) add(o Outcome) {
	c.batches.Add(1)
	c.fresh.Add(uint64(o.New))
	c.duplicate.Add(uint64(o.Duplicate))
	c.conflict.Add(uint64(o.Conflict))
	c.forged.Add(uint64(o.Forged))
	c.malformed.Add(uint64(o.Malformed))
	c.broken.Add(uint64(o.Broken))
}

// Stats returns the counters.
func (l *Ledger) Stats() Stats {
	c := &l.count
	return Stats{
		Batches: c.batches.Load(), New: c.fresh.Load(), Duplicate: c.duplicate.Load(), Conflict: c.conflict.Load(),
		Forged: c.forged.Load(), Malformed: c.malformed.Load(), Broken: c.broken.Load(), Refused: c.refused.Load(), Failed: c.failed.Load(),
	}
}
