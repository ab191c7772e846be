package faults

import (
	"time"

	"github.com/farebeat/farebeat/schemas"
)

// CauseKind is the kind of the fault of a cause.
func CauseKind(s Subject) Kind {
	switch {
	case s.Vehicle != "":
		return VehicleLost
	case s.Depot != "":
		return DepotLost
	case s.Network != "":
		return NetworkLost
	case s.Firmware != "":
		return FirmwareLost
	}
	return Platform
}

// Storm reports whether so many machines may be behind a fault of this kind that their gateways are not all sent to collect at once.
func (k Kind) Storm() bool {
	return k == Platform || k == NetworkLost || k == DepotLost || k == FirmwareLost
}

// causeShow is how long after its beginning a cause is told: heartbeats must be missed, and it waits whether more are.
const causeShow = 75 * time.Second

func (k Kind) causeEntry() (Entry, bool) {
	e := Entry{Kind: k, Family: FamilyCause, Severity: schemas.Critical, DependsOn: FamilyCause, TimeToShow: causeShow}
	switch k {
	case Platform:
		e.Rank = 50
		e.Title = "Many machines lost at once"
		e.Meaning = "A large share of all machines fell silent together, over many routes: one cause, not many; closes when nearly all are heard again."
		e.NextStep = "Check our own link, the mobile operator and the broker before any machine."
	case NetworkLost:
		e.Rank = 40
		e.Title = "Machines of one mobile network lost"
		e.Meaning = "A large share of the machines in one mobile network fell silent together; closes when nearly all are heard again."
		e.NextStep = "Ask the mobile operator; check the APN, the SIM contract and the tunnel to it. The machines keep their transactions."
	case DepotLost:
		e.Rank = 30
		e.Title = "Machines of one depot lost"
		e.Meaning = "A large share of the machines of one depot's vehicles fell silent together; closes when nearly all are heard again."
		e.NextStep = "Check the depot's network and power, and whether its vehicles are switched off on purpose."
	case FirmwareLost:
		e.Rank = 20
		e.Title = "Machines with one firmware lost"
		e.Meaning = "A large share of the machines with one firmware fell silent together; closes when nearly all are heard again."
		e.NextStep = "Stop the roll-out of this firmware and ask its maker."
	case VehicleLost:
		e.Rank = 10
		e.Severity = schemas.Major
		e.Title = "All machines of a vehicle lost"
		e.Meaning = "All machines of one vehicle fell silent together; closes when one is heard again."
		e.NextStep = "Check the vehicle's power and its gateway."
	default:
		return Entry{}, false
	}
	return e, true
}

func (k Kind) serviceEntry() (Entry, bool) {
	switch k {
	case BrokerStore:
		return Entry{
			Kind: k, Family: FamilyStore, Rank: 10, Severity: schemas.Critical,
			Title:    "The broker cannot write to its disk",
			Meaning:  "What is published reliably is neither acknowledged nor delivered, though nothing is lost; closes when the disk is written again.",
			NextStep: "Free space on the disk of the broker's store, or mend it; the reason names the file. No restart is needed.",
		}, true
	case SeriesSink:
		return Entry{
			Kind: k, Family: FamilyService, Rank: 10, Severity: schemas.Minor,
			Title:    "Online counts do not reach InfluxDB",
			Meaning:  "A sink of the series refuses or has lagged for long; nothing is lost meanwhile. Closes when it takes them again.",
			NextStep: "The reason says what it answers: mend its address, token or database. What waits is shipped then.",
		}, true
	case NotifyChannel:
		return Entry{
			Kind: k, Family: FamilyService, Rank: 20, Severity: schemas.Major,
			Title:    "Notifications do not arrive",
			Meaning:  "An Alertmanager or a webhook has failed for long; closes when it takes notifications again.",
			NextStep: "Look at the faults here meanwhile; mend the channel's address or credentials, see the reason.",
		}, true
	case TimetableOver:
		return Entry{
			Kind: k, Family: FamilyService, Rank: 30, Severity: schemas.Minor,
			Title:    "The timetable ends",
			Meaning:  "The GTFS feed has ended or will within days, or could not be read; closes when a feed that is valid is loaded.",
			NextStep: "Put the new feed in the place of the old one; it is read without a restart.",
		}, true
	case RulesFile:
		return Entry{
			Kind: k, Family: FamilyService, Rank: 40, Severity: schemas.Minor,
			Title:    "The rules file is wrong",
			Meaning:  "The rules file changed and cannot be read; the rules before it stay in force. Closes when it is right.",
			NextStep: "The reason names file and line; `farebeat rules check` tries it.",
		}, true
	case UsersFile:
		return Entry{
			Kind: k, Family: FamilyService, Rank: 50, Severity: schemas.Major,
			Title:    "The users file is wrong",
			Meaning:  "A users file changed and cannot be read; the users before it stay in force, so that who was removed since may still come in. Closes when it is right.",
			NextStep: "The reason names file and line; `farebeat users list` tries it.",
		}, true
	case Certificate:
		return Entry{
			Kind: k, Family: FamilyService, Rank: 60, Severity: schemas.Major,
			Title:    "A certificate expires or is wrong",
			Meaning:  "A certificate is in the last sixth of its life (30 days at most), or its files changed and cannot be read, so that the one before stays in force. Closes when one that is valid for longer is in force.",
			NextStep: "The reason names the file or the devices. Put a renewed certificate and its key in place of the files: they are read without a restart.",
		}, true
	case DeviceIdentity:
		return Entry{
			Kind: k, Family: FamilyService, Rank: 70, Severity: schemas.Minor,
			Title:    "Certificates of devices expire",
			Meaning:  "A device did not renew its certificate in the last sixth of its life, and cannot connect once it is over; closes when it is renewed, replaced or revoked.",
			NextStep: "See that the device reaches the fleet's address for enrolment; else enrol it again. Revoke the certificate of one that is gone for good.",
		}, true
	}
	return Entry{}, false
}
