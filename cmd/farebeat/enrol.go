package main

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/fleet/durable"
	"github.com/farebeat/farebeat/fleet/enrol"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

func newEnrolCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "enrol", Short: "Let devices have certificates: codes, and those that wait"}
	for _, role := range enrol.Roles() {
		cmd.AddCommand(newEnrolRoleCmd(role))
	}
	cmd.AddCommand(newEnrolListCmd(), newEnrolAdmitCmd(), newEnrolDismissCmd())
	return cmd
}

// identityFlags are those of commands that order something about identities.
type identityFlags struct {
	givingFlags
	order enrol.Order
}

func (f *identityFlags) register(cmd *cobra.Command) {
	f.givingFlags.register(cmd)
	cmd.Flags().StringVar(&f.order.Reason, "reason", "", "why, for those who read it later")
}

// load reads the configuration and dates the order.
func (f *identityFlags) load(action enrol.Action) (configs.Config, error) {
	c, err := f.store.load()
	f.order.ID, f.order.Action = randomID(), action
	f.order.By, f.order.At = f.who(c.Client)
	return c, err
}

// permitFlags are those of commands that let a device have a certificate.
type permitFlags struct {
	identityFlags
	valid time.Duration
}

func (f *permitFlags) register(cmd *cobra.Command) {
	f.identityFlags.register(cmd)
	cmd.Flags().DurationVar(&f.valid, "valid", enrol.DefaultPermit, "for how long it holds, up to 720h")
	cmd.Flags().BoolVar(&f.order.Replace, "replace", false, "the device takes the place of a broken or lost one: all certificates of before are revoked when it joins")
}

// codeFlags are those of a command that makes a code.
type codeFlags struct {
	permitFlags
	url, png string
	noQR     bool
}

func newEnrolRoleCmd(role topics.Role) *cobra.Command {
	var f codeFlags
	who := map[topics.Role]string{
		topics.RoleGateway: "VEHICLE", topics.RoleMachine: "MACHINE", topics.RoleThirdParty: "NAME", topics.RoleOperator: "NAME",
	}[role]
	cmd := &cobra.Command{
		Use:   fmt.Sprintf("%s %s", role, who),
		Short: fmt.Sprintf("Make a one-time code with which a device joins as a %s", strings.ReplaceAll(string(role), "_", " ")),
		Long: fmt.Sprintf(`Make a one-time code with which one device joins as a %s, and print it as a URL and as a QR code for farebeat join.
It holds for --valid and once. A code of before for the same %s that was not used is void.

With --replace the device takes the place of a broken or lost one: when it joins, all certificates of before are revoked.%s

It works while farebeat serve runs, on its host, and also while it does not. Who made it, when and why is kept.`, strings.ReplaceAll(string(role), "_", " "), strings.ToLower(who), replaceNote(role)),
		Example: fmt.Sprintf("  farebeat enrol %s 1216 --data farebeat-data --url https://fleet.example:8444 --png code.png", role),
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.order.Role, f.order.Name = role, args[0]
			return f.run(cmd)
		},
	}
	f.register(cmd)
	if role == topics.RoleMachine {
		cmd.Flags().StringVar(&f.order.Vehicle, "vehicle", "", "vehicle that carries it, written into its configuration")
	}
	cmd.Flags().StringVar(&f.url, "url", "", "https://host:port that the device reaches; enrol.address and enrol.names of the configuration without it")
	cmd.Flags().StringVar(&f.png, "png", "", "new file for the QR code as a picture, mode 0600")
	cmd.Flags().BoolVar(&f.noQR, "no-qr", false, "print the URL only")
	return cmd
}

// replaceNote is what else a replacement does.
func replaceNote(role topics.Role) string {
	switch role {
	case topics.RoleGateway:
		return "\nIf the vehicle's tickets were revoked, they are given again from then on."
	case topics.RoleMachine:
		return "\nIts journal begins a new epoch, above all that the ledger knows of and all that were given before."
	}
	return ""
}

