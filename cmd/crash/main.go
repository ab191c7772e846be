//go:build unix

// Command crash proves that nothing is lost and nothing is doubled: it runs broker and fleet, two gateways and six
// machines as processes, kills them and harms them again and again, and compares at the end what the machines had on
// their disks with the ledger. docs/crash.md says what it proves. scripts/crash calls it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/fleet/store"
)

type options struct {
	seed     uint64
	kills    int
	length   time.Duration
	every    int // kills between two checkpoints
	patience time.Duration
	race     bool
	keep     bool
	json     bool
}

// The exit codes.
const (
	exitFailed     = 1 // the run could not be made
	exitUsage      = 2
	exitDifference = 3 // something was lost, doubled or stuck
)

func main() {
	var o options
	flag.Uint64Var(&o.seed, "seed", 0, "of all that is random; 0: by the clock")
	flag.IntVar(&o.kills, "kills", 0, "end after this many kills")
	flag.DurationVar(&o.length, "for", 0, "end after this long, without the comparison")
	flag.IntVar(&o.every, "checkpoint", 500, "compare after this many kills, and at the end")
	flag.DurationVar(&o.patience, "patience", 6*time.Minute, "how long the system may take to come to rest")
	flag.BoolVar(&o.race, "race", false, "build with the race detector")
	flag.BoolVar(&o.keep, "keep", false, "keep the work folder also where all is well")
	flag.BoolVar(&o.json, "json", false, "print one JSON object at the end")
	flag.Parse()
	if flag.NArg() > 0 || (o.kills > 0) == (o.length > 0) || o.kills < 0 || o.every < 1 {
		fmt.Fprintln(os.Stderr, "crash: want either --kills N or --for DURATION: see -h")
		os.Exit(exitUsage)
	}
	if o.seed == 0 {
		o.seed = uint64(time.Now().UnixNano())%1_000_000 + 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, o, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// result is what a run ends with.
type result struct {
	Seed    uint64   `json:"seed"`
	Seconds float64  `json:"seconds"`
	Kills   int      `json:"kills_in_all"`
	Counts  Counts   `json:"counts"`
	Verdict Verdict  `json:"verdict"`
	Alarms  []string `json:"alarms,omitempty"` // panics, races, programs that did not stop
	Failed  string   `json:"failed,omitempty"`
	Folder  string   `json:"folder,omitempty"` // kept
	Replay  string   `json:"replay,omitempty"`
}

func (r *result) good() bool {
	return r.Failed == "" && r.Counts.Checkpoints > 0 && len(r.Alarms) == 0 && r.Verdict.Good()
}

func run(ctx context.Context, o options, out, progress io.Writer) int {
	begun := time.Now()
	dir, err := os.MkdirTemp("", "fb-crash-")
	if err != nil {
		fmt.Fprintln(progress, "crash:", err)
		return exitFailed
	}
	fmt.Fprintf(progress, "crash: seed %d, work folder %s\n", o.seed, dir)
	w, err := newWorld(ctx, dir, o.seed, o.race, progress)
	if err != nil {
		fmt.Fprintln(progress, "crash:", errors.Join(err, os.RemoveAll(dir)))
		return exitFailed
	}
	if w.noDisk != nil {
		fmt.Fprintf(progress, "crash: no full disks: a disk of its own for each process takes root on Linux (%v)\n", w.noDisk)
	}
	r := result{Seed: o.seed}
	if err := live(ctx, w, o, begun, &r); err != nil {
		r.Failed = err.Error()
	}
	r.Seconds = time.Since(begun).Seconds()
	for _, p := range w.order {
		alarms, err := p.alarms()
		if r.Alarms = append(r.Alarms, alarms...); err != nil {
			r.Alarms = append(r.Alarms, err.Error())
		}
	}
	var tidy error
	if !r.good() || o.keep {
		r.Folder = dir
		r.Replay = fmt.Sprintf("scripts/crash --seed %d --kills %d --checkpoint %d", o.seed, max(r.Kills, 1), o.every)
		tidy = w.keep()
	}
	if tidy = errors.Join(tidy, w.close()); tidy == nil && r.Folder == "" {
		tidy = os.RemoveAll(dir)
	}
	if tidy != nil {
		fmt.Fprintln(progress, "crash:", tidy)
	}
	r.print(out, o.json)
	switch {
	case r.good():
		return 0
	case r.Failed != "" && r.Verdict.Good():
		return exitFailed
	}
	return exitDifference
}

// live lets the world suffer and looks at what is left of it.
func live(ctx context.Context, w *world, o options, begun time.Time, r *result) error {
	c, err := newChaos(w, o.seed)
	if err != nil {
		return err
	}
	defer c.log.Close()
	defer func() { c.counts.Cuts = w.cuts(); r.Counts, r.Kills = c.counts, c.counts.killed() }()
	if err := w.startAll(); err != nil {
		return err
	}
	over := func() bool {
		if o.kills > 0 {
			return c.counts.killed() >= o.kills
		}
		return time.Since(begun) >= o.length
	}
	for !over() {
		next := c.counts.killed() + o.every
		if err := c.rage(ctx, func() bool { return over() || c.counts.killed() >= next }); err != nil {
			return err
		}
		if err := checkpoint(ctx, c, o, r); err != nil || !r.Verdict.Good() {
			return err
		}
		if err := w.startAll(); !over() && err != nil {
			return err
		}
	}
	return nil
}

// checkpoint heals the system, waits for it to come to rest, stops it and compares.
func checkpoint(ctx context.Context, c *chaos, o options, r *result) error {
	witnessed, _ := c.w.seen()
	home := "?" // serve may be dead or without a disk just now
	if n, err := c.w.transactions(ctx); err == nil {
		home = fmt.Sprint(n)
	}
	fmt.Fprintf(c.w.progress, "crash: %d kills, %d transactions witnessed, %s in the ledger; waiting for rest\n", c.counts.killed(), len(witnessed), home)
	if err := c.heal(); err != nil {
		return err
	}
	rest, err := c.settle(ctx, o.patience)
	if err != nil {
		return err
	}
	for _, kind := range []string{kindMachine, kindEdge, kindServe} {
		for _, p := range c.w.order {
			if p.kind != kind {
				continue
			}
			if err := p.stop(ctx, 20*time.Second); err != nil {
				r.Alarms = append(r.Alarms, err.Error())
			}
		}
	}
	evidence, err := c.w.gather(ctx, rest)
	if err != nil {
		return err
	}
	r.Verdict = Compare(evidence)
	c.counts.Checkpoints++
	c.counts.Witnessed, c.counts.Transactions = len(evidence.Witnessed), len(evidence.Ledger)
	c.counts.Recoveries, err = c.w.recoveries(ctx)
	fmt.Fprintf(c.w.progress, "crash: %d kills, %d transactions: %s\n", c.counts.killed(), len(evidence.Ledger), &r.Verdict)
	if r.Verdict.First != nil {
		r.Verdict.Findings = append(r.Verdict.Findings, c.history(*r.Verdict.First)...)
	}
	if !rest.quiet() {
		r.Verdict.Findings = append(r.Verdict.Findings, "not at rest: "+rest.String())
	}
	return err
}

// settle waits until the system is at rest, and says what is left where patience ends first.
func (c *chaos) settle(ctx context.Context, patience time.Duration) (unrest, error) {
	begun := time.Now()
	told := begun
	for {
		rest := c.w.look(ctx)
		if rest.quiet() {
			fmt.Fprintf(c.w.progress, "crash: at rest after %s\n", time.Since(begun).Round(time.Second))
			return rest, nil
		}
		if time.Since(told) > 10*time.Second {
			told = time.Now()
			fmt.Fprintf(c.w.progress, "crash: after %s: %s\n", time.Since(begun).Round(time.Second), &rest)
		}
		if time.Since(begun) > patience {
			return rest, nil
		}
		if err := c.wait(ctx, time.Now().Add(time.Second)); err != nil {
			return rest, err
		}
	}
}

// cuts counts the connections that the proxies lost.
func (w *world) cuts() int64 {
	var n int64
	for _, list := range []map[string]*proxy{w.uplinks, w.radios} {
		for _, p := range list {
			n += p.cuts.Load()
		}
	}
	return n
}

// transactions is how many rows the ledger has.
func (w *world) transactions(ctx context.Context) (n uint64, err error) {
	err = w.withStore(ctx, func(s *store.Store) error {
		t, err := ledger.New(s.Ledger(), w.master, time.Now).Totals(ctx, ledger.Filter{})
		n = t.Records
		return err
	})
	return n, err
}

// recoveries counts how often a fault of a machine closed with all its money home; one that comes back soon is the same
// fault.
func (w *world) recoveries(ctx context.Context) (n int, err error) {
	err = w.withStore(ctx, func(s *store.Store) error {
		list, err := s.Faults().List(ctx, faults.Query{Limit: faults.MaxLimit})
		for _, f := range list {
			if f.Family() != faults.FamilyCustody {
				continue
			}
			_, events, getErr := s.Faults().Get(ctx, f.ID)
			err = errors.Join(err, getErr)
			for _, e := range events {
				if e.Change == faults.ChangeClosed {
					n++
				}
			}
		}
		return err
	})
	return n, err
}

// history is what was done around a record that is not where it should be.
func (c *chaos) history(k Key) []string {
	lines, at := c.w.seen()
	var when time.Time
	for i, l := range lines {
		if l.Key == k {
			when = at[i]
			break
		}
	}
	if when.IsZero() {
		return []string{k.String() + " was never witnessed"}
	}
	out := []string{fmt.Sprintf("%s was witnessed at %s; around it:", k, when.UTC().Format(time.RFC3339Nano))}
	for _, e := range c.events {
		if d := e.At.Sub(when); d > -20*time.Second && d < 60*time.Second {
			out = append(out, fmt.Sprintf("  %s %s", e.At.Format("15:04:05.000"), e.Did))
		}
	}
	return out
}

func (r *result) print(out io.Writer, asJSON bool) {
	if asJSON {
		_ = json.NewEncoder(out).Encode(r) // nobody is left to tell
		return
	}
	c := r.Counts
	fmt.Fprintf(out, "seed %d, %.0f s: %d kills (serve %d, edge %d, machine %d), %d wipes of the broker, %d gateways replaced with %d records inside, %d disks filled, %d clocks jumped, %d connections cut, %d outages\n",
		r.Seed, r.Seconds, r.Kills, c.Kills[kindServe], c.Kills[kindEdge], c.Kills[kindMachine], c.Wipes, c.Replacements, c.Inside, c.Fills, c.Jumps, c.Cuts, c.Outages)
	for what, n := range c.Skipped {
		fmt.Fprintf(out, "skipped %s %d times: this system does not allow it\n", what, n)
	}
	fmt.Fprintf(out, "%d transactions witnessed, %d in the ledger, %d recoveries, %d checkpoints\n", c.Witnessed, c.Transactions, c.Recoveries, c.Checkpoints)
	if c.Checkpoints > 0 {
		fmt.Fprintln(out, &r.Verdict)
	} else {
		fmt.Fprintln(out, "nothing was compared")
	}
	for _, f := range append(r.Verdict.Findings, r.Alarms...) {
		fmt.Fprintln(out, " ", f)
	}
	if r.Failed != "" {
		fmt.Fprintln(out, "failed:", r.Failed)
	}
	if r.Folder != "" {
		fmt.Fprintf(out, "everything is kept in %s; again: %s\n", r.Folder, r.Replay)
	}
}
