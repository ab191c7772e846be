package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/farebeat/farebeat/fleet"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/orders"
	"github.com/farebeat/farebeat/fleet/store"
)

// attendFlags are the flags of commands that order something about a fault.
type attendFlags struct {
	givingFlags
	order  faults.Order
	until  string
	length time.Duration
}

func newFaultsAttendCmds() []*cobra.Command {
	const works = `

It works while farebeat serve runs, on its host; while it does not, the order waits for its next start. Who ordered it, when
and why is kept: see farebeat faults audit.`
	var out []*cobra.Command
	for _, c := range []struct {
		verb             faults.Verb
		use, short, long string
		timed            bool
	}{
		{faults.VerbAcknowledge, "ack ID", "Say that somebody saw a fault", "Say that somebody saw a fault. It ends with the fault: one that comes back is unseen again.", true},
		{faults.VerbAssign, "assign ID", "Say that somebody works on a fault", "Say that somebody works on a fault. It ends with the fault.", true},
		{faults.VerbShelve, "shelve ID", "Put a fault aside until a time", "Put a fault aside until a time. It is kept and acted upon, but not notified again until then.", true},
		{faults.VerbUnsee, "unsee ID", "Take an acknowledgement, assignment or shelf back", "Take an acknowledgement, assignment or shelf back, as if nobody had seen the fault.", false},
		{faults.VerbNote, "note ID", "Note something about a fault", "Note something about a fault, for those who read its life. Nobody is notified.", false},
		{
			faults.VerbAbandon, "abandon ID", "Give a fault up", "Give a fault up, such as that of a machine that burnt with its vehicle: gateways stop collecting, and it stays quiet until its machine " +
				"or route has been well once. What the machine still holds stays a gap in the ledger.", false,
		},
	} {
		var f attendFlags
		cmd := &cobra.Command{
			Use: c.use, Short: c.short, Long: c.long + works, Args: cobra.ExactArgs(1),
			Example: "  farebeat faults " + c.use[:len(c.use)-2] + "M-01K5Y0H3QZ0000000000000000 --note 'technician is on the way'",
			RunE:    func(cmd *cobra.Command, args []string) error { return f.run(cmd, c.verb, args[0]) },
		}
		f.register(cmd)
		cmd.Flags().StringVar(&f.order.Note, "note", "", "why, for those who read it later")
		if c.timed {
			cmd.Flags().StringVar(&f.until, "until", "", "until this time, RFC 3339")
			cmd.Flags().DurationVar(&f.length, "for", 0, "for so long, such as 2h")
			cmd.MarkFlagsMutuallyExclusive("until", "for")
		}
		if c.verb == faults.VerbShelve {
			cmd.MarkFlagsOneRequired("until", "for")
		}
		if c.verb == faults.VerbAbandon || c.verb == faults.VerbNote {
			must(cmd.MarkFlagRequired("note"))
		}
		out = append(out, cmd)
	}
	return out
}

func (f *attendFlags) run(cmd *cobra.Command, verb faults.Verb, id string) error {
	ctx := cmd.Context()
	db, c, err := f.store.open(ctx)
	if err != nil {
		return err
	}
	known, _, err := db.Faults().Get(ctx, id)
	err = errors.Join(err, db.Close())
	switch {
	case errors.Is(err, faults.ErrNotFound):
		return usageError(fmt.Errorf("%w: `farebeat faults list` names those that stand", err))
	case err != nil:
		return err
	case known.Ended() && verb != faults.VerbAcknowledge && verb != faults.VerbNote:
		return usageError(fmt.Errorf("fault %s ended at %s", id, known.ClosedAt.UTC().Format(time.RFC3339)))
	}
	o := f.order
	o.ID, o.Verb, o.Fault = randomID(), verb, id
	o.By, o.At = f.who(c.Client)
	if f.until != "" {
		if o.Until, err = time.Parse(time.RFC3339, f.until); err != nil {
			return usageError(fmt.Errorf("--until %q: want a time such as 2026-11-22T05:00:00Z", f.until))
		}
	}
	if f.length != 0 {
		o.Until = o.At.Add(f.length)
	}
	if err := o.Validate(); err != nil {
		return usageError(err)
	}
	dir := fleet.FaultOrders(ordersPath(c.Data))
	writer, err := store.Open(ctx, storePath(c.Data), store.Options{})
	switch {
	case errors.Is(err, store.ErrInUse):
		if err := leaveOrder(ctx, dir, o, f.timeout); err != nil {
			return err
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "fault %s: %s, done\n", id, verb)
		return err
	case err != nil:
		return err
	}
	if _, err := orders.Leave(dir, o); err != nil {
		return errors.Join(err, writer.Close())
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "fault %s: %s, noted; farebeat serve does not run and will do it when it starts\n", id, verb)
	return errors.Join(err, writer.Close())
}

func newFaultsAuditCmd() *cobra.Command {
	var flags storeFlags
	var from, to, by string
	limit := faults.DefaultLimit
	cmd := &cobra.Command{
		Use:     "audit",
		Short:   "List what people did about faults",
		Long:    "List what people did about faults, oldest first: who acknowledged, assigned, shelved, reported or gave up what, when and why.",
		Example: "  farebeat faults audit --from 2026-11-22T00:00:00Z --by anna",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			start, end, err := parseRange(from, to)
			if err != nil {
				return usageError(err)
			}
			if limit < 1 || limit > faults.MaxLimit {
				return usageError(fmt.Errorf("--limit %d: want 1 to %d", limit, faults.MaxLimit))
			}
			s, c, err := flags.open(cmd.Context())
			if err != nil {
				return err
			}
			zone, err := time.LoadLocation(c.TimeZone)
			if err != nil {
				return errors.Join(usageError(err), s.Close())
			}
			list, err := s.Audit(cmd.Context(), start, end, by, limit+1)
			if err = errors.Join(err, s.Close()); err != nil {
				return err
			}
			if len(list) > limit {
				list = list[1:]
				fmt.Fprintf(cmd.ErrOrStderr(), "farebeat: the newest %d are listed, there are more: --to and --limit show others\n", limit)
			}
			for _, e := range list {
				if flags.json {
					err = json.NewEncoder(cmd.OutOrStdout()).Encode(e)
				} else {
					_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s  %s  %s %s (%s): %s\n", e.At.In(zone).Format(faultTime), e.Fault, e.By, e.Change, e.Attention, e.Note)
				}
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
	flags.register(cmd)
	cmd.Flags().StringVar(&from, "from", "", "from this time on, RFC 3339; the beginning without it")
	cmd.Flags().StringVar(&to, "to", "", "before this time, RFC 3339; the end without it")
	cmd.Flags().StringVar(&by, "by", "", "only what this person did")
	cmd.Flags().IntVar(&limit, "limit", limit, "at most this many, the newest")
	return cmd
}
