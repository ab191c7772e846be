package api_test

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/console/act"
	"github.com/farebeat/farebeat/fleet/console/api"
	"github.com/farebeat/farebeat/fleet/console/audit"
	"github.com/farebeat/farebeat/fleet/console/export"
	"github.com/farebeat/farebeat/fleet/console/view"
	"github.com/farebeat/farebeat/fleet/counts"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/keys"
	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/fleet/ledger/ledgertest"
	"github.com/farebeat/farebeat/schemas"
)

// order sends an order as an operator, and wants its answer.
func order[T any](r *rig, status int, path, body string) T {
	r.t.Helper()
	w := r.do(request{method: http.MethodPost, path: "/api/v1" + path, body: body, token: r.tokens[access.Operator]})
	if w.Code != status {
		r.t.Fatalf("%s: %d, want %d: %s", path, w.Code, status, w.Body)
	}
	return decode[T](r.t, w)
}

func TestWhatIsOrderedAboutAFaultIsDoneAndKept(t *testing.T) {
	r := live(t, options{})
	id := r.fault("m2")
	attention := func() string {
		f := get[view.FaultPage](r, "/api/v1/faults/"+id).Fault.Attention
		until := ""
		if !f.Until.IsZero() {
			until = " until " + f.Until.UTC().Format(time.TimeOnly)
		}
		return string(f.State) + " by " + f.By + until + ": " + f.Note
	}
	for _, c := range []struct{ verb, body, want string }{
		{"acknowledge", "", "acknowledged by otto: "},
		{"assign", `{"note":"on <b>my</b> way"}`, "assigned by otto: on <b>my</b> way"},
		{"shelve", `{"for":"2h","note":"parts"}`, "shelved by otto until " + r.clock().Add(2*time.Hour).Format(time.TimeOnly) + ": parts"},
		{"unsee", "", "unseen by otto: "},
	} {
		got := order[api.Ordered](r, http.StatusOK, "/faults/"+id+"/"+c.verb, c.body)
		if diff := cmp.Diff(api.Ordered{Fault: id, Order: c.verb, State: "done"}, got); diff != "" {
			t.Error(diff)
		}
		if got := attention(); got != c.want {
			t.Errorf("%s: %q, want %q", c.verb, got, c.want)
		}
	}
	order[api.Ordered](r, http.StatusOK, "/faults/"+id+"/note", `{"note":"wet inside"}`)
	order[api.Ordered](r, http.StatusOK, "/faults/"+id+"/abandon", `{"note":"it burnt"}`)
	if f := get[view.FaultPage](r, "/api/v1/faults/"+id).Fault; f.Condition != schemas.Abandoned {
		t.Errorf("it is %s", f.Condition)
	}
	var notes []string
	for _, e := range get[view.DoneList](r, "/api/v1/faults/audit?by=otto").Events {
		notes = append(notes, e.Note)
	}
	if !slices.Contains(notes, "wet inside") || !slices.Contains(notes, "it burnt") {
		t.Errorf("the fault's history has the notes %q", notes)
	}
	list := get[api.AuditList](r, "/api/v1/audit?action=shelve").Entries
	if len(list) != 2 || list[0].Outcome != audit.Done || list[1].Outcome != audit.Asked {
		t.Fatalf("the audit has %+v", list)
	}
	list[0].N, list[0].At = 0, time.Time{}
	want := audit.Entry{
		By: "otto", Role: "operator", Via: access.ViaToken, Action: "shelve", Subject: "fault " + id, Outcome: audit.Done, Remote: "127.0.0.1",
		Detail: "until " + r.clock().Add(2*time.Hour).Format(time.RFC3339) + ": parts",
	}
	if diff := cmp.Diff(want, list[0]); diff != "" {
		t.Error(diff)
	}
}

