package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/farebeat/farebeat/fleet/ledger"
)

func newLedgerConflictsCmd() *cobra.Command {
	var flags storeFlags
	var filter ledger.Filter
	var kind string
	cmd := &cobra.Command{
		Use:   "conflicts",
		Short: "Print what stands in quarantine, both versions, and the way out; exit code 3 if there is anything",
		Long: `Print what stands in quarantine. Evidence is kept for ever: it is no list of things to do, but what was found.

    conflict      the machine signed two records under one key. The one that came first is in the ledger and counts.
    forged        the MAC is not the machine's. It does not count.
    malformed     it is no valid record of the machine. It does not count.
    broken_chain  the record counts, and does not follow the one before it.`,
		Example: "  farebeat ledger conflicts --data farebeat-data --machine 1216-1",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if kind != "" && !slices.Contains(ledger.Kinds(), ledger.Kind(kind)) {
				return usageError(fmt.Errorf("--kind %q: want one of %v", kind, ledger.Kinds()))
			}
			return flags.withLedger(cmd.Context(), func(l *ledger.Ledger) error {
				return ledgerConflicts(cmd, l, filter.Machine, ledger.Kind(kind), flags.json)
			})
		},
	}
	flags.register(cmd)
	flags.filter = &filter
	cmd.Flags().StringVar(&filter.Machine, "machine", "", "only this machine")
	cmd.Flags().StringVar(&kind, "kind", "", "only conflict, forged, malformed or broken_chain")
	return cmd
}

func ledgerConflicts(cmd *cobra.Command, l *ledger.Ledger, machine string, kind ledger.Kind, asJSON bool) error {
	out, enc, found := cmd.OutOrStdout(), json.NewEncoder(cmd.OutOrStdout()), 0
	err := l.Quarantine(cmd.Context(), machine, func(q ledger.Quarantined) error {
		if kind != "" && q.Kind != kind {
			return nil
		}
		found++
		if asJSON {
			return enc.Encode(shown(q))
		}
		_, err := fmt.Fprint(out, describe(q))
		return err
	})
	if err == nil && found > 0 {
		return differenceError("%d pieces of evidence in quarantine", found)
	}
	return err
}

// evidence is a piece of evidence as JSON: the records as text, which they are unless somebody forged them.
type evidence struct {
	ledger.Quarantined
	Record string `json:"record"`         // what came
	Held   string `json:"held,omitempty"` // what the ledger holds and that it contradicts
	Do     string `json:"do"`
}

func shown(q ledger.Quarantined) evidence {
	return evidence{q, string(q.Record), string(q.Held), q.Kind.WayOut()}
}

func describe(q ledger.Quarantined) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d  %s  machine %s, record %d-%d, brought by vehicle %s, %s to %s, %d times\n", q.ID, q.Kind, q.Machine, q.Epoch, q.Seq,
		q.Vehicle, q.FirstAt.Format(time.RFC3339), q.LastAt.Format(time.RFC3339), q.Times)
	fmt.Fprintf(&b, "    %s\n", q.Detail)
	if len(q.Held) > 0 {
		fmt.Fprintf(&b, "    in the ledger: %s\n", printable(q.Held))
	}
	fmt.Fprintf(&b, "    what came:     %s\n", printable(q.Record))
	if d := differing(q.Held, q.Record); q.Kind == ledger.Conflict && d != "" {
		fmt.Fprintf(&b, "    they differ in %s\n", d)
	}
	fmt.Fprintf(&b, "    do: %s\n", q.Kind.WayOut())
	return b.String()
}

// printable is a record on a terminal: what came may be anything.
func printable(record []byte) string {
	text := fmt.Sprintf("%q", record)
	return strings.ReplaceAll(text[1:len(text)-1], `\"`, `"`)
}

// differing names the members whose values differ, but for those that always do.
func differing(held, came []byte) string {
	var a, b map[string]json.RawMessage
	if errors.Join(json.Unmarshal(held, &a), json.Unmarshal(came, &b)) != nil {
		return ""
	}
	var names []string
	for name := range b {
		if _, there := a[name]; !there {
			a[name] = nil
		}
	}
	for name, value := range a {
		if name != "mac" && name != "prev" && string(value) != string(b[name]) {
			names = append(names, fmt.Sprintf("%s: %s and %s", name, value, b[name]))
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}
