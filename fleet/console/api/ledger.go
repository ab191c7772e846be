package api

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/console/act"
	"github.com/farebeat/farebeat/fleet/console/view"
	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/schemas"
)

// BookFilter are the parameters that select machines and service days.
type BookFilter struct {
	Machine string `query:"machine" maxLength:"256" doc:"Only this machine"`
	From    string `query:"from" format:"date" doc:"Only service days from this one on"`
	To      string `query:"to" format:"date" doc:"Only service days up to this one"`
}

func (f BookFilter) filter() ledger.Filter {
	return ledger.Filter{Machine: f.Machine, From: f.From, To: f.To}
}

type bookIn struct {
	BookFilter
	After string `query:"after" maxLength:"256" doc:"The last machine of the page before"`
	Limit int    `query:"limit" minimum:"1" maximum:"500" doc:"Machines of a page; 50 without it"`
}

func (in bookIn) query() view.HoldingQuery {
	return view.HoldingQuery{Filter: in.filter(), After: in.After, Limit: in.Limit}
}

type conflictsIn struct {
	Machine string `query:"machine" maxLength:"256" doc:"Only of this machine"`
	Kind    string `query:"kind" enum:"conflict,forged,malformed,broken_chain" doc:"Only of this kind"`
	After   int64  `query:"after" minimum:"0" doc:"The last piece of evidence of the page before"`
	Limit   int    `query:"limit" minimum:"1" maximum:"500" doc:"Pieces of a page; 50 without it"`
}

type certificateIn struct {
	Date    string `path:"date" format:"date" doc:"The service day"`
	Machine string `path:"machine" maxLength:"256"`
}

// certificateOut has the bytes that are signed, as they are.
type certificateOut struct {
	ContentType string `header:"Content-Type"`
	Body        []byte
}

type verifyIn struct {
	Body *VerifyRequest
}

type proofOut struct {
	Location string `header:"Location" doc:"Where to look how it goes"`
	Body     act.Proof
}

// VerifyRequest says what is to be proved.
type VerifyRequest struct {
	Machine string `json:"machine,omitempty" maxLength:"256" doc:"Only this machine"`
}

type exportIn struct {
	BookFilter
	Format string `query:"format" enum:"csv,jsonl,tides" required:"true" doc:"csv: the table fare_transactions for spreadsheets; jsonl: every record exactly as the machine made it; tides: a TIDES 1.0 data package as a zip"`
}

func (a *API) registerLedger() {
	register(a, op{id: "ledger_status", method: http.MethodGet, path: "/ledger/status", tag: "ledger", need: access.Viewer, summary: "What the ledger holds, by machine and service day"},
		func(c call, in *bookIn) (*page[view.HoldingList], error) {
			list, err := a.o.View.Holdings(c, in.query())
			return &page[view.HoldingList]{c.next("after", list.Next), list}, err
		})
	register(a, op{id: "ledger_gaps", method: http.MethodGet, path: "/ledger/gaps", tag: "ledger", need: access.Viewer, summary: "Records that must exist and that the ledger lacks"},
		func(c call, in *bookIn) (*page[view.GapList], error) {
			list, err := a.o.View.Gaps(c, in.query())
			return &page[view.GapList]{c.next("after", list.Next), list}, err
		})
	register(a, op{id: "ledger_conflicts", method: http.MethodGet, path: "/ledger/conflicts", tag: "ledger", need: access.Viewer, summary: "What stands in quarantine, both versions, and the way out"},
		func(c call, in *conflictsIn) (*page[view.EvidenceList], error) {
			list, err := a.o.View.Conflicts(c, in.Machine, ledger.Kind(in.Kind), in.After, in.Limit)
			next := ""
			if list.Next > 0 {
				next = strconv.FormatInt(list.Next, 10)
			}
			return &page[view.EvidenceList]{c.next("after", next), list}, err
		})
	register(a, op{id: "ledger_totals", method: http.MethodGet, path: "/ledger/totals", tag: "ledger", need: access.Viewer, summary: "Sums of what the ledger holds"},
		func(c call, in *BookFilter) (*body[ledger.Totals], error) {
			t, err := a.o.View.Totals(c, in.filter())
			return &body[ledger.Totals]{t}, err
		})
	certificate := a.huma.OpenAPI().Components.Schemas.Schema(typeOf[schemas.Certificate](), true, "")
	register(a, op{
		id: "ledger_certificate", method: http.MethodGet, path: "/ledger/certificates/{date}/{machine}", tag: "ledger", need: access.Viewer,
		summary: "The signed certificate of a machine's service day",
		description: "The body is, byte for byte, what is signed: keep it as it is. Revision 0 is one that is not issued; that is done by itself 36 hours " +
			"after a day began.",
		content: map[string]*huma.MediaType{"application/json": {Schema: certificate}},
	}, func(c call, in *certificateIn) (*certificateOut, error) {
		b, err := a.o.View.Certify(c, in.Date, in.Machine)
		return &certificateOut{"application/json", b}, err
	})
	a.registerProofs()
}

