package edge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/farebeat/farebeat/edge/ble"
	"github.com/farebeat/farebeat/edge/ors"
	"github.com/farebeat/farebeat/edge/outbox"
	"github.com/farebeat/farebeat/schemas"
)

// visitor works the radio. One thing at a time: scanning and dialing do not mix.
type visitor struct {
	radio       ble.Radio
	box         *outbox.Outbox
	now         func() time.Time
	log         *slog.Logger
	limits      Limits
	uncertainty time.Duration
	room        chan struct{} // holds one: a receipt made room in the outbox
	post        func(ctx context.Context, in input)
	sender      *sender
	suspects    suspects

	mu    sync.Mutex
	count Stats
}

func (v *visitor) stats() Stats {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.count
}

func (v *visitor) roomMade() {
	select {
	case v.room <- struct{}{}:
	default:
	}
}

// scan listens until enough says so, or for as long as ctx. Failing to listen is
// an error; hearing nobody is not.
func (v *visitor) scan(ctx context.Context, names []string, enough func(machine string, ad ble.Advertisement, stop context.CancelFunc)) (*heard, error) {
	byHint := make(map[[8]byte]string, len(names))
	for _, name := range names {
		byHint[ble.IDHint(name)] = name
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	h := &heard{ads: map[string][]ble.Advertisement{}}
	err := v.radio.Scan(ctx, func(ad ble.Advertisement) {
		name, known := byHint[ad.IDHint]
		if !known {
			return
		}
		h.add(name, ad, &v.suspects)
		enough(name, ad, stop)
	})
	if err != nil && ctx.Err() == nil {
		return h, fmt.Errorf("listen for machines: %w", err)
	}
	return h, nil
}

// listen hears who is near.
func (v *visitor) listen(ctx context.Context, names []string) []schemas.Sighting {
	ctx, cancel := context.WithTimeout(ctx, v.limits.ListenFor)
	defer cancel()
	h, err := v.scan(ctx, names, func(string, ble.Advertisement, context.CancelFunc) {})
	if err != nil {
		v.log.Warn("listening failed; it is tried again", "err", err)
		<-ctx.Done() // a broken adapter is not asked in a tight loop
	}
	return h.sightings(v.now(), &v.suspects)
}

// visit looks for the candidates and serves the first in their order that is there.
func (v *visitor) visit(ctx context.Context, c contact) contactResult {
	h, err := v.search(ctx, c)
	r := contactResult{seen: h.sightings(v.now(), &v.suspects)}
	var chosen job
	var devices []ble.Advertisement
	for _, j := range c.candidates {
		if devices = h.devices(j.machine, &v.suspects); len(devices) > 0 {
			chosen = j
			break
		}
	}
	switch {
	case err != nil:
		// The radio is at fault, not the machine; its error is the first candidate's.
		r.machine, r.err = c.candidates[0].machine, err
		return r
	case chosen.machine == "":
		for _, j := range c.candidates {
			r.absent = append(r.absent, j.machine)
		}
		return r
	}
	r.machine = chosen.machine
	v.post(ctx, found{chosen.machine})
	v.serve(ctx, chosen, devices, &r)
	v.tally(&r)
	return r
}

func (v *visitor) tally(r *contactResult) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.count.Contacts++
	v.count.Read += r.read
	v.count.Damaged += uint64(r.refused)
	if r.err != nil {
		v.count.Failed++
	}
}

