// Package machine is the reference payment machine: what a bus validator or a
// gate has to do so that Farebeat can watch it and bring its money home.
//
// It sends heartbeats while its uplink is up. A tap while the uplink is up is
// authorized online and is none of Farebeat's business; a tap while it is down is
// stored in the journal, with its own number, chained to the record before it and
// MACed. Stored records stay until the ledger's receipt, MACed with the machine's
// key, says that it holds them; a gateway on the vehicle reads them over
// Bluetooth LE and brings the receipt (package ors: Machine is what its server
// serves).
//
// Sub-packages: journal is the storage, city simulates many machines, trace reads
// recorded days.
package machine
