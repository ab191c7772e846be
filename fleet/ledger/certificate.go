package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/farebeat/farebeat/fleet/keys"
	"github.com/farebeat/farebeat/schemas"
)

// Certifier draws up and issues the certificates of service days. It is safe for concurrent use.
type Certifier struct {
	ledger   *Ledger
	signer   keys.Signer
	declared Declarations
}

// Certifier returns one that signs with signer and knows what machines declared.
func (l *Ledger) Certifier(signer keys.Signer, declared Declarations) *Certifier {
	return &Certifier{ledger: l, signer: signer, declared: declared}
}

// Certified is a certificate with its bytes, which are what is signed.
type Certified struct {
	schemas.Certificate
	Body []byte
}

// Certify returns the newest issued certificate of a machine's service day if it still says what the ledger says;
// otherwise one that is drawn up from the records now, of revision 0. A day without records has none: false.
func (c *Certifier) Certify(ctx context.Context, machine, date string) (Certified, bool, error) {
	drawn, before, err := c.draw(ctx, machine, date)
	if err != nil || drawn == nil {
		return Certified{}, false, err
	}
	if before != nil && says(before.Certificate, *drawn) {
		return *before, true, nil
	}
	out, err := c.seal(ctx, *drawn)
	return out, err == nil, err
}

// Issue makes what Certify says durable: where the newest certificate does not say it, the next revision is
// kept, which names the one before. fresh tells that it was. None that was issued is ever changed.
func (c *Certifier) Issue(ctx context.Context, machine, date string) (out Certified, fresh bool, err error) {
	drawn, before, err := c.draw(ctx, machine, date)
	if err != nil || drawn == nil {
		return Certified{}, false, err
	}
	drawn.Revision = 1
	if before != nil {
		if says(before.Certificate, *drawn) {
			return *before, false, nil
		}
		drawn.Revision, drawn.Previous = before.Revision+1, before.Signature
	}
	if out, err = c.seal(ctx, *drawn); err != nil {
		return out, false, err
	}
	err = c.ledger.store.Update(ctx, func(tx Tx) error {
		return tx.Issue(Issued{
			Machine: machine, ServiceDate: date, Revision: out.Revision, IssuedAt: out.IssuedAt,
			Complete: out.Complete, Records: out.Received, Body: out.Body,
		})
	})
	if err != nil {
		return Certified{}, false, fmt.Errorf("ledger: certify: %w", err)
	}
	return out, true, nil
}

// says reports whether an issued certificate still holds beside one that was drawn up now. What the machine
// declared since and what became of gaps is news of its own, not of the day; and a day that was complete
// stays so, since a record that comes late changes the hash.
func says(issued, drawn schemas.Certificate) bool {
	return issued.RecordsHash == drawn.RecordsHash && issued.Received == drawn.Received && issued.Verified == drawn.Verified &&
		issued.Quarantined == drawn.Quarantined && (issued.Complete || !drawn.Complete)
}

func (c *Certifier) seal(ctx context.Context, cert schemas.Certificate) (Certified, error) {
	cert.IssuedAt = c.ledger.now()
	body, err := schemas.SealCertificate(&cert, func(message []byte) ([]byte, error) { return c.signer.Sign(ctx, message) })
	if err != nil {
		return Certified{}, fmt.Errorf("ledger: machine %q, service day %s: %w", cert.Machine, cert.ServiceDate, err)
	}
	return Certified{cert, body}, nil
}