func TestAReportBecomesAFault(t *testing.T) {
	r := live(t, options{})
	sent := order[api.Reported](r, http.StatusAccepted, "/reports", `{"machine":"m1","text":"the screen is <b>black</b>"}`)
	r.until("the fault", func() bool {
		open, err := r.store.Faults().Open(t.Context())
		must(t, err)
		return slices.ContainsFunc(open, func(f faults.Fault) bool { return f.Subject.Machine == "m1" })
	})
	f := get[view.FaultPage](r, "/api/v1/faults/"+r.fault("m1")).Fault
	if len(f.Reports) != 1 || f.Reports[0].ID != sent.ID || f.Reports[0].By != "otto" || f.Reports[0].Text != "the screen is <b>black</b>" {
		t.Errorf("%+v", f.Reports)
	}
}

func TestACollectionIsFollowedByItsCommand(t *testing.T) {
	r := live(t, options{})
	w := r.do(request{method: http.MethodPost, path: "/api/v1/machines/m2/collect", token: r.tokens[access.Operator]})
	made := decode[act.Command](t, w)
	if made.Vehicle != "bus-m2" || made.State != schemas.CommandWaiting || made.By != "otto" {
		t.Errorf("%+v", made)
	}
	location := w.Header().Get("Location")
	if diff := cmp.Diff(made, get[act.Command](r, location)); diff != "" {
		t.Errorf("%s: %s", location, diff)
	}
	if list := get[api.Commands](r, "/api/v1/commands?machine=m2").Commands; len(list) != 1 || list[0].ID != made.ID {
		t.Errorf("%+v", list)
	}
	r.pass(6*time.Minute, "m1")
	if c := get[act.Command](r, location); c.State != schemas.CommandFailed {
		t.Errorf("nobody answers, and the command is %s", c.State)
	}
}

func TestTicketsAreRevokedAndRestored(t *testing.T) {
	r := live(t, options{})
	admin := func(path, body string) api.TicketOrder {
		t.Helper()
		w := r.do(request{method: http.MethodPost, path: "/api/v1" + path, body: body, token: r.tokens[access.Admin]})
		if w.Code != http.StatusOK {
			t.Fatal(w.Code, w.Body)
		}
		return decode[api.TicketOrder](t, w)
	}
	if o := admin("/tickets/revoke", `{"vehicle":"bus-m2","reason":"stolen"}`); o.By != "anna" || o.State != "done" {
		t.Errorf("%+v", o)
	}
	list := get[view.TicketList](r, "/api/v1/tickets?vehicle=bus-m2")
	if len(list.Revoked) != 1 || list.Revoked[0].Reason != "stolen" || len(list.Tickets) != 0 {
		t.Errorf("%+v", list)
	}
	admin("/tickets/restore", `{"vehicle":"bus-m2"}`)
	if list := get[view.TicketList](r, "/api/v1/tickets?vehicle=bus-m2"); len(list.Revoked) != 0 {
		t.Errorf("%+v", list)
	}
}

