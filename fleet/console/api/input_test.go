package api_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"

	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/console/audit"
)

// Each is refused with a problem that says where, and nothing happens.
func TestBadInputIsRefusedAndNamed(t *testing.T) {
	r := live(t, options{})
	long, fault := strings.Repeat("x", 5000), "/faults/"+r.fault("m2")
	mark := url.QueryEscape("<script>alert(1)</script>")
	actions := func() int {
		list, err := r.store.AuditLog().List(t.Context(), audit.Query{Limit: audit.MaxLimit})
		must(t, err)
		n := 0
		for _, e := range list {
			if e.Outcome == audit.Done && e.Via == access.ViaToken {
				n++
			}
		}
		return n
	}
	before := actions()
	for _, c := range []struct {
		method, path, body string
		code               int
		says               string
	}{
		{"GET", "/nothing", "", 404, "no such operation"},
		{"GET", "/now/", "", 404, "no such operation"},
		{"PUT", "/faults", "", 405, "use GET"},
		{"DELETE", "/tokens", "", 405, "use GET or POST"},
		{"GET", "/now?x=1", "", 422, "query.x: unknown query parameter"},
		{"GET", "/faults?" + mark + "=1", "", 422, "unknown query parameter"},
		{"GET", "/faults?limit=1&limit=2", "", 422, `"limit": it stands there 2 times`},
		{"GET", "/topics?find=a/%23/b", "", 400, `filter "a/#/b": + and # stand alone, # last`},
		{"GET", "/topics?at=vehicle/%2B", "", 400, `level "vehicle/+": + and # are for filters`},
		{"GET", "/faults?limit=0", "", 422, "query.limit"},
		{"GET", "/faults?limit=501", "", 422, "query.limit"},
		{"GET", "/faults?limit=-1", "", 422, "query.limit"},
		{"GET", "/faults?limit=1e3", "", 422, "query.limit"},
		{"GET", "/faults?limit=99999999999999999999", "", 422, "query.limit"},
		{"GET", "/faults?limit=" + mark, "", 422, "query.limit"},
		{"GET", "/faults?show=" + mark, "", 422, "query.show"},
		{"GET", "/faults?kind=" + mark, "", 400, "there is no such kind of fault"},
		{"GET", "/faults?after=nosuch", "", 400, "nosuch"},
		{"GET", "/faults?machine=" + long, "", 422, "query.machine"},
		{"GET", "/faults?machine=a%00b", "", 422, "control characters"},
		{"GET", "/faults?machine=a%0ab", "", 422, "control characters"},
		{"GET", "/faults?machine=%ff", "", 422, "UTF-8"},
		{"GET", "/faults?machine=%zz", "", 422, "the query cannot be read"},
		{"GET", "/faults?from=yesterday", "", 422, "query.from"},
		{"GET", "/faults/nosuch", "", 404, "fault nosuch: not found"},
		{"GET", "/faults/%00", "", 422, "the path"},
		{"GET", "/faults/" + long, "", 422, "path.id"},
		{"GET", "/routes?day=2026-13-01", "", 422, "query.day"},
		{"GET", "/routes?order=down", "", 422, "query.order"},
		{"GET", "/routes?page=0", "", 422, "query.page"},
		{"GET", "/routes/nosuch", "", 404, "route nosuch"},
		{"GET", "/routes/A/minutes", "", 422, "query.from: required query parameter is missing"},
		{"GET", "/routes/A/minutes?from=2026-11-23T12:00:00Z&to=2026-11-23T12:00:00Z", "", 400, "want up to 31 days"},
		{"GET", "/routes/A/minutes?from=2020-11-23T12:00:00Z&to=2026-11-23T12:00:00Z", "", 400, "want up to 31 days"},
		{"GET", "/expect", "", 422, "query.route"},
		{"GET", "/machines?state=flying", "", 400, `state "flying"`},
		{"GET", "/machines/nosuch", "", 404, "machine nosuch"},
		{"GET", "/commands/nosuch", "", 404, "command nosuch"},
		{"GET", "/ledger/status?from=2018-06-13&to=2018-06-12", "", 400, "is after the last"},
		{"GET", "/ledger/status?from=2018-02-30", "", 422, "query.from"},
		{"GET", "/ledger/status?machine=nosuch", "", 404, "machine nosuch"},
		{"GET", "/ledger/conflicts?kind=odd", "", 422, "query.kind"},
		{"GET", "/ledger/conflicts?after=-1", "", 422, "query.after"},
		{"GET", "/ledger/certificates/2018-06-12/nosuch", "", 404, "no record of that day"},
		{"GET", "/ledger/certificates/someday/m2", "", 422, "path.date"},
		{"GET", "/ledger/export", "", 422, "query.format"},
		{"GET", "/ledger/export?format=xls", "", 422, "query.format"},
		{"GET", "/ledger/export?format=tides", "", 400, "does not write it"},
		{"GET", "/ledger/export?format=csv&from=2018-06-13&to=2018-06-12", "", 400, "is after the last"},
		{"GET", "/counts.csv?to=2026-11-23T12:00:00Z", "", 400, "want day, or from"},
		{"GET", "/counts.csv?day=2026-11-23&from=2026-11-23T12:00:00Z", "", 400, "want day, or from"},
		{"GET", "/counts.csv?hourly=perhaps", "", 422, "query.hourly"},
		{"GET", "/machines.csv?order=size", "", 422, "query.order"},
		{"POST", "/reports", "", 400, "request body is required"},
		{"POST", "/reports", "{", 400, "body"},
		{"POST", "/reports", `{"machine":"m1","text":"x"} more`, 400, "body"},
		{"POST", "/reports", `[]`, 422, "body"},
		{"POST", "/reports", `null`, 422, "body"},
		{"POST", "/reports", `{"machine":"m1","text":"x","by":"the king"}`, 422, "body.by"},
		{"POST", "/reports", `{"machine":1,"text":"x"}`, 422, "body.machine"},
		{"POST", "/reports", `{"text":"x"}`, 400, "which machine or route"},
		{"POST", "/reports", `{"machine":"m1","text":""}`, 422, "body.text"},
		{"POST", "/reports", `{"machine":"m1","text":"` + strings.Repeat("x", 501) + `"}`, 422, "body.text"},
		{"POST", "/reports", `{"machine":"m1","text":"` + strings.Repeat("x", 70_000) + `"}`, 413, "too large"},
		{"POST", "/reports", `{"machine":"a/b\u0000","text":"x"}`, 400, "machine"},
		{"POST", fault + "/shelve", `{}`, 400, "say until when"},
		{"POST", fault + "/shelve", `{"for":"-2h"}`, 400, `for "-2h"`},
		{"POST", fault + "/shelve", `{"for":"1000h"}`, 400, `for "1000h"`},
		{"POST", fault + "/shelve", `{"for":"2h","until":"2026-11-24T12:00:00Z"}`, 400, "no until beside it"},
		{"POST", fault + "/shelve", `{"until":"2020-11-24T12:00:00Z"}`, 400, "say until when"},
		{"POST", fault + "/abandon", `{"note":""}`, 422, "body.note"},
		{"POST", fault + "/note", `{}`, 422, "note"},
		{"POST", fault + "/unsee", `{"until":"2026-11-24T12:00:00Z"}`, 422, "body.until"},
		{"POST", "/faults/nosuch/acknowledge", "", 404, "fault nosuch"},
		{"POST", "/faults/..%2f..%2fx/acknowledge", "", 404, "not found"},
		{"POST", "/machines/" + url.PathEscape(evil+"#") + "/collect", `{"vehicle":"+"}`, 400, "not understood"},
		{"POST", "/tickets/revoke", `{"vehicle":"bus-m2"}`, 422, "reason"},
		{"POST", "/tokens", `{"label":"x","role":"king","expires_at":"2026-11-24T00:00:00Z"}`, 422, "body.role"},
		{"DELETE", "/sessions/" + r.tokenID(), "", 404, "session"},
	} {
		w := r.do(request{method: c.method, path: "/api/v1" + c.path, body: c.body, token: r.tokens[access.Admin]})
		if w.Code == http.StatusTooManyRequests {
			r.rest()
			w = r.do(request{method: c.method, path: "/api/v1" + c.path, body: c.body, token: r.tokens[access.Admin]})
		}
		name := fmt.Sprintf("%s %.60s %.60s", c.method, c.path, c.body)
		if w.Code != c.code || w.Header().Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %d %s, want %d: %.300s", name, w.Code, w.Header().Get("Content-Type"), c.code, w.Body)
			continue
		}
		if len(w.Body.String()) > 20_000 || strings.Contains(w.Body.String(), "<script>") {
			t.Errorf("%s: markup or too much comes back: %.300s", name, w.Body)
		}
		p := decode[huma.ErrorModel](t, w)
		if p.Status != c.code || !strings.Contains(p.Detail, c.says) || !strings.Contains(p.Detail, ": ") {
			t.Errorf("%s: %q, want %q in it", name, p.Detail, c.says)
		}
	}
	if got := actions(); got != before {
		t.Errorf("%d actions are done in the audit, %d were before", got, before)
	}
}

