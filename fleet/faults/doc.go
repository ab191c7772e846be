// Package faults keeps the life of every fault: when it was suspected, opened,
// brought home, closed or given up, and what people did about it.
//
// A fault is about one subject: a machine, a route, or the platform as a whole. Of each family of
// kinds a subject has at most one fault that has not ended, with an id that stays
// the same until it ends. All that decides is pure: Policy.Step takes a fault and
// one piece of evidence and returns the fault as it is after it, and the Changes to
// write. Book holds the faults that have not ended, by subject, and belongs to one
// goroutine.
//
// Changes are written with Store.Save before anything of them is published. Saving the
// same changes again is harmless, so after a failure the caller saves again the changes it
// has, and after a kill the stored faults are what Restore begins from.
package faults