func TestTheLedgerIsToldAsItIs(t *testing.T) {
	r := live(t, options{})
	status := get[view.HoldingList](r, "/api/v1/ledger/status?machine=m2").Machines
	if len(status) != 1 || status[0].Records != 6 || status[0].Declared.Epochs[1] != 12 || status[0].Epochs[0].CompleteTo != 3 {
		t.Errorf("%+v", status)
	}
	gaps := get[view.GapList](r, "/api/v1/ledger/gaps?machine=m2")
	var spans [][2]uint32
	for _, g := range gaps.Gaps {
		spans = append(spans, [2]uint32{g.First, g.Last})
	}
	if diff := cmp.Diff([][2]uint32{{4, 5}, {9, 12}}, spans); diff != "" || gaps.Missing != 6 {
		t.Errorf("%d missing: %s", gaps.Missing, diff)
	}
	evidence := get[view.EvidenceList](r, "/api/v1/ledger/conflicts").Evidence
	if len(evidence) != 1 || evidence[0].Kind != ledger.Forged || !strings.Contains(evidence[0].Record, `"seq":4`) || evidence[0].Do == "" {
		t.Errorf("%+v", evidence)
	}
	totals := get[ledger.Totals](r, "/api/v1/ledger/totals?from=2018-06-12")
	if diff := cmp.Diff(ledger.Totals{Machines: 2, Records: 18, Money: []ledger.Money{{Currency: "USD", Minor: 18 * 225}}, Quarantined: map[ledger.Kind]int{ledger.Forged: 1}}, totals); diff != "" {
		t.Error(diff)
	}
	w := r.do(request{path: "/api/v1/ledger/certificates/2018-06-12/m2", token: r.tokens[access.Viewer]})
	public, err := ledgertest.Keys(t).(keys.Signer).Public(t.Context())
	must(t, err)
	cert, err := schemas.OpenCertificate(public, w.Body.Bytes()) // the bytes are those that were signed
	if err != nil || cert.Machine != "m2" || cert.Complete || cert.Received != 6 {
		t.Errorf("%v: %+v", err, cert)
	}
	order[act.Proof](r, http.StatusAccepted, "/ledger/verify", "")
	var proof act.Proof
	r.until("the proof", func() bool {
		r.tokens[access.Admin] = r.token("anna", access.Admin)
		proof = get[act.Proof](r, "/api/v1/ledger/verify")
		return !proof.Ended.IsZero()
	})
	if proof.Found == nil || proof.Found.Records != 18 || !proof.Found.OK() || proof.By != "otto" {
		t.Errorf("%+v", proof)
	}
}

func TestTheLedgerIsExportedExactlyAndTheExportIsNoted(t *testing.T) {
	var r *rig
	r = live(t, options{tides: func(ctx context.Context, w io.Writer, f ledger.Filter) error {
		_, err := export.WriteTIDES(ctx, w, "tampa", t.TempDir(), r.fleet.Ledger(), f)
		return err
	}})
	fetch := func(query string) *httptest.ResponseRecorder {
		t.Helper()
		w := r.do(request{path: "/api/v1/ledger/export?" + query, token: r.tokens[access.Viewer]})
		if w.Code != http.StatusOK || !strings.HasPrefix(w.Header().Get("Content-Disposition"), "attachment; filename=") {
			t.Fatal(w.Code, w.Header(), w.Body)
		}
		return w
	}
	var want bytes.Buffer
	_, err := r.fleet.Ledger().Export(t.Context(), &want, ledger.JSONLines, ledger.Filter{Machine: "m2"})
	must(t, err)
	if diff := cmp.Diff(want.String(), fetch("format=jsonl&machine=m2").Body.String()); diff != "" {
		t.Error(diff)
	}
	rows, err := csv.NewReader(fetch("format=csv&from=2018-06-12&to=2018-06-12").Body).ReadAll()
	if err != nil || len(rows) != 19 || !slices.Equal(rows[0], ledger.FareColumns()) {
		t.Errorf("%v: %d rows", err, len(rows))
	}
	w := fetch("format=tides")
	z, err := zip.NewReader(bytes.NewReader(w.Body.Bytes()), int64(w.Body.Len()))
	if err != nil || len(z.File) != 3 {
		t.Errorf("%v: %+v", err, z)
	}
	list := get[api.AuditList](r, "/api/v1/audit?action=export&limit=1").Entries
	if len(list) != 1 || list[0].By != "vera" || !strings.Contains(list[0].Detail, "tides") {
		t.Errorf("%+v", list)
	}
}

// A file that cannot be written to its end must not look like a whole one.
func TestAnExportThatFailsIsNoShortFile(t *testing.T) {
	length := 0
	r := live(t, options{tides: func(_ context.Context, w io.Writer, _ ledger.Filter) error {
		_, err := w.Write(make([]byte, length))
		return errors.Join(err, errors.New("the disk is gone"))
	}})
	server := httptest.NewServer(r.console)
	defer server.Close()
	for _, c := range []struct {
		length int
		whole  bool
	}{{1000, true}, {1 << 20, false}} {
		length = c.length
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/api/v1/ledger/export?format=tides", nil)
		must(t, err)
		req.Header.Set("Authorization", "Bearer "+r.tokens[access.Viewer])
		res, err := server.Client().Do(req)
		must(t, err)
		got, err := io.ReadAll(res.Body)
		res.Body.Close()
		if c.whole && (err != nil || res.StatusCode != http.StatusInternalServerError || strings.Contains(string(got), "disk")) {
			t.Errorf("it failed before anything was sent: %d %v %s", res.StatusCode, err, got)
		}
		if !c.whole && (err == nil || res.StatusCode != http.StatusOK) {
			t.Errorf("it failed on the way: %d, %d bytes, and no error", res.StatusCode, len(got))
		}
	}
}

