package ors

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/farebeat/farebeat/edge/ble"
	"github.com/farebeat/farebeat/schemas"
)

// Options are the patience of a gateway. A zero field means its default.
type Options struct {
	Reply time.Duration // for the answer to one request; 5 s
	Tries int           // of one request; 3
	Idle  time.Duration // between two values of a report; 5 s
	Alive time.Duration // between two signs of life while a report's sink takes its time; 3 s
}

func (o Options) withDefaults() Options {
	if o.Reply <= 0 {
		o.Reply = 5 * time.Second
	}
	if o.Tries <= 0 {
		o.Tries = 3
	}
	if o.Idle <= 0 {
		o.Idle = 5 * time.Second
	}
	if o.Alive <= 0 {
		o.Alive = 3 * time.Second
	}
	return o
}

// Session is a gateway's conversation with one machine over one link. It belongs to one goroutine. After
// an error that is not ErrRefused it is of no more use: dial again and resume.
type Session struct {
	link        ble.Link
	o           Options
	in          map[ble.Char]*incoming
	cutters     map[ble.Char]*segmenter
	out         outgoing
	values      chan input
	overflow    chan struct{}
	transaction uint16
	window      uint8 // values that the machine may have under way
}

// Open begins a session: it reads INFO, subscribes, shows the ticket and shakes hands. The link stays the caller's to
// close. Errors: a *RefusedError tells why the device opens none; ErrForged, wrapped, that it does not know the machine's key.
func Open(ctx context.Context, link ble.Link, c Credentials, o Options) (*Session, error) {
	s := &Session{
		link: link, o: o.withDefaults(), in: map[ble.Char]*incoming{}, cutters: map[ble.Char]*segmenter{},
		values: make(chan input, 4*Window), overflow: make(chan struct{}, 1),
	}
	info, err := link.ReadInfo(ctx)
	if err != nil {
		return nil, err
	}
	if len(info) < 5 || info[0] != Major || info[4] == 0 {
		return nil, fmt.Errorf("INFO % x: want version %d: %w", info, Major, ErrFormat)
	}
	s.window = min(Window, info[4])
	for _, c := range []ble.Char{ble.CharSession, ble.CharControl, ble.CharData} {
		s.in[c] = &incoming{}
		if err := link.Subscribe(ctx, c, func(v []byte) { s.arrived(input{c, v}) }); err != nil {
			return nil, err
		}
	}
	if err := s.shake(ctx, info, c); err != nil {
		return nil, fmt.Errorf("handshake with machine %s: %w", c.Machine, err)
	}
	return s, nil
}

// shake shows the ticket and makes the keys of the session.
func (s *Session) shake(ctx context.Context, info []byte, c Credentials) error {
	state, err := shake(true, rand.Reader, info, c.Sealed, c.Secret)
	if err != nil {
		return err
	}
	first, _, _, err := state.WriteMessage(nil, nil)
	if err != nil {
		return err
	}
	if err := s.write(ctx, ble.CharSession, hello{Major, suiteNoise, c.Sealed, first}.encode()); err != nil {
		return err
	}
	m, err := s.awaitWelcome(ctx)
	if err != nil {
		return err
	}
	answer, err := decodeWelcome(m)
	if err != nil {
		return err
	}
	_, ours, theirs, err := state.ReadMessage(nil, answer)
	if err != nil {
		return ErrForged
	}
	s.out.sealer = sealer{ours.Cipher()}
	for _, c := range []ble.Char{ble.CharControl, ble.CharData} {
		s.in[c].sealer = sealer{theirs.Cipher()}
	}
	return nil
}

// awaitWelcome returns the answer to HELLO. Nothing else may come before it.
func (s *Session) awaitWelcome(ctx context.Context) ([]byte, error) {
	deadline := time.Now().Add(s.o.Reply)
	for {
		in, err := s.next(ctx, time.Until(deadline))
		if err != nil {
			return nil, err
		}
		if in.char != ble.CharSession {
			return nil, fmt.Errorf("a value on %04x before the handshake: %w", uint16(in.char), ErrFormat)
		}
		if m, err := s.in[in.char].add(in.value); err != nil || m != nil {
			return m, err
		}
	}
}

// arrived runs in go-ble's goroutine: it only queues.
func (s *Session) arrived(in input) {
	select {
	case s.values <- in:
	default:
		select { // a machine that does not keep to its credit
		case s.overflow <- struct{}{}:
		default:
		}
	}
}

// Close ends the session. The machine sees the link's end.
func (s *Session) Close() error { return nil }

func (s *Session) send(ctx context.Context, c ble.Char, kind byte, body []byte) error {
	m, err := s.out.message(kind, body)
	if err != nil {
		return err
	}
	return s.write(ctx, c, m)
}

func (s *Session) write(ctx context.Context, c ble.Char, message []byte) error {
	cutter := s.cutters[c]
	if cutter == nil {
		cutter = &segmenter{}
		s.cutters[c] = cutter
	}
	for _, v := range cutter.cut(message, s.link.MTU()-3) {
		if err := s.link.Write(ctx, c, v); err != nil {
			return err
		}
	}
	return nil
}