// search scans until the best candidate is heard, or for a moment after another one was. Where only devices were heard
// at which no session could be opened before, it listens longer: the true one may be there as well.
func (v *visitor) search(ctx context.Context, c contact) (*heard, error) {
	ctx, cancel := context.WithTimeout(ctx, v.limits.Scan)
	defer cancel()
	var (
		mu  sync.Mutex
		end *time.Timer
		at  time.Time // when end fires
	)
	within := func(d time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		switch then := time.Now().Add(d); {
		case end == nil:
			end, at = time.AfterFunc(d, cancel), then
		case then.Before(at):
			end.Reset(d)
			at = then
		}
	}
	h, err := v.scan(ctx, c.names, func(machine string, ad ble.Advertisement, stop context.CancelFunc) {
		switch {
		case !slices.ContainsFunc(c.candidates, func(j job) bool { return j.machine == machine }):
		case v.suspects.failures(ad.Address) > 0:
			within(suspectSettles * v.limits.Settle)
		case machine == c.candidates[0].machine:
			stop()
		default:
			within(v.limits.Settle)
		}
	})
	mu.Lock()
	defer mu.Unlock()
	if end != nil {
		end.Stop()
	}
	return h, err
}

// suspectSettles is how many times Settle another device is waited for where the one that was heard may be an impostor.
const suspectSettles = 3

// serve does a job: what the machine holds, what the ledger holds, what is wrong,
// what time it is, and then the records. A machine that refuses one of these is
// read all the same: the money comes first.
func (v *visitor) serve(ctx context.Context, j job, devices []ble.Advertisement, r *contactResult) {
	s, ad, closeSession, err := v.openAny(ctx, j, devices)
	if err != nil {
		r.err = err
		return
	}
	defer closeSession()
	status, err := s.Status(ctx)
	if err != nil {
		r.err = fmt.Errorf("ask machine %s what it holds: %w", j.machine, err)
		return
	}
	if status.Machine != j.machine {
		r.err = fmt.Errorf("the device that advertises machine %s says that it is %q: it is not read", j.machine, status.Machine)
		return
	}
	now := v.now()
	unreleased, newest := spans(status)
	r.status = &contactStatus{RSSI: int(ad.RSSI), Pending: unreleased.Count(), Epoch: newest.Epoch, LastSeq: newest.Last, ClockSkew: status.UTC.Sub(now).Milliseconds()}
	latest, ledger, held, err := v.known(ctx, j.machine)
	if err != nil {
		r.err = err
		return
	}
	v.post(ctx, declared{machine: j.machine, all: unreleased, ledger: ledger, held: held, newest: newest.Epoch, newestLast: newest.Last, minor: status.PendingMinor})
	refusal, lost := v.tell(ctx, s, j, latest, ledger, r)
	if j.collect && lost == nil {
		v.sender.readingMachine(j.machine)
		lost = v.read(ctx, s, j.machine, Postpone(Plan(unreleased, ledger, held), j.avoid), r)
		v.sender.readingMachine("")
		r.collected = true
		r.status.Read = r.read
	}
	r.err = errors.Join(lost, refusal)
}

// openAny opens a session with the first of the devices that proves to be the machine.
func (v *visitor) openAny(ctx context.Context, j job, devices []ble.Advertisement) (*ors.Session, ble.Advertisement, func(), error) {
	var errs []error
	for _, ad := range devices[:min(len(devices), maxTries)] {
		s, closeSession, err := v.open(ctx, j, ad)
		if ctx.Err() == nil {
			v.suspects.note(j.machine, ad.Address, err != nil)
		}
		if err == nil {
			return s, ad, closeSession, nil
		}
		errs = append(errs, err)
	}
	return nil, ble.Advertisement{}, nil, errors.Join(errs...)
}

// maxTries is how many devices that advertise as one machine are tried in one contact.
const maxTries = 3

// open dials a machine and opens a session. The returned func ends both.
func (v *visitor) open(ctx context.Context, j job, ad ble.Advertisement) (*ors.Session, func(), error) {
	patience := v.limits.Dial
	if v.suspects.failures(ad.Address) > 0 {
		patience /= 2 // others wait
	}
	dialCtx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	link, err := v.radio.Dial(dialCtx, ad.Address)
	if err != nil {
		return nil, nil, fmt.Errorf("connect to %s over Bluetooth: %w", ad.Address, err)
	}
	credentials := ors.Credentials{Machine: j.machine, Sealed: j.ticket.sealed, Secret: j.ticket.secret}
	s, err := ors.Open(dialCtx, link, credentials, ors.Options{Reply: v.limits.Request, Idle: v.limits.Stall})
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open a session with %s: %w", ad.Address, err), link.Close())
	}
	return s, func() {
		if err := errors.Join(s.Close(), link.Close()); err != nil {
			v.log.Debug("closing a Bluetooth link", "err", err)
		}
	}, nil
}

