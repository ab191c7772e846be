// Package presence knows which machines are online, and for those that are not, why.
//
// It is one reducer over evidence: heartbeats, broker sessions, sightings over BLE,
// gateways, the ledger's progress, and the passing of time. From it each machine has
// one of six states (UP, LATE, STRANDED, DARK, PARKED, OUT_OF_SERVICE) and a reason
// in one sentence. What counts is when a heartbeat arrived here, never what the
// machine's own clock says; and silence is measured on a clock that stands still
// while we ourselves cannot hear.
//
// A heartbeat costs the lock of one shard, a map look-up and a few stores. Deadlines
// wait in a wheel of slots that heartbeats do not touch: a machine whose slot comes up
// is judged by what was heard since, and waits again.
package presence
