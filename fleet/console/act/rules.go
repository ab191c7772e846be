package act

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/console/draft"
)

// CheckRules checks a text as a rules file and keeps it as a draft. What is wrong with the text is in the answer, and no error.
func (a *Actions) CheckRules(ctx context.Context, who Actor, text string) (c draft.Checked, err error) {
	err = a.rules(ctx, who, "rules_check", fmt.Sprintf("%d bytes", len(text)), func(desk *draft.Desk) error {
		c, err = desk.Check(ctx, text)
		return err
	})
	return c, err
}

// TryRules begins to judge stored days by a draft.
func (a *Actions) TryRules(ctx context.Context, who Actor, id string, s draft.Span) (t draft.Trial, err error) {
	const layout = "2006-01-02T15:04Z07:00"
	detail := fmt.Sprintf("%s to %s", s.From.Format(layout), s.To.Format(layout))
	if s.Route != "" {
		detail += ", route " + s.Route
	}
	err = a.rules(ctx, who, "rules_try", detail+"; sha256 "+id[:min(12, len(id))], func(desk *draft.Desk) error {
		t, err = desk.Try(id, s, who.Name)
		return err
	})
	return t, err
}

// StopRulesTrial ends the trial that runs.
func (a *Actions) StopRulesTrial(ctx context.Context, who Actor) error {
	return a.rules(ctx, who, "rules_stop", "", func(desk *draft.Desk) error { return desk.Stop() })
}

// SaveRules writes a draft that was checked into the rules file. It is on disk when it returns, and in force some seconds later.
func (a *Actions) SaveRules(ctx context.Context, who Actor, s draft.Saving) (saved draft.Saved, err error) {
	detail := ""
	if a.o.Rules != nil && who.Role.Covers(access.Admin) {
		detail = a.o.Rules.Summary(s.ID)
	}
	err = a.rules(ctx, who, "rules_save", detail, func(desk *draft.Desk) error {
		saved, err = desk.Save(s)
		return err
	})
	return saved, err
}

// rules audits an order about the rules. Only admins give them.
func (a *Actions) rules(ctx context.Context, who Actor, action, detail string, follow func(*draft.Desk) error) error {
	return a.do(ctx, who, access.Admin, action, "rules", detail, func() error {
		if a.o.Rules == nil {
			return fmt.Errorf("the rules: %w: they cannot be changed here", ErrNotFound)
		}
		err := follow(a.o.Rules)
		switch {
		case errors.Is(err, draft.ErrInvalid):
			return fmt.Errorf("the rules: %w%s", ErrUsage, strings.TrimPrefix(err.Error(), draft.ErrInvalid.Error()))
		case errors.Is(err, draft.ErrGone):
			return fmt.Errorf("the rules: %w: %w", ErrNotFound, err)
		case errors.Is(err, draft.ErrBusy), errors.Is(err, draft.ErrChanged), errors.Is(err, draft.ErrNoFile):
			return fmt.Errorf("the rules: %w: %w", ErrConflict, err)
		}
		return err
	})
}
