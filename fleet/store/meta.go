package store

import (
	"bytes"
	"compress/flate"
	"context"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/farebeat/farebeat/fleet/presence"
)

// SetMeta keeps values under names in place of the last, all in one transaction. It is for small
// states and cursors of the service's own, such as the windows of rules. A nil value is
// kept as an empty one.
func (s *Store) SetMeta(ctx context.Context, values map[string][]byte) error {
	return wrap("save state", s.update(ctx, func(t *tx) error { return setMeta(t, values) }))
}

func setMeta(t *tx, values map[string][]byte) error {
	for name, value := range values {
		if value == nil {
			value = []byte{}
		}
		err := t.exec(`INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, value)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// Meta gives what SetMeta kept under name, nil if nothing was.
func (s *Store) Meta(ctx context.Context, name string) ([]byte, error) {
	var value []byte
	err := s.view(ctx, func(q *querier) error {
		return q.row(`SELECT value FROM meta WHERE name = ?`, []any{name}, &value)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read state %s: %w", name, err)
	}
	if value == nil { // the driver's empty value
		value = []byte{}
	}
	return value, nil
}

// counterPrefix keeps the names of Next apart from those of SetMeta.
const counterPrefix = "next."

// Next counts under name: 1, 2, 3 ... It never gives a number twice, not after a
// kill either.
func (s *Store) Next(ctx context.Context, name string) (uint64, error) {
	name = counterPrefix + name
	var n uint64
	err := s.update(ctx, func(t *tx) error {
		var old []byte
		if err := t.row(`SELECT value FROM meta WHERE name = ?`, []any{name}, &old); err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		n = 1
		if len(old) > 0 {
			before, size := binary.Uvarint(old)
			if size != len(old) {
				return errors.New("what is kept there is no counter: the file was changed by hand")
			}
			n = before + 1
		}
		return setMeta(t, map[string][]byte{name: binary.AppendUvarint(nil, n)})
	})
	return n, wrap("count "+name, err)
}

// machinesPerPart is how many machines one row of the roster holds.
const machinesPerPart = 4096

// SaveRoster keeps a snapshot of presence in place of the last, and with it the board's
// open hour (counts.Board.AppendState) as of the same moment, all in one transaction. A
// nil board leaves the open hour as it is.
func (s *Store) SaveRoster(ctx context.Context, saved []presence.Saved, board []byte) error {
	var parts [][]byte
	for len(saved) > 0 {
		n := min(len(saved), machinesPerPart)
		part, err := packRoster(saved[:n])
		if err != nil {
			return fmt.Errorf("save roster: %w", err)
		}
		parts, saved = append(parts, part), saved[n:]
	}
	return wrap("save roster", s.update(ctx, func(t *tx) error {
		for i, p := range parts {
			if err := t.exec(`INSERT INTO roster (part, body) VALUES (?, ?) ON CONFLICT (part) DO UPDATE SET body = excluded.body`, i, p); err != nil {
				return err
			}
		}
		if err := t.exec(`DELETE FROM roster WHERE part >= ?`, len(parts)); err != nil {
			return err
		}
		if board == nil {
			return nil
		}
		return setMeta(t, map[string][]byte{boardState: board})
	}))
}

// Roster gives the snapshot that SaveRoster kept last, nothing if there was none.
func (s *Store) Roster(ctx context.Context) ([]presence.Saved, error) {
	var out []presence.Saved
	err := s.view(ctx, func(q *querier) error {
		return q.rows(`SELECT part, body FROM roster ORDER BY part`, nil, func(scan func(...any) error) error {
			var n int
			var body []byte
			if err := scan(&n, &body); err != nil {
				return err
			}
			part, err := unpackRoster(body)
			if err != nil {
				return fmt.Errorf("part %d: %w", n, err)
			}
			out = append(out, part...)
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read roster: %w", err)
	}
	return out, nil
}

func packRoster(saved []presence.Saved) ([]byte, error) {
	var buf bytes.Buffer
	w, err := flate.NewWriter(&buf, flate.BestSpeed)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(json.NewEncoder(w).Encode(saved), w.Close()); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// maxPart bounds what a damaged part may unfold to.
const maxPart = 256 << 20

func unpackRoster(body []byte) ([]presence.Saved, error) {
	var part []presence.Saved
	dec := json.NewDecoder(io.LimitReader(flate.NewReader(bytes.NewReader(body)), maxPart))
	if err := dec.Decode(&part); err != nil {
		return nil, fmt.Errorf("damaged: %w", err)
	}
	return part, nil
}
