package faults

import (
	"crypto/sha256"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/farebeat/farebeat/schemas"
)

// Subject is what a fault is about. At most one field is set; none is set for the platform.
type Subject struct {
	Machine  string `json:"machine,omitempty"`
	Route    string `json:"route,omitempty"`
	Vehicle  string `json:"vehicle,omitempty"`  // all machines that a vehicle carries
	Depot    string `json:"depot,omitempty"`    // all machines of a depot
	Network  string `json:"network,omitempty"`  // all machines in a mobile network
	Firmware string `json:"firmware,omitempty"` // all machines that run a firmware
	Service  string `json:"service,omitempty"`  // a part of Farebeat itself, such as an exporter of series
}

// name is the field that is set and its value, empty for the platform.
func (s Subject) name() (field, value string) {
	for _, f := range [...][2]string{
		{"machine", s.Machine},
		{"route", s.Route},
		{"vehicle", s.Vehicle},
		{"depot", s.Depot},
		{"network", s.Network},
		{"firmware", s.Firmware},
		{"service", s.Service},
	} {
		if f[1] != "" {
			return f[0], f[1]
		}
	}
	return "", ""
}

// String names the subject for a person.
func (s Subject) String() string {
	field, value := s.name()
	if field == "" {
		return "platform"
	}
	return field + " " + value
}

// Common says what the machines of a cause have in common, after a comma; empty for the platform.
func (s Subject) Common() string {
	switch {
	case s.Vehicle != "":
		return ", all on vehicle " + s.Vehicle
	case s.Depot != "":
		return ", all of depot " + s.Depot
	case s.Network != "":
		return ", all in mobile network " + s.Network
	case s.Firmware != "":
		return ", all with firmware " + s.Firmware
	}
	return ""
}

// Fault is one fault at one moment of its life. It is a value: nobody changes one that
// was handed out. It survives encoding/json unchanged.
type Fault struct {
	ID        string                 `json:"id"`
	Revision  uint64                 `json:"revision"` // grows by one with every Change
	Events    uint64                 `json:"events"`   // number of the newest Event
	Subject   Subject                `json:"subject"`
	Kind      Kind                   `json:"kind"` // may change within its family
	Severity  schemas.Severity       `json:"severity"`
	Condition schemas.FaultCondition `json:"condition"`
	Firing    bool                   `json:"firing"` // whether a rule says so now; frozen while blind
	Reason    string                 `json:"reason"` // one sentence for a person

	// Parent is the fault that explains this one, or explained it until it ended; empty for none.
	Parent string `json:"parent,omitempty"`
	// Maintenance is the name of the maintenance window that the subject is in, empty for none.
	Maintenance string `json:"maintenance,omitempty"`
	// Told is set once people were told of the fault. One that a parent or maintenance explains from its beginning is not told of,
	// neither when it opens nor when it closes.
	Told bool `json:"told,omitempty"`

	SuspectedAt time.Time  `json:"suspected_at,omitzero"` // when a rule's `for` began
	OpenedAt    time.Time  `json:"opened_at,omitzero"`
	UpdatedAt   time.Time  `json:"updated_at"`          // of this revision
	WellSince   time.Time  `json:"well_since,omitzero"` // since when no rule fires
	ClosedAt    time.Time  `json:"closed_at,omitzero"`  // zero while it has not ended
	Reopened    int        `json:"reopened,omitempty"`  // how often it came back
	Attention   Attention  `json:"attention"`           // what people did about it
	Reports     []Reported `json:"reports,omitempty"`   // merged reports by hand, the newest MaxReports
	Noted       string     `json:"noted,omitempty"`     // id of the newest Note; what it says is in its event

	Machine *MachineFacts `json:"machine_facts,omitempty"` // of a machine's fault
	Route   *RouteFacts   `json:"route_facts,omitempty"`   // of a route's or the platform's fault
}

