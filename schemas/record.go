package schemas

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// ErrMAC says that a record or receipt was not made with the machine's key.
var ErrMAC = errors.New("MAC does not match the machine's key")

// NameTransaction is the name of the transaction record's schema.
const NameTransaction = "transaction"

// macMember begins the last member of a record. Before it lies what is MACed.
const macMember = `,"mac":"`

// macTail is the length of that member: macMember, the unpadded base64url of 32 bytes, a quote and
// the closing brace.
const macTail = len(macMember) + 43 + len(`"}`)

// Genesis is what the first record of an epoch has as the hash of the one before it.
func Genesis(machine string, epoch uint32) [32]byte {
	b := append([]byte("farebeat v1 genesis\x00"), machine...)
	return sha256.Sum256(binary.LittleEndian.AppendUint32(append(b, 0), epoch))
}

// HashRecord is the hash of a record's bytes, which the next record carries as prev.
func HashRecord(record []byte) [32]byte { return sha256.Sum256(record) }

// MintTransaction makes the record of tx, chained to the hash of the record before it, and
// returns it with its own hash. It sets tx.Prev and tx.MAC, and cuts EventTime to milliseconds
// in UTC. The error names the field that is not valid.
func MintTransaction(key []byte, prev [32]byte, tx *Transaction) (record []byte, hash [32]byte, err error) {
	tx.EventTime = tx.EventTime.UTC().Truncate(time.Millisecond)
	tx.Prev = base64.RawURLEncoding.EncodeToString(prev[:])
	tx.MAC = base64.RawURLEncoding.EncodeToString(make([]byte, sha256.Size))
	draft, err := Encode(tx)
	if err != nil {
		return nil, hash, fmt.Errorf("mint transaction %d: %w", tx.Seq, err)
	}
	cut := len(draft) - macTail
	tx.MAC = base64.RawURLEncoding.EncodeToString(sum(key, draft[:cut]))
	record = append(append(append(draft[:cut], macMember...), tx.MAC...), `"}`...)
	if len(record) > MaxRecordBytes {
		return nil, hash, fmt.Errorf("mint transaction %d: %w", tx.Seq, tooLong(record))
	}
	return record, HashRecord(record), nil
}

func tooLong(record []byte) error {
	return &Error{Message: NameTransaction, Problem: fmt.Sprintf("%d bytes, at most %d", len(record), MaxRecordBytes)}
}

// ParseTransaction reads a record and checks its form, not its MAC. The record must begin with its
// brace and end with the MAC, so that what is MACed is everything else and no carrier can trim it.
func ParseTransaction(record []byte) (Transaction, error) {
	var tx Transaction
	if len(record) > MaxRecordBytes {
		return tx, tooLong(record)
	}
	if err := Decode(record, NameTransaction, &tx); err != nil {
		return tx, err
	}
	if record[0] != '{' {
		return tx, &Error{Message: NameTransaction, Problem: "does not begin with its brace"}
	}
	if cut := len(record) - macTail; cut < 1 || string(record[cut:]) != macMember+tx.MAC+`"}` {
		return tx, &Error{Message: NameTransaction, Field: "mac", Problem: "is not the last member of compact JSON"}
	}
	return tx, nil
}

// VerifyTransaction reads a record and checks form and MAC. The error wraps ErrMAC where
// only the MAC is wrong.
func VerifyTransaction(key, record []byte) (Transaction, error) {
	tx, err := ParseTransaction(record)
	if err != nil {
		return tx, err
	}
	mac := sum(key, record[:len(record)-macTail])
	if !hmac.Equal([]byte(tx.MAC), []byte(base64.RawURLEncoding.EncodeToString(mac))) {
		return tx, fmt.Errorf("transaction %d of machine %q, epoch %d: %w", tx.Seq, tx.Machine, tx.Epoch, ErrMAC)
	}
	return tx, nil
}

func sum(key, b []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(b)
	return h.Sum(nil)
}

// ReceiptMAC proves to a machine that the ledger made an epoch's receipt: the unpadded base64url of
// HMAC-SHA-256 under the machine's key over "farebeat v1 receipt", 0, the machine's id, 0, then
// little-endian uint32: epoch, complete_to, highest, number of gaps, and both ends of each.
func ReceiptMAC(key []byte, machine string, e EpochReceipt) string {
	b := append([]byte("farebeat v1 receipt\x00"), machine...)
	b = append(b, 0)
	for _, n := range []uint32{e.Epoch, e.CompleteTo, e.Highest, uint32(len(e.Gaps))} {
		b = binary.LittleEndian.AppendUint32(b, n)
	}
	for _, g := range e.Gaps {
		b = binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(b, g[0]), g[1])
	}
	return base64.RawURLEncoding.EncodeToString(sum(key, b))
}

// VerifyReceipt checks an epoch's receipt for a machine; the error wraps ErrMAC.
func VerifyReceipt(key []byte, machine string, e EpochReceipt) error {
	if !hmac.Equal([]byte(e.MAC), []byte(ReceiptMAC(key, machine, e))) {
		return fmt.Errorf("receipt for machine %q, epoch %d: %w", machine, e.Epoch, ErrMAC)
	}
	return nil
}