// registerProofs makes the operations that read all of it.
func (a *API) registerProofs() {
	register(a, op{
		id: "ledger_verify", method: http.MethodPost, path: "/ledger/verify", tag: "ledger", need: access.Operator, hides: "verify", status: http.StatusAccepted,
		summary:     "Begin to prove every record's MAC and chain anew",
		description: "It reads the whole ledger, one at a time: 409 while another is under way. How far it is, and what it found, is told by GET.",
	}, func(c call, in *verifyIn) (*proofOut, error) {
		machine := ""
		if in.Body != nil {
			machine = in.Body.Machine
		}
		if machine != "" {
			if _, err := a.o.View.Holdings(c, view.HoldingQuery{Filter: ledger.Filter{Machine: machine}}); err != nil {
				return nil, err // a typing error must not look like a good day
			}
		}
		err := a.o.Act.Prove(c, c.who, machine)
		return &proofOut{Prefix + "/ledger/verify", a.o.Act.Proof()}, err
	})
	register(a, op{
		id: "ledger_proof", method: http.MethodGet, path: "/ledger/verify", tag: "ledger", need: access.Viewer, summary: "How far the newest proof of the ledger is, or what it found",
		description: "It is over once ended is there. found.problems is 0 where all is well.",
	}, func(call, *struct{}) (*body[act.Proof], error) {
		proof := a.o.Act.Proof()
		if proof.Begun.IsZero() {
			return nil, fmt.Errorf("proof of the ledger: %w: none was begun since the service started: POST begins one", view.ErrNotFound)
		}
		return &body[act.Proof]{proof}, nil
	})
	register(a, op{
		id: "ledger_export", method: http.MethodGet, path: "/ledger/export", tag: "ledger", need: access.Viewer, hides: "export", summary: "The records of the ledger as a file",
		description: "It is noted in the audit log. In csv a cell that a spreadsheet would take for a formula has an apostrophe before it, a MAC that begins with - too: " +
			"what is to be proved is exported as jsonl or tides. A file that could not be written to its end is broken off, not ended.",
		content: map[string]*huma.MediaType{
			"text/csv": {Schema: &huma.Schema{Type: huma.TypeString}}, "application/jsonl": {Schema: &huma.Schema{Type: huma.TypeString}},
			"application/zip": {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}},
		},
	}, func(c call, in *exportIn) (*stream, error) {
		if err := a.o.View.CheckFilter(in.filter()); err != nil {
			return nil, err
		}
		if in.Format == "tides" && a.o.TIDES == nil {
			return nil, fmt.Errorf("%w: format tides: this service does not write it: take csv or jsonl, or farebeat ledger export --tides", view.ErrUsage)
		}
		detail := fmt.Sprintf("format %s, machine %q, from %q to %q", in.Format, in.Machine, in.From, in.To)
		if err := a.o.Act.Note(c, c.who, access.Viewer, "export", "ledger", detail); err != nil {
			return nil, err
		}
		return a.exportLedger(in), nil
	})
}

func (a *API) exportLedger(in *exportIn) *stream {
	name := "fare_transactions"
	for _, part := range []string{in.From, in.To} {
		if _, err := time.Parse(time.DateOnly, part); err == nil {
			name += "-" + part
		}
	}
	switch in.Format {
	case "tides":
		return a.stream("ledger_export", "application/zip", name+".zip", func(ctx context.Context, w io.Writer) error {
			return a.o.TIDES(ctx, w, in.filter())
		})
	case "jsonl":
		return a.stream("ledger_export", "application/jsonl", name+".jsonl", func(ctx context.Context, w io.Writer) error {
			return a.o.View.Export(ctx, w, ledger.JSONLines, in.filter())
		})
	}
	return a.stream("ledger_export", mimeCSV, name+".csv", func(ctx context.Context, w io.Writer) error {
		return harmlessCSV(w, func(raw io.Writer) error { return a.o.View.Export(ctx, raw, ledger.CSV, in.filter()) })
	})
}