// Attention is the second axis: what people did. The zero value is unseen.
type Attention struct {
	State schemas.Attention `json:"state"`
	By    string            `json:"by,omitempty"`
	At    time.Time         `json:"at,omitzero"`
	Until time.Time         `json:"until,omitzero"` // zero: without an end; a shelved fault always has one
	Note  string            `json:"note,omitempty"`
}

// Reported is one report by hand, merged into a fault.
type Reported struct {
	ID   string    `json:"id"`
	At   time.Time `json:"at"` // when it was received
	By   string    `json:"by"`
	Text string    `json:"text"`
}

// MaxReports bounds the reports that a fault keeps; the events keep them all.
const MaxReports = 16

// MachineFacts is what is known of the machine of a fault.
type MachineFacts struct {
	Vehicle       string                   `json:"vehicle,omitempty"` // whose gateway is to act
	Route         string                   `json:"route,omitempty"`   // of its latest heartbeat
	Depot         string                   `json:"depot,omitempty"`
	Network       string                   `json:"network,omitempty"`
	Firmware      string                   `json:"fw,omitempty"`
	State         schemas.MachineCondition `json:"state,omitempty"`
	LastHeartbeat time.Time                `json:"last_heartbeat,omitzero"`
	Heard         int                      `json:"heard,omitempty"` // heartbeats since it was last silent, up to what closing needs
	HeardSince    time.Time                `json:"heard_since,omitzero"`
	Pending       uint32                   `json:"pending,omitempty"` // as the machine last declared, by heartbeat or over BLE
	PendingMinor  int64                    `json:"pending_minor,omitempty"`
	Currency      string                   `json:"currency,omitempty"`
	Custody       []Custody                `json:"custody,omitempty"` // newest epoch first, at most MaxEpochs
	Recovery      *Progress                `json:"recovery,omitempty"`
	RecoveredTold time.Time                `json:"recovered_told,omitzero"` // when people were told last that the ledger has all; zero since it last fell silent
	Level         int                      `json:"level,omitempty"`         // percent of its storage that was told of
	Onsets        []time.Time              `json:"onsets,omitempty"`        // when it fell silent, newest last
}

// Custody is how much of one epoch of a machine the ledger has.
type Custody struct {
	Epoch      uint32 `json:"epoch"`
	LastSeq    uint32 `json:"last_seq"`    // highest that the machine declared
	CompleteTo uint32 `json:"complete_to"` // the ledger holds all of 1..CompleteTo
}

// MaxEpochs bounds the epochs that a fault waits for.
const MaxEpochs = 8

// Progress is the newest word of the gateway on the recovery.
type Progress struct {
	State     schemas.RecoveryState `json:"state"`
	AsOf      time.Time             `json:"as_of"`
	Read      uint32                `json:"read"`
	Total     uint32                `json:"total"`
	Receipted uint32                `json:"receipted"`
	Declared  bool                  `json:"declared"`                // the machine declared its last record over BLE since the fault opened
	PerSecond float64               `json:"records_per_s,omitempty"` // while it reads
	LastError string                `json:"last_error,omitempty"`
	NextStep  string                `json:"next_step,omitempty"` // what the gateway says that it, or a person, does next
}

// RouteFacts are the numbers of a route's fault; of a cause they count its machines over all routes.
type RouteFacts struct {
	Online    int `json:"online"`
	Expected  int `json:"expected"`  // of a cause: the machines that should be heard
	Threshold int `json:"threshold"` // fewer than this many is a fault; 0: no such number
}

// Ended reports whether the fault's life is over.
func (f Fault) Ended() bool { return !f.ClosedAt.IsZero() }

// Family is the family of the fault's kind.
func (f Fault) Family() Family { return f.Kind.Entry().Family }

// Outstanding is how many declared records the ledger lacks, over all epochs.
func (f Fault) Outstanding() uint64 {
	if f.Machine == nil {
		return 0
	}
	var n uint64
	for _, c := range f.Machine.Custody {
		if c.LastSeq > c.CompleteTo {
			n += uint64(c.LastSeq - c.CompleteTo)
		}
	}
	return n
}

