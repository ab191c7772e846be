package main

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/farebeat/farebeat/fleet/keys"
	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/schemas"
)

type certifyFlags struct {
	storeFlags
	filter  ledger.Filter
	date    string
	issue   bool
	history bool
	check   string
	public  string
	showKey bool
}

func newLedgerCertifyCmd() *cobra.Command {
	var flags certifyFlags
	cmd := &cobra.Command{
		Use:   "certify",
		Short: "Print or check signed certificates of a service day; exit code 3 if one is not complete or does not hold",
		Long: `Print the certificate of every machine that has records of a service day: how far the ledger is complete, what is
missing, sums by currency, what the machine declared, and a hash over the records, signed.

The fleet service issues certificates by itself 36 hours after a day began; --issue does it at once, while the
service does not run. An issued certificate is never changed: a record that comes late makes the next revision,
which names the one before. Revision 0 is one that is not issued.

--check reads certificates, one JSON object a line as --json prints them, and says of each whether we signed it and
whether the ledger still says the same. With --public-key it needs neither ledger nor master key, so that others
can check too; --show-public-key prints that key.`,
		Example: "  farebeat ledger certify --date 2026-11-22 --json > day.jsonl\n" +
			"  farebeat ledger certify --check day.jsonl",
		RunE: func(cmd *cobra.Command, _ []string) error { return flags.run(cmd) },
	}
	flags.register(cmd)
	flags.storeFlags.filter = &flags.filter
	cmd.Flags().StringVar(&flags.date, "date", "", "service day, YYYY-MM-DD")
	cmd.Flags().StringVar(&flags.filter.Machine, "machine", "", "only this machine")
	cmd.Flags().BoolVar(&flags.issue, "issue", false, "issue what is new")
	cmd.Flags().BoolVar(&flags.history, "history", false, "print every revision that was issued")
	cmd.Flags().StringVar(&flags.check, "check", "", "check the certificates in a file; - is standard input")
	cmd.Flags().StringVar(&flags.public, "public-key", "", "with --check: 64 hexadecimal digits; check signatures only")
	cmd.Flags().BoolVar(&flags.showKey, "show-public-key", false, "print the public key")
	cmd.MarkFlagsOneRequired("date", "check", "show-public-key")
	cmd.MarkFlagsMutuallyExclusive("date", "check", "show-public-key")
	cmd.MarkFlagsMutuallyExclusive("issue", "history")
	return cmd
}

func (f *certifyFlags) run(cmd *cobra.Command) error {
	if f.public != "" {
		if f.check == "" {
			return usageError(errors.New("--public-key: only with --check"))
		}
		public, err := keys.ParsePublic(f.public)
		if err != nil {
			return usageError(fmt.Errorf("--public-key: %w", err))
		}
		return f.checkFile(cmd, func(_ context.Context, b []byte) (schemas.Certificate, ledger.Judgment, error) {
			c, err := schemas.OpenCertificate(public, b)
			return c, signed, err
		})
	}
	return f.withBooks(cmd.Context(), f.issue, func(b books) error {
		c := b.Certifier(b.master, b.declared)
		switch {
		case f.showKey:
			return showPublicKey(cmd, b.master)
		case f.check != "":
			return f.checkFile(cmd, c.Check)
		}
		f.filter.From, f.filter.To = f.date, f.date
		if _, err := time.Parse(time.DateOnly, f.date); err != nil {
			return usageError(fmt.Errorf("--date %q: want YYYY-MM-DD", f.date))
		}
		if f.history {
			return f.printHistory(cmd, c)
		}
		return f.print(cmd, c)
	})
}

// signed is what can be said of a certificate without the ledger.
const signed ledger.Judgment = "signed"

func showPublicKey(cmd *cobra.Command, s keys.Signer) error {
	public, err := s.Public(cmd.Context())
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), hex.EncodeToString(public[:ed25519.PublicKeySize]))
	return err
}

func (f *certifyFlags) print(cmd *cobra.Command, c *ledger.Certifier) error {
	days, incomplete := 0, 0
	err := c.Days(cmd.Context(), f.filter, func(d ledger.MachineDay) error {
		certified, there, err := f.one(cmd.Context(), c, d)
		if err != nil || !there {
			return err
		}
		days++
		if !certified.Complete {
			incomplete++
		}
		return f.write(cmd, certified.Certificate, certified.Body)
	})
	switch {
	case err != nil:
		return err
	case days == 0 && f.filter.Machine != "":
		return differenceError("the ledger has no records of machine %s on service day %s", f.filter.Machine, f.date)
	case days == 0:
		return differenceError("the ledger has no records of service day %s", f.date)
	case incomplete > 0:
		return differenceError("%d of %d certificates are not complete", incomplete, days)
	}
	return nil
}

func (f *certifyFlags) one(ctx context.Context, c *ledger.Certifier, d ledger.MachineDay) (ledger.Certified, bool, error) {
	if f.issue {
		out, _, err := c.Issue(ctx, d.Machine, d.Date)
		return out, err == nil && out.Body != nil, err
	}
	return c.Certify(ctx, d.Machine, d.Date)
}

