// Package rules says whether what is online is a fault: of a route, of a machine, of the
// platform as a whole. The rules are data, read from YAML; deciding is pure: the same
// clock, input and state give the same verdict, live and in a replay of a past day.
//
// What a route's rule must remember between two evaluations is its RouteState: the
// window of a `for`, since when nothing was heard, the number of the last hour. The
// states are written with States.MarshalJSON and read again after a restart, so that the
// seventh minute of a ten-minute `for` stays the seventh. While we were blind nothing
// is decided and nothing is forgotten: the state is frozen. A state notes by which rules it was
// taken: under others the windows begin anew, so that a change of rules decides nothing by itself.
// Live holds the set that is in force and takes up a changed file.
package rules
