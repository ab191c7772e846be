package expect

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/farebeat/farebeat/fleet/expect/gtfs"
)

// Table is a Source of numbers per route and hour, of one date or of every day. It is
// immutable after it was made.
type Table struct {
	source   string
	location *time.Location
	complete bool
	numbers  map[tableKey]int
	routes   map[gtfs.Date][]string // the zero date stands for every day
}

type tableKey struct {
	date  gtfs.Date // zero: every day
	route string
	hour  int
}

// NewByHand makes a table of numbers that a person set. It answers for exactly the
// route-hours that rows name; Date is zero for every day.
func NewByHand(rows []RouteHour, loc *time.Location) *Table {
	return newTable(rows, loc, SourceHand, false)
}

func newTable(rows []RouteHour, loc *time.Location, source string, complete bool) *Table {
	t := &Table{source: source, location: loc, complete: complete, numbers: map[tableKey]int{}, routes: map[gtfs.Date][]string{}}
	for _, r := range rows {
		t.numbers[tableKey{r.Date, r.Route, r.Hour}] = r.Vehicles
		t.routes[r.Date] = append(t.routes[r.Date], r.Route)
	}
	for d := range t.routes {
		slices.Sort(t.routes[d])
		t.routes[d] = slices.Compact(t.routes[d])
	}
	return t
}

// ReadTimetable reads an expectation that was worked out elsewhere from a timetable, as
// CSV with the columns [date,]route_id,hour,expected_vehicles_in_service; others
// are ignored. It answers for every hour of a route that it names on a date: an
// hour without a row expects none. name stands for the file in errors.
func ReadTimetable(name string, r io.Reader, loc *time.Location) (*Table, error) {
	rows, err := readRows(name, r)
	if err != nil {
		return nil, err
	}
	return newTable(rows, loc, SourceTimetable, true), nil
}

func readRows(name string, r io.Reader) ([]RouteHour, error) {
	in := csv.NewReader(r)
	in.ReuseRecord = true
	header, err := in.Read()
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: is empty: want a header with route_id,hour,expected_vehicles_in_service", name)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	column := map[string]int{}
	for i, h := range header {
		column[strings.TrimSpace(strings.TrimPrefix(h, "\ufeff"))] = i
	}
	for _, need := range []string{"route_id", "hour", "expected_vehicles_in_service"} {
		if _, ok := column[need]; !ok {
			return nil, fmt.Errorf("%s line 1: %s is missing from the header", name, need)
		}
	}
	var rows []RouteHour
	for {
		record, err := in.Read()
		if errors.Is(err, io.EOF) {
			return rows, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		row, err := parseRow(record, column)
		if err != nil {
			line, _ := in.FieldPos(0)
			return nil, fmt.Errorf("%s line %d: %w", name, line, err)
		}
		rows = append(rows, row)
	}
}

func parseRow(record []string, column map[string]int) (RouteHour, error) {
	var row RouteHour
	var err error
	if i, ok := column["date"]; ok {
		if row.Date, err = gtfs.ParseDate(record[i]); err != nil {
			return row, err
		}
	}
	if row.Route = strings.Clone(record[column["route_id"]]); row.Route == "" {
		return row, errors.New("route_id is empty")
	}
	hour := record[column["hour"]]
	if row.Hour, err = strconv.Atoi(hour); err != nil || row.Hour < 0 || row.Hour > 23 {
		return row, fmt.Errorf("hour %q: want 0 to 23", hour)
	}
	n := record[column["expected_vehicles_in_service"]]
	if row.Vehicles, err = strconv.Atoi(n); err != nil || row.Vehicles < 0 || row.Vehicles > maxVehicles {
		return row, fmt.Errorf("expected_vehicles_in_service %q: want 0 to %d", n, maxVehicles)
	}
	return row, nil
}

// maxVehicles is beyond any route of any city, and far from overflow.
const maxVehicles = 100_000

func (t *Table) number(route string, at time.Time) (int, bool) {
	local := at.In(t.location)
	for _, date := range []gtfs.Date{gtfs.DateOf(local), {}} {
		if n, ok := t.numbers[tableKey{date, route, local.Hour()}]; ok {
			return n, true
		}
		if _, named := slices.BinarySearch(t.routes[date], route); named && t.complete {
			return 0, true
		}
	}
	return 0, false
}

// Expect implements Source. Lowest is the lower of two hours within DutyChange of the
// change between them.
func (t *Table) Expect(route string, at time.Time) (Expectation, bool) {
	n, ok := t.number(route, at)
	if !ok {
		return Expectation{}, false
	}
	e := Expectation{Expected: n, Now: n, Lowest: n, Source: t.source}
	if t.source == SourceTimetable {
		e.SampleSize = 1
	}
	for _, near := range []time.Time{at.Add(-DutyChange), at.Add(DutyChange)} {
		if m, ok := t.number(route, near); ok {
			e.Lowest = min(e.Lowest, m)
		} else if t.complete {
			e.Lowest = 0
		}
	}
	return e, true
}

// Routes implements Source.
func (t *Table) Routes(at time.Time) []string {
	dated, daily := t.routes[gtfs.DateOf(at.In(t.location))], t.routes[gtfs.Date{}]
	all := append(slices.Clone(dated), daily...)
	slices.Sort(all)
	return slices.Compact(all)
}
