package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

var update = flag.Bool("update", false, "write docs/cli.md anew")

// TestCommandDocs keeps docs/cli.md equal to the help texts.
func TestCommandDocs(t *testing.T) {
	var b strings.Builder
	b.WriteString("# Commands\n\nMade from the help texts by `go test ./cmd/farebeat -run TestCommandDocs -update`.\n\n")
	b.WriteString(newRootCmd().Long + "\n")
	writeCommandDocs(t, &b, newRootCmd())
	const path = "../../docs/cli.md"
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(b.String(), string(got)); diff != "" {
		t.Errorf("docs/cli.md is out of date, run this test with -update:\n%s", diff)
	}
}

func writeCommandDocs(t *testing.T, b *strings.Builder, cmd *cobra.Command) {
	t.Helper()
	for _, sub := range cmd.Commands() {
		if sub.Name() == "help" || sub.Name() == "completion" || sub.Hidden {
			continue
		}
		if !sub.HasAvailableSubCommands() {
			if sub.Example == "" {
				t.Errorf("%s has no example", sub.CommandPath())
			}
			text := sub.Long
			if text == "" {
				text = sub.Short + "."
			}
			fmt.Fprintf(b, "\n## %s\n\n%s\n\nExample:\n\n%s\n", sub.CommandPath(), text, indent(sub.Example))
			if flags := sub.LocalFlags().FlagUsages(); flags != "" {
				fmt.Fprintf(b, "\nFlags:\n\n%s", indent(strings.TrimRight(flags, "\n"))+"\n")
			}
		}
		writeCommandDocs(t, b, sub)
	}
}

func indent(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		b.WriteString("    " + strings.TrimPrefix(line, "  "))
	}
	return strings.TrimRight(b.String(), "\n")
}
