package fleet

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/farebeat/farebeat/fleet/counts"
	"github.com/farebeat/farebeat/fleet/expect"
	"github.com/farebeat/farebeat/fleet/keys"
	"github.com/farebeat/farebeat/fleet/rules"
	"github.com/farebeat/farebeat/fleet/store"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
	"github.com/farebeat/farebeat/topics/session"
)

// alone is a fleet without a broker: what it would publish is in its publisher.
type alone struct {
	*Fleet
	t   testing.TB
	now time.Time
	seq uint64
}

func newAlone(t *testing.T, db *store.Store) *alone {
	t.Helper()
	a := &alone{t: t, now: time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)}
	tree, err := topics.New("tampa")
	if err != nil {
		t.Fatal(err)
	}
	master, err := keys.Create(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	a.Fleet, err = New(t.Context(), Options{
		Tree: tree, Store: db, Keys: master, Tick: time.Second, Now: func() time.Time { return a.now },
		Session: session.Options{ClientID: "fleet", Dial: func(context.Context) (net.Conn, error) { return nil, errors.New("no broker") }},
		Engine: EngineConfig{
			Location: time.UTC, Interval: 15 * time.Second, Expect: expect.NewByHand(nil, time.UTC), Rules: rules.Default(time.UTC),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func openStore(t testing.TB, name string) *store.Store {
	t.Helper()
	db, err := store.Open(t.Context(), name, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// pass lets time go by, a round every 5 s; who beats is heard every 15 s.
func (a *alone) pass(by time.Duration, who ...string) {
	for end := a.now.Add(by); a.now.Before(end); {
		a.now = a.now.Add(5 * time.Second)
		if a.now.Second()%15 == 0 {
			for _, id := range who {
				a.seq++
				a.Heartbeat(id, schemas.AppendHeartbeat(nil, &schemas.Heartbeat{Seq: a.seq, Boot: "b", At: a.now, Vehicle: "v" + id, Route: "36", State: schemas.Running}))
			}
		}
		a.round(a.t.Context(), a.now)
	}
}

// said is the state of a machine that stands on its topic, or is to stand there.
func (a *alone) said(machine string) schemas.MachineCondition {
	a.t.Helper()
	payload := a.out.want["farebeat/v1/tampa/machine/"+machine+"/state"]
	if payload == nil {
		return ""
	}
	var m schemas.MachineState
	if err := schemas.Decode(payload, schemas.NameMachineState, &m); err != nil {
		a.t.Fatal(err)
	}
	return m.State
}

// While nothing can be saved, machines and routes are told as ever, faults are not, and gateways are to wait; no minute is lost.
func TestDiskThatFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "farebeat.db")
	db := openStore(t, path)
	a := newAlone(t, db)
	saved := 0
	a.o.FaultsSaved = func() {
		saved++
		if n, err := a.o.Store.LastEvent(t.Context()); n == 0 || err != nil {
			t.Errorf("%d events are on disk, %v", n, err)
		}
	}
	a.pass(2*time.Minute, "m1", "m2")
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	a.pass(5*time.Minute, "m1")
	if got := a.said("m2"); got != schemas.Dark {
		t.Errorf("m2 is said to be %q", got)
	}
	if len(a.unsaved) == 0 || len(a.out.faults) > 0 || a.ready.Load() || saved > 0 {
		t.Errorf("%d changes wait, %d fault topics, ready is %t, saved %d times", len(a.unsaved), len(a.out.faults), a.ready.Load(), saved)
	}
	if len(a.frames) != 5 {
		t.Errorf("%d minutes wait", len(a.frames))
	}
	again := openStore(t, path)
	defer again.Close()
	a.o.Store = again
	a.pass(time.Minute, "m1")
	if len(a.unsaved) > 0 || len(a.out.faults) == 0 || !a.ready.Load() || saved == 0 {
		t.Errorf("%d changes wait, %d fault topics, ready is %t, saved %d times", len(a.unsaved), len(a.out.faults), a.ready.Load(), saved)
	}
	frames := 0
	err := again.Counts().Frames(t.Context(), a.now.Add(-time.Hour), a.now.Add(time.Hour), func(counts.Frame) error { frames++; return nil })
	if err != nil || frames != 8 {
		t.Errorf("%d minutes are on disk, want 8; %v", frames, err)
	}
}

// A broker that lost its memory, or never heard of the last changes, is told every machine's state when the fleet starts.
func TestStatesAreToldAfterARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "farebeat.db")
	db := openStore(t, path)
	a := newAlone(t, db)
	a.pass(5*time.Minute, "m1")
	if err := errors.Join(a.remember(t.Context(), a.now), db.Close()); err != nil {
		t.Fatal(err)
	}
	again := openStore(t, path)
	defer again.Close()
	if got := newAlone(t, again).said("m1"); got != schemas.Up {
		t.Errorf("m1 is said to be %q", got)
	}
}
