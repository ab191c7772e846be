// Package notify tells people outside of faults: by signed webhooks, through Alertmanager, and as GTFS-realtime service
// alerts.
//
// A webhook gets the events of faults, one by one in the order in which they were saved. An Alertmanager gets the state: all
// faults that stand, again and again, and the end of each until it took it. How far each has come is a cursor in the
// store, written after the receiver's answer: what a kill or an outage interrupts is sent again with the same id, and
// nothing is left out. A receiver that is seen for the first time begins with what happens from then on.
package notify
