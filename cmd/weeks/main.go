// Command weeks measures whether route faults cry wolf and whether they sleep: weeks of a real timetable, with machines that
// break now and then by themselves and outages of whole routes between, run through the live engine on virtual time.
// docs/evidence.md says what it found. scripts/weeks calls it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

type options struct {
	days, outages int
	availability  float64
	seed          uint64
	json          bool
	rules         []byte // a rules file; the default rules without it
}

// The exit codes.
const (
	exitFailed = 1 // the run could not be made
	exitUsage  = 2
	exitMissed = 3 // a goal was missed
)

func main() {
	var o options
	weeks := flag.Int("weeks", 3, "how many weeks of the timetable, from Monday 2018-06-04 on")
	flag.IntVar(&o.outages, "outages", 20, "of routes, three of five whole, the others of 60 %")
	flag.Float64Var(&o.availability, "availability", 0.97, "the share of time for which a machine works")
	flag.Uint64Var(&o.seed, "seed", 1, "of all that is random")
	rulesFile := flag.String("rules", "", "rules file; the default rules without it")
	flag.BoolVar(&o.json, "json", false, "print one JSON object")
	flag.Parse()
	o.days = 7 * *weeks
	err := o.check()
	if *rulesFile != "" && err == nil {
		o.rules, err = os.ReadFile(*rulesFile)
	}
	if flag.NArg() > 0 {
		err = fmt.Errorf("unexpected %q", flag.Arg(0))
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "weeks: %v: see -h\n", err)
		os.Exit(exitUsage)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := measure(ctx, o, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func (o options) check() error {
	switch {
	case o.days < 1 || o.days > 364:
		return errors.New("--weeks: want 1 to 52")
	case o.outages < 0 || o.outages > 1000:
		return errors.New("--outages: want 0 to 1000")
	case !(o.availability > 0 && o.availability < 1):
		return errors.New("--availability: want a share between 0 and 1, such as 0.97")
	}
	return nil
}

func measure(ctx context.Context, o options, out, problems io.Writer) int {
	p, err := simulate(ctx, o)
	if err == nil {
		err = p.write(out, o.json)
	}
	if err != nil {
		fmt.Fprintln(problems, "weeks:", err)
		return exitFailed
	}
	if !p.Met {
		return exitMissed
	}
	return 0
}

// simulate makes one run.
func simulate(ctx context.Context, o options) (report, error) {
	begun := time.Now()
	c, err := newCity(ctx, o)
	if err != nil {
		return report{}, err
	}
	r := newRun(c, o.seed)
	if err := r.all(ctx); err != nil {
		return report{}, err
	}
	p := r.report(o)
	p.Seconds = time.Since(begun).Seconds()
	return p, nil
}