// Days calls each for the machines that have records of the service days that the filter selects, by day and machine.
func (c *Certifier) Days(ctx context.Context, f Filter, each func(MachineDay) error) error {
	if err := f.Check(); err != nil {
		return fmt.Errorf("ledger: certify: %w", err)
	}
	var all []MachineDay
	err := c.ledger.store.View(ctx, func(v View) error {
		all = nil
		return v.Days(f.Machine, f.From, f.To, func(d Day) error {
			all = append(all, MachineDay{d.ServiceDate, d.Machine})
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("ledger: certify: %w", err)
	}
	slices.SortFunc(all, MachineDay.Compare)
	for _, d := range slices.Compact(all) {
		if err := each(d); err != nil {
			return err
		}
	}
	return nil
}

// Compare orders by day and machine.
func (d MachineDay) Compare(o MachineDay) int {
	if n := strings.Compare(d.Date, o.Date); n != 0 {
		return n
	}
	return strings.Compare(d.Machine, o.Machine)
}

// IssueDue issues what is to be issued of the service days from <= day <= to, and returns how many certificates it kept.
// A machine whose day cannot be certified does not hold up the others; the error names the first and counts them.
func (c *Certifier) IssueDue(ctx context.Context, from, to time.Time) (issued int, err error) {
	failed := 0
	var first error
	for day := from; !day.After(to); day = day.AddDate(0, 0, 1) {
		date := day.Format(time.DateOnly)
		var machines []string
		err := c.ledger.store.View(ctx, func(v View) (err error) {
			machines, err = v.ToIssue(date)
			return err
		})
		if err != nil {
			return issued, fmt.Errorf("ledger: certify: %w", err)
		}
		for _, machine := range machines {
			_, fresh, err := c.Issue(ctx, machine, date)
			switch {
			case ctx.Err() != nil:
				return issued, fmt.Errorf("ledger: certify: %w", ctx.Err())
			case err != nil:
				if failed++; first == nil {
					first = err
				}
			case fresh:
				issued++
			}
		}
	}
	if failed > 0 {
		return issued, fmt.Errorf("%d days of machines are not certified, the first: %w", failed, first)
	}
	return issued, nil
}

// Issued calls each for every revision that was issued of what the filter selects, by day, machine and revision.
func (c *Certifier) Issued(ctx context.Context, f Filter, each func(Issued) error) error {
	if err := f.Check(); err != nil {
		return fmt.Errorf("ledger: certificates: %w", err)
	}
	err := c.ledger.store.View(ctx, func(v View) error { return v.EachIssued(f.Machine, f.From, f.To, each) })
	if err != nil {
		return fmt.Errorf("ledger: certificates: %w", err)
	}
	return nil
}

// Judgment is what Check finds.
type Judgment string

// The judgments.
const (
	Holds      Judgment = "holds"      // signed by us, and the ledger says the same now
	Superseded Judgment = "superseded" // signed by us; a newer revision was issued
	Differs    Judgment = "differs"    // signed by us, and the ledger says something else now
	Unknown    Judgment = "unknown"    // signed by us, of an issued revision that this ledger does not have
)

// Check holds a certificate against its signature and against what the ledger says now. An error that
// wraps schemas.ErrSignature, or is a *schemas.Error, is about b; any other is about reading.
func (c *Certifier) Check(ctx context.Context, b []byte) (schemas.Certificate, Judgment, error) {
	public, err := c.signer.Public(ctx)
	if err != nil {
		return schemas.Certificate{}, "", fmt.Errorf("ledger: check certificate: %w", err)
	}
	cert, err := schemas.OpenCertificate(public, b)
	if err != nil {
		return cert, "", err
	}
	drawn, newest, err := c.draw(ctx, cert.Machine, cert.ServiceDate)
	switch {
	case err != nil:
		return cert, "", err
	case cert.Revision > 0 && (newest == nil || newest.Revision < cert.Revision):
		return cert, Unknown, nil // of a ledger that is newer than this one: a backup was restored
	case cert.Revision > 0 && newest.Revision > cert.Revision:
		return cert, Superseded, nil
	case cert.Revision > 0 && !bytes.Equal(newest.Body, b), drawn == nil, !says(cert, *drawn):
		return cert, Differs, nil
	}
	return cert, Holds, nil
}

// draw draws up the certificate of a day in one snapshot, and reads the newest that was issued. Both are nil where
// there is none.
func (c *Certifier) draw(ctx context.Context, machine, date string) (drawn *schemas.Certificate, before *Certified, err error) {
	key, err := c.ledger.keys.Machine(ctx, machine)
	if err != nil {
		return nil, nil, fmt.Errorf("ledger: certify machine %q: %w", machine, err)
	}
	if err := (Filter{From: date, To: date}).Check(); err != nil || date == "" {
		return nil, nil, fmt.Errorf("ledger: certify: %w", errors.Join(err, errDate(date)))
	}
	declared, known := c.declared[machine]
	err = c.ledger.store.View(ctx, func(v View) error {
		before = nil
		issued, err := v.Issued(machine, date)
		if err != nil {
			return err
		}
		if issued != nil {
			before = &Certified{Body: issued.Body}
			if err := schemas.Decode(issued.Body, schemas.NameCertificate, &before.Certificate); err != nil {
				return fmt.Errorf("revision %d is damaged, restore a backup: %w", issued.Revision, err)
			}
		}
		d := drawer{machine: machine, date: date, key: key[:], declared: declared, known: known}
		drawn, err = d.draw(v)
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("ledger: certify machine %q, service day %s: %w", machine, date, err)
	}
	return drawn, before, nil
}

func errDate(date string) error {
	if _, err := time.Parse(time.DateOnly, date); err != nil {
		return fmt.Errorf("service day %q: want YYYY-MM-DD", date)
	}
	return nil
}
