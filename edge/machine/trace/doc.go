// Package trace reads a recorded day of vehicles: who was on the line, when, and
// on which route. A trace drives a simulated city and is replayed against rules.
//
// A trace is a CSV file with a header, plain or gzip, in one of two forms. In the
// form Reports each row is one position report (columns epoch, vehicle_id,
// route_id). In the form Intervals each row is a time on the line (vehicle_id,
// route_id, from_epoch, to_epoch), half-open: on the line at from, no longer at
// to. A column trip_id is read where it is there; the order of the columns does
// not matter and other columns are ignored. Times are whole seconds since 1970
// in UTC. Where a file has the columns of both forms it is read as Intervals.
package trace
