package main

import (
	"context"
	"errors"
	"fmt"
	"os/user"
	"time"

	"github.com/spf13/cobra"

	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
	"github.com/farebeat/farebeat/topics/session"
)

func newReportCmd() *cobra.Command {
	var flags configFlags
	r := schemas.Report{}
	cmd := &cobra.Command{
		Use:   "report TEXT",
		Short: "Report a fault by hand",
		Long: `Report a fault of a machine or a route by hand. It is merged into the fault that the rules
found, if there is one. The user of the configuration needs the role operator.`,
		Example: "  farebeat report --machine 1216-1 --vehicle 1216 'Reader dark, driver waves people on'",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := flags.load()
			if err != nil {
				return err
			}
			r.ID, r.At, r.Text = randomID(), milli(time.Now()), args[0]
			if r.By == "" {
				r.By = whoAmI(c.Client)
			}
			m, err := message(c, topics.Address{Kind: topics.Report, Source: "cli"}, &r)
			if err != nil {
				return usageError(err)
			}
			if err := publishOnce(cmd.Context(), c.Client, m, "", nil, nil); err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), r.ID)
			return err
		},
	}
	flags.register(cmd)
	cmd.Flags().StringVar(&r.Machine, "machine", "", "the machine")
	cmd.Flags().StringVar(&r.Route, "route", "", "or the route")
	cmd.Flags().StringVar(&r.Vehicle, "vehicle", "", "the vehicle that carries the machine, if known")
	cmd.Flags().StringVar(&r.By, "by", "", "who reports it")
	cmd.MarkFlagsOneRequired("machine", "route")
	return cmd
}

func whoAmI(c configs.Client) string {
	if c.Username != "" {
		return c.Username
	}
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	return "command line"
}

// milli is a time as all messages carry it.
func milli(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }

// message encodes a message for a topic, with the topic's QoS and retain flag.
func message(c configs.Config, a topics.Address, m schemas.Message) (session.Message, error) {
	tree, err := topics.New(c.Operator)
	if err != nil {
		return session.Message{}, err
	}
	topic, err := tree.Build(a)
	if err != nil {
		return session.Message{}, err
	}
	payload, err := schemas.Encode(m)
	if err != nil {
		return session.Message{}, err
	}
	spec, _ := topics.Lookup(a.Kind)
	return session.Message{Topic: topic, QoS: spec.QoS, Retain: spec.Retain, Payload: payload}, nil
}

func newCollectCmd() *cobra.Command {
	var flags configFlags
	var vehicle string
	var patience time.Duration
	cmd := &cobra.Command{
		Use:   "collect MACHINE",
		Short: "Have the gateway of a vehicle read a machine now",
		Long: `Send a collect command to the gateway of a vehicle and show how it goes. The user of the
configuration needs the role operator. Exit code 3 if the gateway failed or did not answer.`,
		Example: "  farebeat collect 1216-1 --vehicle 1216",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := flags.load()
			if err != nil {
				return err
			}
			return runCollect(cmd, c, args[0], vehicle, patience)
		},
	}
	flags.register(cmd)
	cmd.Flags().StringVar(&vehicle, "vehicle", "", "the vehicle that carries the machine")
	cmd.Flags().DurationVar(&patience, "timeout", 5*time.Minute, "how long to wait for the result")
	must(cmd.MarkFlagRequired("vehicle"))
	return cmd
}

func runCollect(cmd *cobra.Command, c configs.Config, machine, vehicle string, patience time.Duration) error {
	now := milli(time.Now())
	command := schemas.Command{ID: randomID(), At: now, By: whoAmI(c.Client), Verb: schemas.VerbCollect, Machine: machine, ExpiresAt: now.Add(patience)}
	a := topics.Address{Kind: topics.Command, Vehicle: vehicle, Command: command.ID}
	m, err := message(c, a, &command)
	if err != nil {
		return usageError(err)
	}
	a.Kind = topics.CommandResult
	tree, err := topics.New(c.Operator)
	if err != nil {
		return usageError(err)
	}
	filter, err := tree.Filter(a)
	if err != nil {
		return usageError(err)
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), patience)
	defer cancel()
	done := make(chan struct{})
	var last schemas.CommandResult
	err = publishOnce(ctx, c.Client, m, filter, func(_ context.Context, d *session.Delivery) error {
		var r schemas.CommandResult
		if err := schemas.Decode(d.Payload, schemas.NameCommandResult, &r); err != nil {
			fmt.Fprintln(cmd.ErrOrStderr(), "farebeat: the gateway's answer was ignored:", err)
			return nil
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s  %s\n", r.State, r.Text)
		over := r.State == schemas.CommandFinished || r.State == schemas.CommandFailed
		if over && last.State == "" {
			last = r
			close(done)
		}
		return nil
	}, done)
	if errors.Is(err, context.DeadlineExceeded) {
		return differenceError("the gateway of vehicle %s did not finish within %s", vehicle, patience)
	}
	if err == nil && last.State == schemas.CommandFailed {
		return differenceError("the gateway of vehicle %s failed: %s", vehicle, last.Text)
	}
	return err
}
