package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/farebeat/farebeat/fleet/enrol"
	"github.com/farebeat/farebeat/fleet/store"
	"github.com/farebeat/farebeat/fleet/tickets"
	"github.com/farebeat/farebeat/topics"
)

func newRevokeCmd() *cobra.Command {
	var f identityFlags
	cmd := &cobra.Command{
		Use:   "revoke ROLE NAME",
		Short: "Revoke every certificate of a gateway, a machine or another identity",
		Long: fmt.Sprintf(`Revoke every certificate of an identity, and its codes that were not used: one of %v, and the
vehicle of a gateway, the machine's id, or the name. Its sessions with the broker end within seconds. Of a gateway the tickets of its
vehicle are revoked too, as farebeat tickets revoke does; they are given again when another gateway of the vehicle is enrolled.

A user of the users file is not an identity of a certificate: remove that with farebeat users remove.

It works while farebeat serve runs, on its host, and also while it does not. Who did it, when and why is kept.`, enrol.Roles()),
		Example: "  farebeat revoke gateway 1216 --reason 'gateway stolen at the depot' --data farebeat-data",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.order.Role, f.order.Name = topics.Role(args[0]), args[1]
			return f.revoke(cmd)
		},
	}
	f.register(cmd)
	must(cmd.MarkFlagRequired("reason"))
	return cmd
}

func (f *identityFlags) revoke(cmd *cobra.Command) error {
	c, err := f.load(enrol.Revoke)
	if err != nil {
		return err
	}
	if err := f.order.Validate(); err != nil {
		return usageError(err)
	}
	if err := storeIsThere(c); err != nil {
		return err
	}
	ctx := cmd.Context()
	_, err = giveIdentityOrder(ctx, c, f.order, f.timeout)
	if f.order.Role == topics.RoleGateway { // whatever became of the first
		o := tickets.Order{ID: f.order.ID, Action: tickets.Revoke, Vehicle: f.order.Name, At: f.order.At, By: f.order.By, Reason: f.order.Reason}
		if ticketErr := giveTicketOrder(ctx, c, o, f.timeout); ticketErr != nil {
			err = errors.Join(err, fmt.Errorf("the tickets of the vehicle: %w; try farebeat tickets revoke", ticketErr))
		}
	}
	if err != nil {
		return err
	}
	s, err := store.Open(ctx, storePath(c.Data), store.Options{ReadOnly: true})
	if err != nil {
		return err
	}
	reg, err := readRegister(ctx, s)
	if err := errors.Join(err, s.Close()); err != nil {
		return err
	}
	n := 0
	for _, cert := range reg.certificates {
		if cert.Role == f.order.Role && cert.Name == f.order.Name && cert.RevokedAt.Equal(f.order.At) {
			n++
		}
	}
	if n == 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "farebeat: no certificate of %s %q is known that was good: is that the right name? See farebeat enrol list. Any that is not known is void now, too\n", f.order.Role, f.order.Name)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s %s: %d certificates revoked\n", f.order.Role, f.order.Name, n)
	return err
}