// known returns what the ledger and the outbox hold of a machine.
func (v *visitor) known(ctx context.Context, machine string) (latest schemas.Receipt, ledger, held Records, err error) {
	latest, _, err = v.box.LatestReceipt(ctx, machine)
	if err != nil {
		return latest, nil, nil, err
	}
	if ledger, err = outbox.Covered(latest); err != nil {
		return latest, nil, nil, err
	}
	held, err = v.box.Held(ctx, machine)
	return latest, ledger, held, err
}

// tell gives the machine the ledger's receipt, the fault and the time. refusal is
// what the machine did not take, save the time, whose refusal is a result of its
// own; lost is why the session is of no more use.
func (v *visitor) tell(ctx context.Context, s *ors.Session, j job, latest schemas.Receipt, ledger Records, r *contactResult) (refusal, lost error) {
	if len(latest.Epochs) > 0 {
		err := s.Receipt(ctx, latest.Epochs)
		if refusal, lost = sortOut(refusal, err, j.machine, "the ledger's receipt"); lost != nil {
			return refusal, lost
		}
		if err == nil {
			r.told = ledger
		}
	}
	switch {
	case j.fault != nil:
		err := s.FaultNotice(ctx, ors.Notice{Fault: j.fault.Fault, Kind: j.fault.Kind, OpenedAt: j.fault.OpenedAt})
		refusal, lost = sortOut(refusal, err, j.machine, "the notice of its fault")
	case j.farewell:
		err := s.FaultCleared(ctx)
		refusal, lost = sortOut(refusal, err, j.machine, "the end of its fault")
		r.farewell = err == nil
	}
	if lost != nil {
		return refusal, lost
	}
	r.clockErr = s.SetTime(ctx, v.now(), v.uncertainty)
	_, lost = sortOut(nil, r.clockErr, j.machine, "the time")
	return refusal, lost
}

// sortOut adds err to refusal where the machine only refused what, and returns it
// as lost otherwise.
func sortOut(refusal, err error, machine, what string) (refused, lost error) {
	if err == nil {
		return refusal, nil
	}
	err = fmt.Errorf("machine %s did not take %s: %w", machine, what, err)
	if errors.Is(err, ors.ErrRefused) {
		return errors.Join(refusal, err), nil
	}
	return refusal, err
}

// spans returns what a machine says that it holds, and its newest epoch.
func spans(status ors.Status) (Records, Range) {
	all := Records{}
	var newest Range
	for _, e := range status.Epochs {
		if e.First == 0 || e.Next < e.First {
			continue // no record has the number 0; it has none to give
		}
		if e.Epoch >= newest.Epoch {
			newest = Range{Epoch: e.Epoch, First: e.First, Last: e.Next - 1}
		}
		if e.Next > e.First {
			all[e.Epoch] = all[e.Epoch].Union(outbox.Of(outbox.Interval{First: e.First, Last: e.Next - 1}))
		}
	}
	return all, newest
}

