package counts

import (
	"context"
	"strconv"
	"time"
)

// MinuteColumns are the columns of WriteMinutes.
func MinuteColumns() []string {
	return []string{"time", "route_id", "online", "min", "max", "known", "expected", "threshold", "blind"}
}

// HourColumns are the columns of WriteHours.
func HourColumns() []string {
	return []string{"date", "route_id", "hour", "distinct", "peak", "mean"}
}

// WriteMinutes gives a table of what a store has of from <= At < to, for the route or for all where it is "": the columns, then a row a
// route and minute. It ends with the first error of write.
func WriteMinutes(ctx context.Context, s Store, write func(row []string) error, from, to time.Time, route string) error {
	if err := write(MinuteColumns()); err != nil {
		return err
	}
	return s.Frames(ctx, from, to, func(f Frame) error {
		at := f.At.UTC().Format(time.RFC3339)
		for _, r := range f.Rows {
			if route != "" && r.Route != route {
				continue
			}
			row := []string{at, r.Route}
			for _, n := range []int{r.Online, r.Min, r.Max, r.Known, r.Expected, r.Threshold} {
				row = append(row, strconv.Itoa(n))
			}
			if err := write(append(row, strconv.FormatBool(f.Blind))); err != nil {
				return err
			}
		}
		return nil
	})
}

// WriteHours is WriteMinutes with a row a route and hour of the local clock.
func WriteHours(ctx context.Context, s Store, write func(row []string) error, from, to time.Time, route string, loc *time.Location) error {
	rows, err := s.Hours(ctx, from, to, route)
	if err != nil {
		return err
	}
	if err := write(HourColumns()); err != nil {
		return err
	}
	for _, r := range rows {
		date, hour := r.Local(loc)
		row := []string{date, r.Route, strconv.Itoa(hour), strconv.Itoa(r.Distinct), strconv.Itoa(r.Peak), strconv.FormatFloat(r.Mean(), 'f', 2, 64)}
		if err := write(row); err != nil {
			return err
		}
	}
	return nil
}
