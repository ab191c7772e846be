// Package ledger holds every transaction that was brought home, each once, and proves it.
//
// A record is known by (machine, epoch, seq), which the machine minted. The same bytes
// again are a duplicate, counted and dropped. Other bytes under the same key are a
// conflict: the first to arrive stays, both are kept in quarantine. A record whose MAC
// is not its machine's never enters. Records are chained; a link that does not hold is
// quarantined as evidence while the record, which its MAC proves, counts.
//
// What is here is kept as spans of sequence numbers beside the records, changed in the
// same transaction. Receipts, gaps and 'complete to' are read from them. A
// receipt is the only word on which a gateway or a machine gives up its copy, and it is made
// from what was committed, never from what is about to be.
package ledger
