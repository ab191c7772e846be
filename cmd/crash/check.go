//go:build unix

package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/farebeat/farebeat/edge/ble"
	"github.com/farebeat/farebeat/edge/machine/journal"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/fleet/store"
	"github.com/farebeat/farebeat/topics"
	"github.com/farebeat/farebeat/topics/session"
)

// unrest is what keeps the system from being quiet.
type unrest struct {
	down    []string // processes that do not run
	pending map[string]int
	unheard []string // machines that are not on air
	faults  []faults.Fault
	slots   []string
	reading error // what could not be looked at
}

func (u *unrest) quiet() bool {
	return len(u.down)+len(u.pending)+len(u.unheard)+len(u.faults)+len(u.slots) == 0 && u.reading == nil
}

// String is the unrest in one line.
func (u *unrest) String() string {
	var parts []string
	if len(u.down) > 0 {
		parts = append(parts, "down: "+strings.Join(u.down, " "))
	}
	if len(u.unheard) > 0 {
		parts = append(parts, "not on air: "+strings.Join(u.unheard, " "))
	}
	if len(u.pending) > 0 {
		parts = append(parts, fmt.Sprintf("pending: %v", u.pending))
	}
	if len(u.faults) > 0 {
		text := fmt.Sprintf("%d faults:", len(u.faults))
		for _, f := range u.faults {
			text += fmt.Sprintf(" %s%s %s %s;", f.Subject.Machine, f.Subject.Route, f.Kind, f.Condition)
		}
		parts = append(parts, text)
	}
	if len(u.slots) > 0 {
		parts = append(parts, fmt.Sprintf("%d slots, first %s", len(u.slots), u.slots[0]))
	}
	if u.reading != nil {
		parts = append(parts, u.reading.Error())
	}
	if len(parts) == 0 {
		return "quiet"
	}
	return strings.Join(parts, ", ")
}

// look asks every part how it is, past the proxies.
func (w *world) look(ctx context.Context) unrest {
	u := unrest{pending: map[string]int{}}
	for _, p := range w.order {
		if !p.alive() {
			u.down = append(u.down, p.name)
		}
	}
	for v := 1; v <= vehicles; v++ {
		ads, err := listen(ctx, w.path("air", fmt.Sprint(v)))
		u.reading = errors.Join(u.reading, err)
		for m := 1; m <= perVehicle; m++ {
			id := fmt.Sprintf("%d-%d", v, m)
			ad, heard := ads[id]
			switch {
			case !heard:
				u.unheard = append(u.unheard, id)
			case ad.Pending > 0:
				u.pending[id] = int(ad.Pending)
			}
		}
	}
	open, err := w.openFaults(ctx)
	u.faults, u.reading = open, errors.Join(u.reading, err)
	if u.quiet() { // asked last, since it takes longest
		u.slots, u.reading = w.slots(ctx)
	}
	return u
}

// listen hears the machines of a folder for a moment.
func listen(ctx context.Context, dir string) (map[string]ble.Advertisement, error) {
	ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	out := map[string]ble.Advertisement{}
	err := ble.NewSockets(dir).Scan(ctx, func(ad ble.Advertisement) {
		out[ad.Address] = ad
		if len(out) == perVehicle {
			cancel()
		}
	})
	return out, err
}

func (w *world) withStore(ctx context.Context, do func(*store.Store) error) error {
	s, err := store.Open(ctx, filepath.Join(w.procs[serveName].dir, "farebeat.db"), store.Options{ReadOnly: true})
	if err != nil {
		return err
	}
	return errors.Join(do(s), s.Close())
}

func (w *world) openFaults(ctx context.Context) (list []faults.Fault, err error) {
	err = w.withStore(ctx, func(s *store.Store) error {
		list, err = s.Faults().Open(ctx)
		return err
	})
	return list, err
}

// slots are the retained transaction slots at the broker.
func (w *world) slots(ctx context.Context) ([]string, error) {
	tree, err := topics.New("crash")
	if err != nil {
		return nil, err
	}
	filter, err := tree.Filter(topics.Address{Kind: topics.Transactions})
	if err != nil {
		return nil, err
	}
	password, err := os.ReadFile(w.path("keys", "viewer.password"))
	if err != nil {
		return nil, err
	}
	up := make(chan struct{}, 1)
	s, err := session.New(session.Options{
		ClientID: "crash-viewer", Username: "viewer", Password: string(password), Servers: []string{"tcp://" + w.address}, CleanSession: true,
		Up: func() { up <- struct{}{} },
	})
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	held := map[string]bool{}
	s.Handle(filter, 1, func(_ context.Context, d *session.Delivery) error {
		mu.Lock()
		defer mu.Unlock()
		held[d.Topic] = len(d.Payload) > 0
		return nil
	})
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(running) }()
	defer func() { stop(); <-ended }() //nolint:errcheck // it ends with its context
	select {
	case <-up:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(10 * time.Second):
		return nil, errors.New("the broker takes no viewer")
	}
	time.Sleep(300 * time.Millisecond) // retained messages follow the subscription at once
	mu.Lock()
	defer mu.Unlock()
	var out []string
	for topic, full := range held {
		if full {
			out = append(out, topic)
		}
	}
	slices.Sort(out)
	return out, nil
}

// gather reads all evidence while nothing runs.
func (w *world) gather(ctx context.Context, rest unrest) (Evidence, error) {
	e := Evidence{OpenFaults: len(rest.faults), Slots: len(rest.slots)}
	e.Witnessed, _ = w.seen()
	for _, name := range machineNames() {
		written, err := w.readJournal(ctx, name)
		if err != nil {
			return e, err
		}
		e.Journals = append(e.Journals, written...)
	}
	err := w.withStore(ctx, func(s *store.Store) error {
		l := ledger.New(s.Ledger(), w.master, time.Now)
		proof, err := l.Verify(ctx, ledger.Filter{}, nil)
		if err != nil {
			return err
		}
		e.Problems, e.Missing = proof.Problems, proof.Missing
		for _, n := range proof.Quarantined {
			e.Quarantined += n
		}
		return l.Each(ctx, ledger.Filter{}, func(st ledger.Status) error {
			for _, ep := range st.Epochs {
				err := l.Rows(ctx, st.Machine, ep.Epoch, ledger.Every(), func(r ledger.Row) error {
					sum := sha256.Sum256(r.Record)
					e.Ledger = append(e.Ledger, Stored{Key{r.Machine, r.Epoch, r.Seq}, hex.EncodeToString(sum[:]), r.AmountMinor})
					return nil
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
	})
	return e, err
}

// readJournal opens a machine's journal as its next boot would.
func (w *world) readJournal(ctx context.Context, name string) ([]Written, error) {
	id := machineID(name)
	key, err := w.master.Machine(ctx, id)
	if err != nil {
		return nil, err
	}
	j, err := journal.Open(filepath.Join(w.procs[name].dir, "machines", "m-"+url.PathEscape(id)), id, key[:], journal.Options{NoLock: true})
	if err != nil {
		return nil, err
	}
	defer j.Close()
	var out []Written
	for _, a := range j.Audit() {
		out = append(out, Written{Machine: id, Epoch: a.Epoch, Last: a.Last, Released: a.Released, Lost: a.Lost})
	}
	return out, nil
}