var errQuiet = errors.New("the machine does not answer")

// next returns the next value within patience.
func (s *Session) next(ctx context.Context, patience time.Duration) (input, error) {
	select {
	case in := <-s.values:
		return in, nil
	default:
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case in := <-s.values:
		return in, nil
	case <-s.overflow:
		return input{}, fmt.Errorf("the machine sent more than it had credit for: %w", ErrLost)
	case <-s.link.Closed():
		return input{}, ble.ErrClosed
	case <-ctx.Done():
		return input{}, ctx.Err()
	case <-timer.C:
		return input{}, errQuiet
	}
}

// await returns the body of the next message on a characteristic, which must be of a kind. What comes
// on others is of a report that was given up, and is only checked.
func (s *Session) await(ctx context.Context, c ble.Char, want byte, patience time.Duration) ([]byte, error) {
	deadline := time.Now().Add(patience)
	for {
		in, err := s.next(ctx, time.Until(deadline))
		if err != nil {
			return nil, err
		}
		kind, body, done, err := s.take(in)
		switch {
		case err != nil:
			return nil, err
		case !done || in.char != c:
		case kind != want:
			return nil, fmt.Errorf("message of type %#02x: %w", kind, ErrFormat)
		default:
			return body, nil
		}
	}
}

// take opens what a value ends. SESSION has nothing to say any more.
func (s *Session) take(in input) (kind byte, body []byte, done bool, err error) {
	if in.char == ble.CharSession {
		return 0, nil, false, fmt.Errorf("a value on %04x after the handshake: %w", uint16(in.char), ErrFormat)
	}
	return s.in[in.char].take(in.value)
}

// begin sends a request and returns its transaction.
func (s *Session) begin(ctx context.Context, opcode byte, params []byte) (uint16, []byte, error) {
	s.transaction++
	if s.transaction == 0 {
		s.transaction = 1 // 0 is a machine's "none yet"
	}
	body := append(binary.LittleEndian.AppendUint16(nil, s.transaction), opcode)
	body = append(body, params...)
	return s.transaction, body, s.send(ctx, ble.CharControl, typeRequest, body)
}

// response reads an answer: its details where it is ours and a success.
func response(body []byte, transaction uint16, opcode byte) (detail *reader, ours bool, err error) {
	r := &reader{b: body}
	got, op, about, code := r.u16(), r.u8(), r.u8(), r.u8()
	if r.bad || op != opResponse {
		return nil, false, fmt.Errorf("response: %w", ErrFormat)
	}
	if got != transaction {
		return nil, false, nil // of a request that was repeated
	}
	if about != opcode {
		return nil, true, fmt.Errorf("response to %#02x in the place of %#02x: %w", about, opcode, ErrFormat)
	}
	switch code {
	case codeSuccess, codeNoRecords:
		return r, true, nil
	case codeNotCompleted:
		if why := r.text(); !r.bad && why != "" {
			return nil, true, fmt.Errorf("%w: %q", ErrRefused, why)
		}
	}
	return nil, true, fmt.Errorf("%w: code %d for opcode %#02x", ErrRefused, code, opcode)
}

// call makes a request and waits for its answer; requests are idempotent and are repeated.
func (s *Session) call(ctx context.Context, opcode byte, params []byte) (*reader, error) {
	transaction, request, err := s.begin(ctx, opcode, params)
	for try := 1; err == nil; {
		var body []byte
		body, err = s.await(ctx, ble.CharControl, typeResponse, s.o.Reply)
		switch {
		case errors.Is(err, errQuiet) && try < s.o.Tries:
			try++
			err = s.send(ctx, ble.CharControl, typeRequest, request)
		case err == nil:
			detail, ours, err := response(body, transaction, opcode)
			if ours || err != nil {
				return detail, err
			}
		}
	}
	return nil, err
}

// Status asks the machine what it holds.
func (s *Session) Status(ctx context.Context) (Status, error) {
	r, err := s.call(ctx, opStatus, nil)
	if err != nil {
		return Status{}, fmt.Errorf("status: %w", err)
	}
	return decodeStatus(r)
}

// Receipt tells the machine what the ledger holds, so that it releases it.
func (s *Session) Receipt(ctx context.Context, epochs []schemas.EpochReceipt) error {
	b, err := encodeReceipt(epochs)
	if err == nil {
		_, err = s.call(ctx, opReceipt, b)
	}
	if err != nil {
		return fmt.Errorf("receipt: %w", err)
	}
	return nil
}

// FaultNotice tells the machine of its fault.
func (s *Session) FaultNotice(ctx context.Context, n Notice) error {
	b := appendI64(appendText(appendText(nil, n.Fault), n.Kind), n.OpenedAt.UnixMilli())
	if _, err := s.call(ctx, opFaultNotice, b); err != nil {
		return fmt.Errorf("fault notice: %w", err)
	}
	return nil
}

