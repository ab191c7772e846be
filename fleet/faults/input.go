package faults

import (
	"time"

	"github.com/farebeat/farebeat/schemas"
)

// Verdict is what a rule says of a subject now.
type Verdict struct {
	Kind      Kind
	Firing    bool      // it is a fault
	Suspect   bool      // it breaches now, but not yet for long enough
	Since     time.Time // when the breach began; zero where there is none
	Threshold int       // routes: fewer than this many is a fault; storage: percent of the cap passed; 0: no such number
	Reason    string    // one sentence for a person
}

// Context is what explains the state of a subject beyond itself.
type Context struct {
	Under       Subject // the fault of this subject explains it, if Explained; the platform's subject is the zero value
	Explained   bool
	Maintenance string // name of the maintenance window that the subject is in, empty for none

	parent string // id of the fault that explains it, as Book finds it
	found  bool   // Book looked for it
}

// Input is one piece of evidence, or one person's action. The implementations are the
// types of this file.
type Input interface {
	// families are those whose faults the input is about, nil where Fault names it.
	families() []Family
	subject() Subject
}

// MachineCheck is what is known of one machine at one evaluation. It is
// needed for a machine with a firing verdict and for one with a fault that has not ended, at
// every evaluation; for others it changes nothing.
type MachineCheck struct {
	Machine       string
	Vehicle       string // whose gateway is to act, see dispatch.Carrier
	Route         string // of the latest heartbeat
	Depot         string
	Network       string
	Firmware      string
	State         schemas.MachineCondition
	LastHeartbeat time.Time // when it was received; zero for a machine never heard
	Pending       uint32    // of the latest heartbeat
	PendingMinor  int64
	Currency      string
	Epoch         uint32 // of the latest heartbeat; 0: it keeps no journal
	LastSeq       uint32
	CompleteTo    uint32    // the ledger holds all of 1..CompleteTo of Epoch
	Verdicts      []Verdict // those that fire, in any order
	Blind         bool      // we could not hear: nothing here is evidence
	Context       Context
}

// RouteCheck is the verdict on one route at one evaluation.
type RouteCheck struct {
	Route    string
	Verdict  Verdict
	Online   int
	Expected int
	Blind    bool
	Gone     bool // there is no such route any more: nobody expects it, and no machine is on it
	Context  Context
}

// CauseCheck is the verdict on what many machines have in common at one evaluation.
type CauseCheck struct {
	Subject Subject // a vehicle, depot, network or firmware, or the platform
	Verdict Verdict
	Lost    int // machines that it took and that are still lost
	Known   int // machines that should be heard
	Blind   bool
	Context Context
}

// ServiceCheck says whether a part of Farebeat itself works.
type ServiceCheck struct {
	Service string // what it is called, such as the name of a sink
	Verdict Verdict
}

// StoreCheck says whether the broker can write to its disk.
type StoreCheck struct{ Verdict Verdict }

// RecoveryReport is a gateway's word on a recovery. The schema says what the numbers mean.
type RecoveryReport struct{ schemas.Recovery }

// LedgerProgress says that the ledger now holds all of 1..CompleteTo of an epoch.
type LedgerProgress struct {
	Machine    string
	Epoch      uint32
	CompleteTo uint32
}

// HandReport is a fault reported by hand. A machine wins over a route if it names both.
type HandReport struct{ schemas.Report }

// Attend is what a person does about one fault. To is Unseen, Acknowledged, Assigned or
// Shelved; Shelved needs Until.
type Attend struct {
	Fault string
	To    schemas.Attention
	By    string
	Until time.Time // zero: until it ends
	Note  string
}

// Abandon gives a fault up on a person's word, whatever the evidence: it is acted on no more,
// and stays quiet until its subject has been well once.
type Abandon struct {
	Fault  string
	By     string
	Reason string
}

// Note is what a person has to say about one fault; it changes nothing else. The note of an ID that the fault had last is not noted again.
type Note struct {
	Fault string
	ID    string
	By    string
	Text  string
}

func (in MachineCheck) subject() Subject   { return Subject{Machine: in.Machine} }
func (in RouteCheck) subject() Subject     { return Subject{Route: in.Route} }
func (in CauseCheck) subject() Subject     { return in.Subject }
func (in ServiceCheck) subject() Subject   { return Subject{Service: in.Service} }
func (in StoreCheck) subject() Subject     { return Subject{} }
func (in RecoveryReport) subject() Subject { return Subject{Machine: in.Machine} }
func (in LedgerProgress) subject() Subject { return Subject{Machine: in.Machine} }
func (in Attend) subject() Subject         { return Subject{} }
func (in Abandon) subject() Subject        { return Subject{} }
func (in Note) subject() Subject           { return Subject{} }

func (in HandReport) subject() Subject {
	if in.Machine != "" {
		return Subject{Machine: in.Machine}
	}
	return Subject{Route: in.Route}
}

func (MachineCheck) families() []Family {
	return []Family{FamilyCustody, FamilyCode, FamilyClock}
}
func (RouteCheck) families() []Family     { return []Family{FamilyRoute} }
func (CauseCheck) families() []Family     { return []Family{FamilyCause} }
func (ServiceCheck) families() []Family   { return []Family{FamilyService} }
func (StoreCheck) families() []Family     { return []Family{FamilyStore} }
func (RecoveryReport) families() []Family { return []Family{FamilyCustody} }
func (LedgerProgress) families() []Family { return []Family{FamilyCustody} }
func (Attend) families() []Family         { return nil }
func (Abandon) families() []Family        { return nil }
func (Note) families() []Family           { return nil }

func (in HandReport) families() []Family {
	if in.Machine != "" {
		return []Family{FamilyCustody}
	}
	return []Family{FamilyRoute}
}