// tokenID is the public id of the admin's token.
func (r *rig) tokenID() string {
	r.t.Helper()
	id, err := r.gate.Identify(requestWith(r.tokens[access.Admin]))
	must(r.t, err)
	return id.Pass
}

func requestWith(token string) *http.Request {
	q := httptest.NewRequest(http.MethodGet, "/", nil)
	q.Header.Set("Authorization", "Bearer "+token)
	return q
}

// fromSomebody is a request from the nth address, so that nobody has called too often. What net/http does not send is skipped.
func fromSomebody(t *testing.T, n int, method, target, body string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://localhost"+target, strings.NewReader(body))
	if err != nil {
		t.Skip("net/http sends no such request")
	}
	req.RemoteAddr = fmt.Sprintf("10.%d.%d.%d:1", n>>16&255, n>>8&255, n&255)
	return req
}

// rest gives the admin a new token, with all calls of it to come.
func (r *rig) rest() { r.tokens[access.Admin] = r.token("anna", access.Admin) }

// Whatever comes, the answer is one of the document and no failure of ours.
func FuzzRequests(f *testing.F) {
	for _, seed := range []struct{ method, path, query, body string }{
		{"GET", "/faults", "show=all&limit=3", ""},
		{"GET", "/faults", "from=2026-11-23T12:00:00Z&after=M-1", ""},
		{"GET", "/routes", "day=2026-11-23&order=worst&page=2", ""},
		{"GET", "/routes/A/minutes", "from=2026-11-23T12:00:00Z&to=2026-11-23T13:00:00Z", ""},
		{"GET", "/counts.csv", "day=2026-11-23&hourly=true&route=%3D1", ""},
		{"GET", "/ledger/export", "format=csv&from=2018-06-12", ""},
		{"GET", "/ledger/certificates/2018-06-12/m2", "", ""},
		{"GET", "/expect", "route=A&at=2026-11-23T12:00:00%2B01:00", ""},
		{"GET", "/audit", "before=9223372036854775807&limit=1", ""},
		{"POST", "/reports", "", `{"machine":"m1","text":"x"}`},
		{"POST", "/faults/M-1/shelve", "", `{"for":"2h","note":"\u0000<b>"}`},
		{"POST", "/machines/m1/collect", "", `{"vehicle":"a/+/#"}`},
		{"POST", "/tokens", "", `{"label":"x","role":"viewer","expires_at":"2026-11-24T00:00:00Z"}`},
		{"POST", "/ledger/verify", "", `{"machine":"nosuch"}`},
		{"DELETE", "/sessions/..", "a=;b", "\x00"},
		{"GET", "//faults", "&&=", "{}"},
	} {
		f.Add(seed.method, seed.path, seed.query, seed.body)
	}
	r := live(f, options{open: &access.Identity{Name: "fuzz", Role: access.Operator, Via: access.ViaOpen}})
	n := 0
	f.Fuzz(func(t *testing.T, method, path, query, body string) {
		u := url.URL{Path: "/api/v1" + path, RawQuery: query}
		target := u.RequestURI()
		n++
		req := fromSomebody(t, n, method, target, body)
		req.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		r.console.ServeHTTP(w, req)
		if w.Code >= 500 {
			t.Errorf("%s %s %q: %d %s", method, target, body, w.Code, w.Body)
		}
		if w.Code >= 400 && strings.HasPrefix(req.URL.Path, "/api/") && w.Header().Get("Content-Type") != "application/problem+json" && w.Code != http.StatusMovedPermanently {
			t.Errorf("%s %s %q: %d %q", method, target, body, w.Code, w.Header().Get("Content-Type"))
		}
	})
}
