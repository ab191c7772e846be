package series

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	influxhttp "github.com/influxdata/influxdb-client-go/v2/api/http"

	"github.com/farebeat/farebeat/fleet/counts"
)

// Reader reads counts back from an InfluxDB, in InfluxQL: 1.8 and 3.x know it, 2.x where the bucket is mapped to a database
// (https://docs.influxdata.com/influxdb/v2/query-data/influxql/dbrp/).
type Reader struct {
	service influxhttp.Service
	base    string
	db, rp  string
}

// NewReader makes a reader. Close gives its connections free.
func NewReader(c Config) (r *Reader, closeReader func()) {
	s := newSink(c, Options{Now: time.Now})
	db, rp, _ := strings.Cut(c.Bucket, "/")
	return &Reader{service: s.client.HTTPService(), base: strings.TrimSuffix(c.URL, "/"), db: db, rp: rp}, s.close
}

// chunk is how much time one query asks for.
const chunk = time.Hour

// Frames calls each for the minutes with from <= At < to that InfluxDB has, oldest first, rows by route, until each returns an
// error, which is returned.
func (r *Reader) Frames(ctx context.Context, from, to time.Time, each func(counts.Frame) error) error {
	for at := from.Truncate(chunk); at.Before(to); at = at.Add(chunk) {
		frames := map[int64]*counts.Frame{}
		err := r.query(ctx, `SELECT n, known, expected, threshold, "min", "max", blind FROM online`, later(at, from), earlier(at.Add(chunk), to), func(route string, v []float64) {
			second := int64(v[0])
			f := frames[second]
			if f == nil {
				f = &counts.Frame{At: time.Unix(second, 0).UTC()}
				frames[second] = f
			}
			f.Blind = f.Blind || v[7] > 0
			f.Rows = append(f.Rows, counts.RouteMinute{
				Route: route, Online: int(v[1]), Known: int(v[2]), Expected: int(v[3]), Threshold: int(v[4]), Min: int(v[5]), Max: int(v[6]),
			})
		})
		if err != nil {
			return err
		}
		list := make([]*counts.Frame, 0, len(frames))
		for _, f := range frames {
			slices.SortFunc(f.Rows, func(a, b counts.RouteMinute) int { return strings.Compare(a.Route, b.Route) })
			list = append(list, f)
		}
		slices.SortFunc(list, func(a, b *counts.Frame) int { return a.At.Compare(b.At) })
		for _, f := range list {
			if err := each(*f); err != nil {
				return err
			}
		}
	}
	return nil
}

// Hours gives the hours with from <= Start < to. InfluxDB is not told how much of an hour was heard: all of it is taken for heard.
func (r *Reader) Hours(ctx context.Context, from, to time.Time) ([]counts.HourRow, error) {
	var rows []counts.HourRow
	err := r.query(ctx, `SELECT c, "min", p10, p50, p90, "max", mean FROM online_1h`, from, to, func(route string, v []float64) {
		rows = append(rows, counts.HourRow{
			Start: time.Unix(int64(v[0]), 0).UTC(), Length: time.Hour, Heard: time.Hour, Route: route, Distinct: int(v[1]), Lowest: int(v[2]),
			P10: int(v[3]), P50: int(v[4]), P90: int(v[5]), Peak: int(v[6]), Online: time.Duration(v[7] * float64(time.Hour)),
		})
	})
	return rows, err
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// answer is what /query returns.
type answer struct {
	Error   string `json:"error"`
	Results []struct {
		Error  string `json:"error"`
		Series []struct {
			Tags    map[string]string `json:"tags"`
			Columns []string          `json:"columns"`
			Values  [][]*float64      `json:"values"`
		} `json:"series"`
	} `json:"results"`
}

// maxAnswer bounds one answer, in bytes.
const maxAnswer = 1 << 30

// query asks for a time and calls each for every point: the time in seconds and the columns as they were selected, 0 where one is missing.
func (r *Reader) query(ctx context.Context, q string, from, to time.Time, each func(route string, v []float64)) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("read counts from InfluxDB %s: %w", r.base, err)
		}
	}()
	q = fmt.Sprintf("%s WHERE time >= %ds AND time < %ds GROUP BY route", q, from.Unix(), to.Unix())
	values := url.Values{"db": {r.db}, "q": {q}, "epoch": {"s"}}
	if r.rp != "" {
		values.Set("rp", r.rp)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.base+"/query?"+values.Encode(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	if a := r.service.Authorization(); a != "" {
		req.Header.Set("Authorization", a)
	}
	resp, failure := r.service.DoHTTPRequestWithResponse(req, nil)
	if failure != nil {
		return errors.New(oneLine(failure.Error()))
	}
	defer resp.Body.Close()
	var a answer
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&a); err != nil {
		return fmt.Errorf("its answer %s is not what /query gives: %w", strconv.Quote(resp.Status), err)
	}
	return a.each(each)
}

