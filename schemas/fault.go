package schemas

import (
	"encoding/json"
	"time"
)

// Severity of a fault or event.
type Severity string

// The severities, least first.
const (
	Info     Severity = "info"
	Minor    Severity = "minor"
	Major    Severity = "major"
	Critical Severity = "critical"
)

// FaultCondition is the first axis of a fault's life: what the world is like.
type FaultCondition string

// The conditions of a fault.
const (
	Suspected  FaultCondition = "suspected"
	Open       FaultCondition = "open"
	Recovering FaultCondition = "recovering"
	Recovered  FaultCondition = "recovered"
	Closed     FaultCondition = "closed"
	Abandoned  FaultCondition = "abandoned"
)

// Attention is the second axis of a fault's life: what people did about it.
type Attention string

// The attentions of a fault.
const (
	Unseen       Attention = "unseen"
	Acknowledged Attention = "acknowledged"
	Assigned     Attention = "assigned"
	Shelved      Attention = "shelved"
)

// CloudEvent is CloudEvents 1.0 in structured JSON mode. Consumers deduplicate by
// (Source, ID).
type CloudEvent[T any] struct {
	SpecVersion     string    `json:"specversion"` // "1.0"
	ID              string    `json:"id"`
	Source          string    `json:"source"`
	Type            string    `json:"type"`
	Subject         string    `json:"subject,omitempty"`
	Time            time.Time `json:"time"`
	DataContentType string    `json:"datacontenttype"` // "application/json"
	Data            T         `json:"data"`
}

// MachineFault is the data of vehicle/{vehicle}/fault/{machine}: what is wrong
// and what the gateway is to do about it. It is desired state: while it stands,
// the gateway collects whatever the machine holds.
type MachineFault struct {
	Fault         string         `json:"fault"` // id, stable over the fault's life
	Kind          string         `json:"kind"`
	Severity      Severity       `json:"severity"`
	Title         string         `json:"title"`
	Condition     FaultCondition `json:"condition"`
	Machine       string         `json:"machine"`
	Vehicle       string         `json:"vehicle"`
	Route         string         `json:"route,omitempty"`
	OpenedAt      time.Time      `json:"opened_at"`
	AsOf          time.Time      `json:"as_of"`
	Reason        string         `json:"reason"`
	NextStep      string         `json:"next_step"`
	LastHeartbeat *time.Time     `json:"last_heartbeat,omitempty"`
	Collect       bool           `json:"collect"`                 // read the machine over BLE
	Pending       uint32         `json:"pending"`                 // as the machine last declared
	PendingMinor  int64          `json:"pending_minor,omitempty"` // their sum, minor units of Currency
	Currency      string         `json:"currency,omitempty"`      // ISO 4217
	Epoch         uint32         `json:"epoch,omitempty"`         // as the machine last declared
	LastSeq       uint32         `json:"last_seq,omitempty"`      // as the machine last declared
}

// RouteFault is the data of route/{route}/fault/{fault}. It names no machine.
type RouteFault struct {
	Fault     string         `json:"fault"`
	Kind      string         `json:"kind"`
	Severity  Severity       `json:"severity"`
	Title     string         `json:"title"`
	Condition FaultCondition `json:"condition"`
	Route     string         `json:"route"`
	OpenedAt  time.Time      `json:"opened_at"`
	AsOf      time.Time      `json:"as_of"`
	Online    int            `json:"online"`
	Expected  int            `json:"expected"`
	Threshold int            `json:"threshold"`
	Reason    string         `json:"reason"`
	NextStep  string         `json:"next_step"`
}

// CommonFault is the data of fault/{fault}: a fault of what many machines have in common, or of a part of Farebeat itself. At most one of
// Vehicle, Depot, Network, Firmware and Service is set; none is set for all machines and for the broker.
type CommonFault struct {
	Fault     string         `json:"fault"`
	Kind      string         `json:"kind"`
	Severity  Severity       `json:"severity"`
	Title     string         `json:"title"`
	Condition FaultCondition `json:"condition"`
	Vehicle   string         `json:"vehicle,omitempty"`
	Depot     string         `json:"depot,omitempty"`
	Network   string         `json:"network,omitempty"` // mobile network
	Firmware  string         `json:"fw,omitempty"`      // version
	Service   string         `json:"service,omitempty"`
	OpenedAt  time.Time      `json:"opened_at"`
	AsOf      time.Time      `json:"as_of"`
	Lost      int            `json:"lost"`  // machines that it took and that are still lost
	Known     int            `json:"known"` // machines that it concerns
	Reason    string         `json:"reason"`
	NextStep  string         `json:"next_step"`
}

// FaultEvent is the data of event/{severity}/{kind}: one change in a fault's life.
type FaultEvent struct {
	Fault     string         `json:"fault"`
	Change    string         `json:"change"` // opened, updated, recovered, reopened, closed, acknowledged, shelved, abandoned
	Kind      string         `json:"kind"`
	Severity  Severity       `json:"severity"`
	Condition FaultCondition `json:"condition"`
	Attention Attention      `json:"attention"`
	Route     string         `json:"route,omitempty"`
	Machine   string         `json:"machine,omitempty"`
	Vehicle   string         `json:"vehicle,omitempty"`
	Depot     string         `json:"depot,omitempty"`   // of a fault of all its machines, as are the two that follow
	Network   string         `json:"network,omitempty"` // mobile network
	Firmware  string         `json:"fw,omitempty"`      // version
	Service   string         `json:"service,omitempty"` // part of Farebeat itself
	Reason    string         `json:"reason"`
}

// Report is a fault reported by hand. Machine or Route is required.
type Report struct {
	ID      string    `json:"id"` // makes the report idempotent
	At      time.Time `json:"at"`
	Machine string    `json:"machine,omitempty"`
	Route   string    `json:"route,omitempty"`
	Vehicle string    `json:"vehicle,omitempty"` // where the machine is, if the reporter knows
	Text    string    `json:"text"`              // 1 to 500 characters
	By      string    `json:"by"`
}

// Verb is what a command asks of a gateway.
type Verb string

// The verbs.
const (
	VerbCollect Verb = "collect"
	VerbProbe   Verb = "probe"
	VerbSetTime Verb = "set_time"
	VerbReboot  Verb = "reboot"
)

// Command asks the gateway of a vehicle for something, once.
type Command struct {
	ID        string    `json:"id"`
	At        time.Time `json:"at"`
	By        string    `json:"by"`
	Verb      Verb      `json:"verb"`
	Machine   string    `json:"machine"`
	ExpiresAt time.Time `json:"expires_at"`
}

// CommandState is how far a command is.
type CommandState string

// The command states.
const (
	CommandWaiting  CommandState = "WAITING"
	CommandRunning  CommandState = "RUNNING"
	CommandFinished CommandState = "FINISHED"
	CommandFailed   CommandState = "FAILED"
)

// CommandResult answers a command.
type CommandResult struct {
	ID     string          `json:"id"`
	AsOf   time.Time       `json:"as_of"`
	State  CommandState    `json:"state"`
	Text   string          `json:"text,omitempty"`
	Detail json.RawMessage `json:"detail,omitempty"`
}
