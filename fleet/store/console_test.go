package store_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/console/audit"
	"github.com/farebeat/farebeat/fleet/ledger/ledgertest"
	"github.com/farebeat/farebeat/fleet/store"
)

func auditEntry(i int, by, action string) audit.Entry {
	return audit.Entry{
		At: noon().Add(time.Duration(i) * time.Minute), By: by, Role: "operator", Via: "password", Action: action,
		Subject: fmt.Sprint("fault F-", i), Detail: "because", Outcome: audit.Done, Remote: "127.0.0.1",
	}
}

func listAudit(t testing.TB, s *store.Store, q audit.Query) []audit.Entry {
	t.Helper()
	list, err := s.AuditLog().List(ctx, q)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestTheAuditComesBackNewestFirst(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	var all []audit.Entry
	for i, c := range [][2]string{{"anna", "sign_in"}, {"anna", "acknowledge"}, {"bo", "sign_in"}, {"bo", "collect"}, {"anna", "collect"}} {
		e := auditEntry(i, c[0], c[1])
		if err := s.AuditLog().Append(ctx, e); err != nil {
			t.Fatal(err)
		}
		e.N = int64(i + 1)
		all = append([]audit.Entry{e}, all...)
	}
	shut(t, s)
	s = open(t, dir)
	for _, c := range []struct {
		name string
		q    audit.Query
		want []int64
	}{
		{"all", audit.Query{}, []int64{5, 4, 3, 2, 1}},
		{"two", audit.Query{Limit: 2}, []int64{5, 4}},
		{"the page after them", audit.Query{Limit: 2, Before: 4}, []int64{3, 2}},
		{"of anna", audit.Query{By: "anna"}, []int64{5, 2, 1}},
		{"one action", audit.Query{Action: "collect"}, []int64{5, 4}},
		{"from is included and to is not", audit.Query{From: noon().Add(time.Minute), To: noon().Add(3 * time.Minute)}, []int64{3, 2}},
		{"within a millisecond", audit.Query{From: noon().Add(1), To: noon().Add(time.Minute + 1)}, []int64{2}},
		{"everything at once", audit.Query{From: noon(), To: noon().Add(time.Hour), By: "anna", Action: "collect", Before: 9, Limit: 1}, []int64{5}},
		{"nobody", audit.Query{By: "x' OR '1'='1"}, nil},
	} {
		var want []audit.Entry
		for _, e := range all {
			if slices.Contains(c.want, e.N) {
				want = append(want, e)
			}
		}
		if diff := cmp.Diff(want, listAudit(t, s, c.q)); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

func TestTheAuditKeepsOneBoundedLine(t *testing.T) {
	s := open(t, t.TempDir())
	e := auditEntry(0, "anna\n<script>", "note")
	e.N, e.Detail = 77, strings.Repeat("x", 3000)
	if err := s.AuditLog().Append(ctx, e); err != nil {
		t.Fatal(err)
	}
	got := listAudit(t, s, audit.Query{})[0]
	if got.N != 1 || got.By != "anna\uFFFD<script>" || len(got.Detail) != audit.MaxDetail || !strings.HasSuffix(got.Detail, audit.Cut) {
		t.Errorf("%+v", got)
	}
	e.Action = ""
	if err := s.AuditLog().Append(ctx, e); !errors.Is(err, audit.ErrInvalid) || len(listAudit(t, s, audit.Query{})) != 1 {
		t.Errorf("an entry without an action: %v", err)
	}
}

func pass(id string, kind access.Kind, name string, made int) access.Pass {
	at := noon().Add(time.Duration(made) * time.Minute)
	return access.Pass{
		ID: id, Kind: kind, Hash: access.Digest{id[0], 7}, Name: name, Role: access.Operator, Via: access.ViaPassword, Label: "Grafana",
		Remote: "127.0.0.1", MadeAt: at, ExpiresAt: at.Add(time.Hour), UsedAt: at,
	}
}

func passIDs(t testing.TB, s *store.Store, q access.PassQuery) string {
	t.Helper()
	list, err := s.Passes().List(ctx, q)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, p := range list {
		ids = append(ids, p.ID)
	}
	return strings.Join(ids, " ")
}

func addPasses(t testing.TB, s *store.Store, list ...access.Pass) {
	t.Helper()
	for _, p := range list {
		if err := s.Passes().Add(ctx, p); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPassesComeBackAsTheyWere(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	a, b := pass("a", access.Session, "anna", 0), pass("b", access.Token, "anna", 1)
	addPasses(t, s, a, b, pass("c", access.Session, "bo", 2))
	if err := s.Passes().Add(ctx, pass("a", access.Session, "eve", 9)); err == nil {
		t.Error("a pass was added over another")
	}
	shut(t, s)
	s = open(t, dir)
	got, err := s.Passes().Find(ctx, a.Hash)
	if diff := cmp.Diff(a, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
	if got, err = s.Passes().Get(ctx, "b"); err != nil || got != b {
		t.Error(got, err)
	}
	if _, err = s.Passes().Find(ctx, access.Digest{}); !errors.Is(err, access.ErrNoPass) {
		t.Error(err)
	}
	for want, q := range map[string]access.PassQuery{
		"c b a": {}, "b a": {Name: "anna"}, "c a": {Kind: access.Session}, "b": {Name: "anna", Kind: access.Token}, "c": {ID: "c"}, "": {Name: "nobody"},
	} {
		if got := passIDs(t, s, q); got != want {
			t.Errorf("%+v gives %q, want %q", q, got, want)
		}
	}
}

func TestAPassIsTouchedForwardsOnlyAndGoes(t *testing.T) {
	s := open(t, t.TempDir())
	addPasses(t, s, pass("a", access.Session, "anna", 0), pass("b", access.Session, "anna", 0), pass("t", access.Token, "anna", 0))
	for _, minute := range []int{5, 3} {
		if err := s.Passes().Touch(ctx, "a", noon().Add(time.Duration(minute)*time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	if p, err := s.Passes().Get(ctx, "a"); err != nil || !p.UsedAt.Equal(noon().Add(5*time.Minute)) {
		t.Errorf("used at %v, %v", p.UsedAt, err)
	}
	expire := func(now, idle time.Duration, want string) {
		t.Helper()
		if _, err := s.Passes().RemoveExpired(ctx, noon().Add(now), noon().Add(idle)); err != nil {
			t.Fatal(err)
		}
		if got := passIDs(t, s, access.PassQuery{}); got != want {
			t.Errorf("left: %q, want %q", got, want)
		}
	}
	expire(59*time.Minute, -time.Second, "a b t")
	expire(59*time.Minute, 0, "a t") // b was never used; a token need not be
	expire(time.Hour, 0, "")
	addPasses(t, s, pass("a", access.Session, "anna", 0), pass("b", access.Session, "bo", 0))
	if n, err := s.Passes().Remove(ctx, access.PassQuery{Name: "anna"}); n != 1 || err != nil || passIDs(t, s, access.PassQuery{}) != "b" {
		t.Errorf("%d removed, %v", n, err)
	}
}

// A file that may lack the newest changes may lack the revocation of a token.
func TestNoPassOutlivesARestoreOrRepair(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fleet.db")
	openAt := func() *store.Store {
		s, err := store.Open(ctx, path, store.Options{Now: noon})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := openAt()
	addPasses(t, s, pass("a", access.Session, "anna", 0), pass("t", access.Token, "anna", 0))
	if err := s.Restored(ctx); err != nil {
		t.Fatal(err)
	}
	if got := passIDs(t, s, access.PassQuery{}); got != "" {
		t.Errorf("after a restore: %q", got)
	}
	addPasses(t, s, pass("a", access.Session, "anna", 0))
	if err := s.AuditLog().Append(ctx, auditEntry(0, "anna", "sign_in")); err != nil {
		t.Fatal(err)
	}
	shut(t, s)
	if _, err := store.Repair(ctx, path, ledgertest.Keys(t), store.Options{Now: noon}); err != nil {
		t.Fatal(err)
	}
	s = openAt()
	defer shut(t, s)
	if got := passIDs(t, s, access.PassQuery{}); got != "" {
		t.Errorf("after a repair: %q", got)
	}
	if err := s.AuditLog().Append(ctx, auditEntry(1, "anna", "sign_in")); err != nil {
		t.Fatal(err)
	}
	if list := listAudit(t, s, audit.Query{}); len(list) != 2 || list[1].N != 1 || list[0].N <= 1<<32 {
		t.Errorf("after a repair: %+v", list)
	}
}
