//go:build unix

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/farebeat/farebeat/cmd/ble-guest/result"
)

// table is what the guest said.
type table struct {
	Scenarios  []result.Scenario
	End        *result.End
	Garbled    []string // messages that could not be read
	Seconds    float64  // from the start of QEMU to its end
	CPUSeconds float64  // that QEMU took
	last       []string // of what the kernel and others printed
}

// passed reports whether all that was to be shown was shown.
func (t *table) passed() bool {
	if t.End == nil || t.End.Failed != "" || len(t.Garbled) > 0 || len(t.Scenarios) == 0 {
		return false
	}
	for i := range t.Scenarios {
		if !t.Scenarios[i].Passed() {
			return false
		}
	}
	return true
}

func (t *table) print(out io.Writer, asJSON bool) error {
	if asJSON {
		encoder := json.NewEncoder(out)
		for i := range t.Scenarios {
			if err := encoder.Encode(&t.Scenarios[i]); err != nil {
				return err
			}
		}
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "scenario\trecords\tB/rec\tair B/rec\tlost\ttwice\talter\ttotal s\tread s\trec/s\tdials\tlinks lost\tworkers\tagent MB\tCPU s\tworker MB\tCPU s\t")
	for _, s := range t.Scenarios {
		perSecond := 0.0
		if s.Reading > 0 {
			perSecond = float64(s.Records-s.Lost) / s.Reading
		}
		fmt.Fprintf(w, "%s\t%d\t%.0f\t%.0f\t%d\t%d\t%d\t%.1f\t%.1f\t%.0f\t%d\t%d\t%d\t%s\t%.1f\t%s\t%.1f\t\n", s.Name, s.Records, s.Bytes, s.OnAir,
			s.Lost, s.Twice, s.Altered+s.Invented, s.Seconds, s.Reading, perSecond, s.Dials, s.LinksLost, s.Workers,
			megabytes(s.Agent), s.Agent.CPUSeconds, megabytes(s.Worker), s.Worker.CPUSeconds)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, s := range t.Scenarios {
		fmt.Fprintf(out, "%s: %s%s\n", s.Name, s.About, comma(s.Notes))
		for _, f := range s.Findings {
			fmt.Fprintf(out, "  FAILED: %s\n", f)
		}
	}
	for _, g := range t.Garbled {
		fmt.Fprintln(out, "FAILED:", g)
	}
	if t.End != nil && t.End.Verify != "" {
		fmt.Fprintln(out, "ledger verify:", t.End.Verify)
	}
	if t.End != nil && t.End.Failed != "" {
		fmt.Fprintln(out, "FAILED:", t.End.Failed)
	}
	fmt.Fprintf(out, "%d scenarios in %.0f s with %.0f s of CPU time\n", len(t.Scenarios), t.Seconds, t.CPUSeconds)
	return nil
}

func comma(notes string) string {
	if notes == "" {
		return ""
	}
	return "; " + notes
}

// megabytes are the resident memory now and at most.
func megabytes(u result.Usage) string {
	return fmt.Sprintf("%.1f/%.1f", float64(u.ResidentKiB)/1024, float64(u.PeakKiB)/1024)
}
