package machine

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/farebeat/farebeat/edge/machine/journal"
	"github.com/farebeat/farebeat/edge/ors"
	"github.com/farebeat/farebeat/schemas"
)

// ErrOff says that the machine has no power.
var ErrOff = errors.New("the machine is off")

// The fault codes that a machine reports of itself in its heartbeats.
const (
	FaultJournalFull    = "JOURNAL_FULL"    // taps without an uplink are refused
	FaultJournalBroken  = "JOURNAL_BROKEN"  // the disk fails
	FaultJournalDamaged = "JOURNAL_DAMAGED" // stored records were lost to damage
	FaultRolledBack     = "JOURNAL_ROLLED_BACK"
)

// Options of a machine.
type Options struct {
	ID       string
	Vehicle  string          // that carries it
	Key      []byte          // 32 bytes, known to the machine and to the fleet's key store
	Dir      string          // of the journal
	Journal  journal.Options // Warn is the machine's own
	Zone     *time.Location  // of the operator
	DayStart time.Duration   // local time at which a service day begins, default 3 h
	Currency string          // ISO 4217, of every fare
	Firmware string
	Depot    string           // where the vehicle is stabled; empty: not told
	Network  string           // mobile network of the SIM; empty: not told
	Now      func() time.Time // true time; the machine's clock is this plus its skew
	Skew     time.Duration    // of the machine's clock, until it is set
	Logger   *slog.Logger     // nil: silent
}

// Duty is what the machine's vehicle does now. The zero Duty is none.
type Duty struct {
	Route, Trip string // GTFS route_id and trip_id
}

// Fare is one tap. Empty fields take the defaults Enter and Contactless bank card.
type Fare struct {
	AmountMinor int64
	FareAction  string // TIDES fare_action
	Media       string // TIDES media_type
	TokenID     string // a token, never a PAN
	Stop        string // GTFS stop_id
	Evidence    string // base64
}

// Outcome is what became of a tap: authorized online, or stored as Ref.
type Outcome struct {
	Online bool
	Ref    journal.Ref
}

// Counters count since New, over every boot.
type Counters struct {
	Online       uint64 // taps authorized online
	Written      uint64 // taps stored
	WrittenMinor int64  // their sum, minor units
	Refused      uint64 // taps neither authorized nor stored
	Released     uint64 // stored records given up on a receipt
}

// Machine is one payment machine. It is safe for concurrent use.
type Machine struct {
	opts Options
	log  *slog.Logger

	mu       sync.Mutex
	journal  *journal.Journal // nil until the first boot
	on       bool
	uplink   bool
	duty     Duty
	parking  bool
	boot     string
	seq      uint64
	skew     time.Duration
	clockGen uint8
	fault    string      // found at run time; damage is asked of the journal
	notice   *ors.Notice // standing
	counters Counters
}

// New makes a machine. It is off.
func New(o Options) (*Machine, error) {
	var missing []string
	for name, absent := range map[string]bool{
		"ID": o.ID == "", "Vehicle": o.Vehicle == "", "Key": len(o.Key) != 32, "Dir": o.Dir == "",
		"Zone": o.Zone == nil, "Currency": len(o.Currency) != 3, "Now": o.Now == nil,
	} {
		if absent {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("machine %q: options missing or wrong: %s", o.ID, strings.Join(slices.Sorted(slices.Values(missing)), ", "))
	}
	if o.DayStart == 0 {
		o.DayStart = 3 * time.Hour
	}
	m := &Machine{opts: o, log: o.Logger, skew: o.Skew, clockGen: 1}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	m.log = m.log.With("machine", o.ID)
	return m, nil
}

// ID is the machine's identifier.
func (m *Machine) ID() string { return m.opts.ID }

// Vehicle is the vehicle that carries the machine.
func (m *Machine) Vehicle() string { return m.opts.Vehicle }

// PowerOn boots the machine: it opens and repairs its journal and begins to count
// heartbeats anew. A machine that is on stays as it is.
func (m *Machine) PowerOn() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.on {
		return nil
	}
	jo := m.opts.Journal
	jo.Warn = m.warn
	j, err := journal.Open(m.opts.Dir, m.opts.ID, m.opts.Key, jo)
	if err != nil {
		return fmt.Errorf("boot machine %s: %w", m.opts.ID, err)
	}
	for _, d := range j.Damage() {
		m.log.Warn("the journal was damaged", "damage", d.String())
	}
	m.journal, m.on, m.uplink, m.fault = j, true, false, ""
	m.boot, m.seq = strings.ToLower(rand.Text()[:12]), 0
	return nil
}

// PowerOff ends the machine as a loss of power does: nothing is said to anyone.
func (m *Machine) PowerOff() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.on {
		return nil
	}
	m.on, m.uplink = false, false
	if err := m.journal.Close(); err != nil {
		return fmt.Errorf("switch machine %s off: %w", m.opts.ID, err)
	}
	return nil
}

// SetUplink says whether the machine can reach the world.
func (m *Machine) SetUplink(up bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.uplink = up && m.on
}

// SetDuty says what the vehicle does now; parking announces the planned silence
// after its last trip.
func (m *Machine) SetDuty(d Duty, parking bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.duty, m.parking = d, parking
}

