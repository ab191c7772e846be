package faults

import (
	"time"

	"github.com/farebeat/farebeat/schemas"
)

// Kind is the code of a kind of fault, as topics, events and exports carry it.
type Kind string

// The kinds.
const (
	MachineSilent   Kind = "machine_silent"
	MachineUnstable Kind = "machine_unstable_link"
	MachineParked   Kind = "machine_parked_unsent"
	MachineFull     Kind = "machine_storage_full"
	MachineFilling  Kind = "machine_storage_filling"
	MachineUnsent   Kind = "machine_unsent"
	MachineReported Kind = "machine_reported"
	MachineCode     Kind = "machine_fault_code"
	MachineClock    Kind = "machine_clock"
	RouteSilent     Kind = "route_silent"
	RouteBelow      Kind = "route_below"
	RouteReported   Kind = "route_reported"
	Platform        Kind = "platform"
	NetworkLost     Kind = "network_lost"
	DepotLost       Kind = "depot_lost"
	FirmwareLost    Kind = "firmware_lost"
	VehicleLost     Kind = "vehicle_lost"
	BrokerStore     Kind = "broker_store"
	SeriesSink      Kind = "series_sink"
	NotifyChannel   Kind = "notify_channel"
	TimetableOver   Kind = "timetable_over"
	RulesFile       Kind = "rules_file"
	UsersFile       Kind = "users_file"
	Certificate     Kind = "certificate"
	DeviceIdentity  Kind = "device_identity"
)

// Family joins kinds that are one fault to a person: a subject has at most one fault
// of a family that has not ended, and its kind may change within the family.
type Family string

// The families. FamilyCustody is all that puts a machine's transactions at risk: such a fault
// ends only when the machine is heard and the ledger has everything it declared.
const (
	FamilyCustody Family = "custody"
	FamilyCode    Family = "code"
	FamilyClock   Family = "clock"
	FamilyRoute   Family = "route"
	FamilyCause   Family = "cause" // many machines lost together
	FamilyStore   Family = "store"
	FamilyService Family = "service" // parts of Farebeat itself
)

// Entry is all that is known of one kind.
type Entry struct {
	Kind     Kind
	Family   Family
	Rank     int // within a family the firing kind of the highest rank names the fault
	Severity schemas.Severity
	Title    string
	Meaning  string // when it opens and what closes it, in one sentence
	NextStep string // what a person does
	// DependsOn is FamilyCause where a greater fault explains this one while it stands: a cause, or for a machine its silent
	// route. Empty for none.
	DependsOn Family
	// TimeToShow is how long after its cause the fault is open, with default rules;
	// 0 where the rule's own `for` says it.
	TimeToShow time.Duration
}

// Kinds lists the kinds, those of machines first. The caller owns the slice.
func Kinds() []Kind {
	return []Kind{
		MachineSilent, MachineUnstable, MachineParked, MachineFull, MachineFilling, MachineUnsent, MachineReported,
		MachineCode, MachineClock, RouteSilent, RouteBelow, RouteReported, Platform, NetworkLost, DepotLost, FirmwareLost, VehicleLost,
		BrokerStore, SeriesSink, NotifyChannel, TimetableOver, RulesFile, UsersFile, Certificate, DeviceIdentity,
	}
}

// Entry describes k. An unknown kind, as in a fault stored by a newer
// program, has an entry of its own family with the code as title.
func (k Kind) Entry() Entry {
	if e, ok := k.custodyEntry(); ok {
		return e
	}
	if e, ok := k.healthEntry(); ok {
		return e
	}
	if e, ok := k.routeEntry(); ok {
		return e
	}
	if e, ok := k.causeEntry(); ok {
		return e
	}
	if e, ok := k.serviceEntry(); ok {
		return e
	}
	return Entry{Kind: k, Family: Family(k), Severity: schemas.Major, Title: string(k), Meaning: "Not known to this version.", NextStep: "Update this program."}
}

