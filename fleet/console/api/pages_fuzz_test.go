package api_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/farebeat/farebeat/fleet/console/access"
)

// FuzzPages: whatever address or form comes, the answer is a page and no failure of ours, and no markup that came with it.
func FuzzPages(f *testing.F) {
	for _, seed := range []struct{ method, path, query, form string }{
		{"GET", "/", "", ""},
		{"GET", "/routes", "day=2026-11-23&order=worst&page=2", ""},
		{"GET", "/routes/A", "day=yesterday", ""},
		{"GET", "/faults", "show=all&after=M-1&q=%3Cb%3Emarker", ""},
		{"GET", "/faults/<b>marker", "", ""},
		{"GET", "/machines/m1", "", ""},
		{"GET", "/machines", "state=DARK&page=99999999999999999999", ""},
		{"GET", "/search", "q=%3Cb%3Emarker", ""},
		{"GET", "/ledger", "from=2018-06-12&to=x", ""},
		{"GET", "/ledger/m2", "", ""},
		{"GET", "/ledger/m2/certificate/2018-06-12", "revision=-1", ""},
		{"GET", "/topics", "filter=%23&topic=a/+/b", ""},
		{"GET", "/rules", "days=9&route=A", ""},
		{"GET", "/rules/route/A", "days=-1", ""},
		{"GET", "/audit", "before=x&by=%00", ""},
		{"GET", "/signin", "next=//evil.example", ""},
		{"GET", "/broker", "paused=1", ""},
		{"POST", "/theme", "", "theme=dark&back=//evil"},
		{"POST", "/faults/M-1/shelve", "", "for=-2h&note=%00"},
		{"POST", "/machines/m1/collect", "", "vehicle=%3Cb%3Emarker"},
		{"POST", "/reports", "", "machine=m1&text=%3Cb%3Emarker&route=%FF"},
		{"POST", "/signin", "", "name=%3Cb%3Emarker&password=b&next=/x"},
		{"POST", "/account/passes/x/revoke", "", ""},
		{"POST", "/ledger/verify", "", "machine=nosuch"},
	} {
		f.Add(seed.method, seed.path, seed.query, seed.form)
	}
	r := live(f, options{open: &access.Identity{Name: "fuzz", Role: access.Operator, Via: access.ViaOpen}})
	n := 0
	f.Fuzz(func(t *testing.T, method, path, query, form string) {
		if path == "/live" {
			t.Skip("it is answered for as long as somebody listens")
		}
		u := url.URL{Path: path, RawQuery: query}
		n++
		req := fromSomebody(t, n, method, "/"+strings.TrimPrefix(u.RequestURI(), "/"), form)
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Sec-Fetch-Site", "same-origin")
		w := httptest.NewRecorder()
		r.console.ServeHTTP(w, req)
		if w.Code >= 500 && w.Code != http.StatusServiceUnavailable {
			t.Errorf("%s %s %q: %d %s", method, req.URL, form, w.Code, w.Body)
		}
		if strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") && strings.Contains(w.Body.String(), "<b>marker") {
			t.Errorf("%s %s %q: markup came back", method, req.URL, form)
		}
	})
}
