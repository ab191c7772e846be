package ledger

import (
	"bufio"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/farebeat/farebeat/schemas"
)

// TIDES 1.0 (github.com/TIDES-transit/TIDES, tag v1.0): the tables fare_transactions and devices, and the data package
// that names them. Columns that TIDES does not have begin with x_; TIDES' own validator lets them be.
const (
	tidesSpec = "https://raw.githubusercontent.com/TIDES-transit/TIDES/v1.0/spec/"

	FareTable   = "fare_transactions"
	DeviceTable = "devices"
)

// FareColumns are the columns of fare_transactions, in order: those of TIDES that a record can fill, then ours.
func FareColumns() []string {
	return []string{
		"transaction_id", "service_date", "event_timestamp", "amount", "currency_type", "fare_action",
		"trip_id_scheduled", "vehicle_id", "device_id", "stop_id", "fare_media_id", "fare_capped", "token_id",
		"x_route_id", "x_epoch", "x_seq", "x_amount_minor", "x_event_timestamp_ms", "x_tz", "x_offline", "x_fare_action", "x_media",
		"x_evidence", "x_prev", "x_mac", "x_brought_by", "x_received_at",
	}
}

// DeviceColumns are the columns of devices, in order.
func DeviceColumns() []string {
	return []string{
		"device_id", "stop_id", "vehicle_id", "device_type",
		"x_records", "x_first_service_date", "x_last_service_date", "x_missing",
	}
}

// fareActions and fareMedia are the words of TIDES 1.0; one that is not among them is written as Other and
// Other type, and as it is in x_fare_action and x_media.
func fareActions() []string {
	return []string{
		"Unknown action type", "Purchase", "Enter", "Exit", "Transfer entrance", "Transfer exit", "Add", "New", "Capture",
		"Extend", "Combine", "Void", "Activate", "Adjust", "Other",
	}
}

func fareMedia() []string {
	return []string{
		"Cash or coins", "Smart card or ticket", "Magnetic-stripe card or ticket", "Bank card", "Mobile NFC", "Optical scan",
		"Button pressed by driver or operator to indicate a boarding or alighting passenger.", "Other type",
	}
}

func tidesAction(action string) string {
	if slices.Contains(fareActions(), action) {
		return action
	}
	return "Other"
}

func tidesMedia(media string) string {
	switch {
	case slices.Contains(fareMedia(), media):
		return media
	case media == "Contactless bank card":
		return "Bank card"
	}
	return "Other type"
}

// fareEncoder writes rows as fare_transactions.
type fareEncoder struct {
	w    *csv.Writer
	line []string
}

func (c *fareEncoder) row(r Row) error {
	tx, err := parseRow(r)
	if err != nil {
		return err
	}
	return c.write(r, tx)
}

func parseRow(r Row) (schemas.Transaction, error) {
	tx, err := schemas.ParseTransaction(r.Record)
	if err != nil {
		err = fmt.Errorf("record %d-%d of machine %q is damaged, verify the ledger: %w", r.Epoch, r.Seq, r.Machine, err)
	}
	return tx, err
}

func (c *fareEncoder) write(r Row, tx schemas.Transaction) error {
	epoch, seq := strconv.FormatUint(uint64(tx.Epoch), 10), strconv.FormatUint(uint64(tx.Seq), 10)
	c.line = append(c.line[:0],
		tx.Machine+"/"+epoch+"/"+seq, tx.ServiceDate, tx.EventTime.UTC().Format("2006-01-02T15:04:05Z"),
		Major(tx.AmountMinor, tx.Currency), tx.Currency, tidesAction(tx.FareAction),
		tx.Trip, tx.Vehicle, tx.Machine, tx.Stop, tidesMedia(tx.Media), "false", tx.TokenID,
		tx.Route, epoch, seq, strconv.FormatInt(tx.AmountMinor, 10), stamp(tx.EventTime), tx.TZ, strconv.FormatBool(tx.Offline), tx.FareAction, tx.Media,
		tx.Evidence, tx.Prev, tx.MAC, r.Vehicle, stamp(r.ReceivedAt))
	return c.w.Write(c.line)
}