// FaultCleared tells the machine that its fault is over.
func (s *Session) FaultCleared(ctx context.Context) error {
	if _, err := s.call(ctx, opFaultCleared, nil); err != nil {
		return fmt.Errorf("fault cleared: %w", err)
	}
	return nil
}

// SetTime sets the machine's clock; utc is right to within uncertainty, at most 49 days.
func (s *Session) SetTime(ctx context.Context, utc time.Time, uncertainty time.Duration) error {
	ms := min(max(uncertainty.Milliseconds(), 0), 1<<32-1)
	if _, err := s.call(ctx, opSetTime, appendU32(appendI64(nil, utc.UnixMilli()), uint32(ms))); err != nil {
		return fmt.Errorf("set time: %w", err)
	}
	return nil
}

// Abort ends a report that is under way.
func (s *Session) Abort(ctx context.Context) error {
	if _, err := s.call(ctx, opAbort, nil); err != nil {
		return fmt.Errorf("abort: %w", err)
	}
	return nil
}

// transfer is a report under way, as the gateway sees it.
type transfer struct {
	transaction     uint16
	epoch, next, to uint32
	received        uint32 // values
	credited        uint32 // values for which credit was given anew
	ready           []Record
	final           *uint32 // values that the machine sent, once it said that it is done
}

// Report reads records from to to of an epoch, in order; fewer where the machine has fewer. sink is
// called with each few records, from another goroutine, one call at a time; the machine gets credit
// for more only after sink has returned nil, so a slow sink holds the machine back, for as long as it
// takes. An error of sink aborts the report and is returned. Also where the link is lost or the machine stops, sink gets
// what has arrived: records are whole, in order and without a hole, and the caller resumes behind them.
func (s *Session) Report(ctx context.Context, epoch, from, to uint32, sink func([]Record) error) error {
	params := append([]byte{operatorGreaterOrEqual}, appendU32(nil, epoch, from, to)...)
	transaction, _, err := s.begin(ctx, opReport, append(params, s.window))
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	t := &transfer{transaction: transaction, epoch: epoch, next: from, to: to}
	for t.final == nil || t.received < *t.final {
		in, err := s.next(ctx, s.o.Idle)
		if err == nil {
			err = s.receive(t, in)
		}
		if err != nil {
			t.final = &t.received // no credit is due any more
			return errors.Join(fmt.Errorf("report: %w", err), s.deliver(ctx, t, sink))
		}
		if t.received-t.credited < uint32(max(1, s.window/2)) {
			continue
		}
		if err := s.deliver(ctx, t, sink); err != nil {
			return err
		}
		t.credited = t.received
		if err := s.credit(ctx, t); err != nil {
			return err
		}
	}
	return s.deliver(ctx, t, sink)
}

// credit lets the machine go on. Said again without anything received since, it is a sign of life.
func (s *Session) credit(ctx context.Context, t *transfer) error {
	b := append(appendU32(nil, t.next, t.credited), s.window)
	if err := s.send(ctx, ble.CharCredit, typeCredit, b); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
}

// receive takes one value of a report.
func (s *Session) receive(t *transfer, in input) error {
	if in.char == ble.CharData {
		t.received++
	}
	kind, body, done, err := s.take(in)
	switch {
	case err != nil || !done:
		return err
	case in.char == ble.CharData && kind == typeRecord:
		rec, err := decodeRecord(body)
		if err != nil {
			return err
		}
		if rec.Epoch != t.epoch || rec.Seq != t.next || rec.Seq > t.to {
			return fmt.Errorf("record %d-%d in the place of %d-%d: %w", rec.Epoch, rec.Seq, t.epoch, t.next, ErrLost)
		}
		t.next++
		t.ready = append(t.ready, rec)
		return nil
	case in.char == ble.CharControl && kind == typeResponse:
		detail, ours, err := response(body, t.transaction, opReport)
		if err != nil || !ours {
			return err
		}
		values, _ := detail.u32(), detail.u32()
		t.final = &values
		return detail.end("report's end")
	}
	return fmt.Errorf("message of type %#02x on %04x: %w", kind, uint16(in.char), ErrFormat)
}

// deliver hands over the records that are whole. While sink takes its time, the machine hears that
// the gateway is still there.
func (s *Session) deliver(ctx context.Context, t *transfer, sink func([]Record) error) error {
	if len(t.ready) == 0 {
		return nil
	}
	records := t.ready
	t.ready = nil
	done := make(chan error, 1)
	go func() { done <- sink(records) }()
	alive := time.NewTicker(s.o.Alive)
	defer alive.Stop()
	var lost error
	for {
		select {
		case err := <-done:
			if err != nil && lost == nil {
				lost = s.Abort(ctx)
			}
			return errors.Join(err, lost)
		case <-alive.C:
			if lost == nil && t.final == nil {
				lost = s.credit(ctx, t)
			}
		}
	}
}
