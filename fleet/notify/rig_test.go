package notify

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/store"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

func secretText(seed byte) string {
	return "whsec_" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{seed}, 32))
}

// secret is one that tests sign with.
func secret(t testing.TB, seed byte) Secret {
	t.Helper()
	s, err := ParseSecret(secretText(seed))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func tree(t testing.TB) topics.Tree {
	t.Helper()
	tree, err := topics.New("demo")
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// request is what a receiver saw.
type request struct {
	id, url string
	header  http.Header
	body    []byte
	at      time.Time
}

// answering is what a receiver answers: a status and headers, or an error in place of an answer.
type answering func(request) (int, http.Header, error)

// receiver is the other end of HTTP. It answers in virtual time, where the network cannot be.
type receiver struct {
	mu     sync.Mutex
	got    []request // that were taken, with a status of 200
	tries  []request // all of them
	answer answering
}

// RoundTrip implements http.RoundTripper.
func (r *receiver) RoundTrip(req *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	q := request{req.Header.Get(HeaderID), req.URL.String(), req.Header.Clone(), body, time.Now()}
	r.mu.Lock()
	r.tries = append(r.tries, q)
	answer := r.answer
	r.mu.Unlock()
	status, header := http.StatusOK, http.Header{}
	if answer != nil {
		if status, header, err = answer(q); err != nil {
			return nil, err
		}
	}
	if status/100 == 2 {
		r.mu.Lock()
		r.got = append(r.got, q)
		r.mu.Unlock()
	}
	return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader(fmt.Sprintf("said %d", status)))}, nil
}

func (r *receiver) script(answer answering) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = answer
}

func (r *receiver) ids() (taken []string, tries int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, q := range r.got {
		taken = append(taken, q.id)
	}
	return taken, len(r.tries)
}

func answered(status int, header ...string) (int, http.Header, error) {
	h := http.Header{}
	for i := 0; i+1 < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	return status, h, nil
}

func says(status int, header ...string) answering {
	return func(request) (int, http.Header, error) { return answered(status, header...) }
}

var errDown = errors.New("connection refused")

func down(request) (int, http.Header, error) { return 0, nil, errDown }

// rig is a store and, from start to kill, a notifier.
type rig struct {
	t     *testing.T
	store *store.Store
	net   *receiver
	o     Options
	n     *Notifier
	kill  func()
	wait  func() // until it does nothing more; nil where that cannot be known
	log   bytes.Buffer
	logMu sync.Mutex
}

// Write implements io.Writer for the log.
func (r *rig) Write(b []byte) (int, error) {
	r.logMu.Lock()
	defer r.logMu.Unlock()
	return r.log.Write(b)
}

func (r *rig) logged() string {
	r.logMu.Lock()
	defer r.logMu.Unlock()
	return r.log.String()
}

// newRig makes one with a webhook named desk. Call it in a bubble.
func newRig(t *testing.T) *rig {
	t.Helper()
	s, err := store.Open(context.Background(), filepath.Join(t.TempDir(), "fleet.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	r := &rig{t: t, store: s, net: &receiver{}, wait: synctest.Wait}
	r.o = Options{
		Store: s, Tree: tree(t), Now: time.Now, Transport: r.net, Logger: slog.New(slog.NewTextHandler(r, nil)),
		Webhooks: []Webhook{{Name: "desk", URL: "https://desk.example/in?token=hidden", Secrets: []Secret{secret(t, 1)}}},
	}
	return r
}

func (r *rig) start() {
	r.t.Helper()
	n, err := New(context.Background(), r.o)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := n.Run(ctx); err != nil {
			r.t.Error(err)
		}
	}()
	r.n, r.kill = n, func() { cancel(); <-done }
	if r.wait != nil {
		r.wait()
	}
}

// save saves changes and pokes, as the fleet does.
func (r *rig) save(changes ...faults.Change) {
	r.t.Helper()
	if err := r.store.Faults().Save(context.Background(), changes...); err != nil {
		r.t.Fatal(err)
	}
	if r.n != nil {
		r.n.Poke()
	}
}

// pass lets virtual time go by.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// life is a fault whose changes a test makes one by one.
type life struct {
	fault faults.Fault
}

func newLife(id string, subject faults.Subject, kind faults.Kind, at time.Time) *life {
	f := faults.Fault{
		ID: id, Subject: subject, Kind: kind, Severity: kind.Entry().Severity, Condition: schemas.Open, Reason: "It is broken.",
		OpenedAt: at, Attention: faults.Attention{State: schemas.Unseen},
	}
	if subject.Machine != "" {
		f.Machine = &faults.MachineFacts{Vehicle: "v1", Route: "36"}
	}
	return &life{f}
}

func machineLife(id string) *life {
	return newLife(id, faults.Subject{Machine: "m-" + id}, faults.MachineSilent, time.Now())
}

// change makes the next one. A change named "" has no event.
func (l *life) change(name string, alter func(*faults.Fault)) faults.Change {
	f := &l.fault
	f.Revision++
	f.UpdatedAt = time.Now()
	if m := f.Machine; m != nil { // what was handed out is not altered
		facts := *m
		f.Machine = &facts
	}
	switch name {
	case faults.ChangeClosed:
		f.Condition, f.ClosedAt = schemas.Closed, time.Now()
	case faults.ChangeReopened:
		f.Condition, f.ClosedAt = schemas.Open, time.Time{}
	case faults.ChangeAbandoned:
		f.Condition = schemas.Abandoned
	}
	if alter != nil {
		alter(f)
	}
	if name == "" {
		return faults.Change{Fault: *f}
	}
	f.Events++
	quiet := f.Parent != "" && !f.Told
	f.Told = f.Told || !quiet
	return faults.Change{Fault: *f, Event: faults.Event{
		Fault: f.ID, Number: f.Events, At: time.Now(), Change: name, Kind: f.Kind, Severity: f.Severity, Condition: f.Condition,
		Attention: f.Attention.State, Reason: f.Reason, Quiet: quiet,
	}}
}

func (l *life) opened() faults.Change { return l.change(faults.ChangeOpened, nil) }
func (l *life) closed() faults.Change { return l.change(faults.ChangeClosed, nil) }
