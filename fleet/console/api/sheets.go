package api

import (
	"bufio"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/console/view"
)

const mimeCSV = "text/csv; charset=utf-8"

// countsIn selects counts: those of a day, else those from a time to another.
type countsIn struct {
	Day    string    `query:"day" format:"date" doc:"A day of the operator's zone; in place of from and to. Today without any"`
	From   time.Time `query:"from" doc:"From this time on"`
	To     time.Time `query:"to" doc:"Before this time"`
	Route  string    `query:"route" maxLength:"256" doc:"Only this route"`
	Hourly bool      `query:"hourly" doc:"One row an hour instead of one a minute"`
}

func sheetContent() map[string]*huma.MediaType {
	return map[string]*huma.MediaType{"text/csv": {Schema: &huma.Schema{Type: huma.TypeString}}}
}

func (a *API) registerSheets() {
	const inert = " A cell that a spreadsheet would take for a formula has an apostrophe before it; numbers are as they are."
	register(a, op{
		id: "counts_csv", method: http.MethodGet, path: "/counts.csv", tag: "sheets", need: access.Viewer, summary: "Online counts as CSV", content: sheetContent(),
		description: "The columns are those of farebeat counts." + inert,
	}, func(_ call, in *countsIn) (*stream, error) {
		from, to, name, err := a.countsOf(in)
		if err != nil {
			return nil, err
		}
		return a.stream("counts_csv", mimeCSV, name+".csv", sheet(func(ctx context.Context, write func([]string) error) error {
			return a.o.View.WriteCounts(ctx, write, from, to, in.Route, in.Hourly)
		})), nil
	})
	register(a, op{
		id: "faults_csv", method: http.MethodGet, path: "/faults.csv", tag: "sheets", need: access.Viewer, summary: "Faults as CSV", content: sheetContent(), description: strings.TrimSpace(inert),
	}, func(c call, in *FaultFilter) (*stream, error) {
		q := in.query()
		q.Limit = 1
		if _, err := a.o.View.Faults(c, q); err != nil { // what is wrong with the question is said before anything is sent
			return nil, err
		}
		return a.stream("faults_csv", mimeCSV, "faults.csv", sheet(func(ctx context.Context, write func([]string) error) error {
			return a.writeFaults(ctx, write, in.query())
		})), nil
	})
	register(a, op{
		id: "machines_csv", method: http.MethodGet, path: "/machines.csv", tag: "sheets", need: access.Viewer, summary: "Machines as CSV", content: sheetContent(), description: strings.TrimSpace(inert),
	}, func(_ call, in *MachineFilter) (*stream, error) {
		rows, err := a.o.View.AllMachines(in.query(), nil)
		if err != nil {
			return nil, err
		}
		return a.stream("machines_csv", mimeCSV, "machines.csv", sheet(func(_ context.Context, write func([]string) error) error {
			return writeMachines(write, rows)
		})), nil
	})
}

// countsOf is the time that is asked for, and a name for the file.
func (a *API) countsOf(in *countsIn) (from, to time.Time, name string, err error) {
	name = "counts"
	if in.Hourly {
		name = "counts-hourly"
	}
	if in.From.IsZero() && in.To.IsZero() {
		day, err := a.o.View.Day(in.Day)
		return day.From, day.To, name + "-" + day.Date, err
	}
	from, to = in.From, in.To
	if to.IsZero() {
		to = a.o.View.Clock().Add(time.Minute)
	}
	if in.Day != "" || in.From.IsZero() || !to.After(from) {
		return from, to, name, fmt.Errorf("%w: want day, or from and after it to", view.ErrUsage)
	}
	return from, to, name, nil
}

// stamp is a time in a table; empty for none.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

func (a *API) writeFaults(ctx context.Context, write func([]string) error, q view.FaultQuery) error {
	err := write([]string{
		"id", "kind", "severity", "condition", "attention", "attention_by", "subject", "machine", "route", "vehicle", "depot", "opened_at", "closed_at", "parent",
		"maintenance", "outstanding_records", "online", "expected", "threshold", "reason",
	})
	for q.Limit = view.MaxPage; err == nil; {
		var list view.FaultList
		if list, err = a.o.View.Faults(ctx, q); err != nil {
			return err
		}
		for _, f := range list.Faults {
			if err := write(faultCells(f)); err != nil {
				return err
			}
		}
		if q.After = list.Next; q.After == "" {
			return nil
		}
	}
	return err
}

func faultCells(f view.FaultRow) []string {
	route, vehicle, depot := f.Subject.Route, f.Subject.Vehicle, f.Subject.Depot
	online, expected, threshold := "", "", ""
	if m := f.Machine; m != nil {
		route, vehicle, depot = m.Route, m.Vehicle, m.Depot
	}
	if n := f.Route; n != nil {
		online, expected, threshold = strconv.Itoa(n.Online), strconv.Itoa(n.Expected), strconv.Itoa(n.Threshold)
	}
	return []string{
		f.ID, string(f.Kind), string(f.Severity), string(f.Condition), string(f.Attention.State), f.Attention.By, f.Subject.String(), f.Subject.Machine, route,
		vehicle, depot, stamp(f.OpenedAt), stamp(f.ClosedAt), f.Parent, f.Maintenance, strconv.FormatUint(f.Outstanding, 10), online, expected, threshold, f.Reason,
	}
}

