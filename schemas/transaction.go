package schemas

import (
	"encoding/json"
	"time"
)

// Transaction is one record of a machine's journal. Names follow TIDES 1.0
// fare_transactions where it has one. The machine mints the record once as
// compact JSON whose last member is "mac"; those bytes are what is chained,
// MACed, carried and stored. Nobody on the way encodes it again.
//
// Prev is the unpadded base64url of the SHA-256 of the bytes of the record
// before it in the epoch (Genesis for seq 1). MAC is the unpadded base64url of
// HMAC-SHA-256, under the machine's key, of the record's bytes before `,"mac":`.
type Transaction struct {
	Machine     string    `json:"machine"`
	Epoch       uint32    `json:"epoch"`
	Seq         uint32    `json:"seq"`
	EventTime   time.Time `json:"event_time"`         // when the card was tapped, machine's clock, ms
	TZ          string    `json:"tz"`                 // IANA zone of the operator
	ServiceDate string    `json:"service_date"`       // YYYY-MM-DD, GTFS service day
	AmountMinor int64     `json:"amount_minor"`       // minor units of Currency
	Currency    string    `json:"currency"`           // ISO 4217
	FareAction  string    `json:"fare_action"`        // TIDES fare_action, such as "Enter"
	Media       string    `json:"media"`              // TIDES media_type, such as "Contactless bank card"
	TokenID     string    `json:"token_id,omitempty"` // a token, never a PAN
	Vehicle     string    `json:"vehicle_id,omitempty"`
	Route       string    `json:"route_id,omitempty"`
	Trip        string    `json:"trip_id,omitempty"`
	Stop        string    `json:"stop_id,omitempty"`
	Offline     bool      `json:"offline"`
	Evidence    string    `json:"evidence,omitempty"` // base64 of opaque scheme bytes
	Prev        string    `json:"prev"`
	MAC         string    `json:"mac"`
}

// Batch is one slot of a machine's transactions topic: records First to Last of
// an epoch, without a hole, at most MaxBatch of them.
type Batch struct {
	Machine string            `json:"machine"`
	Vehicle string            `json:"vehicle"` // whose gateway carries it
	Epoch   uint32            `json:"epoch"`
	First   uint32            `json:"first"`
	Last    uint32            `json:"last"`
	AsOf    time.Time         `json:"as_of"`
	Records []json.RawMessage `json:"records"` // each exactly as the machine minted it
}

// Bounds of the transactions topic.
const (
	MaxBatch       = 200  // records in a batch
	MaxOpenBatches = 64   // batches of one machine without a receipt
	MaxRecordBytes = 4096 // bytes of one record
)

// Receipt is what the ledger holds of one machine: the only thing on whose word
// a copy may be given up.
type Receipt struct {
	Machine string         `json:"machine"`
	AsOf    time.Time      `json:"as_of"`
	Epochs  []EpochReceipt `json:"epochs"` // newest epoch first, at most 8
}

// EpochReceipt covers one epoch. A record is held if 1 <= seq <= Highest and no
// gap contains it. Gaps lists at most MaxGaps of them, lowest first; where more exist, Highest
// is lowered so that the statement stays true.
type EpochReceipt struct {
	Epoch      uint32      `json:"epoch"`
	CompleteTo uint32      `json:"complete_to"` // all of 1..CompleteTo are held
	Highest    uint32      `json:"highest"`     // highest seq this receipt speaks of
	Gaps       [][2]uint32 `json:"gaps,omitempty"`
	MAC        string      `json:"mac"` // HMAC-SHA-256 under the machine's key, see ReceiptMAC
}

// Bounds of a receipt.
const (
	MaxEpochs = 8  // epochs of one machine
	MaxGaps   = 64 // gaps of one epoch
)

// Holds reports whether the receipt says that the ledger has seq.
func (e EpochReceipt) Holds(seq uint32) bool {
	if seq < 1 || seq > e.Highest {
		return false
	}
	for _, g := range e.Gaps {
		if seq >= g[0] && seq <= g[1] {
			return false
		}
	}
	return true
}