func (c *fareEncoder) end() error {
	c.w.Flush()
	return c.w.Error()
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// device is what the selected records say of the machine that wrote them; where it is, the latest says.
type device struct {
	records     uint64
	first, last string // service days
	stop        string
	vehicle     string
}

func (d *device) note(tx schemas.Transaction) {
	d.records++
	if d.first == "" || tx.ServiceDate < d.first {
		d.first = tx.ServiceDate
	}
	d.last = max(d.last, tx.ServiceDate)
	d.stop, d.vehicle = tx.Stop, tx.Vehicle
}

// line is the device's row. A machine on a vehicle is a farebox in TIDES' words, one at a stop a fare gate.
func (d *device) line(machine string, missing uint64) []string {
	kind, stop := "", d.stop
	switch {
	case d.vehicle != "":
		kind, stop = "Farebox", "" // the stop is where the vehicle was then
	case d.stop != "":
		kind = "Fare gate"
	}
	return []string{machine, stop, d.vehicle, kind, strconv.FormatUint(d.records, 10), d.first, d.last, strconv.FormatUint(missing, 10)}
}

// TIDESRows is how many rows ExportTIDES wrote.
type TIDESRows struct{ Transactions, Devices uint64 }

// ExportTIDES writes the records that the filter selects as the table fare_transactions, and the machines that
// wrote them as devices, in one pass. As for Export, what arrives meanwhile may be there or not. It keeps one page
// of records in memory.
func (l *Ledger) ExportTIDES(ctx context.Context, transactions, devices io.Writer, f Filter) (n TIDESRows, err error) {
	if err := f.Check(); err != nil {
		return n, fmt.Errorf("ledger: export: %w", err)
	}
	bufT, bufD := bufio.NewWriterSize(transactions, 1<<16), bufio.NewWriterSize(devices, 1<<16)
	fares, all := &fareEncoder{w: csv.NewWriter(bufT)}, csv.NewWriter(bufD)
	err = errors.Join(fares.w.Write(FareColumns()), all.Write(DeviceColumns()))
	if err == nil {
		err = l.machines(ctx, f, func(machine string) error {
			var d device
			err := l.selected(ctx, machine, f, func(r Row) error {
				tx, err := parseRow(r)
				if err != nil {
					return err
				}
				d.note(tx)
				return fares.write(r, tx)
			})
			if err != nil || d.records == 0 {
				return err
			}
			n.Transactions += d.records
			n.Devices++
			status, err := l.Status(ctx, machine)
			if err != nil {
				return err
			}
			return all.Write(d.line(machine, status.Missing()))
		})
	}
	all.Flush()
	if err = errors.Join(err, fares.end(), all.Error(), bufT.Flush(), bufD.Flush()); err != nil {
		return n, fmt.Errorf("ledger: export: %w", err)
	}
	return n, nil
}

// Missing is how many numbers below the highest of each epoch are not here.
func (s Status) Missing() (n uint64) {
	for _, e := range s.Epochs {
		n += e.Missing
	}
	return n
}

// TIDESFile is one table of a data package as it was written.
type TIDESFile struct {
	Table  string // FareTable or DeviceTable
	Path   string // within the package's folder
	Bytes  int64
	SHA256 string // hexadecimal
}

// TIDESPackage is the datapackage.json of tables, by TIDES' own profile. agency is the operator's name.
func TIDESPackage(agency string, f Filter, files ...TIDESFile) ([]byte, error) {
	type source struct {
		Title     string `json:"title"`
		Component string `json:"component"`
		Product   string `json:"product"`
	}
	type resource struct {
		Name      string   `json:"name"`
		Profile   string   `json:"profile"`
		Path      string   `json:"path"`
		Table     string   `json:"tides-table"`
		Schema    string   `json:"schema"`
		Format    string   `json:"format"`
		MediaType string   `json:"mediatype"`
		Encoding  string   `json:"encoding"`
		Bytes     int64    `json:"bytes"`
		Hash      string   `json:"hash"`
		Sources   []source `json:"sources"`
	}
	p := struct {
		Profile     string     `json:"profile"`
		Name        string     `json:"name"`
		Title       string     `json:"title"`
		Description string     `json:"description"`
		Agency      string     `json:"agency"`
		Resources   []resource `json:"resources"`
	}{
		Profile: tidesSpec + "tides-datapackage-profile.json", Name: "farebeat-ledger", Agency: agency,
		Title:       "Fare transactions of " + agency + f.title(),
		Description: "TIDES 1.0. Transactions that payment machines stored and that the ledger proved. Columns that begin with x_ are not of TIDES.",
	}
	for _, file := range files {
		p.Resources = append(p.Resources, resource{
			Name: file.Table, Profile: "tabular-data-resource", Path: file.Path, Table: file.Table, Schema: tidesSpec + file.Table + ".schema.json",
			Format: "csv", MediaType: "text/csv", Encoding: "utf-8", Bytes: file.Bytes, Hash: "SHA256:" + file.SHA256,
			Sources: []source{{"Farebeat ledger", "AFC", "Farebeat"}},
		})
	}
	b, err := json.MarshalIndent(p, "", "  ")
	return append(b, '\n'), err
}

// title names the selection in words.
func (f Filter) title() (s string) {
	if f.Machine != "" {
		s += ", machine " + f.Machine
	}
	switch {
	case f.From != "" && f.To != "":
		s += ", " + f.From + " to " + f.To
	case f.From != "":
		s += ", from " + f.From
	case f.To != "":
		s += ", to " + f.To
	}
	return s
}
