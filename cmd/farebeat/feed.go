package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/farebeat/farebeat/broker"
	"github.com/farebeat/farebeat/topics"
)

func newFeedCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "feed", Short: "What third parties, such as a bank or a passenger app, may read"}
	cmd.AddCommand(newFeedGrantCmd(), newFeedRevokeCmd(), newFeedListCmd())
	return cmd
}

// publicTopics are what the role of third parties reads without a grant.
func publicTopics() (list []topics.Spec) {
	for _, s := range topics.Specs() {
		if slices.Contains(s.Readers, topics.RoleThirdParty) {
			list = append(list, s)
		}
	}
	return list
}

// patterns are topics after the root, as docs/topics.md has them.
func patterns(list []topics.Spec) []string {
	out := make([]string, 0, len(list))
	for _, s := range list {
		out = append(out, s.Pattern)
	}
	return out
}

// thirdParty is the line of a third party and what it says. The error says that there is no such user, or that it is somebody else.
func thirdParty(lines []string, name string) (int, broker.User, error) {
	i, err := findUser(lines, name)
	if err != nil {
		return 0, broker.User{}, err
	}
	list, err := broker.ParseUsers(strings.NewReader(lines[i]))
	if err != nil {
		return 0, broker.User{}, err
	}
	if list[0].Role != topics.RoleThirdParty {
		return 0, broker.User{}, fmt.Errorf("user %q has the role %s: only a third_party reads by grants", name, list[0].Role)
	}
	return i, list[0], nil
}

func newFeedGrantCmd() *cobra.Command {
	var file string
	var filters []string
	var secret credential
	cmd := &cobra.Command{
		Use:   "grant NAME",
		Short: "Let a third party read more topics; make its user if there is none",
		Long: `Let a third party read the topics that match a filter, besides those that every third party reads. A user that is not there is
made, and its password of 256 random bits printed, once, on standard output; what is granted is told on standard error.

A filter is without farebeat/v1/{operator}/ and ends best with #: docs/topics.md lists the topics. One that matches none, or also
the tickets of gateways, which are secrets, is refused. Nothing is granted then.
` + usersNote + ` One whose grants changed may connect again at once.`,
		Example: "  farebeat feed grant bank --read 'vehicle/+/transactions/#' --read 'machine/+/state' --file users",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, f := range filters {
				if err := topics.CheckGrant(f); err != nil {
					return usageError(fmt.Errorf("--read: %w", err))
				}
			}
			hash, made, err := secret.hash(cmd.InOrStdin())
			if err != nil {
				return err
			}
			fresh := false
			err = editUsers(cmd.Context(), file, true, func(lines []string) (_ []string, err error) {
				lines, fresh, err = granted(lines, broker.User{Name: args[0], Role: topics.RoleThirdParty, Hash: hash}, filters)
				if err == nil && !fresh && secret.chosen {
					err = fmt.Errorf("user %q has a password: farebeat users password gives another", args[0])
				}
				return lines, err
			})
			if err != nil {
				return err
			}
			if fresh && made != "" {
				fmt.Fprintln(cmd.OutOrStdout(), made)
			}
			tellGranted(cmd.ErrOrStderr(), args[0], filters)
			return nil
		},
	}
	fileFlag(cmd, &file)
	readFlag(cmd, &filters)
	secret.register(cmd)
	must(cmd.MarkFlagRequired("read"))
	return cmd
}

func readFlag(cmd *cobra.Command, filters *[]string) {
	cmd.Flags().StringArrayVar(filters, "read", nil, "topic filter without farebeat/v1/{operator}/; may be repeated")
}

// granted are the lines of a users file with filters granted to a user, who is added if it is not there.
func granted(lines []string, u broker.User, filters []string) (_ []string, fresh bool, err error) {
	i, missing := findUser(lines, u.Name)
	if fresh = missing != nil; fresh {
		i, lines = len(lines), append(lines, "")
	} else if _, u, err = thirdParty(lines, u.Name); err != nil {
		return nil, false, err
	}
	for _, f := range filters {
		if !slices.Contains(u.Grants, f) {
			u.Grants = append(u.Grants, f)
		}
	}
	lines[i] = u.Line()
	return lines, fresh, nil
}

// tellGranted says which topics filters open, and what to think of.
func tellGranted(w io.Writer, name string, filters []string) {
	public := publicTopics()
	for _, f := range filters {
		reach := topics.Reach(f)
		fmt.Fprintf(w, "%s may read %s: %s\n", name, f, strings.Join(patterns(reach), ", "))
		if !slices.ContainsFunc(reach, func(s topics.Spec) bool {
			return !slices.ContainsFunc(public, func(p topics.Spec) bool { return p.Kind == s.Kind })
		}) {
			fmt.Fprintf(w, "note: every third party reads that without a grant\n")
		}
		if slices.ContainsFunc(reach, func(s topics.Spec) bool { return s.Kind == topics.Transactions }) {
			fmt.Fprintf(w, "warning: %s covers transactions: single payments, with time, place, amount and the kind of card; make sure that %s is entitled to them\n", f, name)
		}
	}
}

