package series

import (
	"context"
	"errors"

	"github.com/farebeat/farebeat/fleet/store"
)

// answerError is an answer that keeps a sink from going on.
type answerError struct{ Answer }

func (e *answerError) Error() string { return e.Message }

// parcel is what became of lines that were shipped.
type parcel struct {
	shipped, dropped int
	asides           []store.Aside // lines that are refused for what they are
}

func (p *parcel) add(o parcel) {
	p.shipped += o.shipped
	p.dropped += o.dropped
	p.asides = append(p.asides, o.asides...)
}

// ship sends lines, and returns no error once each of them was taken, or never will be.
func (s *Sink) ship(ctx context.Context, lines []string) (p parcel, err error) {
	for len(lines) > 0 {
		next := lines[:min(len(lines), maxLines)]
		one, err := s.send(ctx, next, false)
		if err != nil {
			return p, err
		}
		p.add(one)
		lines = lines[len(next):]
	}
	return p, nil
}

// send sends one request, and where it is refused for a line of it, smaller ones. mixed: some of these lines, or of those around them, were taken.
func (s *Sink) send(ctx context.Context, lines []string, mixed bool) (parcel, error) {
	a := Classify(s.write.WriteRecord(ctx, lines...))
	switch a.Action {
	case Advance:
		return parcel{shipped: len(lines)}, nil
	case Partial:
		return s.partly(lines, a)
	case Smaller:
		if len(lines) == 1 {
			a.Action = Refused // no line is too large; whoever says so takes nothing at all
			return parcel{}, &answerError{a}
		}
		return s.halves(ctx, lines, mixed)
	case Split:
		switch {
		case !mixed:
			if err := s.takesAny(ctx, lines, a); err != nil {
				return parcel{}, err
			}
		case len(lines) == 1:
			s.o.Logger.Error("a line that InfluxDB refuses is set aside", "line", lines[0], "it says", a.Message)
			return parcel{asides: []store.Aside{{Sink: s.config.Name, At: s.o.Now(), Line: lines[0], Reason: a.Message}}}, nil
		}
		return s.halves(ctx, lines, true)
	}
	return parcel{}, &answerError{a}
}

func (s *Sink) halves(ctx context.Context, lines []string, mixed bool) (parcel, error) {
	half := len(lines) / 2
	p, err := s.send(ctx, lines[:half], mixed)
	if err != nil {
		return p, err
	}
	rest, err := s.send(ctx, lines[half:], mixed)
	p.add(rest)
	return p, err
}

// takesAny reports an error where no line is taken, by the newest, the oldest and one between: then it is not the lines that are wrong, but what
// answers is no InfluxDB, or one whose measurement has other types. Nothing is set aside for that; it waits, and more lines come.
func (s *Sink) takesAny(ctx context.Context, lines []string, refusal Answer) error {
	for _, i := range []int{len(lines) - 1, 0, len(lines) / 2} {
		a := Classify(s.write.WriteRecord(ctx, lines[i]))
		switch a.Action {
		case Advance:
			return nil
		case Split, Partial:
		default:
			return &answerError{a}
		}
	}
	refusal.Action = Refused
	refusal.Message = oneLine("it takes no line at all: " + refusal.Message)
	return &answerError{refusal}
}

// partly is what became of lines of which some were left out. All of them are only where they are older than what is kept there.
func (s *Sink) partly(lines []string, a Answer) (parcel, error) {
	dropped := min(max(a.Dropped, 0), len(lines))
	if dropped == len(lines) && !a.TooOld {
		a.Action = Refused
		return parcel{}, &answerError{a}
	}
	s.o.Logger.Warn("InfluxDB left out points of a batch", "points", a.Dropped, "of", len(lines), "it says", a.Message)
	return parcel{shipped: len(lines) - dropped, dropped: dropped}, nil
}

// take notes what became of lines: those that are refused are kept.
func (s *Sink) take(ctx context.Context, p parcel) error {
	if len(p.asides) > 0 {
		if err := s.o.Counts.SetAside(ctx, p.asides...); err != nil {
			return errors.Join(errors.New("lines that InfluxDB refuses could not be set aside"), err)
		}
	}
	s.cursor.Dropped += uint64(p.dropped)
	s.cursor.Aside += uint64(len(p.asides))
	s.count(p)
	return nil
}

func (s *Sink) count(p parcel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.Shipped += uint64(p.shipped)
	s.status.Dropped += uint64(p.dropped)
	s.status.Aside += uint64(len(p.asides))
}
