// Package city simulates the payment machines of a whole city on its timetable:
// real machines with real journals, on a clock that may run faster than ours.
//
// A machine is switched on when its vehicle's duty begins, sends heartbeats, takes
// taps, keeps its route's last trip through a layover, and announces its planned
// silence when the day is over. It stays on while it holds money without a
// receipt, and until its goodbye was sent. Outages cut uplinks or power.
//
// One goroutine holds the timetable of all machines in one heap and decides; a
// few workers act, each machine always on the same one. So 100,000 machines cost
// a heap of 100,000 entries, no goroutine and no timer of their own.
package city
