// Package outbox is the gateway's disk queue: what was read from a machine over
// Bluetooth stays here until the fleet's ledger says that it holds it. Nothing
// else frees a record: there is no time-to-live, no limit on retries, and a full
// outbox refuses new records instead of dropping old ones.
//
// A record comes in through Append, which returns only after it is on disk, and
// is at first unsealed. Seal cuts unsealed records into batches of at most 200
// without a hole. From then on a batch is one slot of the machine's transactions
// topic, named by epoch, first and last record, and it never changes: however
// often it is published, it is the same bytes in the same slot. Receipt deletes
// the batches that the ledger's receipt covers from first to last record, and
// remembers that their slots are still to be cleared at the broker; SlotCleared
// forgets them. So the program may be killed between any two of these steps.
//
// The set of stored records is also the reading cursor: record and cursor cannot
// disagree, since they are the same row.
package outbox
