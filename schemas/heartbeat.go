package schemas

import "time"

// RunState is what a machine says of itself, in the words of VDV 301.
type RunState string

// The run states of VDV 301-2-1 (DeviceState). ReadyForShutdown announces a
// planned silence.
const (
	Running          RunState = "running"
	Warning          RunState = "warning"
	Defective        RunState = "defective"
	NotAvailable     RunState = "notavailable"
	ReadyForShutdown RunState = "readyForShutdown"
)

// Heartbeat is what a machine sends every 15 s by default. Only Seq, Boot, At
// and State are required.
type Heartbeat struct {
	Seq           uint64     `json:"seq"`                      // grows by one a heartbeat, starts again at each boot
	Boot          string     `json:"boot"`                     // identifies the boot, 1 to 64 characters
	At            time.Time  `json:"at"`                       // the machine's clock
	Vehicle       string     `json:"vehicle,omitempty"`        // GTFS-realtime vehicle id that carries the machine
	Route         string     `json:"route,omitempty"`          // GTFS route_id it serves now
	Trip          string     `json:"trip,omitempty"`           // GTFS trip_id it serves now
	State         RunState   `json:"state"`                    // VDV 301
	Pending       uint32     `json:"pending,omitempty"`        // stored transactions without a receipt
	PendingMinor  int64      `json:"pending_minor,omitempty"`  // their sum, minor units of Currency
	Currency      string     `json:"currency,omitempty"`       // ISO 4217
	OldestPending *time.Time `json:"oldest_pending,omitempty"` // event time of the oldest of them
	LastSeq       uint32     `json:"last_seq,omitempty"`       // last transaction written in Epoch, 0 for none
	Epoch         uint32     `json:"epoch,omitempty"`          // grows when the counter is reset
	Firmware      string     `json:"fw,omitempty"`
	Depot         string     `json:"depot,omitempty"`   // where its vehicle is stabled, 1 to 64 characters
	Network       string     `json:"network,omitempty"` // mobile network of its SIM, such as the MCC and MNC 31026, 1 to 64 characters
	Fault         string     `json:"fault,omitempty"`   // the machine's own fault code
}
