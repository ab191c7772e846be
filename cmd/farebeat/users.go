package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/farebeat/farebeat/broker"
	"github.com/farebeat/farebeat/topics"
)

func newUsersCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "users", Short: "Who may connect to the broker"}
	cmd.AddCommand(newUsersAddCmd())
	return cmd
}

func newUsersAddCmd() *cobra.Command {
	var file string
	var u broker.User
	var chosen bool
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "Add a user to a users file and print the password",
		Long: fmt.Sprintf(`Add a user to a users file, which is made if it is not there. A password of 256 random bits
is made and printed; with --password it is read from standard input instead.

Roles: %v. machine and gateway need --id; third_party may have --grant.
"farebeat serve" reads the file when it starts.`, topics.Roles()),
		Example: "  farebeat users add gw-1216 --role gateway --id 1216 --file users",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			u.Name = args[0]
			secret := ""
			if chosen {
				line, err := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
				if err != nil && !errors.Is(err, io.EOF) {
					return fmt.Errorf("--password: %w", err)
				}
				password := strings.TrimRight(line, "\r\n")
				if len(password) < 8 {
					return usageError(errors.New("--password: want at least 8 characters on standard input"))
				}
				if u.Hash, err = broker.HashPassword(password); err != nil {
					return usageError(err)
				}
			} else {
				secret, u.Hash = broker.NewSecret()
			}
			if err := addUser(file, u); err != nil {
				return err
			}
			if secret != "" {
				fmt.Fprintln(cmd.OutOrStdout(), secret)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&file, "file", "", "users file")
	cmd.Flags().StringVar((*string)(&u.Role), "role", "", "role")
	cmd.Flags().StringVar(&u.ID, "id", "", "machine or vehicle id")
	cmd.Flags().StringArrayVar(&u.Grants, "grant", nil, "topic filter that a third party may read; may be repeated")
	cmd.Flags().BoolVar(&chosen, "password", false, "read the password from standard input")
	must(cmd.MarkFlagRequired("file"))
	must(cmd.MarkFlagRequired("role"))
	return cmd
}

// addUser appends a user after checking that the whole file is still valid.
func addUser(path string, u broker.User) error {
	old, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return usageError(err)
	}
	text := string(old)
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	text += u.Line() + "\n"
	list, err := broker.ParseUsers(strings.NewReader(text))
	if err == nil {
		_, err = broker.NewUsers(list)
	}
	if err != nil {
		return usageError(fmt.Errorf("users file %s: %w", path, err))
	}
	part := path + ".part"
	if err := os.WriteFile(part, []byte(text), 0o600); err != nil {
		return usageError(err)
	}
	return os.Rename(part, path)
}
