package notify

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/store"
)

// taker takes everything.
type taker struct{}

func (taker) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: http.NoBody}, nil
}

func benchStore(b *testing.B) *store.Store {
	b.Helper()
	s, err := store.Open(context.Background(), filepath.Join(b.TempDir(), "fleet.db"), store.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	return s
}

// BenchmarkWebhook is an event from the store to the receiver and back to the disk.
func BenchmarkWebhook(b *testing.B) {
	s := benchStore(b)
	n, err := New(context.Background(), Options{
		Store: s, Tree: tree(b), Now: time.Now, Transport: taker{}, Webhooks: []Webhook{{Name: "desk", URL: "https://desk", Secrets: []Secret{secret(b, 1)}}},
	})
	if err != nil {
		b.Fatal(err)
	}
	l := machineLife("a")
	var changes []faults.Change
	for range b.N {
		changes = append(changes, l.change(faults.ChangeUpdated, nil))
	}
	if err := s.Faults().Save(context.Background(), changes...); err != nil {
		b.Fatal(err)
	}
	for b.ResetTimer(); n.Status()[0].Sent < uint64(b.N); {
		if _, err := n.channels[0].sender.step(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkResend is all of a bad day, 2000 faults, sent to an Alertmanager again.
func BenchmarkResend(b *testing.B) {
	s := benchStore(b)
	var changes []faults.Change
	for i := range 2000 {
		changes = append(changes, machineLife(fmt.Sprint(i)).opened())
	}
	if err := s.Faults().Save(context.Background(), changes...); err != nil {
		b.Fatal(err)
	}
	now := time.Now()
	n, err := New(context.Background(), Options{
		Store: s, Tree: tree(b), Now: func() time.Time { return now }, Transport: taker{}, Alertmanagers: []Alertmanager{{Name: "am", URL: "https://am"}},
	})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		now = now.Add(DefaultResend)
		if _, err := n.channels[0].sender.step(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}
