package faults

import (
	"fmt"
	"slices"
	"time"

	"github.com/farebeat/farebeat/schemas"
)

// Verb is what a person orders about a fault.
type Verb string

// The verbs.
const (
	VerbAcknowledge Verb = "acknowledge" // somebody saw it
	VerbAssign      Verb = "assign"      // somebody works on it
	VerbShelve      Verb = "shelve"      // not now, until a time
	VerbUnsee       Verb = "unsee"       // as if nobody had seen it
	VerbAbandon     Verb = "abandon"     // it is given up
	VerbNote        Verb = "note"        // something to be read with it
)

// Order is what a person orders about one fault.
type Order struct {
	ID    string    `json:"id"` // the same order twice is one
	Verb  Verb      `json:"verb"`
	Fault string    `json:"fault"`
	At    time.Time `json:"at"`
	By    string    `json:"by"`
	Until time.Time `json:"until,omitzero"` // zero: until the fault ends; a shelf needs one
	Note  string    `json:"note,omitempty"` // why
}

// MaxNote bounds the texts of an order, in bytes.
const MaxNote = 500

// Validate says which field of an order is wrong.
func (o Order) Validate() error {
	switch {
	case o.ID == "" || len(o.ID) > 64:
		return fmt.Errorf("order about a fault: id of %d bytes, want 1 to 64", len(o.ID))
	case !slices.Contains([]Verb{VerbAcknowledge, VerbAssign, VerbShelve, VerbUnsee, VerbAbandon, VerbNote}, o.Verb):
		return fmt.Errorf("order about a fault: verb %.20q, want acknowledge, assign, shelve, unsee, note or abandon", o.Verb)
	case o.Fault == "" || len(o.Fault) > 64:
		return fmt.Errorf("order about a fault: the fault's id of %d bytes, want 1 to 64", len(o.Fault))
	case o.At.IsZero():
		return fmt.Errorf("order about fault %s: it says not when it was given", o.Fault)
	case o.By == "" || len(o.By) > MaxNote:
		return fmt.Errorf("order about fault %s: who gave it is %d bytes, want 1 to %d", o.Fault, len(o.By), MaxNote)
	case len(o.Note) > MaxNote:
		return fmt.Errorf("order about fault %s: note of %d bytes, want up to %d", o.Fault, len(o.Note), MaxNote)
	case o.Verb == VerbAbandon && o.Note == "":
		return fmt.Errorf("order about fault %s: to give it up needs a note that says why", o.Fault)
	case o.Verb == VerbNote && o.Note == "":
		return fmt.Errorf("order about fault %s: the note says nothing", o.Fault)
	case o.Verb == VerbShelve && !o.Until.After(o.At):
		return fmt.Errorf("order about fault %s: a shelf without an end hides it for ever: say until when", o.Fault)
	case !o.Until.IsZero() && !o.Until.After(o.At):
		return fmt.Errorf("order about fault %s: it ends at %s, before it was given", o.Fault, o.Until.Format(time.RFC3339))
	}
	return nil
}

// Given implements orders.Order.
func (o Order) Given() (string, time.Time) { return o.ID, o.At }

// Input is what the order does.
func (o Order) Input() Input {
	if o.Verb == VerbAbandon {
		return Abandon{Fault: o.Fault, By: o.By, Reason: o.Note}
	}
	if o.Verb == VerbNote {
		return Note{Fault: o.Fault, ID: o.ID, By: o.By, Text: o.Note}
	}
	to := map[Verb]schemas.Attention{
		VerbAcknowledge: schemas.Acknowledged, VerbAssign: schemas.Assigned, VerbShelve: schemas.Shelved, VerbUnsee: schemas.Unseen,
	}[o.Verb]
	return Attend{Fault: o.Fault, To: to, By: o.By, Until: o.Until, Note: o.Note}
}
