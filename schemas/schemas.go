package schemas

import "embed"

//go:embed json/*.json
var schemaFiles embed.FS //nolint:gochecknoglobals // go:embed needs one

// Names lists the name of every message, the transaction record and the day certificate, in the order of the documents.
func Names() []string {
	return []string{
		NameHeartbeat, NameMachineState, NameGateway, NameVehicleFault, NameRecovery, NameTransactions, NameTransaction, NameReceipt, NameTicket,
		NameRouteOnline, NameRouteFault, NameCommonFault, NameReport, NameCommand, NameCommandResult, NameEvent, NameFleet,
		NameCertificate,
	}
}

// Schema returns the JSON Schema 2020-12 of a message, or nil if there is none called name.
func Schema(name string) []byte {
	b, err := schemaFiles.ReadFile("json/" + name + ".json")
	if err != nil {
		return nil
	}
	return b
}

// NewMessage returns an empty message of a name, for Decode and Encode; false if there is none.
func NewMessage(name string) (Message, bool) {
	switch name {
	case NameHeartbeat:
		return &Heartbeat{}, true
	case NameMachineState:
		return &MachineState{}, true
	case NameGateway:
		return &Gateway{}, true
	case NameVehicleFault:
		return &CloudEvent[MachineFault]{}, true
	case NameRecovery:
		return &Recovery{}, true
	case NameTransactions:
		return &Batch{}, true
	case NameTransaction:
		return &Transaction{}, true
	case NameReceipt:
		return &Receipt{}, true
	case NameTicket:
		return &Ticket{}, true
	case NameRouteOnline:
		return &RouteOnline{}, true
	case NameRouteFault:
		return &CloudEvent[RouteFault]{}, true
	case NameCommonFault:
		return &CloudEvent[CommonFault]{}, true
	case NameReport:
		return &Report{}, true
	case NameCommand:
		return &Command{}, true
	case NameCommandResult:
		return &CommandResult{}, true
	case NameEvent:
		return &CloudEvent[FaultEvent]{}, true
	case NameFleet:
		return &Fleet{}, true
	case NameCertificate:
		return &Certificate{}, true
	}
	return nil, false
}
