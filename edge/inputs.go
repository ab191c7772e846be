package edge

import "github.com/farebeat/farebeat/schemas"

// An input is something that the agent learnt.
type input interface{ isInput() }

type (
	// faultStands: the fleet wants this machine looked after.
	faultStands struct{ fault schemas.MachineFault }
	// faultGone: the fault topic of the machine was cleared.
	faultGone struct{ machine string }
	// ticketed: the fleet gave a ticket for a machine.
	ticketed struct {
		machine string
		ticket  ticket
	}
	// ticketGone: there is no reason for contact with a machine any more.
	ticketGone struct{ machine string }
	// connecting: a broker connection begins; the retained faults arrive anew.
	connecting struct{}
	// settled: all retained faults of this connection must have arrived.
	settled struct{}
	// receipted: the outbox took in a receipt.
	receipted struct {
		machine      string
		ledger, held Records
	}
	// commanded: somebody asks for something.
	commanded struct{ command schemas.Command }
	// found: the radio found this one of the candidates and dials it.
	found struct{ machine string }
	// declared: the machine answered and said what it holds.
	declared struct {
		machine            string
		all, ledger, held  Records
		newest, newestLast uint32
		minor              int64 // the sum of all, minor units of the machine's currency
	}
	// stored: records are on the gateway's disk.
	stored struct {
		machine string
		held    Records
	}
	// contactEnded: the radio is free again.
	contactEnded struct{ result contactResult }
	// listened: the radio is free again, and these were heard.
	listened struct{ seen []schemas.Sighting }
	// ticked: time passed.
	ticked struct{}
)

func (faultStands) isInput()  {}
func (faultGone) isInput()    {}
func (ticketed) isInput()     {}
func (ticketGone) isInput()   {}
func (connecting) isInput()   {}
func (settled) isInput()      {}
func (receipted) isInput()    {}
func (commanded) isInput()    {}
func (found) isInput()        {}
func (declared) isInput()     {}
func (stored) isInput()       {}
func (contactEnded) isInput() {}
func (listened) isInput()     {}
func (ticked) isInput()       {}

// An effect is something to be done at the rim.
type effect interface{ isEffect() }

type (
	// contact: look for the candidates, best first, and serve the first that is there.
	// names are all machines that may be near.
	contact struct {
		candidates []job
		names      []string
	}
	// listen: hear which of the named machines are near.
	listen struct{ names []string }
	// publishRecovery: the latest progress of a machine; urgent where the phase changed.
	publishRecovery struct {
		recovery schemas.Recovery
		urgent   bool
	}
	// clearRecovery: the progress of a fault that is over.
	clearRecovery struct{ machine string }
	// publishResult: the answer to a command.
	publishResult struct{ result schemas.CommandResult }
	// refused: something that was asked for is not done.
	refused struct{ why string }
	// publishGateway: who is near.
	publishGateway struct{ seen []schemas.Sighting }
)

func (contact) isEffect()         {}
func (listen) isEffect()          {}
func (publishRecovery) isEffect() {}
func (clearRecovery) isEffect()   {}
func (publishResult) isEffect()   {}
func (refused) isEffect()         {}
func (publishGateway) isEffect()  {}

// job is what to do with a machine once it is connected.
type job struct {
	machine  string
	ticket   ticket
	fault    *schemas.MachineFault // to be told to the machine, nil for none
	farewell bool                  // to be told that its fault is over
	collect  bool                  // read what it holds
	setTime  bool                  // somebody waits for its clock to be set
	avoid    Records               // read these last: reports ended at them
}

// contactResult is how a contact went.
type contactResult struct {
	machine   string   // who was found, empty for nobody
	absent    []string // who was looked for as long as it takes, and not heard
	seen      []schemas.Sighting
	told      Records // what the machine was told that the ledger holds
	read      uint64  // records that are new in the outbox
	collected bool    // its records were asked for
	refused   int     // records that no ledger could take, still with the machine
	stopped   *Range  // the first record of a report that gave none, and may be why
	full      bool    // the outbox took no more
	farewell  bool    // the machine knows that its fault is over
	status    *contactStatus
	err       error // why the contact ended early
	clockErr  error // why the machine's clock was not set
}

// contactStatus is what a command's result tells of the machine.
type contactStatus struct {
	RSSI      int    `json:"rssi_dbm"`
	Pending   uint64 `json:"pending"`
	Epoch     uint32 `json:"epoch"`
	LastSeq   uint32 `json:"last_seq"`
	ClockSkew int64  `json:"clock_skew_ms"` // machine's clock minus the gateway's
	Read      uint64 `json:"read"`
}