func writeMachines(write func([]string) error, rows []view.MachineRow) error {
	err := write([]string{"machine", "vehicle", "route", "depot", "state", "since", "last_heartbeat", "pending", "pending_minor", "currency", "fw", "reason"})
	for i := 0; err == nil && i < len(rows); i++ {
		m := rows[i]
		err = write([]string{
			m.Machine, m.Vehicle, m.Route, m.Depot, string(m.State), stamp(m.Since), stamp(m.LastHeartbeat), strconv.FormatUint(uint64(m.Pending), 10),
			strconv.FormatInt(m.PendingMinor, 10), m.Currency, m.Firmware, m.Reason,
		})
	}
	return err
}

// sheet writes a table as CSV whose cells are harmless.
func sheet(fill func(ctx context.Context, write func([]string) error) error) func(context.Context, io.Writer) error {
	return func(ctx context.Context, w io.Writer) error {
		out := csv.NewWriter(w)
		err := fill(ctx, func(row []string) error {
			safe := make([]string, len(row))
			for i, cell := range row {
				safe[i] = harmless(cell)
			}
			return out.Write(safe)
		})
		out.Flush()
		return errors.Join(err, out.Error())
	}
}

// harmless is a cell that no spreadsheet takes for a formula: one that begins as a formula does and is no number has an apostrophe before it,
// which spreadsheets do not show (OWASP, CSV injection).
func harmless(cell string) string {
	if cell == "" || !strings.ContainsRune("=+-@\t\r\n＝＋－＠", []rune(cell)[0]) || number(cell) {
		return cell
	}
	return "'" + cell
}

// number reports whether a cell is a decimal number.
func number(cell string) bool {
	whole, fraction, point := strings.Cut(strings.TrimLeft(cell[:1], "+-")+cell[1:], ".")
	digits := func(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }
	return digits(whole) && (!point || digits(fraction))
}

// harmlessCSV passes a table on with harmless cells.
func harmlessCSV(w io.Writer, write func(io.Writer) error) error {
	from, to := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := write(to)
		_ = to.CloseWithError(err) // it never fails
		done <- err
	}()
	in := csv.NewReader(from)
	in.FieldsPerRecord = -1
	err := sheet(func(_ context.Context, put func([]string) error) error {
		for {
			row, err := in.Read()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err == nil {
				err = put(row)
			}
			if err != nil {
				return err
			}
		}
	})(context.Background(), w)
	_ = from.CloseWithError(err) // ends the writer where the reader gave up; it never fails
	if cause := <-done; err == nil {
		return cause
	}
	return err
}

// stream is an answer that is written as it is read.
type stream struct {
	Body func(huma.Context)
}

// chunk is how much is gathered before it is sent, in bytes.
const chunk = 64 << 10

// chunkTime is how long a client may take for one chunk.
const chunkTime = time.Minute

// stream sends a file. What fails before the first chunk is a problem like any other; after it the connection is broken, so that nobody takes half a
// file for a whole one.
func (a *API) stream(id, mime, file string, write func(context.Context, io.Writer) error) *stream {
	return &stream{Body: func(ctx huma.Context) {
		r, w := humago.Unwrap(ctx)
		out := &sending{w: w, control: http.NewResponseController(w), mime: mime, file: file}
		buf := bufio.NewWriterSize(out, chunk)
		err := write(r.Context(), buf)
		if err == nil {
			err = buf.Flush()
		}
		switch {
		case err == nil:
			out.begin()
		case !out.begun:
			a.o.Logger.ErrorContext(r.Context(), "an export failed", "operation", id, "error", err)
			writeProblem(w, r, http.StatusInternalServerError, id+": it could not be read"+wayOut(http.StatusInternalServerError))
		default:
			if r.Context().Err() == nil {
				a.o.Logger.ErrorContext(r.Context(), "an export was broken off", "operation", id, "error", err)
			}
			panic(http.ErrAbortHandler)
		}
	}}
}

// sending is a file on its way.
type sending struct {
	w          http.ResponseWriter
	control    *http.ResponseController
	mime, file string
	begun      bool
}

func (s *sending) begin() {
	if s.begun {
		return
	}
	s.begun = true
	h := s.w.Header()
	h.Set("Content-Type", s.mime)
	h.Set("Content-Disposition", `attachment; filename="`+s.file+`"`)
	s.w.WriteHeader(http.StatusOK)
}

// Write implements io.Writer.
func (s *sending) Write(p []byte) (int, error) {
	s.begin()
	// A file may take longer than the server allows for an answer, as long as somebody takes it.
	if err := s.control.SetWriteDeadline(time.Now().Add(chunkTime)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	return s.w.Write(p)
}
