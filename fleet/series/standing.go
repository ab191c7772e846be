package series

import (
	"context"
	"fmt"
	"time"

	"github.com/farebeat/farebeat/fleet/store"
)

// Standing is how far a sink has the counts, by what the store keeps of it, whether or not the service runs.
type Standing struct {
	Sink    string        `json:"sink"`
	At      *time.Time    `json:"at,omitempty"`     // of the newest minute or hour that was shipped; nil for none
	Behind  int64         `json:"behind"`           // changes that wait, about
	Dropped uint64        `json:"dropped"`          // lines that it left out of what it took, ever
	Aside   []store.Aside `json:"aside,omitempty"`  // lines that it refuses for what they are
	Oldest  *time.Time    `json:"oldest,omitempty"` // end of the oldest minute or hour that waits; nil for none
}

// patience is how long something may wait before it is late.
const patience = 15 * time.Minute

// Late reports whether something waits for more than 15 minutes.
func (s Standing) Late(now time.Time) bool { return s.Oldest != nil && now.Sub(*s.Oldest) > patience }

// Standings reads how far sinks are.
func Standings(ctx context.Context, db *store.Store, sinks []string) ([]Standing, error) {
	last, err := db.Counts().LastChange(ctx)
	if err != nil {
		return nil, err
	}
	list := []Standing{}
	for _, name := range sinks {
		value, err := db.Meta(ctx, CursorName(name))
		if err != nil {
			return nil, err
		}
		at, err := ReadCursor(value)
		if err != nil {
			return nil, fmt.Errorf("sink %s: %w", name, err)
		}
		s := Standing{Sink: name, Behind: last - at.N, Dropped: at.Dropped}
		if !at.At.IsZero() {
			s.At = &at.At
		}
		if s.Aside, err = db.Counts().Asides(ctx, name); err != nil {
			return nil, err
		}
		waiting, err := db.Counts().Changes(ctx, at.N, 1)
		if err != nil {
			return nil, err
		}
		if len(waiting) > 0 {
			ended := waiting[0].Ended()
			s.Oldest = &ended
		}
		list = append(list, s)
	}
	return list, nil
}
