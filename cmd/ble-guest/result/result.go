// Package result is what the guest says on its console and the host reads: one JSON object a line behind a mark, between
// whatever the kernel prints.
package result

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// mark begins a line of the guest's own. The kernel may have printed something before it on the same line.
const mark = "ble-guest:"

// ErrOther says that a line is not one of the guest's.
var ErrOther = errors.New("not a line of the guest")

// Line is one message. One of its fields is set.
type Line struct {
	Boot     *Boot     `json:"boot,omitempty"`
	Note     string    `json:"note,omitempty"`
	Scenario *Scenario `json:"scenario,omitempty"`
	End      *End      `json:"end,omitempty"`
}

// Boot is the first message.
type Boot struct {
	Kernel  string  `json:"kernel"`
	Seconds float64 `json:"seconds"` // since the kernel began
}

// End is the last message.
type End struct {
	Failed  string  `json:"failed,omitempty"` // why the guest could not work at all
	Verify  string  `json:"verify,omitempty"` // what farebeat ledger verify says of all records
	Seconds float64 `json:"seconds"`          // since the kernel began
}

// Scenario is what became of the machines of one scenario.
type Scenario struct {
	Number   int      `json:"number"` // from 1, in the order in which they are listed
	Name     string   `json:"name"`
	About    string   `json:"about"`
	Findings []string `json:"findings,omitempty"` // what is wrong; none: it passed

	Records  int     `json:"records"`   // that the machines stored
	Bytes    float64 `json:"bytes"`     // of a record, on average, as the machine made it
	Lost     int     `json:"lost"`      // stored and not in the ledger
	Twice    int     `json:"twice"`     // in the ledger more than once
	Altered  int     `json:"altered"`   // in the ledger with other bytes
	Invented int     `json:"invented"`  // in the ledger and never stored
	Seconds  float64 `json:"seconds"`   // from the fault to the ledger's receipt for the last record
	Reading  float64 `json:"reading_s"` // from the first contact to the last record in the outbox
	OnAir    float64 `json:"on_air"`    // bytes of ACL data a record, both ways

	Dials     int    `json:"dials"`      // requests to connect
	LinksLost uint64 `json:"links_lost"` // by faults
	Workers   int    `json:"workers"`    // processes that served the radio, one after the other

	Agent  Usage `json:"agent"`
	Worker Usage `json:"worker"` // of all of them: the highest peak, the last size, the sum of the time

	Notes string `json:"notes,omitempty"`
}

// Passed reports whether nothing is wrong.
func (s *Scenario) Passed() bool { return len(s.Findings) == 0 }

// Usage is what a process took.
type Usage struct {
	PeakKiB     int     `json:"peak_kib"`     // VmHWM
	ResidentKiB int     `json:"resident_kib"` // VmRSS
	CPUSeconds  float64 `json:"cpu_s"`
}

// Write prints a line.
func Write(w io.Writer, l Line) error {
	b, err := json.Marshal(l)
	if err == nil {
		_, err = fmt.Fprintf(w, "%s %s\n", mark, b)
	}
	if err != nil {
		return fmt.Errorf("print a message: %w", err)
	}
	return nil
}

// Parse reads a line of the console. What is not a message is ErrOther.
func Parse(text string) (Line, error) {
	_, body, ok := strings.Cut(text, mark)
	if !ok {
		return Line{}, ErrOther
	}
	var l Line
	d := json.NewDecoder(strings.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&l); err != nil {
		return Line{}, fmt.Errorf("a message of the guest that cannot be read: %w: %q", err, strings.TrimSpace(body))
	}
	return l, nil
}
