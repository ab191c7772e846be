package tickets

import "time"

// Unticketed says that transactions of a machine came from a vehicle that never had a ticket for it, and that the machine's key proves them. They are
// in the ledger; how they came to the vehicle is for a person to find out.
type Unticketed struct {
	Machine string    `json:"machine"`
	Vehicle string    `json:"vehicle"`
	FirstAt time.Time `json:"first_at"`
	LastAt  time.Time `json:"last_at"`
	Batches uint64    `json:"batches"`
	Records uint64    `json:"records"` // proved ones, those that the ledger had already among them
}

// MaxUnticketed bounds the pairs of machine and vehicle of which that is kept. More are counted and logged only.
const MaxUnticketed = 1000
