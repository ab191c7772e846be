package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/farebeat/farebeat/broker"
	"github.com/farebeat/farebeat/topics"
)

func newUsersCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "users", Short: "Who may connect to the broker and sign in to the console"}
	cmd.AddCommand(newUsersAddCmd(), newUsersListCmd(), newUsersRemoveCmd(), newUsersPasswordCmd())
	return cmd
}

// usersNote is what all that change a users file have in common.
const usersNote = `"farebeat serve" takes the change within seconds, without a restart, and ends the sessions of users who are
gone or changed.`

// fileFlag adds the flag that names the users file.
func fileFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVar(file, "file", "", "users file")
	must(cmd.MarkFlagRequired("file"))
}

// credential is a password that is made, or chosen by a person.
type credential struct{ chosen bool }

func (c *credential) register(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&c.chosen, "password", false, "read the password from standard input")
}

// hash returns the hash of the password, and the password itself if it was made.
func (c *credential) hash(in io.Reader) (hash, made string, err error) {
	if !c.chosen {
		made, hash = broker.NewSecret()
		return hash, made, nil
	}
	line, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", "", fmt.Errorf("--password: %w", err)
	}
	password := strings.TrimRight(line, "\r\n")
	if len(password) < 8 {
		return "", "", usageError(errors.New("--password: want at least 8 characters on standard input"))
	}
	if hash, err = broker.HashPassword(password); err != nil {
		return "", "", usageError(err)
	}
	return hash, "", nil
}

func newUsersAddCmd() *cobra.Command {
	var file string
	var u broker.User
	var secret credential
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "Add a user to a users file and print the password",
		Long: fmt.Sprintf(`Add a user to a users file, which is made if it is not there. A password of 256 random bits
is made and printed; with --password it is read from standard input instead.

Roles: %v. machine and gateway need --id; third_party may have --grant. viewer, operator and admin
may also sign in to the console.
%s`, topics.Roles(), usersNote),
		Example: "  farebeat users add gw-1216 --role gateway --id 1216 --file users\n  farebeat users add ada --role admin --password --file users",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			u.Name = args[0]
			var made string
			if u.Hash, made, err = secret.hash(cmd.InOrStdin()); err != nil {
				return err
			}
			err = editUsers(cmd.Context(), file, true, func(lines []string) ([]string, error) { return append(lines, u.Line()), nil })
			if err == nil && made != "" {
				fmt.Fprintln(cmd.OutOrStdout(), made)
			}
			return err
		},
	}
	fileFlag(cmd, &file)
	cmd.Flags().StringVar((*string)(&u.Role), "role", "", "role")
	cmd.Flags().StringVar(&u.ID, "id", "", "machine or vehicle id")
	cmd.Flags().StringArrayVar(&u.Grants, "grant", nil, "topic filter that a third party may read; may be repeated")
	secret.register(cmd)
	must(cmd.MarkFlagRequired("role"))
	return cmd
}

// listedUser is a user as it is shown: without the hash of its password.
type listedUser struct {
	Name   string      `json:"name"`
	Role   topics.Role `json:"role"`
	ID     string      `json:"id,omitempty"`
	Grants []string    `json:"grants,omitempty"`
}

func newUsersListCmd() *cobra.Command {
	var file string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the users of a users file",
		Long: `List the users of a users file by name: name, role, the machine's or vehicle's id, and what a third party is granted.
Hashes of passwords are never shown. A file that is wrong is told with its line; the exit code is 2 then.`,
		Example: "  farebeat users list --file users",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			users, err := broker.LoadUsers(file)
			if err != nil {
				return usageError(err)
			}
			list := users.List()
			if asJSON {
				out := json.NewEncoder(cmd.OutOrStdout())
				for _, u := range list {
					if err := out.Encode(listedUser{u.Name, u.Role, u.ID, u.Grants}); err != nil {
						return err
					}
				}
				return nil
			}
			out := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			for _, u := range list {
				cells := []string{u.Name, string(u.Role), u.ID, strings.Join(u.Grants, ",")}
				for cells[len(cells)-1] == "" {
					cells = cells[:len(cells)-1]
				}
				fmt.Fprintln(out, strings.Join(cells, "\t"))
			}
			return out.Flush()
		},
	}
	fileFlag(cmd, &file)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line")
	return cmd
}

func newUsersRemoveCmd() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:     "remove NAME",
		Short:   "Remove a user from a users file",
		Long:    "Remove a user from a users file.\n" + usersNote,
		Example: "  farebeat users remove gw-1216 --file users",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return editUsers(cmd.Context(), file, false, func(lines []string) ([]string, error) {
				i, err := findUser(lines, args[0])
				if err != nil {
					return nil, err
				}
				return append(lines[:i:i], lines[i+1:]...), nil
			})
		},
	}
	fileFlag(cmd, &file)
	return cmd
}

func newUsersPasswordCmd() *cobra.Command {
	var file string
	var secret credential
	cmd := &cobra.Command{
		Use:   "password NAME",
		Short: "Give a user another password and print it",
		Long: `Give a user another password; the one before is good no more. A password of 256 random bits is made and printed; with
--password it is read from standard input instead. Role, id and grants stay, and so do messages that wait for the user's clients.
` + usersNote,
		Example: "  farebeat users password gw-1216 --file users",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			hash, made, err := secret.hash(cmd.InOrStdin())
			if err != nil {
				return err
			}
			err = editUsers(cmd.Context(), file, false, func(lines []string) ([]string, error) {
				i, err := findUser(lines, args[0])
				if err != nil {
					return nil, err
				}
				list, err := broker.ParseUsers(strings.NewReader(lines[i]))
				if err != nil {
					return nil, err
				}
				list[0].Hash = hash
				lines[i] = list[0].Line()
				return lines, nil
			})
			if err == nil && made != "" {
				fmt.Fprintln(cmd.OutOrStdout(), made)
			}
			return err
		},
	}
	fileFlag(cmd, &file)
	secret.register(cmd)
	return cmd
}