func (k Kind) custodyEntry() (Entry, bool) {
	switch k {
	case MachineSilent:
		return Entry{
			Kind: k, Family: FamilyCustody, Rank: 60, Severity: schemas.Major, DependsOn: FamilyCause, TimeToShow: 75 * time.Second,
			Title:    "Machine silent",
			Meaning:  "No heartbeat for longer than the deadline; closes when the machine is heard again and the ledger has all it declared.",
			NextStep: "The vehicle's gateway collects over Bluetooth. If it does not reach the machine, check the machine's power and network on the vehicle.",
		}, true
	case MachineUnstable:
		return Entry{
			Kind: k, Family: FamilyCustody, Rank: 70, Severity: schemas.Major, DependsOn: FamilyCause, TimeToShow: 75 * time.Second,
			Title:    "Machine's link is unstable",
			Meaning:  "The machine fell silent again and again within an hour; closes when it was heard without a break for a while and the ledger has all it declared.",
			NextStep: "Check antenna, SIM card and coverage along the route.",
		}, true
	case MachineFull:
		return Entry{
			Kind: k, Family: FamilyCustody, Rank: 50, Severity: schemas.Critical,
			Title:    "Machine's storage is nearly full",
			Meaning:  "Stored transactions are close to the machine's cap, after which it refuses passengers; closes when all are in the ledger.",
			NextStep: "See that the gateway reaches the machine over Bluetooth now; else send a technician.",
		}, true
	case MachineFilling:
		return Entry{
			Kind: k, Family: FamilyCustody, Rank: 40, Severity: schemas.Minor,
			Title:    "Machine's storage is filling",
			Meaning:  "Stored transactions passed a share of the machine's cap; closes when all are in the ledger.",
			NextStep: "The gateway collects over Bluetooth. Watch that the number falls.",
		}, true
	case MachineParked:
		return Entry{
			Kind: k, Family: FamilyCustody, Rank: 30, Severity: schemas.Major,
			Title:    "Machine parked with unsent transactions",
			Meaning:  "The machine announced its shutdown while it held transactions; closes when they are in the ledger.",
			NextStep: "Keep the vehicle's power on until the gateway has collected them.",
		}, true
	case MachineUnsent:
		return Entry{
			Kind: k, Family: FamilyCustody, Rank: 20, Severity: schemas.Minor, DependsOn: FamilyCause,
			Title:    "Machine holds unsent transactions",
			Meaning:  "The machine is heard but has held transactions for longer than usual; closes when they are in the ledger.",
			NextStep: "The gateway collects over Bluetooth; nothing to do unless it fails.",
		}, true
	case MachineReported:
		return Entry{
			Kind: k, Family: FamilyCustody, Rank: 10, Severity: schemas.Major,
			Title:    "Machine reported as broken",
			Meaning:  "A person reported it; closes when the machine is heard, the ledger has all it declared, and no report came for a while.",
			NextStep: "Ask the reporter what the passenger saw; the gateway collects over Bluetooth meanwhile.",
		}, true
	}
	return Entry{}, false
}

func (k Kind) healthEntry() (Entry, bool) {
	switch k {
	case MachineCode:
		return Entry{
			Kind: k, Family: FamilyCode, Rank: 10, Severity: schemas.Major,
			Title:    "Machine reports a fault of its own",
			Meaning:  "The machine's heartbeat carries a fault code or the state defective; closes when its heartbeats are clean again.",
			NextStep: "Look the code up in the maker's manual.",
		}, true
	case MachineClock:
		return Entry{
			Kind: k, Family: FamilyClock, Rank: 10, Severity: schemas.Minor,
			Title:    "Machine's clock is wrong",
			Meaning:  "The machine's clock is further from ours than allowed; closes when it is right again.",
			NextStep: "The gateway sets the time over Bluetooth. If it drifts again, change the clock battery.",
		}, true
	}
	return Entry{}, false
}

func (k Kind) routeEntry() (Entry, bool) {
	switch k {
	case RouteSilent:
		return Entry{
			Kind: k, Family: FamilyRoute, Rank: 30, Severity: schemas.Critical, DependsOn: FamilyCause, TimeToShow: time.Minute,
			Title:    "Route wholly silent",
			Meaning:  "No machine of the route is heard although some should be; closes only when machines of the route are heard again.",
			NextStep: "Ask control whether the route runs; check the route's depot network and its vehicles.",
		}, true
	case RouteBelow:
		return Entry{
			Kind: k, Family: FamilyRoute, Rank: 20, Severity: schemas.Major, DependsOn: FamilyCause,
			Title:    "Too few machines online on the route",
			Meaning:  "Fewer machines are online than the threshold for this hour; closes when enough are online for a while.",
			NextStep: "See which machines are missing, and whether vehicles of the route are out of service.",
		}, true
	case RouteReported:
		return Entry{
			Kind: k, Family: FamilyRoute, Rank: 10, Severity: schemas.Major,
			Title:    "Route reported as faulty",
			Meaning:  "A person reported it; closes when machines of the route are heard and no report came for a while.",
			NextStep: "Ask the reporter which stops or vehicles are concerned.",
		}, true
	}
	return Entry{}, false
}
