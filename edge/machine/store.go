package machine

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/farebeat/farebeat/edge/ble"
	"github.com/farebeat/farebeat/edge/machine/journal"
	"github.com/farebeat/farebeat/edge/ors"
	"github.com/farebeat/farebeat/schemas"
)

var _ ors.Machine = (*Machine)(nil)

// Bounds of what a gateway may tell a machine.
const (
	maxNotice      = 64 // bytes of each text
	maxUncertainty = time.Minute
	clockTolerance = time.Second
)

// powered is the journal of a machine that is on.
func (m *Machine) powered(ctx context.Context, what string) (*journal.Journal, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%s machine %s: %w", what, m.opts.ID, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.on {
		return nil, fmt.Errorf("%s machine %s: %w", what, m.opts.ID, ErrOff)
	}
	return m.journal, nil
}

// Status implements ors.Store. Damage shows as more than one range of an epoch.
// Of more than ors.MaxEpochs ranges the oldest are given, and always the current epoch;
// the others follow once these are released.
func (m *Machine) Status(ctx context.Context) (ors.Status, error) {
	j, err := m.powered(ctx, "status of")
	if err != nil {
		return ors.Status{}, err
	}
	stats, ranges := j.Stats(), j.Ranges()
	m.mu.Lock()
	defer m.mu.Unlock()
	s := ors.Status{
		Machine: m.opts.ID, UTC: m.opts.Now().Add(m.skew).UTC(), ClockGen: m.clockGen,
		Pending: uint32(stats.Pending), PendingMinor: stats.PendingAmount,
	}
	if stats.Pending > 0 {
		s.Currency = m.opts.Currency
	}
	for _, r := range ranges {
		s.Epochs = append(s.Epochs, ors.EpochRange{Epoch: r.Epoch, First: r.First, Next: r.Next})
	}
	if n := len(s.Epochs); n == 0 || s.Epochs[n-1].Epoch < stats.Epoch {
		s.Epochs = append(s.Epochs, ors.EpochRange{Epoch: stats.Epoch, First: stats.LastSeq + 1, Next: stats.LastSeq + 1})
	}
	if n := len(s.Epochs); n > ors.MaxEpochs {
		s.Epochs = append(s.Epochs[:ors.MaxEpochs-1:ors.MaxEpochs-1], s.Epochs[n-1])
	}
	return s, nil
}

// Records implements ors.Store: the records from number from on, up to the first
// hole.
func (m *Machine) Records(ctx context.Context, epoch, from uint32, most int) ([]ors.Record, error) {
	j, err := m.powered(ctx, "records of")
	if err != nil {
		return nil, err
	}
	records, err := j.Records(epoch, from, most)
	if err != nil {
		return nil, fmt.Errorf("records of machine %s: %w", m.opts.ID, err)
	}
	out := make([]ors.Record, 0, len(records))
	for i, r := range records {
		if r.Seq != from+uint32(i) {
			break
		}
		out = append(out, ors.Record{Epoch: r.Epoch, Seq: r.Seq, UTCMillis: r.UTCMillis, ClockGen: r.ClockGen, Kind: r.Kind, Payload: r.Payload})
	}
	return out, nil
}

// FaultNotice implements ors.Store: the machine knows of its fault, see Notice.
func (m *Machine) FaultNotice(ctx context.Context, n ors.Notice) error {
	if _, err := m.powered(ctx, "fault notice for"); err != nil {
		return err
	}
	if n.Fault == "" || len(n.Fault) > maxNotice || len(n.Kind) > maxNotice {
		return fmt.Errorf("fault notice for machine %s: the fault's id needs 1 to %d bytes, its kind at most as many: %w", m.opts.ID, maxNotice, ors.ErrFormat)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.notice == nil || m.notice.Fault != n.Fault {
		m.log.Info("the fleet knows of a fault of this machine", "fault", n.Fault, "kind", n.Kind)
	}
	m.notice = &n
	return nil
}

// FaultCleared implements ors.Store.
func (m *Machine) FaultCleared(ctx context.Context) error {
	if _, err := m.powered(ctx, "end of the fault of"); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.notice = nil
	return nil
}

// Notice is the fault that the machine was told of and not yet told the end of.
func (m *Machine) Notice() (ors.Notice, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.notice == nil {
		return ors.Notice{}, false
	}
	return *m.notice, true
}

// Advertise implements ors.Machine. A machine that is off is not to be on air.
func (m *Machine) Advertise() ble.Advertisement {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := ble.Advertisement{IDHint: ble.IDHint(m.opts.ID)}
	if m.journal == nil {
		return a
	}
	a.Pending = uint16(min(m.journal.Stats().Pending, math.MaxUint16))
	switch {
	case m.notice != nil || m.faultCode() != "":
		a.State = ble.StateFault
	case a.Pending > 0:
		a.State = ble.StatePending
	}
	return a
}

// Key implements ors.Gate.
func (m *Machine) Key() [schemas.TicketKeySize]byte { return [schemas.TicketKeySize]byte(m.opts.Key) }

// LastTicket implements ors.Gate.
func (m *Machine) LastTicket(ctx context.Context) (ors.TicketMark, error) {
	j, err := m.powered(ctx, "last ticket of")
	if err != nil {
		return ors.TicketMark{}, err
	}
	return ors.TicketMark(j.TicketMark()), nil
}

// KeepTicket implements ors.Gate.
func (m *Machine) KeepTicket(ctx context.Context, mark ors.TicketMark) error {
	j, err := m.powered(ctx, "keep a ticket of")
	if err != nil {
		return err
	}
	if err := j.KeepTicketMark(journal.TicketMark(mark)); err != nil {
		return fmt.Errorf("keep a ticket of machine %s: %w", m.opts.ID, err)
	}
	return nil
}

// Receipt gives up the records that the ledger holds. The receipts must be MACed
// with the machine's key; see journal.Release. A receipt for more than the
// machine ever wrote releases nothing and shows as FaultRolledBack.
func (m *Machine) Receipt(ctx context.Context, receipts []schemas.EpochReceipt) error {
	j, err := m.powered(ctx, "receipt for")
	if err != nil {
		return err
	}
	n, err := j.Release(receipts)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.counters.Released += uint64(n)
	if errors.Is(err, journal.ErrAhead) {
		m.fault = FaultRolledBack
	}
	if err != nil {
		return fmt.Errorf("receipt for machine %s: %w", m.opts.ID, err)
	}
	if j.Stats().Percent < 100 && m.fault == FaultJournalFull {
		m.fault = ""
	}
	return nil
}

// SetTime sets the machine's clock where it is further off than the uncertainty
// and a second. A time before 2020 or after 2099, or one that is uncertain by
// more than a minute, is refused: a wrong clock spoils every record after it.
func (m *Machine) SetTime(ctx context.Context, utc time.Time, uncertainty time.Duration) error {
	if _, err := m.powered(ctx, "set the time of"); err != nil {
		return err
	}
	if y := utc.UTC().Year(); y < 2020 || y > 2099 {
		return fmt.Errorf("set the time of machine %s: %s is outside the years 2020 to 2099", m.opts.ID, utc.UTC().Format(time.RFC3339))
	}
	if uncertainty < 0 || uncertainty > maxUncertainty {
		return fmt.Errorf("set the time of machine %s: uncertain by %s, at most %s", m.opts.ID, uncertainty, maxUncertainty)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.opts.Now()
	if off := utc.Sub(now.Add(m.skew)); off.Abs() > uncertainty+clockTolerance {
		m.log.Info("the clock was set", "by", off)
		m.skew += off
		m.clockGen++
	}
	return nil
}
