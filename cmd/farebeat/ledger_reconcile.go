package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/farebeat/farebeat/fleet/ledger"
)

func newLedgerReconcileCmd() *cobra.Command {
	var flags storeFlags
	var filter ledger.Filter
	cmd := &cobra.Command{
		Use:   "reconcile FILE",
		Short: "Compare the ledger with an order file of the payment back office; exit code 3 if they differ",
		Long: `Compare the ledger with an order file of the payment back office, to the cent: what is in the ledger and not
ordered, ordered and not in the ledger, ordered with another amount, ordered twice. A record of amount 0 needs no order.

The file is CSV with commas and a header line; - is standard input. Its columns, in any order, others ignored:

    machine, epoch, seq   the record's key
    amount_minor          whole number of minor units (cents); or
    amount                with a column currency a decimal number with exactly the currency's decimals,
                          without one a whole number of minor units
    currency              ISO 4217; optional with amount_minor

If a line is wrong nothing is compared, and the lines are named (exit code 2). --from and --to say which service days
the file is about; without them it is compared with the whole ledger.`,
		Example: "  farebeat ledger reconcile orders.csv --from 2026-11-22 --to 2026-11-22",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return flags.withBooks(cmd.Context(), false, func(b books) error {
				return ledgerReconcile(cmd, b, args[0], filter, flags.json)
			})
		},
	}
	flags.register(cmd)
	registerFilter(cmd, &flags, &filter)
	return cmd
}

func ledgerReconcile(cmd *cobra.Command, b books, path string, filter ledger.Filter, asJSON bool) error {
	orders, err := readOrders(cmd, path)
	if err != nil {
		return err
	}
	w := &reconcileWriter{out: cmd.OutOrStdout(), json: asJSON}
	sum, err := b.Reconcile(cmd.Context(), orders, filter, b.declared, w.difference, w.day)
	if err = errors.Join(err, orders.Close()); err != nil {
		return err
	}
	if err := w.total(sum); err != nil {
		return err
	}
	if sum.Differences > 0 {
		return differenceError("ledger and orders differ in %d records", sum.Differences)
	}
	return nil
}

func readOrders(cmd *cobra.Command, path string) (*ledger.Orders, error) {
	in := cmd.InOrStdin()
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, usageError(err)
		}
		defer f.Close()
		in = f
	}
	orders, err := ledger.ReadOrders(in, "")
	if err != nil {
		return nil, usageError(fmt.Errorf("order file %s: %w", path, err))
	}
	return orders, nil
}

// reconcileWriter prints differences and days as they come.
type reconcileWriter struct {
	out  io.Writer
	json bool
}

// object prints a line of JSON whose first member says what it is.
func (w *reconcileWriter) object(kind string, v any) error {
	body, err := json.Marshal(v)
	if err == nil {
		_, err = fmt.Fprintf(w.out, "{\"type\":%q,%s\n", kind, body[1:])
	}
	return err
}

func (w *reconcileWriter) difference(d ledger.Difference) error {
	if w.json {
		return w.object("difference", d)
	}
	_, err := fmt.Fprintln(w.out, differenceLine(d))
	return err
}

func differenceLine(d ledger.Difference) string {
	var b strings.Builder
	b.WriteString("  ")
	if d.Line > 0 {
		fmt.Fprintf(&b, "line %d: ", d.Line)
	}
	fmt.Fprintf(&b, "machine %s, record %d-%d", d.Machine, d.Epoch, d.Seq)
	if d.ServiceDate != "" {
		fmt.Fprintf(&b, " of %s", d.ServiceDate)
	}
	switch d.Kind {
	case ledger.NotOrdered:
		fmt.Fprintf(&b, ": %s in the ledger, not ordered", d.Held)
	case ledger.NotInLedger:
		fmt.Fprintf(&b, ": %s ordered, not in the ledger", orderedAmount(d.Ordered))
		if d.Gap != "" {
			fmt.Fprintf(&b, ", %s", d.Gap)
		} else {
			b.WriteString(", nothing says that the machine ever wrote it")
		}
	case ledger.AmountDiffers:
		fmt.Fprintf(&b, ": %s ordered, %s in the ledger", d.Ordered, d.Held)
	case ledger.OrderedTwice:
		fmt.Fprintf(&b, ": %s ordered again, first on line %d", orderedAmount(d.Ordered), d.First)
	case ledger.NotVerified:
		fmt.Fprintf(&b, ": %s in the ledger, and its MAC does not prove it; run farebeat ledger verify", d.Held)
	}
	return b.String()
}

// orderedAmount is an amount whose currency the file may not say.
func orderedAmount(m *ledger.Money) string {
	if m.Currency == "" {
		return fmt.Sprintf("%d minor units", m.Minor)
	}
	return m.String()
}

func (w *reconcileWriter) day(d ledger.Reconciled) error {
	if w.json {
		return w.object("day", d)
	}
	date := d.ServiceDate
	if date == "" {
		date = "not here   "
	}
	_, err := fmt.Fprintf(w.out, "%-24s %s  declared %d  received %s  verified %s  ordered %s  differences %d\n", d.Machine, date, d.Declared,
		amounts(d.Received), amounts(d.Verified), amounts(d.Ordered), d.Differences)
	return err
}

// amounts is a count and sums in one word each.
func amounts(a ledger.Amounts) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d", a.Records)
	for _, m := range a.Sums {
		fmt.Fprintf(&b, " %s", orderedAmount(&m))
	}
	return b.String()
}

func (w *reconcileWriter) total(r ledger.Reconciliation) error {
	if w.json {
		return w.object("total", r)
	}
	fmt.Fprintf(w.out, "%d orders, %d of them outside of what was asked for; received %s, verified %s, ordered %s; %d differences", r.Orders, r.Outside,
		amounts(r.Received), amounts(r.Verified), amounts(r.Ordered), r.Differences)
	for _, kind := range ledger.DifferenceKinds() {
		if n := r.Kinds[kind]; n > 0 {
			fmt.Fprintf(w.out, ", %d %s", n, strings.ReplaceAll(string(kind), "_", " "))
		}
	}
	_, err := fmt.Fprintln(w.out)
	return err
}