// clone copies what a step may change behind pointers and slices.
func (f Fault) clone() Fault {
	f.Reports = slices.Clone(f.Reports)
	if f.Machine != nil {
		m := *f.Machine
		m.Custody = slices.Clone(m.Custody)
		m.Onsets = slices.Clone(m.Onsets)
		if m.Recovery != nil {
			r := *m.Recovery
			m.Recovery = &r
		}
		f.Machine = &m
	}
	if f.Route != nil {
		r := *f.Route
		f.Route = &r
	}
	return f
}

// NewID makes the id of a fault that begins at at: a letter for the kind of subject and a
// ULID whose random part is drawn from family and subject. Equal arguments give equal
// ids, so that a decision taken again after a crash names the same fault; ids sort
// by time within a letter.
func NewID(family Family, s Subject, at time.Time) string {
	field, value := s.name()
	letter := "P"
	if field != "" {
		letter = strings.ToUpper(field[:1])
	}
	text := string(family) + "\x00" + s.Machine + "\x00" + s.Route
	if field != "machine" && field != "route" && field != "" {
		text += "\x00" + field + "\x00" + value
	}
	sum := sha256.Sum256([]byte(text))
	var id ulid.ULID
	ms := uint64(max(at.UnixMilli(), 0))
	// Both errors mean a time after the year 10889 or a slice of another length than 10.
	if err := id.SetTime(min(ms, ulid.MaxTime())); err != nil {
		panic("faults: " + err.Error())
	}
	if err := id.SetEntropy(sum[:10]); err != nil {
		panic("faults: " + err.Error())
	}
	return letter + "-" + id.String()
}

// free is from when on another fault may have begun in the place of one that ended: what is said to have begun before, by a rule that
// remembers too much after a kill, would be taken for the one that ended, and might get its id.
func (f Fault) free() time.Time {
	_, text, _ := strings.Cut(f.ID, "-")
	id, err := ulid.ParseStrict(text)
	if err != nil {
		return f.ClosedAt
	}
	if next := ulid.Time(id.Time() + 1); next.After(f.ClosedAt) {
		return next
	}
	return f.ClosedAt
}

// The changes of a fault's life, as events name them.
const (
	ChangeOpened       = "opened"
	ChangeUpdated      = "updated" // another kind, severity, parent, or step of recovery
	ChangeRecovered    = "recovered"
	ChangeReopened     = "reopened"
	ChangeClosed       = "closed"
	ChangeAcknowledged = "acknowledged"
	ChangeShelved      = "shelved"
	ChangeAbandoned    = "abandoned"
)

// Event is one line of a fault's history. It never changes once it was made.
type Event struct {
	Fault     string                 `json:"fault"`
	Number    uint64                 `json:"number"` // 1, 2, 3 ... within the fault
	At        time.Time              `json:"at"`
	Change    string                 `json:"change"` // one of the Change constants
	Kind      Kind                   `json:"kind"`
	Severity  schemas.Severity       `json:"severity"`
	Condition schemas.FaultCondition `json:"condition"`
	Attention schemas.Attention      `json:"attention"`
	Reason    string                 `json:"reason"`
	By        string                 `json:"by,omitempty"`    // the person, where one did it
	Note      string                 `json:"note,omitempty"`  // what they said
	Quiet     bool                   `json:"quiet,omitempty"` // history only: a parent or maintenance explains it, or it was told shortly before, and nobody is told
}

// ID names the event for ever; it is the id of its CloudEvent.
func (e Event) ID() string { return e.Fault + "." + strconv.FormatUint(e.Number, 10) }

// Change is what one step did: the fault as it is after it and, where somebody should be
// told, the event. An Event with Number 0 is none: only the fault is to be saved.
type Change struct {
	Fault Fault `json:"fault"`
	Event Event `json:"event,omitzero"`
}

// HasEvent reports whether the change has an event.
func (c Change) HasEvent() bool { return c.Event.Number != 0 }

// Told reports whether people are told of the change.
func (c Change) Told() bool { return c.HasEvent() && !c.Event.Quiet }
