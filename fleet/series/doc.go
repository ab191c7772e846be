// Package series ships the online counts to InfluxDB.
//
// The counts are written once, to the embedded store, in the transaction of their minute. A Sink follows the store's
// changes behind a cursor of its own: it ships them with the v2 client's blocking API as prebuilt line protocol and moves
// its cursor when InfluxDB has taken them. Whatever dies in between, the same lines are shipped again, and overwrite
// themselves: a point is its route and its time.
//
// InfluxDB 1.8 and 2.x take them, and 3.x by the same write address. Per route and minute a point of the measurement
// online (n, known, expected, threshold, min, max, and blind where we could not hear), per route and hour one of online_1h
// (c, min, p10, p50, p90, max, mean). The only tag is route: never one per machine.
package series