func (f *codeFlags) run(cmd *cobra.Command) error {
	c, err := f.load(enrol.MakeCode)
	if err != nil {
		return err
	}
	ca, err := loadCA(c)
	if err != nil {
		return err
	}
	address, err := enrolAddress(c.Enrol, f.url)
	if err != nil {
		return usageError(err)
	}
	code, hash := enrol.NewCode()
	f.order.Hash, f.order.ExpiresAt = hash, f.order.At.Add(f.valid)
	u := schemas.EnrolURL{Address: address, Role: string(f.order.Role), Name: f.order.Name, Code: code, Authority: ca.Fingerprint()}
	qr, err := newQR(u.String())
	if err != nil {
		return err
	}
	running, err := giveIdentityOrder(cmd.Context(), c, f.order, f.timeout)
	if err != nil {
		return err
	}
	if f.png != "" {
		picture, err := qr.png()
		if err == nil {
			err = durable.Create(f.png, picture, 0o600)
		}
		if err != nil {
			return fmt.Errorf("the code is made, but not its picture: --png: %w", err)
		}
	}
	out := cmd.OutOrStdout()
	if !f.noQR {
		if err := qr.print(out, isTerminal(out)); err != nil {
			return err
		}
	}
	fmt.Fprintln(out, u)
	fmt.Fprintf(cmd.ErrOrStderr(), "farebeat: good once, until %s; on the device: farebeat join URL --out DIR\n", f.order.ExpiresAt.Format(time.RFC3339))
	if !running {
		fmt.Fprintln(cmd.ErrOrStderr(), "farebeat: farebeat serve does not run; the device can join when it does, with enrol.address set")
	}
	return nil
}

// enrolAddress is where devices reach the fleet: as given, or as the configuration has it.
func enrolAddress(e configs.Enrol, given string) (string, error) {
	if given != "" {
		address, err := schemas.ParseEnrolAddress(given)
		if err != nil {
			return "", fmt.Errorf("--url %w", err)
		}
		return address, nil
	}
	_, port, err := net.SplitHostPort(e.Address)
	hosts := enrolHosts(e)
	if err != nil || len(hosts) == 0 {
		return "", errors.New("where does the device reach the fleet? Give --url https://host:port, or set enrol.address and enrol.names in the configuration (--config)")
	}
	address := net.JoinHostPort(hosts[0], port)
	return address, schemas.CheckHostPort(address)
}

func newEnrolAdmitCmd() *cobra.Command {
	var f permitFlags
	cmd := &cobra.Command{
		Use:   "admit FINGERPRINT",
		Short: "Let a device that waits have a certificate",
		Long: `Let a device that waits have a certificate, as the role and name given here, whoever it says that it is: compare the fingerprint
with what farebeat join shows on the device. A fingerprint may be cut to 8 digits or more, if only one that waits begins so.

It works while farebeat serve runs, on its host, and also while it does not. Who did it, when and why is kept.`,
		Example: "  farebeat enrol admit 3f9a2c51 --role gateway --name 1216 --data farebeat-data",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.load(enrol.Admit)
			if err != nil {
				return err
			}
			w, err := findWaiting(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			f.order.Key, f.order.ExpiresAt = w.Key, f.order.At.Add(f.valid)
			if _, err := giveIdentityOrder(cmd.Context(), c, f.order, f.timeout); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "admitted as %s %s: the device gets its certificate when it asks again, until %s\n", f.order.Role, f.order.Name, f.order.ExpiresAt.Format(time.RFC3339))
			return err
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar((*string)(&f.order.Role), "role", "", "gateway, machine, third_party or operator")
	cmd.Flags().StringVar(&f.order.Name, "name", "", "vehicle of a gateway, machine id, or name")
	cmd.Flags().StringVar(&f.order.Vehicle, "vehicle", "", "of a machine: vehicle that carries it")
	must(cmd.MarkFlagRequired("role"))
	must(cmd.MarkFlagRequired("name"))
	return cmd
}

func newEnrolDismissCmd() *cobra.Command {
	var f identityFlags
	cmd := &cobra.Command{
		Use:     "dismiss FINGERPRINT",
		Short:   "Turn a device away that waits",
		Long:    "Turn a device away that waits: it is told so when it asks again. A code lets it in nevertheless.",
		Example: "  farebeat enrol dismiss 3f9a2c51 --data farebeat-data",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.load(enrol.Dismiss)
			if err != nil {
				return err
			}
			w, err := findWaiting(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			f.order.Key = w.Key
			if _, err := giveIdentityOrder(cmd.Context(), c, f.order, f.timeout); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "dismissed: the device that says that it is %s %s, from %s\n", w.Role, w.Name, w.Remote)
			return err
		},
	}
	f.register(cmd)
	return cmd
}