func newFeedRevokeCmd() *cobra.Command {
	var file string
	var filters []string
	cmd := &cobra.Command{
		Use:   "revoke NAME",
		Short: "Take grants from a third party, or its access as a whole",
		Long: `Take grants from a third party. Without --read its user is removed, and no password lets it in any more
(one with a certificate still reads what every third party does: farebeat revoke third_party NAME); with it only the grants that are named
go, as farebeat feed list shows them, and it goes on reading what every third party does.
` + usersNote,
		Example: "  farebeat feed revoke bank --read 'machine/+/state' --file users\n  farebeat feed revoke bank --file users",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return editUsers(cmd.Context(), file, false, func(lines []string) ([]string, error) {
				i, u, err := thirdParty(lines, args[0])
				if err != nil {
					return nil, err
				}
				if len(filters) == 0 {
					return append(lines[:i:i], lines[i+1:]...), nil
				}
				for _, f := range filters {
					at := slices.Index(u.Grants, f)
					if at < 0 {
						return nil, fmt.Errorf("user %q was not granted %s; it has: %s", u.Name, f, strings.Join(u.Grants, " "))
					}
					u.Grants = slices.Delete(u.Grants, at, at+1)
				}
				lines[i] = u.Line()
				return lines, nil
			})
		},
	}
	fileFlag(cmd, &file)
	readFlag(cmd, &filters)
	return cmd
}

// listedFeed is what a third party may read, as it is shown.
type listedFeed struct {
	Name   string        `json:"name"`
	Grants []listedGrant `json:"grants"`
	Reads  []string      `json:"reads"` // in total, by patterns of topics; some of a pattern where the grant says so
}

type listedGrant struct {
	Filter string   `json:"filter"`
	Topics []string `json:"topics"`            // that it opens
	Wrong  string   `json:"problem,omitempty"` // why it would not be granted today
}

// feedOf says what grants open. One that names the operator's root stands as it was given.
func feedOf(u broker.User) listedFeed {
	feed := listedFeed{Name: u.Name, Grants: []listedGrant{}}
	total := map[topics.Kind]bool{}
	for _, s := range publicTopics() {
		total[s.Kind] = true
	}
	for _, g := range u.Grants {
		filter := g
		if rest, ok := strings.CutPrefix(g, "farebeat/v1/"); ok { // of users add, with the root
			_, filter, _ = strings.Cut(rest, "/")
		}
		reach := topics.Reach(filter)
		l := listedGrant{Filter: g, Topics: patterns(reach)}
		if err := topics.CheckGrant(filter); err != nil {
			l.Wrong = err.Error()
		}
		for _, s := range reach {
			total[s.Kind] = true
		}
		feed.Grants = append(feed.Grants, l)
	}
	for _, s := range topics.Specs() {
		if total[s.Kind] {
			feed.Reads = append(feed.Reads, s.Pattern)
		}
	}
	return feed
}

func newFeedListCmd() *cobra.Command {
	var file string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list [NAME]",
		Short: "List what third parties may read",
		Long: `List what every third party reads without a grant, and of each third party of a users file its grants and the topics that they open.
A grant that was written by hand and would not be granted today is told with what is wrong with it; tickets it does not open.
With --json one object a line for each third party, with all that it reads.`,
		Example: "  farebeat feed list --file users",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			users, err := broker.LoadUsers(file)
			if err != nil {
				return usageError(err)
			}
			list := slices.DeleteFunc(users.List(), func(u broker.User) bool {
				return u.Role != topics.RoleThirdParty || len(args) > 0 && u.Name != args[0]
			})
			if len(args) > 0 && len(list) == 0 {
				return usageError(fmt.Errorf("users file %s: there is no third party %q", file, args[0]))
			}
			return writeFeeds(cmd.OutOrStdout(), list, asJSON)
		},
	}
	fileFlag(cmd, &file)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line")
	return cmd
}

func writeFeeds(w io.Writer, list []broker.User, asJSON bool) error {
	if !asJSON {
		fmt.Fprintf(w, "every third party\n  %s\n", strings.Join(patterns(publicTopics()), "\n  "))
	}
	var errs []error
	for _, u := range list {
		feed := feedOf(u)
		if asJSON {
			errs = append(errs, json.NewEncoder(w).Encode(feed))
			continue
		}
		fmt.Fprintln(w, u.Name)
		for _, g := range feed.Grants {
			opens := strings.Join(g.Topics, ", ")
			if opens == "" {
				opens = "nothing"
			}
			fmt.Fprintf(w, "  %s opens %s\n", g.Filter, opens)
			if g.Wrong != "" {
				fmt.Fprintf(w, "    would not be granted today: %s\n", g.Wrong)
			}
		}
		if len(feed.Grants) == 0 {
			fmt.Fprintln(w, "  no grants")
		}
	}
	return errors.Join(errs...)
}