// Tap takes a fare. With the uplink up it is authorized online; without, it is
// stored, and Tap returns once it is on the disk. An error means that the
// passenger is to be refused: journal.ErrFull, ErrOff or a failing disk.
func (m *Machine) Tap(now time.Time, f Fare) (Outcome, error) {
	m.mu.Lock()
	if !m.on {
		m.counters.Refused++
		m.mu.Unlock()
		return Outcome{}, fmt.Errorf("tap on machine %s: %w", m.opts.ID, ErrOff)
	}
	if m.uplink {
		m.counters.Online++
		m.mu.Unlock()
		return Outcome{Online: true}, nil
	}
	j, tx, gen := m.journal, m.transaction(now, f), m.clockGen
	m.mu.Unlock()

	ref, err := j.Append(tx, gen)

	m.mu.Lock()
	defer m.mu.Unlock()
	m.noteAppend(err)
	if err != nil {
		m.counters.Refused++
		return Outcome{}, fmt.Errorf("tap on machine %s: %w", m.opts.ID, err)
	}
	m.counters.Written++
	m.counters.WrittenMinor += tx.AmountMinor
	return Outcome{Ref: ref}, nil
}

// transaction is a fare in the machine's words. The lock is held.
func (m *Machine) transaction(now time.Time, f Fare) *schemas.Transaction {
	at := now.Add(m.skew)
	tx := &schemas.Transaction{
		EventTime: at, TZ: m.opts.Zone.String(), ServiceDate: ServiceDate(at, m.opts.Zone, m.opts.DayStart),
		AmountMinor: f.AmountMinor, Currency: m.opts.Currency, FareAction: f.FareAction, Media: f.Media, TokenID: f.TokenID,
		Vehicle: m.opts.Vehicle, Route: m.duty.Route, Trip: m.duty.Trip, Stop: f.Stop, Offline: true, Evidence: f.Evidence,
	}
	if tx.FareAction == "" {
		tx.FareAction = "Enter"
	}
	if tx.Media == "" {
		tx.Media = "Contactless bank card"
	}
	return tx
}

// noteAppend keeps what the last write says of the journal's health.
func (m *Machine) noteAppend(err error) {
	switch {
	case err == nil && (m.fault == FaultJournalFull || m.fault == FaultJournalBroken):
		m.fault = ""
	case errors.Is(err, journal.ErrFull):
		m.fault = FaultJournalFull
	case err != nil:
		var bad *schemas.Error
		if !errors.As(err, &bad) { // a fare that is not valid says nothing of the disk
			m.fault = FaultJournalBroken
		}
	}
}

func (m *Machine) warn(percent int) {
	m.log.Warn("the journal fills up; collect the machine", "percent", percent)
}

// Heartbeat fills hb with the next heartbeat. It returns ErrOff where the machine
// is off.
func (m *Machine) Heartbeat(now time.Time, hb *schemas.Heartbeat) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.on {
		return fmt.Errorf("heartbeat of machine %s: %w", m.opts.ID, ErrOff)
	}
	m.seq++
	s := m.journal.Stats()
	*hb = schemas.Heartbeat{
		Seq: m.seq, Boot: m.boot, At: now.Add(m.skew).UTC(), Vehicle: m.opts.Vehicle, Route: m.duty.Route, Trip: m.duty.Trip,
		State: schemas.Running, Pending: uint32(s.Pending), PendingMinor: s.PendingAmount, LastSeq: s.LastSeq, Epoch: s.Epoch,
		Firmware: m.opts.Firmware, Depot: m.opts.Depot, Network: m.opts.Network, Fault: m.faultCode(),
	}
	if s.Pending > 0 {
		hb.Currency = m.opts.Currency
		hb.OldestPending = &s.OldestPending
	}
	switch {
	case m.parking:
		hb.State = schemas.ReadyForShutdown
	case hb.Fault == FaultJournalBroken:
		hb.State = schemas.Defective
	case hb.Fault != "" || s.Percent >= 80:
		hb.State = schemas.Warning
	}
	return nil
}

// faultCode is the code of the worst thing the machine knows of itself.
func (m *Machine) faultCode() string {
	if m.fault != "" {
		return m.fault
	}
	if m.journal.Lost() > 0 {
		return FaultJournalDamaged
	}
	return ""
}

// Counters are what the machine did since New.
func (m *Machine) Counters() Counters {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.counters
}

// Journal is how the journal stands, also while the machine is off; false before
// the first boot.
func (m *Machine) Journal() (journal.Stats, bool) {
	j := m.open()
	if j == nil {
		return journal.Stats{}, false
	}
	return j.Stats(), true
}

// Audit lists what was written, epoch by epoch, for a comparison with the ledger.
// It is empty before the first boot.
func (m *Machine) Audit() []journal.EpochAudit {
	j := m.open()
	if j == nil {
		return nil
	}
	return j.Audit()
}

// open is the journal of this boot or, while the machine is off, of the last.
func (m *Machine) open() *journal.Journal {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.journal
}

// ServiceDate is the GTFS service day of an instant, as YYYY-MM-DD: what happens
// before the local time dayStart belongs to the day before.
func ServiceDate(t time.Time, zone *time.Location, dayStart time.Duration) string {
	local := t.In(zone)
	clock := time.Duration(local.Hour())*time.Hour + time.Duration(local.Minute())*time.Minute + time.Duration(local.Second())*time.Second
	if clock < dayStart {
		local = local.AddDate(0, 0, -1)
	}
	return local.Format(time.DateOnly)
}
