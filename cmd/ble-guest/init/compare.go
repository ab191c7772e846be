//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/farebeat/farebeat/cmd/ble-guest/result"
)

// key is a record's number on its machine.
type key struct{ Epoch, Seq uint32 }

// witness takes a line that a machine prints once a record is on its disk.
func (m *machine) witness(line []byte) {
	var w struct {
		key
		SHA256 string `json:"sha256"`
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := json.Unmarshal(line, &w); err != nil || w.SHA256 == "" {
		m.strange++
		return
	}
	m.stored[w.key] = w.SHA256
}

func (m *machine) full() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.stored) >= m.stock
}

// compare holds what the ledger exports against what the machines stored.
func (st *stage) compare(ctx context.Context, out *result.Scenario) error {
	total := 0
	for _, m := range st.machines {
		exported, err := command(ctx, "ledger", "export", "--config", config, "--set", "data="+serveData, "--format", "jsonl", "--machine", m.id)
		if err != nil {
			out.Lost += m.stock
			return err
		}
		m.mu.Lock()
		n, err := m.hold(exported, out)
		m.mu.Unlock()
		if err != nil {
			return err
		}
		total += n
	}
	if found := out.Records - out.Lost; found > 0 {
		out.Bytes = float64(total) / float64(found)
	}
	for what, n := range map[string]int{"lost": out.Lost, "twice in the ledger": out.Twice, "altered": out.Altered, "in the ledger and never stored": out.Invented} {
		if n > 0 {
			out.Findings = append(out.Findings, fmt.Sprintf("%d records %s", n, what))
		}
	}
	return nil
}

// hold compares one machine's records and returns how many bytes they have. The machine's lock is held.
func (m *machine) hold(exported []byte, out *result.Scenario) (total int, err error) {
	seen := map[key]bool{}
	for line := range bytes.Lines(exported) {
		var row struct {
			Record json.RawMessage `json:"record"`
		}
		if err := json.Unmarshal(line, &row); err != nil {
			return 0, fmt.Errorf("the ledger's export: %w", err)
		}
		var k key
		if err := json.Unmarshal(row.Record, &k); err != nil {
			return 0, fmt.Errorf("the ledger's export: %w", err)
		}
		sum := sha256.Sum256(row.Record)
		stored, ok := m.stored[k]
		switch {
		case seen[k]:
			out.Twice++
		case !ok:
			out.Invented++
		case stored != hex.EncodeToString(sum[:]):
			out.Altered++
		}
		seen[k] = true
		total += len(row.Record)
	}
	for k := range m.stored {
		if !seen[k] {
			out.Lost++
		}
	}
	out.Records += len(m.stored)
	if m.strange > 0 {
		out.Findings = append(out.Findings, fmt.Sprintf("machine %s printed %d lines that are no records", m.id, m.strange))
	}
	return total, nil
}
