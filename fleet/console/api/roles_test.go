package api_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/console/api"
	"github.com/farebeat/farebeat/fleet/console/audit"
)

// contract is what the document says of one operation.
type contract struct {
	ID      string `json:"operationId"`
	Summary string `json:"summary"`
	Role    string `json:"x-role"`
	Audit   string `json:"x-audit"`
	Security,
	Parameters []map[string]any
	Responses map[string]struct {
		Content map[string]json.RawMessage
	}
	path, method string
}

// contracts reads the document.
func contracts(t testing.TB) []contract {
	t.Helper()
	a, err := api.New(api.Options{})
	must(t, err)
	var doc struct {
		Paths map[string]map[string]contract
	}
	must(t, json.Unmarshal(a.Document(), &doc))
	var out []contract
	for _, path := range slices.Sorted(maps.Keys(doc.Paths)) {
		for _, method := range slices.Sorted(maps.Keys(doc.Paths[path])) {
			c := doc.Paths[path][method]
			c.path, c.method = path, strings.ToUpper(method)
			out = append(out, c)
		}
	}
	return out
}

// form holds answers against the document.
type form struct {
	t        testing.TB
	compiler *jsonschema.Compiler
}

func newForm(t testing.TB) *form {
	t.Helper()
	a, err := api.New(api.Options{})
	must(t, err)
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(a.Document()))
	must(t, err)
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	must(t, c.AddResource("https://farebeat.test/openapi.json", doc))
	return &form{t, c}
}

// hold checks the status, the type and the body of an answer.
func (f *form) hold(c contract, w *httptest.ResponseRecorder) {
	f.t.Helper()
	status := strconv.Itoa(w.Code)
	if _, ok := c.Responses[status]; !ok {
		status = "default"
		if w.Code < 400 {
			f.t.Errorf("%s: the document has no answer %d", c.ID, w.Code)
			return
		}
	}
	mime, _, _ := strings.Cut(w.Header().Get("Content-Type"), ";")
	if w.Code == http.StatusNoContent && w.Body.Len() == 0 {
		return
	}
	if _, ok := c.Responses[status].Content[mime]; !ok {
		f.t.Errorf("%s: status %d has the type %q, which the document has not", c.ID, w.Code, mime)
		return
	}
	if !strings.HasSuffix(mime, "json") || mime == "application/openapi+json" {
		return
	}
	escape := strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D", "+", "%2B").Replace
	schema, err := f.compiler.Compile(fmt.Sprintf("https://farebeat.test/openapi.json#/paths/%s/%s/responses/%s/content/%s/schema",
		escape(c.path), strings.ToLower(c.method), status, escape(mime)))
	if err != nil {
		f.t.Errorf("%s: %v", c.ID, err)
		return
	}
	body, err := jsonschema.UnmarshalJSON(w.Body)
	if err == nil {
		err = schema.Validate(body)
	}
	if err != nil {
		f.t.Errorf("%s: status %d: %v", c.ID, w.Code, err)
	}
}

// sample is a call of an operation that succeeds for who may make it.
type sample struct {
	path   string // behind /api/v1
	body   string
	status int // 0: 200
}

// samples has one for every operation.
func samples(r *rig) map[string]sample {
	fault := "/faults/" + r.fault("m2")
	return map[string]sample{
		"openapi_json": {path: "/openapi.json"}, "openapi_yaml": {path: "/openapi.yaml"},
		"now": {path: "/now"}, "routes": {path: "/routes?order=worst&page=1&limit=5"}, "route": {path: "/routes/A"},
		"route_minutes": {path: "/routes/A/minutes?from=2026-11-23T12:00:00Z&to=2026-11-23T13:00:00Z"},
		"expect":        {path: "/expect?route=A&at=2026-11-23T12:30:00Z"}, "series_status": {path: "/series/status"},
		"faults": {path: "/faults?show=all&kind=machine_silent&limit=1"}, "fault": {path: fault}, "faults_audit": {path: "/faults/audit?by=otto"},
		"fault_acknowledge": {path: fault + "/acknowledge"}, "fault_assign": {path: fault + "/assign", body: `{"note":"on the way","until":"2026-11-23T18:00:00Z"}`},
		"fault_shelve": {path: fault + "/shelve", body: `{"for":"2h"}`}, "fault_unsee": {path: fault + "/unsee"},
		"fault_note": {path: fault + "/note", body: `{"note":"<b>wet</b>"}`}, "fault_abandon": {path: fault + "/abandon", body: `{"note":"it burnt"}`},
		"report":   {path: "/reports", body: `{"machine":"m1","text":"the screen is <b>black</b>"}`, status: 202},
		"machines": {path: "/machines?state=lost&find=m&order=money&page=1&limit=2"}, "machine": {path: "/machines/m2"},
		"collect": {path: "/machines/m2/collect", body: `{"vehicle":"bus-m2"}`, status: 202}, "commands": {path: "/commands?machine=m2"},
		"command": {path: "/commands/" + r.collect()}, "ledger_status": {path: "/ledger/status?from=2018-06-12&to=2018-06-12"},
		"ledger_gaps": {path: "/ledger/gaps?machine=m2"}, "ledger_conflicts": {path: "/ledger/conflicts?kind=forged"}, "ledger_totals": {path: "/ledger/totals"},
		"ledger_certificate": {path: "/ledger/certificates/2018-06-12/m2"}, "ledger_verify": {path: "/ledger/verify", body: `{"machine":"nosuch"}`, status: 404}, "ledger_proof": {path: "/ledger/verify", status: 404},
		"ledger_export": {path: "/ledger/export?format=csv&machine=m1"},
		"counts_csv":    {path: "/counts.csv?hourly=true"}, "faults_csv": {path: "/faults.csv?show=all"}, "machines_csv": {path: "/machines.csv?order=name"},
		"broker": {path: "/broker?find=fleet"}, "topics": {path: "/topics?at=vehicle/&limit=5"}, "topic": {path: "/topics/message?topic=nosuch", status: 404},
		"rules": {path: "/rules?hour=12&days=sunday"}, "rules_route": {path: "/rules/routes/A"}, "rules_file": {path: "/rules/file"}, "rules_trial": {path: "/rules/trial", status: 404},
		"rules_check": {path: "/rules/check", body: `{"text":"route: {min_online: <b>}"}`}, "rules_try": {path: "/rules/try", body: `{"draft":"nosuch","from":"2026-11-22T00:00:00Z","to":"2026-11-23T00:00:00Z"}`, status: 404},
		"rules_save": {path: "/rules/save", body: `{"draft":"nosuch"}`, status: 404},
		"tickets":    {path: "/tickets?all=true"}, "tickets_revoke": {path: "/tickets/revoke", body: `{"vehicle":"bus-m2","reason":"stolen"}`},
		"tickets_restore": {path: "/tickets/restore", body: `{"vehicle":"bus-m2"}`},
		"tokens":          {path: "/tokens"}, "sessions": {path: "/sessions"}, "audit": {path: "/audit?limit=3"},
		"token_new": {path: "/tokens", body: `{"label":"x","role":"viewer","expires_at":"2026-11-24T00:00:00Z"}`, status: 403}, // a token makes none
		"token_end": {path: "/tokens/nosuch", status: 404}, "session_end": {path: "/sessions/nosuch", status: 404},
	}
}