func (a *answer) each(each func(route string, v []float64)) error {
	if a.Error != "" {
		return errors.New(oneLine(a.Error))
	}
	for _, result := range a.Results {
		if result.Error != "" {
			return errors.New(oneLine(result.Error))
		}
		for _, s := range result.Series {
			for _, row := range s.Values {
				if len(row) != len(s.Columns) || len(row) != columns {
					return fmt.Errorf("a row of %d columns, want %d", len(row), columns)
				}
				v := make([]float64, len(row))
				for i, x := range row {
					if x != nil {
						v[i] = *x
					}
				}
				each(s.Tags["route"], v)
			}
		}
	}
	return nil
}

// columns is the time and what both queries select.
const columns = 8

// Saver is where Rebuild puts what is missing; *store.Counts is one.
type Saver interface {
	Frames(ctx context.Context, from, to time.Time, each func(counts.Frame) error) error
	Hours(ctx context.Context, from, to time.Time, route string) ([]counts.HourRow, error)
	SaveFrame(ctx context.Context, f counts.Frame) error
	SaveHours(ctx context.Context, rows []counts.HourRow) error
}

// Rebuilt is what Rebuild added.
type Rebuilt struct{ Minutes, Hours int }

// Rebuild reads the minutes and hours with from <= At < to back into a store that lacks them. What the store has stays as it is. done is told of each
// hour that was looked at; it may be nil.
func Rebuild(ctx context.Context, r *Reader, into Saver, from, to time.Time, done func(at time.Time)) (out Rebuilt, err error) {
	for at := from.Truncate(chunk); at.Before(to); at = at.Add(chunk) {
		start, end := later(at, from), earlier(at.Add(chunk), to)
		have := map[int64]bool{}
		if err := into.Frames(ctx, start, end, func(f counts.Frame) error { have[f.At.Unix()] = true; return nil }); err != nil {
			return out, err
		}
		err := r.Frames(ctx, start, end, func(f counts.Frame) error {
			if have[f.At.Unix()] {
				return nil
			}
			out.Minutes++
			return into.SaveFrame(ctx, f)
		})
		if err != nil {
			return out, err
		}
		n, err := rebuildHours(ctx, r, into, start, end)
		out.Hours += n
		if err != nil {
			return out, err
		}
		if done != nil {
			done(at)
		}
	}
	return out, nil
}

func rebuildHours(ctx context.Context, r *Reader, into Saver, from, to time.Time) (int, error) {
	type key struct {
		start int64
		route string
	}
	have := map[key]bool{}
	old, err := into.Hours(ctx, from, to, "")
	if err != nil {
		return 0, err
	}
	for _, row := range old {
		have[key{row.Start.Unix(), row.Route}] = true
	}
	rows, err := r.Hours(ctx, from, to)
	if err != nil {
		return 0, err
	}
	rows = slices.DeleteFunc(rows, func(row counts.HourRow) bool { return have[key{row.Start.Unix(), row.Route}] })
	if len(rows) == 0 {
		return 0, nil
	}
	return len(rows), into.SaveHours(ctx, rows)
}