func TestSheetsAreWholeAndHarmless(t *testing.T) {
	r := live(t, options{})
	sheet := func(path string) [][]string {
		t.Helper()
		w := r.do(request{path: "/api/v1" + path, token: r.tokens[access.Viewer]})
		if w.Header().Get("Content-Type") != "text/csv; charset=utf-8" || !strings.HasPrefix(w.Header().Get("Content-Disposition"), `attachment; filename="`) {
			t.Fatalf("%s: %d %v %s", path, w.Code, w.Header(), w.Body)
		}
		rows, err := csv.NewReader(w.Body).ReadAll()
		must(t, err)
		for _, row := range rows {
			for _, cell := range row {
				if strings.HasPrefix(cell, "=") {
					t.Errorf("%s: the cell %q is a formula", path, cell)
				}
			}
		}
		return rows
	}
	var want [][]string
	keep := func(row []string) error { want = append(want, row); return nil }
	must(t, counts.WriteMinutes(t.Context(), r.store.Counts(), keep, r.clock().Truncate(24*time.Hour), r.clock(), "A"))
	if diff := cmp.Diff(want, sheet("/counts.csv?route=A")); diff != "" || len(want) < 4 {
		t.Errorf("%d rows of A: %s", len(want), diff)
	}
	named := func(rows [][]string, column int) (n int) {
		for _, row := range rows {
			if row[column] == "'"+evil {
				n++
			}
		}
		return n
	}
	if n := named(sheet("/counts.csv?from=2026-11-23T00:00:00Z"), 1); n < 4 {
		t.Errorf("%d rows of the evil route", n)
	}
	if rows := sheet("/machines.csv"); len(rows) != 4 || named(rows, 0) != 1 {
		t.Errorf("%q", rows)
	}
	rows := sheet("/faults.csv?show=all_open")
	if len(rows) != len(r.faults())+1 || named(rows, 7) != 1 {
		t.Errorf("%q", rows)
	}
	if hours := sheet("/counts.csv?hourly=true"); !slices.Equal(hours[0], counts.HourColumns()) {
		t.Errorf("%q", hours)
	}
}