// collect has a machine read and gives the command's id.
func (r *rig) collect() string {
	r.t.Helper()
	w := r.do(request{method: http.MethodPost, path: "/api/v1/machines/m2/collect", token: r.tokens[access.Operator]})
	if w.Code != http.StatusAccepted {
		r.t.Fatal(w.Code, w.Body)
	}
	return strings.TrimPrefix(w.Header().Get("Location"), "/api/v1/commands/")
}

func TestEveryOperationIsOpenToItsRoleAndToNoOther(t *testing.T) {
	r := live(t, options{})
	calls, shape := samples(r), newForm(t)
	callers := []struct {
		name, token string
		role        access.Role
	}{
		{name: "nobody"},
		{name: "a wrong token", token: "fbt_" + strings.Repeat("A", 43)},
		{name: "no token of ours", token: "x"},
		{"a viewer", r.tokens[access.Viewer], access.Viewer},
		{"an operator", r.tokens[access.Operator], access.Operator},
		{"an admin", r.tokens[access.Admin], access.Admin},
	}
	for _, c := range contracts(t) {
		s, ok := calls[c.ID]
		if !ok {
			t.Errorf("%s %s (%s) has no sample here: who may call it is not known", c.method, c.path, c.ID)
			continue
		}
		delete(calls, c.ID)
		need := access.Role(c.Role)
		if need != "anyone" && (!slices.Contains(access.Roles(), need) || len(c.Security) != 2) {
			t.Errorf("%s: x-role %q, security %v", c.ID, c.Role, c.Security)
			continue
		}
		if c.method != http.MethodGet && (c.Audit == "" || need == "anyone") {
			t.Errorf("%s does something: want x-audit and a role", c.ID)
		}
		for _, who := range callers {
			w := r.do(request{method: c.method, path: "/api/v1" + s.path, body: s.body, token: who.token})
			want := max(s.status, http.StatusOK)
			switch {
			case need == "anyone":
			case who.role == "":
				want = http.StatusUnauthorized
			case !who.role.Covers(need):
				want = http.StatusForbidden
				r.wantRefusal(c, who.role)
			}
			if w.Code != want {
				t.Errorf("%s by %s: %d, want %d: %s", c.ID, who.name, w.Code, want, w.Body)
			}
			if want >= 400 && !strings.Contains(w.Body.String(), c.ID) {
				t.Errorf("%s by %s: the problem does not name the operation: %s", c.ID, who.name, w.Body)
			}
			if want == http.StatusUnauthorized && !strings.HasPrefix(w.Header().Get("WWW-Authenticate"), "Bearer") {
				t.Errorf("%s by %s: WWW-Authenticate %q", c.ID, who.name, w.Header().Get("WWW-Authenticate"))
			}
			shape.hold(c, w)
		}
	}
	for id := range calls {
		t.Errorf("there is no operation %s any more", id)
	}
}

// wantRefusal looks for what the audit must have of somebody who was refused.
func (r *rig) wantRefusal(c contract, role access.Role) {
	r.t.Helper()
	if c.Audit == "" {
		return
	}
	list, err := r.store.AuditLog().List(r.t.Context(), audit.Query{Action: c.Audit, Limit: 1})
	must(r.t, err)
	if len(list) != 1 || list[0].Outcome != audit.Refused || list[0].Role != string(role) || list[0].Remote != "127.0.0.1" {
		r.t.Errorf("%s: the audit has %+v of a %s who was refused", c.ID, list, role)
	}
}
