package rules

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"time"

	"github.com/farebeat/farebeat/fleet/faults"
)

// States is all that the rules remember between two evaluations, to be stored after each
// of them, or at least each minute, and to be read at a start.
type States struct {
	Routes map[string]RouteState
	Causes CauseState
}

// Forget takes what the states say of the beginning of breaches for said now, but for the subjects of which stands is true. After a kill a
// state may be older than the faults: what it remembers may be the beginning of a fault that has ended since, which must not be
// taken for that of the next.
func (s *States) Forget(now time.Time, stands func(faults.Subject) bool) {
	for route, st := range s.Routes {
		if !st.Since.IsZero() && !stands(faults.Subject{Route: route}) {
			st.Since = now
			s.Routes[route] = st
		}
	}
	for i := range s.Causes.Outages {
		if o := &s.Causes.Outages[i]; !stands(o.Subject) {
			o.Since = now
		}
	}
}

// statesFile is the stored form. Version grows when an older program would misread it.
type statesFile struct {
	Version int                   `json:"version"`
	Routes  map[string]RouteState `json:"routes"`
	Causes  CauseState            `json:"causes"`
}

const statesVersion = 1

// MarshalJSON implements json.Marshaler. States that say nothing are left out.
func (s States) MarshalJSON() ([]byte, error) {
	kept := make(map[string]RouteState, len(s.Routes))
	for route, st := range maps.All(s.Routes) {
		if !st.Idle() {
			kept[route] = st
		}
	}
	return json.Marshal(statesFile{statesVersion, kept, s.Causes})
}

// UnmarshalJSON implements json.Unmarshaler. It refuses what this program would misread; the
// caller may then begin with the zero States, and loses the windows of running `for`s.
func (s *States) UnmarshalJSON(b []byte) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	var f statesFile
	if err := dec.Decode(&f); err != nil {
		return fmt.Errorf("read rule states: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("read rule states: bytes after the end")
	}
	if f.Version != statesVersion {
		return fmt.Errorf("read rule states: version %d is not %d; they were written by another version of the program", f.Version, statesVersion)
	}
	for route, st := range f.Routes {
		if err := st.check(); err != nil {
			return fmt.Errorf("read rule states: route %q: %w", route, err)
		}
	}
	s.Routes, s.Causes = f.Routes, f.Causes
	if s.Routes == nil {
		s.Routes = map[string]RouteState{}
	}
	return nil
}

func (st *RouteState) check() error {
	if len(st.Peaks) > quarters+1 {
		return fmt.Errorf("%d quarters of an hour are more than %d", len(st.Peaks), quarters+1)
	}
	for _, n := range append([]int{st.Best, st.Expected, st.Before, st.Leaving, st.Left, st.LeftOnce, st.Threshold}, st.Peaks...) {
		if n < 0 {
			return fmt.Errorf("the number %d is negative", n)
		}
	}
	return nil
}
