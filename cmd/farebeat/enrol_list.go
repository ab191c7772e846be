package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/fleet/enrol"
	"github.com/farebeat/farebeat/fleet/store"
	"github.com/farebeat/farebeat/topics"
)

// register is all that farebeat enrol list shows, of one moment.
type register struct {
	permits      []enrol.Permit
	waiting      []enrol.Waiting
	certificates []enrol.Certificate
}

func newEnrolListCmd() *cobra.Command {
	var flags storeFlags
	var all bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List codes that stand, devices that wait, and certificates",
		Long: `List the codes and admissions that were not used yet, the devices that wait to be admitted, and the certificates that are
good. With --all also codes that were used or are over, devices that were dismissed, and certificates that are revoked or over.
Codes themselves are kept nowhere.`,
		Example: "  farebeat enrol list --data farebeat-data",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, c, err := flags.open(cmd.Context())
			if err != nil {
				return err
			}
			reg, err := readRegister(cmd.Context(), s)
			if err := errors.Join(err, s.Close()); err != nil {
				return err
			}
			zone, err := time.LoadLocation(c.TimeZone)
			if err != nil {
				return usageError(err)
			}
			if !all {
				reg = reg.standing(time.Now())
			}
			if flags.json {
				return reg.json(json.NewEncoder(cmd.OutOrStdout()))
			}
			return reg.print(cmd, zone)
		},
	}
	flags.register(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "also what is over")
	return cmd
}

func readRegister(ctx context.Context, s *store.Store) (reg register, err error) {
	err = s.Identities().View(ctx, func(v enrol.View) (err error) {
		var errs [3]error
		reg.permits, errs[0] = v.Permits(topics.Identity{})
		reg.waiting, errs[1] = v.AllWaiting()
		reg.certificates, errs[2] = v.Certificates(topics.Identity{})
		return errors.Join(errs[:]...)
	})
	return reg, err
}

// standing leaves out what is over.
func (r register) standing(now time.Time) (out register) {
	for _, p := range r.permits {
		if p.Stands(now) {
			out.permits = append(out.permits, p)
		}
	}
	for _, w := range r.waiting {
		if w.DismissedAt.IsZero() {
			out.waiting = append(out.waiting, w)
		}
	}
	for _, c := range r.certificates {
		if c.Good(now) {
			out.certificates = append(out.certificates, c)
		}
	}
	return out
}

// listed is one object with what it is.
type listed[T any] struct {
	Type string `json:"type"` // permit, waiting or certificate
	Is   T      `json:"is"`
}

func (r register) json(enc *json.Encoder) error {
	var errs []error
	for _, p := range r.permits {
		errs = append(errs, enc.Encode(listed[enrol.Permit]{"permit", p}))
	}
	for _, w := range r.waiting {
		errs = append(errs, enc.Encode(listed[enrol.Waiting]{"waiting", w}))
	}
	for _, c := range r.certificates {
		errs = append(errs, enc.Encode(listed[enrol.Certificate]{"certificate", c}))
	}
	return errors.Join(errs...)
}

func (r register) print(cmd *cobra.Command, zone *time.Location) error {
	out := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	at := func(t time.Time) string { return t.In(zone).Format(faultTime) }
	for _, p := range r.permits {
		what, state := "code", "until "+at(p.ExpiresAt)
		if !p.HasCode() {
			what = "admitted"
		}
		if p.Replace {
			state += ", replaces"
		}
		switch {
		case p.Withdrawn:
			state += ", withdrawn"
		case !p.UsedAt.IsZero():
			state += ", used " + at(p.UsedAt)
		}
		fmt.Fprintf(out, "%s\t%s\t%q\tby %s\t%s\n", what, p.Role, p.Name, p.By, state)
	}
	for _, w := range r.waiting {
		state := fmt.Sprintf("%s, %d times until %s", w.Remote, w.Times, at(w.LastAt))
		if !w.DismissedAt.IsZero() {
			state += ", dismissed"
		}
		fmt.Fprintf(out, "waits\t%s\t%q\t%s\t%s\n", w.Role, w.Name, w.Key, state)
	}
	for _, c := range r.certificates {
		state := "until " + at(c.NotAfter)
		if !c.RevokedAt.IsZero() {
			state = fmt.Sprintf("revoked %s by %s: %s", at(c.RevokedAt), c.RevokedBy, c.Why)
		}
		fmt.Fprintf(out, "certificate\t%s\t%q\t%s\t%s\n", c.Role, c.Name, c.Serial, state)
	}
	return out.Flush()
}

// findWaiting finds the one device that waits whose fingerprint begins so.
func findWaiting(ctx context.Context, c configs.Config, prefix string) (found enrol.Waiting, err error) {
	s, err := store.Open(ctx, storePath(c.Data), store.Options{ReadOnly: true})
	if err != nil {
		return found, usageError(fmt.Errorf("%w (--data names the data folder)", err))
	}
	reg, err := readRegister(ctx, s)
	if err := errors.Join(err, s.Close()); err != nil {
		return found, err
	}
	prefix = strings.ToLower(strings.ReplaceAll(prefix, ":", ""))
	n := 0
	for _, w := range reg.waiting {
		if len(prefix) >= 8 && strings.HasPrefix(w.Key, prefix) {
			found = w
			n++
		}
	}
	if n != 1 {
		return found, usageError(fmt.Errorf("%d devices that wait have a key that begins with %q: give the fingerprint, 8 digits of it or more; farebeat enrol list shows them", n, prefix))
	}
	return found, nil
}
