// Package edge is the agent on a vehicle's gateway. It is told by the fleet, on
// the vehicle's fault topics, which payment machine fell silent; it finds that
// machine over Bluetooth, reads the transactions that it still holds, and brings
// them home: every record is on the gateway's disk before the next is read, goes
// to the ledger as a retained batch, and leaves the gateway only when the
// ledger's receipt covers it. The receipt is carried back to the machine, which
// then gives up its own copy.
//
// A standing fault is desired state, not an order: an agent that was off for two
// days acts on what stands on its topics when it comes back, and while a fault
// stands it looks at the machine again and again, since a machine without an
// uplink goes on writing. It retries for ever.
//
// What to do next is decided by a state that nothing else touches and that reads
// no clock (state.go); reading machines (contact.go) and talking to the broker
// (sender.go) happen at the rim. What to read is decided in plan.go.
package edge
