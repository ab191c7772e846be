package schemas

import "time"

// MachineCondition is the state of a machine's presence.
type MachineCondition string

// The six states of presence, best first.
const (
	Up           MachineCondition = "UP"
	Late         MachineCondition = "LATE"
	Stranded     MachineCondition = "STRANDED"
	Dark         MachineCondition = "DARK"
	Parked       MachineCondition = "PARKED"
	OutOfService MachineCondition = "OUT_OF_SERVICE"
)

// MachineState is the retained view of one machine.
type MachineState struct {
	AsOf          time.Time        `json:"as_of"`
	Machine       string           `json:"machine"`
	State         MachineCondition `json:"state"`
	Since         time.Time        `json:"since"`
	Reason        string           `json:"reason"` // one sentence for a person
	Vehicle       string           `json:"vehicle,omitempty"`
	Route         string           `json:"route,omitempty"`
	LastHeartbeat *time.Time       `json:"last_heartbeat,omitempty"`
	Pending       uint32           `json:"pending"`       // declared by the machine, without a receipt
	PendingMinor  int64            `json:"pending_minor"` // money at risk
	Currency      string           `json:"currency,omitempty"`
}

// LinkStatus is whether a gateway or the fleet is there.
type LinkStatus string

// The link statuses. ConnectionBroken is what the last will says.
const (
	Online           LinkStatus = "ONLINE"
	Offline          LinkStatus = "OFFLINE"
	ConnectionBroken LinkStatus = "CONNECTION_BROKEN"
)

// Gateway is the retained view of one vehicle's gateway, also its last will. A
// death whose Session is not that of the last birth is ignored.
type Gateway struct {
	AsOf    time.Time  `json:"as_of"`
	Vehicle string     `json:"vehicle"`
	Status  LinkStatus `json:"status"`
	Session uint64     `json:"session"` // grows with every connection of this gateway
	Seen    []Sighting `json:"machines_seen,omitempty"`
}

// MaxSeen bounds the sightings of one gateway message.
const MaxSeen = 100

// Sighting is a machine heard over BLE.
type Sighting struct {
	Machine string    `json:"machine"`
	RSSI    int       `json:"rssi_dbm"` // -127 to 20
	SeenAt  time.Time `json:"seen_at"`
	Pending uint32    `json:"pending,omitempty"` // as advertised
}

// Fleet is the retained view of the fleet service, also its last will. An edge
// sends transactions only while LedgerReady.
type Fleet struct {
	AsOf        time.Time  `json:"as_of"`
	Status      LinkStatus `json:"status"`
	LedgerReady bool       `json:"ledger_ready"`
	Since       time.Time  `json:"since"`
	Session     uint64     `json:"session"`
}

// RouteOnline is how many machines a route has and should have now.
type RouteOnline struct {
	AsOf       time.Time `json:"as_of"`
	Route      string    `json:"route"`
	Online     int       `json:"online"`    // distinct machines UP or LATE at AsOf
	Min        int       `json:"min"`       // smallest number inside the minute before AsOf
	Max        int       `json:"max"`       // greatest number inside the minute before AsOf
	Known      int       `json:"known"`     // machines whose latest heartbeat named this route and that are not parked
	Expected   int       `json:"expected"`  // 0: none expected
	Threshold  int       `json:"threshold"` // fewer than this many is a fault; 0: no rule
	Source     string    `json:"source"`    // "hand", "timetable", "history" or "none"
	SampleSize int       `json:"sample_size,omitempty"`
	Missing    []string  `json:"missing,omitempty"` // known and not online, at most 100
	Blind      bool      `json:"blind"`             // we could not hear: the numbers are no evidence
}

// MaxMissing bounds the machines that one route names as missing.
const MaxMissing = 100

// RecoveryState is how far one recovery is.
type RecoveryState string

// The states of a recovery, in their usual order.
const (
	RecoveryWaiting    RecoveryState = "WAITING"    // told, not begun
	RecoveryScanning   RecoveryState = "SCANNING"   // looking for the machine
	RecoveryConnecting RecoveryState = "CONNECTING" // dialing, handshake
	RecoveryReading    RecoveryState = "READING"    // records arrive
	RecoverySending    RecoveryState = "SENDING"    // read, not all receipted
	RecoveryComplete   RecoveryState = "COMPLETE"   // the ledger holds all that was read
	RecoveryFailed     RecoveryState = "FAILED"     // will be tried again
)

// Recovery is the retained progress of one recovery.
type Recovery struct {
	AsOf       time.Time     `json:"as_of"`
	Machine    string        `json:"machine"`
	Vehicle    string        `json:"vehicle"`
	Fault      string        `json:"fault"`
	State      RecoveryState `json:"state"`
	Epoch      uint32        `json:"epoch,omitempty"`
	LastSeq    uint32        `json:"last_seq,omitempty"` // last record the machine declared over BLE
	Read       uint32        `json:"read"`               // records of Total now in the outbox or beyond
	Total      uint32        `json:"total"`              // records the machine held when read
	Receipted  uint32        `json:"receipted"`          // records of Total the ledger holds
	PerSecond  float64       `json:"records_per_s,omitempty"`
	Attempts   int           `json:"attempts,omitempty"`
	LastError  string        `json:"last_error,omitempty"`
	NextAction string        `json:"next_step,omitempty"`
}
