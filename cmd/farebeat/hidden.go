package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/farebeat/farebeat/edge/machine"
)

// rim is what a crash test sets at the rim of a process. Its flags are hidden: nobody else has use for them.
type rim struct {
	offset   time.Duration // of the clock, as a wrong or jumped one has it
	patience time.Duration // serve: how long a link or clock must be well until its fault closes, and a left slot stands; 0: the defaults
	interval time.Duration // machine: between heartbeats; 0: the default
	witness  bool          // machine: print each record once it is on the disk
	stock    int           // machine: records to store before it is on duty, where it has none
}

func (r *rim) registerClock(cmd *cobra.Command) {
	r.hidden(cmd, func(f *pflag.FlagSet) {
		f.DurationVar(&r.offset, "clock-offset", 0, "shift the clock")
	})
}

func (r *rim) registerServe(cmd *cobra.Command) {
	r.registerClock(cmd)
	r.hidden(cmd, func(f *pflag.FlagSet) {
		f.DurationVar(&r.patience, "patience", 0, "how long a link or clock must be well, and a left slot stands")
	})
}

func (r *rim) registerMachine(cmd *cobra.Command) {
	r.registerClock(cmd)
	r.hidden(cmd, func(f *pflag.FlagSet) {
		f.DurationVar(&r.interval, "heartbeat", 0, "time between heartbeats")
		f.BoolVar(&r.witness, "journal-log", false, "print each record as JSON once it is on the disk")
		f.IntVar(&r.stock, "stock", 0, "records to store before the machine is on duty, where it has none")
	})
}

// hidden registers flags that the help does not show.
func (r *rim) hidden(cmd *cobra.Command, register func(*pflag.FlagSet)) {
	set := pflag.NewFlagSet("", pflag.ContinueOnError)
	register(set)
	set.VisitAll(func(f *pflag.Flag) { f.Hidden = true })
	cmd.Flags().AddFlagSet(set)
}

// fill has a machine that never sold anything store as many records as are asked for. It is off before and after.
func (r *rim) fill(m *machine.Machine, route string) (err error) {
	if r.stock == 0 {
		return nil
	}
	if err := m.PowerOn(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.PowerOff()) }()
	if s, _ := m.Journal(); s.LastSeq > 0 {
		return nil
	}
	m.SetDuty(machine.Duty{Route: route}, false)
	for i := range r.stock {
		if _, err := m.Tap(r.now(), machine.Fare{AmountMinor: 240, TokenID: fmt.Sprintf("tok-%016x", i)}); err != nil {
			return err
		}
	}
	return nil
}

// now is the process's clock.
func (r *rim) now() time.Time { return time.Now().Add(r.offset) }
