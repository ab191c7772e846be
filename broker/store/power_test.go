package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/farebeat/farebeat/scripts/powercut"
)

// At every write, sync, truncation, creation and deletion of a broker's day, its opening and closing included, the power
// fails, the disk fails, or the disk is full: every group of changes that was confirmed is there, no other in part, the file
// is never taken for a damaged one, and the store goes on without being opened again.
func TestNothingIsLostAtAnyOperation(t *testing.T) {
	powercut.Prove(t, powercut.Subject[*Store]{
		Name: "broker/store", Open: openForPower, Close: (*Store).Close, Steps: brokerDay(), Dump: dumpForPower,
	})
}

func openForPower(dir string) (*Store, error) {
	now := time.Date(2026, 3, 1, 6, 0, 0, 0, time.UTC)
	return Open(context.Background(), filepath.Join(dir, "broker.db"), Options{Now: func() time.Time { return now }})
}

func dumpForPower(s *Store) (string, error) {
	if d := s.Damage(); d != nil {
		return "", fmt.Errorf("the file was set aside as %s: %w", d.Aside, d.Cause)
	}
	db, err := connect(s.path, readOnly)
	if err != nil {
		return "", err
	}
	dump, err := powercut.Tables(db.Query)
	return dump, errors.Join(err, db.Close())
}

// brokerDay retains and clears, begins, changes and drops sessions, queues and acknowledges, and keeps wills.
func brokerDay() []powercut.Step[*Store] {
	topic := func(i int) string { return fmt.Sprint("farebeat/v1/tampa/route/", i) }
	message := func(i, size int) Message {
		return Message{Topic: topic(i), Payload: bytes.Repeat([]byte{byte('a' + i%26)}, size), QoS: 1}
	}
	var many, clearMany []Change
	for i := range 24 {
		many = append(many, Retain(message(i, 300)))
		clearMany = append(clearMany, Retain{Topic: topic(i)})
	}
	waiting := func(session, from, to int64) (out []Change) {
		for id := from; id <= to; id++ {
			out = append(out, Enqueue{Session: session, ID: id, Retain: id%2 == 0, Message: message(int(id), 200)})
		}
		return out
	}
	will := message(50, 80)
	groups := []struct {
		name    string
		changes []Change
	}{
		{"retain", []Change{Retain(message(1, 40))}},
		{"retain many", many},
		{"sessions", []Change{
			AddSession{Number: 1, Client: "edge-1", Version: 4, Expiry: 3600},
			AddSession{Number: 2, Client: "edge-2", Version: 5},
			Subscribe{Session: 1, Filter: "farebeat/#", QoS: 1, Replay: true},
			Subscribe{Session: 2, Filter: "a/+", QoS: 1},
		}},
		{"queue", waiting(1, 1, 12)},
		{"retain anew and clear", []Change{Retain(message(3, 700)), Retain{Topic: topic(4)}}},
		{"acknowledge", []Change{Dequeue{1, 1}, Dequeue{1, 2}, Dequeue{1, 3}, Replayed{1, "farebeat/#"}}},
		{"reopen", nil},
		{"wills", []Change{SaveWill{Number: 1, Message: will}, SaveWill{Number: 2, Retain: true, Message: will}}},
		{"queue for two", append(waiting(1, 13, 20), waiting(2, 1, 8)...)},
		{"leave", []Change{DropWill{1}, TouchSession{Number: 1, Version: 4, Expiry: 3600, Left: 1772344800}, Unsubscribe{2, "a/+"}}},
		{"clear many", clearMany},
		{"reopen", nil},
		{"drop a session", []Change{DropSession{2}, DropWill{2}}},
		{"retain once more", many[:6]},
	}
	var steps []powercut.Step[*Store]
	for _, g := range groups {
		step := powercut.Step[*Store]{Name: g.name}
		if g.changes != nil {
			step.Do = func(s *Store) error {
				if s.file.conn != nil { // checkpoints so close to each other that there are several in a day
					if _, err := s.file.conn.ExecContext(context.Background(), `PRAGMA wal_autocheckpoint = 16`); err != nil {
						return err
					}
				}
				return s.Commit(g.changes)
			}
		}
		steps = append(steps, step)
	}
	return steps
}
