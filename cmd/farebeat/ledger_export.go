package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/farebeat/farebeat/fleet/console/export"
	"github.com/farebeat/farebeat/fleet/ledger"
)

func newLedgerExportCmd() *cobra.Command {
	var flags storeFlags
	var filter ledger.Filter
	var format, path, tides string
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write the records as TIDES tables, CSV or JSON lines",
		Long: `Write the records of the ledger. --tides writes a TIDES 1.0 data package into a folder: fare_transactions.csv,
devices.csv and datapackage.json. Otherwise csv is the table fare_transactions alone, and jsonl has every record
exactly as the machine made it. Columns that TIDES does not have begin with x_; docs/finance.md explains them.`,
		Example: "  farebeat ledger export --tides out --from 2026-11-22 --to 2026-11-22\n" +
			"  farebeat ledger export --format csv --from 2026-11-22 --out day.csv",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return flags.withBooks(cmd.Context(), false, func(b books) error {
				if tides != "" {
					return exportTIDES(cmd, b, filter, tides)
				}
				write := func(w io.Writer) error {
					_, err := b.Export(cmd.Context(), w, ledger.Format(format), filter)
					return err
				}
				if path == "" {
					return write(cmd.OutOrStdout())
				}
				return writeFile(path, write)
			})
		},
	}
	flags.registerData(cmd)
	registerFilter(cmd, &flags, &filter)
	cmd.Flags().StringVar(&format, "format", "csv", "csv or jsonl")
	cmd.Flags().StringVar(&path, "out", "", "file; standard output without it")
	cmd.Flags().StringVar(&tides, "tides", "", "folder for a TIDES data package; made where it is not there")
	cmd.MarkFlagsMutuallyExclusive("tides", "format")
	cmd.MarkFlagsMutuallyExclusive("tides", "out")
	return cmd
}

// exportTIDES writes the package's tables, and the descriptor that names them last.
func exportTIDES(cmd *cobra.Command, b books, filter ledger.Filter, dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return usageError(err)
	}
	var rows ledger.TIDESRows
	var files []ledger.TIDESFile
	err := writeFile(filepath.Join(dir, ledger.FareTable+".csv"), func(fares io.Writer) error {
		return writeFile(filepath.Join(dir, ledger.DeviceTable+".csv"), func(devices io.Writer) (err error) {
			f, d := export.NewTable(ledger.FareTable, fares), export.NewTable(ledger.DeviceTable, devices)
			rows, err = b.ExportTIDES(cmd.Context(), f, d, filter)
			files = []ledger.TIDESFile{f.File(), d.File()}
			return err
		})
	})
	if err != nil {
		return err
	}
	descriptor, err := ledger.TIDESPackage(b.config.Operator, filter, files...)
	if err == nil {
		err = writeFile(filepath.Join(dir, export.Descriptor), func(w io.Writer) error {
			_, err := w.Write(descriptor)
			return err
		})
	}
	if err != nil {
		return errors.Join(err, os.Remove(filepath.Join(dir, export.Descriptor)))
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %d fare transactions of %d devices, TIDES 1.0\n", dir, rows.Transactions, rows.Devices)
	return err
}
