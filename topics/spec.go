package topics

import "github.com/farebeat/farebeat/schemas"

// Kind names one topic of the tree.
type Kind string

// The topics.
const (
	Heartbeat     Kind = "machine/heartbeat"
	MachineState  Kind = "machine/state"
	Gateway       Kind = "vehicle/gateway"
	VehicleFault  Kind = "vehicle/fault"
	Recovery      Kind = "vehicle/recovery"
	Transactions  Kind = "vehicle/transactions"
	Receipt       Kind = "vehicle/receipt"
	Ticket        Kind = "vehicle/ticket"
	RouteOnline   Kind = "route/online"
	RouteFault    Kind = "route/fault"
	CommonFault   Kind = "fault"
	Report        Kind = "report"
	Command       Kind = "command"
	CommandResult Kind = "command/result"
	Event         Kind = "event"
	Fleet         Kind = "fleet"
	AsyncAPI      Kind = "meta/asyncapi"
)

// Role is what a client is to the tree.
type Role string

// The roles.
const (
	RoleMachine    Role = "machine"     // one payment machine
	RoleGateway    Role = "gateway"     // one vehicle's gateway
	RoleFleet      Role = "fleet"       // the fleet service
	RoleOperator   Role = "operator"    // people and programs of the operator
	RoleAdmin      Role = "admin"       // what an operator may, and administers in the console
	RoleViewer     Role = "viewer"      // reads everything
	RoleThirdParty Role = "third_party" // reads faults, route counts and what it was granted
	RoleSimulator  Role = "simulator"   // speaks for any machine and gateway: test cities only
)

// Roles lists every role.
func Roles() []Role {
	return []Role{RoleMachine, RoleGateway, RoleFleet, RoleOperator, RoleAdmin, RoleViewer, RoleThirdParty, RoleSimulator}
}

// Spec is one row of the topic table.
type Spec struct {
	Kind     Kind
	Pattern  string // after the root; levels in braces are ids
	QoS      byte   // what writers use; a publish with less is refused
	Retain   bool
	Writers  []Role // machines and gateways: only below their own id
	Readers  []Role // likewise; a third party also reads what it was granted
	Schema   string // name of the JSON Schema, "" for none
	MaxBytes int    // of the payload: room for every valid message in ASCII
	Doc      string
	// Confidential topics hold secrets: only Readers get them, below their own ids, whatever wildcards they and others
	// subscribed to and whatever a third party was granted.
	Confidential bool
}

// Specs is the topic table, in the order of the documents.
func Specs() []Spec {
	public := []Role{RoleFleet, RoleOperator, RoleAdmin, RoleViewer, RoleThirdParty}
	inside := []Role{RoleFleet, RoleOperator, RoleAdmin, RoleViewer}
	gateways := []Role{RoleGateway, RoleSimulator}
	fleet := []Role{RoleFleet}
	with := func(roles []Role, more ...Role) []Role { return append(append([]Role(nil), roles...), more...) }
	return []Spec{
		{Heartbeat, "machine/{machine}/heartbeat", 0, false, []Role{RoleMachine, RoleSimulator}, inside, schemas.NameHeartbeat, 1024, "A machine says that it is alive, every 15 s by default.", false},
		{MachineState, "machine/{machine}/state", 1, true, fleet, inside, schemas.NameMachineState, 4096, "What the fleet makes of a machine: UP, LATE, STRANDED, DARK, PARKED or OUT_OF_SERVICE, since when and why, money at risk.", false},
		{Gateway, "vehicle/{vehicle}/gateway", 1, true, gateways, inside, schemas.NameGateway, 65536, "Whether a vehicle's gateway is there, and which machines it hears over BLE. Also its last will.", false},
		{VehicleFault, "vehicle/{vehicle}/fault/{machine}", 1, true, fleet, with(public, gateways...), schemas.NameVehicleFault, 4096, "A fault of a machine on the vehicle and what the gateway is to do about it. Cleared when the fault closes.", false},
		{Recovery, "vehicle/{vehicle}/recovery/{machine}", 1, true, gateways, inside, schemas.NameRecovery, 8192, "How far the gateway is with reading a machine.", false},
		{Transactions, "vehicle/{vehicle}/transactions/{machine}/{batch}", 1, true, with(gateways, RoleFleet), inside, schemas.NameTransactions, 1 << 20, "Recovered transactions, one batch a slot; cleared by the gateway after the ledger's receipt, or by the fleet ten minutes later where that gateway is gone. batch is {epoch}-{first}-{last}.", false},
		{Receipt, "vehicle/{vehicle}/receipt/{machine}", 1, true, fleet, with(inside, gateways...), schemas.NameReceipt, 16384, "What the ledger holds of a machine, MACed for it.", false},
		{Ticket, "vehicle/{vehicle}/ticket/{machine}", 1, true, fleet, with(gateways, RoleFleet), schemas.NameTicket, 2048, "A secret with which the vehicle's gateway opens sessions with a machine over BLE, and the same sealed for the machine; nobody else reads it. Cleared when there is no reason for contact any more.", true},
		{RouteOnline, "route/{route}/online", 1, true, fleet, public, schemas.NameRouteOnline, 32768, "Machines online and expected on a route.", false},
		{RouteFault, "route/{route}/fault/{fault}", 1, true, fleet, public, schemas.NameRouteFault, 8192, "A fault of a route as a whole. Cleared when it closes.", false},
		{CommonFault, "fault/{fault}", 1, true, fleet, public, schemas.NameCommonFault, 8192, "A fault of what many machines have in common, or of a part of Farebeat itself. Cleared when it closes.", false},
		{Report, "report/{source}", 1, false, []Role{RoleOperator, RoleAdmin}, inside, schemas.NameReport, 4096, "A fault reported by hand.", false},
		{Command, "command/{vehicle}/{command}", 1, false, []Role{RoleFleet, RoleOperator, RoleAdmin}, with(inside, gateways...), schemas.NameCommand, 2048, "Asks a gateway for something, once.", false},
		{CommandResult, "command/{vehicle}/{command}/result", 1, false, gateways, inside, schemas.NameCommandResult, 8192, "How a command goes.", false},
		{Event, "event/{severity}/{kind}", 1, false, fleet, public, schemas.NameEvent, 8192, "One change in the life of a fault.", false},
		{Fleet, "fleet", 1, true, fleet, with(public, RoleGateway, RoleMachine, RoleSimulator), schemas.NameFleet, 1024, "Whether the fleet service is there and its ledger can take transactions. Also its last will.", false},
		{AsyncAPI, "meta/asyncapi", 1, true, fleet, with(public, RoleGateway, RoleMachine, RoleSimulator), "", 1 << 20, "The contract, as an AsyncAPI 3 document.", false},
	}
}