func (f *certifyFlags) printHistory(cmd *cobra.Command, c *ledger.Certifier) error {
	return c.Issued(cmd.Context(), f.filter, func(i ledger.Issued) error {
		var cert schemas.Certificate
		if err := schemas.Decode(i.Body, schemas.NameCertificate, &cert); err != nil {
			return fmt.Errorf("revision %d of machine %q: %w", i.Revision, i.Machine, err)
		}
		return f.write(cmd, cert, i.Body)
	})
}

func (f *certifyFlags) write(cmd *cobra.Command, c schemas.Certificate, body []byte) error {
	if f.json {
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s\n", body)
		return err
	}
	_, err := fmt.Fprintln(cmd.OutOrStdout(), certificateLine(c))
	return err
}

// certificateLine is a certificate in one line for a person, and a line more for each gap.
func certificateLine(c schemas.Certificate) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-24s %s ", c.Machine, c.ServiceDate)
	if c.Complete {
		e := c.Epochs[len(c.Epochs)-1]
		fmt.Fprintf(&b, " complete to %d-%d", e.Epoch, e.Last)
	} else {
		fmt.Fprintf(&b, " not complete: %d missing", c.Missing)
	}
	fmt.Fprintf(&b, ", %d records", c.Received)
	if c.Verified != c.Received {
		fmt.Fprintf(&b, " of which only %d are proved", c.Verified)
	}
	for _, s := range c.Sums {
		fmt.Fprintf(&b, ", %s", ledger.Money(s))
	}
	if q := c.Quarantined; q.Conflicts+q.BrokenChain+q.Unreadable > 0 {
		fmt.Fprintf(&b, ", in quarantine %d conflicts, %d broken links, %d unreadable", q.Conflicts, q.BrokenChain, q.Unreadable)
	}
	if c.Declared == nil {
		b.WriteString(", the machine was never heard")
	} else {
		fmt.Fprintf(&b, ", declared up to %d-%d with %d unsent at %s", c.Declared.Epoch, c.Declared.LastSeq, c.Declared.Pending,
			c.Declared.At.Format(time.RFC3339))
	}
	if c.Revision == 0 {
		b.WriteString(", not issued")
	} else {
		fmt.Fprintf(&b, ", revision %d of %s", c.Revision, c.IssuedAt.Format(time.RFC3339))
	}
	for _, e := range c.Epochs {
		for _, g := range e.Gaps {
			fmt.Fprintf(&b, "\n    %d-%d to %d-%d missing, %s", e.Epoch, g.First, e.Epoch, g.Last, g.State)
		}
	}
	return b.String()
}

// longestCertificate bounds a line of a file of certificates in bytes.
const longestCertificate = 128 << 20

type verdict struct {
	Line        int             `json:"line"`
	Machine     string          `json:"machine,omitempty"`
	ServiceDate string          `json:"service_date,omitempty"`
	Revision    uint32          `json:"revision,omitempty"`
	Judgment    ledger.Judgment `json:"judgment"` // holds, superseded, differs, unknown, signed or invalid
	Why         string          `json:"why,omitempty"`
}

func (f *certifyFlags) checkFile(cmd *cobra.Command, check func(context.Context, []byte) (schemas.Certificate, ledger.Judgment, error)) error {
	in := cmd.InOrStdin()
	if f.check != "-" {
		file, err := os.Open(f.check)
		if err != nil {
			return usageError(err)
		}
		defer file.Close()
		in = file
	}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, longestCertificate)
	n, wrong := 0, 0
	for lines.Scan() {
		n++
		v := verdict{Line: n}
		c, judgment, err := check(cmd.Context(), lines.Bytes())
		var form *schemas.Error
		switch {
		case errors.Is(err, schemas.ErrSignature), errors.As(err, &form):
			v.Judgment, v.Why = "invalid", err.Error()
		case err != nil:
			return err
		default:
			v.Machine, v.ServiceDate, v.Revision, v.Judgment = c.Machine, c.ServiceDate, c.Revision, judgment
		}
		if judgment != ledger.Holds && judgment != signed {
			wrong++
		}
		if err := f.writeVerdict(cmd.OutOrStdout(), v); err != nil {
			return err
		}
	}
	switch err := lines.Err(); {
	case err != nil:
		return usageError(fmt.Errorf("%s line %d: %w", f.check, n+1, err))
	case n == 0:
		return usageError(fmt.Errorf("%s: has no certificate", f.check))
	case wrong > 0:
		return differenceError("%d of %d certificates do not hold", wrong, n)
	}
	return nil
}

func (f *certifyFlags) writeVerdict(out io.Writer, v verdict) error {
	if f.json {
		return json.NewEncoder(out).Encode(v)
	}
	if v.Judgment == "invalid" {
		_, err := fmt.Fprintf(out, "line %d: invalid: %s\n", v.Line, v.Why)
		return err
	}
	words := map[ledger.Judgment]string{
		signed: "the signature is good", ledger.Holds: "holds", ledger.Superseded: "was ours, and a newer revision was issued",
		ledger.Differs: "was ours, and the ledger says something else now", ledger.Unknown: "was ours, and this ledger never issued it: was a backup restored?",
	}
	_, err := fmt.Fprintf(out, "line %d: machine %s, service day %s, revision %d: %s\n", v.Line, v.Machine, v.ServiceDate, v.Revision, words[v.Judgment])
	return err
}