func TestPagesLeadThroughTheWholeList(t *testing.T) {
	r := live(t, options{})
	link := regexp.MustCompile(`^<(/api/v1/[^>]*)>; rel="next"$`)
	walk := func(path string, take func(*httptest.ResponseRecorder) []string) []string {
		t.Helper()
		var all []string
		for path != "" {
			w := r.do(request{path: path, token: r.tokens[access.Admin]})
			if w.Code != http.StatusOK {
				t.Fatalf("%s: %d %s", path, w.Code, w.Body)
			}
			next := link.FindStringSubmatch(w.Header().Get("Link"))
			all = append(all, take(w)...)
			if path = ""; next != nil {
				path = next[1]
			}
		}
		return all
	}
	machines := walk("/api/v1/machines?order=name&limit=1", func(w *httptest.ResponseRecorder) (out []string) {
		for _, m := range decode[view.MachineList](t, w).Machines {
			out = append(out, m.Machine)
		}
		return out
	})
	held := walk("/api/v1/ledger/status?limit=1", func(w *httptest.ResponseRecorder) (out []string) {
		for _, m := range decode[view.HoldingList](t, w).Machines {
			out = append(out, m.Machine)
		}
		return out
	})
	gaps := walk("/api/v1/ledger/gaps?limit=1", func(w *httptest.ResponseRecorder) (out []string) {
		for _, g := range decode[view.GapList](t, w).Gaps {
			out = append(out, g.Machine)
		}
		return slices.Compact(out)
	})
	found := walk("/api/v1/faults?show=all&limit=1", func(w *httptest.ResponseRecorder) (out []string) {
		for _, f := range decode[view.FaultList](t, w).Faults {
			out = append(out, f.ID)
		}
		return out
	})
	for name, c := range map[string]struct{ got, want []string }{
		"machines": {machines, []string{evil, "m1", "m2"}}, "what the ledger holds": {held, []string{evil, "m1", "m2"}}, "gaps": {gaps, []string{evil, "m2"}},
	} {
		if diff := cmp.Diff(c.want, c.got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	if all := r.faults(); len(found) < len(all) || len(slices.Compact(slices.Sorted(slices.Values(found)))) != len(found) {
		t.Errorf("%d faults by pages, %d stand: %q", len(found), len(all), found)
	}
	numbers := walk("/api/v1/audit?limit=2", func(w *httptest.ResponseRecorder) (out []string) {
		for _, e := range decode[api.AuditList](t, w).Entries {
			out = append(out, e.Subject)
		}
		return out
	})
	if list, err := r.store.AuditLog().List(t.Context(), audit.Query{}); err != nil || len(list) != len(numbers) || len(list) < 5 {
		t.Errorf("%d entries by pages, %d there: %v", len(numbers), len(list), err)
	}
}

func TestASessionServesItsOwnPagesOnly(t *testing.T) {
	r := live(t, options{})
	_, cookie := r.signIn("otto")
	path := "/api/v1/faults/" + r.fault("m2") + "/acknowledge"
	for name, c := range map[string]struct {
		header http.Header
		cookie *http.Cookie
		token  string
		want   int
	}{
		"a page of ours":             {http.Header{"Sec-Fetch-Site": {"same-origin"}}, cookie, "", 200},
		"another site's page":        {http.Header{"Sec-Fetch-Site": {"cross-site"}}, cookie, "", 403},
		"another site's, old":        {http.Header{"Origin": {"https://evil.example"}}, cookie, "", 403},
		"a program":                  {nil, nil, r.tokens[access.Operator], 200},
		"a token beside a cookie":    {nil, cookie, r.tokens[access.Viewer], 403},
		"a wrong token and a cookie": {nil, cookie, "fbt_x", 401},
	} {
		w := r.do(request{method: http.MethodPost, path: path, header: c.header, cookie: c.cookie, token: c.token})
		if w.Code != c.want || c.want >= 400 && w.Header().Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %d, want %d: %s", name, w.Code, c.want, w.Body)
		}
		if w.Header().Get("Cache-Control") != "no-store" || w.Header().Get("X-Content-Type-Options") != "nosniff" || w.Header().Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: %v", name, w.Header())
		}
	}
}

func TestTokensAreMadeUsedAndEnded(t *testing.T) {
	r := live(t, options{})
	_, cookie := r.signIn("otto")
	w := r.do(request{method: http.MethodPost, path: "/api/v1/tokens", cookie: cookie, body: `{"label":"a <b>script</b>","role":"operator","expires_at":"2026-11-24T00:00:00Z"}`})
	made := decode[api.MadeToken](t, w)
	if w.Code != http.StatusCreated || !strings.HasPrefix(made.Secret, "fbt_") || strings.Contains(w.Body.String(), "<b>") {
		t.Fatal(w.Code, w.Body)
	}
	if w := r.do(request{path: "/api/v1/tokens", token: made.Secret}); strings.Contains(w.Body.String(), made.Secret) || !strings.Contains(w.Body.String(), made.Token.ID) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	end := request{method: http.MethodDelete, path: "/api/v1/tokens/" + made.Token.ID, token: r.tokens[access.Viewer]}
	if w := r.do(end); w.Code != http.StatusNotFound {
		t.Errorf("somebody else ends it: %d %s", w.Code, w.Body)
	}
	end.token = r.tokens[access.Admin]
	if w := r.do(end); w.Code != http.StatusNoContent || w.Body.Len() != 0 {
		t.Errorf("an admin ends it: %d %s", w.Code, w.Body)
	}
	if w := r.do(request{path: "/api/v1/now", token: made.Secret}); w.Code != http.StatusUnauthorized {
		t.Errorf("it lets in after its end: %d", w.Code)
	}
	if w := r.do(request{method: http.MethodPost, path: "/api/v1/tokens", cookie: cookie, body: `{"label":"x","role":"admin","expires_at":"2026-11-24T00:00:00Z"}`}); w.Code != http.StatusForbidden {
		t.Errorf("an operator makes a token of an admin: %d %s", w.Code, w.Body)
	}
}