// read brings the planned records into the outbox. The next page is asked for
// only after the one before is on disk. A range that the machine refuses does not
// keep it from the next one.
func (v *visitor) read(ctx context.Context, s *ors.Session, machine string, plan []Range, r *contactResult) error {
	var refused []error
	for _, rg := range plan {
		next := uint64(rg.First)
		var sinkErr error
		err := s.Report(ctx, rg.Epoch, rg.First, rg.Last, func(page []ors.Record) error {
			if sinkErr = v.store(ctx, machine, rg, page, r); sinkErr == nil && len(page) > 0 {
				next = uint64(page[len(page)-1].Seq) + 1
			}
			return sinkErr
		})
		if err == nil && next <= uint64(rg.Last) {
			err = fmt.Errorf("%w: it ended before record %d-%d, which it said that it holds", ors.ErrRefused, rg.Epoch, next)
		}
		if err == nil {
			continue
		}
		err = fmt.Errorf("read records %d-%d to %d-%d of machine %s: %w", rg.Epoch, rg.First, rg.Epoch, rg.Last, machine, err)
		if sinkErr != nil {
			return errors.Join(append(refused, err)...)
		}
		if r.stopped == nil && next == uint64(rg.First) && atFault(err) {
			r.stopped = &Range{rg.Epoch, rg.First, rg.First}
		}
		if !errors.Is(err, ors.ErrRefused) {
			return errors.Join(append(refused, err)...)
		}
		refused = append(refused, err)
	}
	return errors.Join(refused...)
}

// atFault reports whether a report may have ended because of the record that was
// to come, and not of the link.
func atFault(err error) bool {
	for _, kind := range []error{ors.ErrRefused, ors.ErrLost, ors.ErrFormat, ors.ErrForged} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// store puts one page on disk. A record that the ledger could never take stays
// with the machine; those behind it are not held up by it.
func (v *visitor) store(ctx context.Context, machine string, rg Range, page []ors.Record, r *contactResult) error {
	good := make([]outbox.Record, 0, len(page))
	for _, rec := range page {
		if rec.Epoch != rg.Epoch || rec.Seq < rg.First || rec.Seq > rg.Last {
			return fmt.Errorf("the machine sent record %d-%d, which was not asked for", rec.Epoch, rec.Seq)
		}
		if err := vet(machine, rec); err != nil {
			r.refused++
			v.log.Error("a record is damaged and stays with the machine", "machine", machine, "epoch", rec.Epoch, "seq", rec.Seq, "err", err)
			continue
		}
		good = append(good, outbox.Record{Epoch: rec.Epoch, Seq: rec.Seq, Body: rec.Payload})
	}
	out, err := v.append(ctx, machine, good)
	if errors.Is(err, outbox.ErrFull) {
		r.full = true
	}
	if err != nil {
		return err
	}
	if out.Conflict > 0 {
		v.log.Error("the machine gave other bytes for records that it gave before; both are kept", "machine", machine, "records", out.Conflict)
	}
	r.read += uint64(out.New)
	held, err := v.box.Held(ctx, machine)
	if err != nil {
		return err
	}
	if r.read/schemas.MaxBatch > (r.read-uint64(out.New))/schemas.MaxBatch {
		v.sender.stored() // there may be a full batch; the rest is sent at the end
	}
	v.post(ctx, stored{machine, held})
	return nil
}

// append waits for receipts to make room in a full outbox, with the link held,
// but not for ever: other machines need the radio.
func (v *visitor) append(ctx context.Context, machine string, records []outbox.Record) (outbox.Outcome, error) {
	patience := time.NewTimer(v.limits.Full)
	defer patience.Stop()
	for {
		out, err := v.box.Append(ctx, machine, records)
		if !errors.Is(err, outbox.ErrFull) {
			return out, err
		}
		select {
		case <-ctx.Done():
			return out, err
		case <-patience.C:
			return out, err
		case <-v.room:
		}
	}
}

// vet checks that a record is what it was asked for. Whether it is genuine is the
// ledger's to judge, who has the machine's key.
func vet(machine string, rec ors.Record) error {
	if len(rec.Payload) > schemas.MaxRecordBytes {
		return fmt.Errorf("%d bytes, at most %d are allowed", len(rec.Payload), schemas.MaxRecordBytes)
	}
	tx, err := schemas.ParseTransaction(rec.Payload)
	if err != nil {
		return err
	}
	if tx.Machine != machine || tx.Epoch != rec.Epoch || tx.Seq != rec.Seq {
		return fmt.Errorf("it says that it is record %d-%d of machine %q", tx.Epoch, tx.Seq, tx.Machine)
	}
	return nil
}
