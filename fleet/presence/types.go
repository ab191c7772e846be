package presence

import (
	"time"

	"github.com/farebeat/farebeat/schemas"
)

// Config is how presence judges silence. The zero value of a field means its default.
type Config struct {
	Interval          time.Duration // between two heartbeats of a machine; 15 s
	LateIntervals     int           // silence of more than so many intervals is LATE; 2
	DeadlineIntervals int           // silence of more than so many intervals is STRANDED or DARK; 4
	SeenFor           time.Duration // a BLE sighting is good for so long; 2 min
	Shards            int           // a power of two; 64
	MaxMachines       int           // machines beyond are refused and counted; 2,000,000
	ReportMoves       bool          // Tick also returns changes of route or vehicle, with From == To
}

// Transition is one change of a machine's state, as of At.
type Transition struct {
	Machine string
	From    schemas.MachineCondition // empty when the machine is new
	To      schemas.MachineCondition
	Reason  string // one sentence for a person
	Vehicle string // as of the latest heartbeat, else that of the gateway which saw it
	Route   string
	At      time.Time // when the evidence says it changed, not when it was noticed
	Pending uint32    // transactions without a receipt, as last declared
}

// ParkedUnsent reports that the machine went to rest with transactions still in it.
func (t Transition) ParkedUnsent() bool {
	return t.To == schemas.Parked && t.From != schemas.Parked && t.Pending > 0
}

// View is everything presence knows of one machine, as of the last Tick.
type View struct {
	Machine       string
	State         schemas.MachineCondition
	Since         time.Time // when State began
	Reason        string    // one sentence for a person
	Vehicle       string    // as of the latest heartbeat; empty if it never said
	Route         string    // as of the latest heartbeat
	Trip          string
	Run           schemas.RunState // what the machine says of itself
	Fault         string           // the machine's own fault code
	Firmware      string
	Depot         string        // where its vehicle is stabled; empty if it never said
	Network       string        // mobile network of its SIM; empty if it never said
	LastHeartbeat time.Time     // when the latest arrived here; zero if never heard
	Silence       time.Duration // since then, in time that we could hear
	Skew          time.Duration // its clock minus ours at the latest heartbeat
	Session       bool          // it has a broker session

	Pending       uint32 // transactions without a receipt, as declared
	PendingMinor  int64
	Currency      string
	OldestPending time.Time // zero for none
	UnsentSince   time.Time // since when it declares unsent ones, our clock; zero for none
	Epoch         uint32
	LastSeq       uint32

	LedgerEpoch    uint32 // the ledger holds 1..LedgerComplete of this epoch
	LedgerComplete uint32

	SeenBy string    // vehicle whose gateway saw it last over BLE; empty for none
	SeenAt time.Time // when
	RSSI   int       // dBm, then

	OutOfService string // why an operator took it out; empty if it is in service
}

// Home reports that the ledger holds all that the machine declared: its latest epoch
// up to its last transaction.
func (v View) Home() bool {
	return v.LastSeq == 0 || v.LedgerEpoch == v.Epoch && v.LedgerComplete >= v.LastSeq
}

// Saved is one machine in a snapshot: what must outlive a restart. It is plain data,
// fit for JSON or columns.
type Saved struct {
	Machine       string                   `json:"machine"`
	State         schemas.MachineCondition `json:"state"`
	Since         time.Time                `json:"since"`
	LastHeartbeat time.Time                `json:"last_heartbeat"` // zero if never heard
	Silence       time.Duration            `json:"silence_ns"`     // seeing time since then, at the snapshot
	Vehicle       string                   `json:"vehicle,omitempty"`
	Route         string                   `json:"route,omitempty"`
	Trip          string                   `json:"trip,omitempty"`
	Run           schemas.RunState         `json:"run,omitempty"`
	Fault         string                   `json:"fault,omitempty"`
	Firmware      string                   `json:"fw,omitempty"`
	Depot         string                   `json:"depot,omitempty"`
	Network       string                   `json:"network,omitempty"`
	Skew          time.Duration            `json:"skew_ns,omitempty"`
	Boot          string                   `json:"boot,omitempty"`
	Seq           uint64                   `json:"seq,omitempty"`

	Pending       uint32    `json:"pending,omitempty"`
	PendingMinor  int64     `json:"pending_minor,omitempty"`
	Currency      string    `json:"currency,omitempty"`
	OldestPending time.Time `json:"oldest_pending"` // zero for none
	UnsentSince   time.Time `json:"unsent_since"`   // zero for none
	Epoch         uint32    `json:"epoch,omitempty"`
	LastSeq       uint32    `json:"last_seq,omitempty"`

	LedgerEpoch    uint32 `json:"ledger_epoch,omitempty"`
	LedgerComplete uint32 `json:"ledger_complete,omitempty"`

	SeenBy string    `json:"seen_by,omitempty"`
	SeenAt time.Time `json:"seen_at"` // zero for never
	RSSI   int       `json:"rssi_dbm,omitempty"`

	OutOfService bool      `json:"out_of_service,omitempty"`
	OutWhy       string    `json:"out_why,omitempty"`
	DutyOver     bool      `json:"duty_over,omitempty"`
	Lost         bool      `json:"lost,omitempty"`    // its broker session ended abruptly
	Why          string    `json:"why,omitempty"`     // how
	CountedIn    time.Time `json:"counted_in"`        // begin of the hour that Counted speaks of
	Counted      []string  `json:"counted,omitempty"` // routes whose hour already counts this machine
}
