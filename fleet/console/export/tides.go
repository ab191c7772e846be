// Package export writes what the fleet holds in the forms of others: TIDES data packages and CSV.
package export

import (
	"archive/zip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/farebeat/farebeat/fleet/ledger"
)

// Descriptor is the name of a data package's own file.
const Descriptor = "datapackage.json"

// Table writes on, and adds up what a table of a TIDES data package holds.
type Table struct {
	name  string
	w     io.Writer
	bytes int64
	sum   hash.Hash
}

// NewTable begins a table: ledger.FareTable or ledger.DeviceTable.
func NewTable(name string, w io.Writer) *Table { return &Table{name: name, w: w, sum: sha256.New()} }

// Path is the table's file within its package.
func (t *Table) Path() string { return t.name + ".csv" }

// Write implements io.Writer.
func (t *Table) Write(p []byte) (int, error) {
	n, err := t.w.Write(p)
	t.bytes += int64(n)
	t.sum.Write(p[:n])
	return n, err
}

// File is the table as it was written so far.
func (t *Table) File() ledger.TIDESFile {
	return ledger.TIDESFile{Table: t.name, Path: t.Path(), Bytes: t.bytes, SHA256: hex.EncodeToString(t.sum.Sum(nil))}
}

// WriteTIDES writes the records that f selects as a TIDES 1.0 data package in a zip file: the table of fare transactions as it is read, that
// of devices, which waits in a file in dir (empty: the system's folder for temporary files), and the descriptor last. operator is the agency's
// name.
func WriteTIDES(ctx context.Context, w io.Writer, operator, dir string, l *ledger.Ledger, f ledger.Filter) (rows ledger.TIDESRows, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("write a TIDES package: %w", err)
		}
	}()
	if err := f.Check(); err != nil {
		return rows, err // before anything is sent
	}
	wait, err := os.CreateTemp(dir, "farebeat-devices-")
	if err != nil {
		return rows, err
	}
	defer func() { err = errors.Join(err, wait.Close(), os.Remove(wait.Name())) }()
	z := zip.NewWriter(w)
	into, err := z.Create(ledger.FareTable + ".csv")
	if err != nil {
		return rows, err
	}
	fares, devices := NewTable(ledger.FareTable, into), NewTable(ledger.DeviceTable, wait)
	if rows, err = l.ExportTIDES(ctx, fares, devices, f); err != nil {
		return rows, err
	}
	if into, err = z.Create(devices.Path()); err != nil {
		return rows, err
	}
	if _, err = wait.Seek(0, io.SeekStart); err != nil {
		return rows, err
	}
	if _, err = io.Copy(into, wait); err != nil {
		return rows, err
	}
	text, err := ledger.TIDESPackage(operator, f, fares.File(), devices.File())
	if err != nil {
		return rows, err
	}
	if into, err = z.Create(Descriptor); err != nil {
		return rows, err
	}
	if _, err = into.Write(text); err != nil {
		return rows, err
	}
	return rows, z.Close()
}