func TestAnOpenConsoleAnswersOnThisComputerOnly(t *testing.T) {
	r := live(t, options{open: &access.Identity{Name: "anyone", Role: access.Viewer, Via: access.ViaOpen}})
	for host, want := range map[string]int{"localhost:8080": 200, "127.0.0.1": 200, "farebeat.evil.example": 421} {
		req := httptest.NewRequest(http.MethodGet, "/api/v1/now", nil)
		req.Host = host
		w := httptest.NewRecorder()
		r.console.ServeHTTP(w, req)
		if w.Code != want {
			t.Errorf("%s: %d, want %d: %s", host, w.Code, want, w.Body)
		}
	}
}

func TestWhoCallsTooOftenWaits(t *testing.T) {
	noon := time.Unix(0, 0)
	r := live(t, options{wall: func() time.Time { return noon }})
	token := r.token("vera", access.Viewer)
	var last *httptest.ResponseRecorder
	for range 101 {
		last = r.do(request{path: "/api/v1/tokens", token: token})
	}
	if last.Code != http.StatusTooManyRequests || last.Header().Get("Retry-After") != "1" || last.Header().Get("Content-Type") != "application/problem+json" {
		t.Errorf("%d %v %s", last.Code, last.Header(), last.Body)
	}
	if w := r.do(request{path: "/api/v1/tokens", token: r.tokens[access.Viewer]}); w.Code != http.StatusOK {
		t.Errorf("another token waits too: %d", w.Code)
	}
	noon = noon.Add(time.Second)
	if w := r.do(request{path: "/api/v1/tokens", token: token}); w.Code != http.StatusOK {
		t.Errorf("a second later: %d", w.Code)
	}
}

// What a page offers to export is there, for whoever may see the page.
func TestTheExportsOfThePagesAreThere(t *testing.T) {
	r := live(t, options{tides: func(_ context.Context, w io.Writer, _ ledger.Filter) error {
		_, err := io.WriteString(w, "zip")
		return err
	}})
	href := regexp.MustCompile(`href="(/api/v1/[^"]*)"`)
	seen := map[string]bool{}
	for _, c := range []struct {
		path string
		role access.Role
	}{
		{"/routes", access.Viewer},
		{"/routes/" + url.PathEscape(evil), access.Viewer},
		{"/faults?show=all", access.Viewer},
		{"/machines?find=m", access.Viewer},
		{"/ledger?day=2018-06-12", access.Viewer},
		{"/ledger/m2", access.Viewer},
		{"/audit?action=sign_in", access.Operator},
	} {
		w := r.do(request{path: c.path, token: r.tokens[c.role]})
		links := href.FindAllStringSubmatch(w.Body.String(), -1)
		if w.Code != http.StatusOK || len(links) == 0 {
			t.Errorf("%s: %d, %d exports", c.path, w.Code, len(links))
		}
		for _, l := range links {
			to := strings.ReplaceAll(l[1], "&amp;", "&")
			if seen[to] {
				continue
			}
			seen[to] = true
			if w := r.do(request{path: to, token: r.tokens[c.role]}); w.Code != http.StatusOK {
				t.Errorf("%s offers %s: %d %s", c.path, to, w.Code, w.Body)
			}
		}
	}
}
