package ors

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"time"

	"github.com/farebeat/farebeat/edge/ble"
	"github.com/farebeat/farebeat/schemas"
)

// Timeouts of the machine's side.
const (
	creditTimeout = 10 * time.Second // without a word a report ends
	helloTimeout  = 10 * time.Second // without a handshake the link ends
	idleTimeout   = 2 * time.Minute  // without a request the link ends: another gateway may want it
	maxQueued     = 1024             // values that wait for the machine; a gateway that sends more is cut off
	pageRecords   = 32               // records read from the store at once
)

// OnAir makes a machine a ble.Peripheral. ctx bounds what it asks of its Store.
func OnAir(ctx context.Context, m Machine) ble.Peripheral {
	return &peripheral{ctx: ctx, machine: m, gate: newGatekeeper(m)}
}

type peripheral struct {
	ctx     context.Context //nolint:containedctx // of the machine's life; ble.Peripheral has none
	machine Machine
	gate    *gatekeeper
}

// Advertise implements ble.Peripheral.
func (p *peripheral) Advertise() ble.Advertisement { return p.machine.Advertise() }

// Connect implements ble.Peripheral.
func (p *peripheral) Connect(port ble.Port) ble.Handler {
	ctx, cancel := context.WithCancel(p.ctx)
	s := &server{
		store: p.machine, gate: p.gate, info: encodeInfo(p.machine.Advertise().IDHint), port: port,
		queue: make(chan input, maxQueued), cancel: cancel, ended: make(chan struct{}),
	}
	go func() {
		defer close(s.ended)
		s.run(ctx)
	}()
	return s
}

// input is one value that the gateway wrote.
type input struct {
	char  ble.Char
	value []byte
}

// server is the machine's end of one link. Its own goroutine owns all but the queue.
type server struct {
	store  Store
	gate   *gatekeeper
	info   []byte // the value of INFO
	port   ble.Port
	queue  chan input
	cancel context.CancelFunc
	ended  chan struct{}

	shaking assembler    // of SESSION
	in      [6]incoming  // by characteristic
	cutters [6]segmenter // by characteristic
	out     outgoing
	open    bool // the handshake is over
	refused bool // the gateway was told, and is to go
	answers struct {
		transaction uint16
		body        []byte
	}
	report *report
}

// report is a transmission under way.
type report struct {
	transaction     uint16
	epoch, next, to uint32
	page            []Record
	values          [][]byte // of the record that is being sent
	sent, granted   uint32   // values
	records         uint32
}

// encodeInfo is the value of INFO: u8 major, u8 minor, u16 greatest record in bytes, u8 window, and the 8 bytes of the
// id hint.
func encodeInfo(hint [8]byte) []byte {
	b := append(binary.LittleEndian.AppendUint16([]byte{Major, Minor}, schemas.MaxRecordBytes), Window)
	return append(b, hint[:]...)
}

// Read implements ble.Handler.
func (s *server) Read(ble.Char) []byte { return bytes.Clone(s.info) }

// Write implements ble.Handler.
func (s *server) Write(c ble.Char, value []byte) {
	select {
	case s.queue <- input{c, value}:
	default:
		_ = s.port.Close() // a gateway that floods; the link ends, nothing is lost
	}
}

// Closed implements ble.Handler. It returns when the machine's side has ended.
func (s *server) Closed() {
	s.cancel()
	<-s.ended
}

// run lives as long as the link. Any error of the other side ends the link: it resumes with a new one.
func (s *server) run(ctx context.Context) {
	defer func() { _ = s.port.Close() }()
	for {
		in, ok, err := s.wait(ctx)
		switch {
		case err != nil || ctx.Err() != nil:
			return
		case ok:
			err = s.take(ctx, in)
		default:
			err = s.step(ctx)
		}
		if err != nil {
			return
		}
	}
}

var errSilent = errors.New("the gateway says nothing")

// wait returns the next value, or false where the report under way may send one. errSilent ends the
// link.
func (s *server) wait(ctx context.Context) (in input, ok bool, err error) {
	patience := idleTimeout
	switch {
	case s.report != nil && s.report.sent < s.report.granted:
		select {
		case in = <-s.queue:
			return in, true, nil
		default:
			return input{}, false, nil
		}
	case s.report != nil:
		patience = creditTimeout
	case !s.open:
		patience = helloTimeout
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case in = <-s.queue:
		return in, true, nil
	case <-ctx.Done():
		return input{}, false, ctx.Err()
	case <-timer.C:
	}
	if s.report == nil {
		return input{}, false, errSilent
	}
	transaction := s.report.transaction
	s.dropReport()
	err = s.answer(transaction, opReport, codeNotCompleted, appendText(nil, "no credit for "+creditTimeout.String()))
	if err == nil {
		return s.wait(ctx)
	}
	return input{}, false, err
}

// take handles one value that the gateway wrote. Nothing but INFO and SESSION answers before the handshake, and nothing
// after a refusal.
func (s *server) take(ctx context.Context, in input) error {
	if s.refused || s.open == (in.char == ble.CharSession) {
		return ErrFormat
	}
	if in.char == ble.CharSession {
		m, err := s.shaking.add(in.value)
		if err != nil || m == nil {
			return err
		}
		return s.hello(ctx, m)
	}
	if in.char != ble.CharControl && in.char != ble.CharCredit {
		return ErrFormat // nothing else is written
	}
	kind, body, done, err := s.in[in.char].take(in.value)
	if err != nil || !done {
		return err
	}
	switch {
	case kind == typeRequest && in.char == ble.CharControl:
		return s.request(ctx, body)
	case kind == typeCredit && in.char == ble.CharCredit:
		return s.credit(body)
	}
	return ErrFormat
}

// hello opens the session for who shows a ticket and knows its secret.
func (s *server) hello(ctx context.Context, m []byte) error {
	h, err := decodeHello(m)
	switch {
	case err != nil:
		return err
	case h.major != Major:
		return s.refuse(RefusedVersion)
	case h.suite != suiteNoise:
		return s.refuse(RefusedSuite)
	}
	grant, refusal := s.gate.examine(ctx, h.sealed)
	if refusal != 0 {
		return s.refuse(refusal)
	}
	state, err := shake(false, rand.Reader, s.info, h.sealed, grant.Secret)
	if err != nil {
		return err
	}
	if _, _, _, err := state.ReadMessage(nil, h.noise); err != nil {
		return s.refuse(RefusedForged)
	}
	if refusal := s.gate.accept(ctx, grant); refusal != 0 {
		return s.refuse(refusal)
	}
	answer, theirs, ours, err := state.WriteMessage([]byte{typeWelcome, Major, Minor, suiteNoise}, nil)
	if err != nil {
		return err
	}
	s.out.sealer = sealer{ours.Cipher()}
	for _, c := range []ble.Char{ble.CharControl, ble.CharCredit} {
		s.in[c].sealer = sealer{theirs.Cipher()}
	}
	s.open = true
	return s.notify(ble.CharSession, answer)
}

// refuse tells why and leaves it to the gateway to end the link: what is sent last before an end may not arrive.
func (s *server) refuse(r Refusal) error {
	s.refused = true
	return s.notify(ble.CharSession, []byte{typeRefused, byte(r)})
}

func (s *server) send(c ble.Char, kind byte, body []byte) error {
	m, err := s.out.message(kind, body)
	if err != nil {
		return err
	}
	return s.notify(c, m)
}

func (s *server) notify(c ble.Char, message []byte) error {
	for _, v := range s.cutters[c].cut(message, s.port.MTU()-3) {
		if err := s.port.Notify(c, v); err != nil {
			return err
		}
	}
	return nil
}

// request: u16 transaction, u8 opcode, parameters. One that is repeated gets the answer it got, and
// is not done again.
func (s *server) request(ctx context.Context, body []byte) error {
	r := &reader{b: body}
	transaction, opcode := r.u16(), r.u8()
	if r.bad {
		return ErrFormat
	}
	if transaction == s.answers.transaction && s.answers.body != nil {
		return s.send(ble.CharControl, typeResponse, s.answers.body)
	}
	if s.report != nil && transaction == s.report.transaction {
		return nil // under way; its answer comes at its end
	}
	if opcode == opReport {
		return s.startReport(transaction, r)
	}
	code, detail := s.serve(ctx, opcode, r)
	return s.answer(transaction, opcode, code, detail)
}

// answer: u16 transaction, u8 0x06, u8 opcode, u8 code, details.
func (s *server) answer(transaction uint16, opcode, code byte, detail []byte) error {
	b := binary.LittleEndian.AppendUint16(nil, transaction)
	b = append(append(b, opResponse, opcode, code), detail...)
	s.answers.transaction, s.answers.body = transaction, b
	return s.send(ble.CharControl, typeResponse, b)
}

// serve does everything but reports.
func (s *server) serve(ctx context.Context, opcode byte, r *reader) (code byte, detail []byte) {
	var err error
	switch opcode {
	case opAbort:
		s.dropReport()
	case opStatus:
		var status Status
		if status, err = s.store.Status(ctx); err == nil {
			detail = encodeStatus(status)
		}
	case opFaultNotice:
		n := Notice{Fault: r.text(), Kind: r.text(), OpenedAt: time.UnixMilli(r.i64()).UTC()}
		if err = r.end("fault notice"); err == nil {
			err = s.store.FaultNotice(ctx, n)
		}
	case opSetTime:
		utc, uncertainty := time.UnixMilli(r.i64()).UTC(), time.Duration(r.u32())*time.Millisecond
		if err = r.end("set time"); err == nil {
			err = s.store.SetTime(ctx, utc, uncertainty)
		}
	case opFaultCleared:
		err = s.store.FaultCleared(ctx)
	case opReceipt:
		var epochs []schemas.EpochReceipt
		if epochs, err = decodeReceipt(r); err == nil {
			err = s.store.Receipt(ctx, epochs)
		}
	default:
		return codeOpcode, nil
	}
	switch {
	case errors.Is(err, ErrFormat):
		return codeOperand, nil
	case err != nil:
		return codeNotCompleted, appendText(nil, err.Error())
	}
	return codeSuccess, detail
}

// startReport: u8 operator, u32 epoch, u32 from, u32 to, u8 grant. A report that is under way ends.
func (s *server) startReport(transaction uint16, r *reader) error {
	operator, epoch, from, to, grant := r.u8(), r.u32(), r.u32(), r.u32(), r.u8()
	if r.end("report") != nil || operator != operatorGreaterOrEqual || from < 1 || to < from || grant > Window {
		return s.answer(transaction, opReport, codeOperand, nil)
	}
	s.dropReport()
	s.report = &report{transaction: transaction, epoch: epoch, next: from, to: to, granted: uint32(grant)}
	return nil
}

// dropReport ends a report without an answer. The values of its last record that were not sent give
// their counters back.
func (s *server) dropReport() {
	if s.report != nil && len(s.report.values) > 0 {
		s.cutters[ble.CharData].next = s.report.values[0][0] & segmentCounter
	}
	s.report = nil
}

// credit: u32 next seq, u32 values received, u8 grant. Values beyond received plus grant wait.
func (s *server) credit(body []byte) error {
	r := reader{b: body}
	_, received, grant := r.u32(), r.u32(), r.u8()
	if err := r.end("credit"); err != nil {
		return err
	}
	if s.report == nil {
		return nil // it came after the last value
	}
	if received > s.report.sent || grant > Window {
		return ErrFormat
	}
	s.report.granted = max(s.report.granted, received+uint32(grant))
	return nil
}

// step sends one value of the report under way, or ends it: u32 values, u32 records.
func (s *server) step(ctx context.Context) error {
	p := s.report
	if len(p.values) == 0 {
		rec, ok, err := s.nextRecord(ctx)
		if err != nil {
			s.report = nil
			return s.answer(p.transaction, opReport, codeNotCompleted, appendText(nil, err.Error()))
		}
		if !ok {
			s.report = nil
			code := byte(codeSuccess)
			if p.records == 0 {
				code = codeNoRecords
			}
			return s.answer(p.transaction, opReport, code, appendU32(nil, p.sent, p.records))
		}
		m, err := s.out.message(typeRecord, encodeRecord(rec))
		if err != nil {
			return err
		}
		p.records++
		p.values = s.cutters[ble.CharData].cut(m, s.port.MTU()-3)
	}
	v := p.values[0]
	p.values = p.values[1:]
	p.sent++
	return s.port.Notify(ble.CharData, v)
}

func (s *server) nextRecord(ctx context.Context) (Record, bool, error) {
	p := s.report
	if p.next > p.to || p.next == 0 {
		return Record{}, false, nil
	}
	if len(p.page) == 0 {
		page, err := s.store.Records(ctx, p.epoch, p.next, pageRecords)
		if err != nil || len(page) == 0 {
			return Record{}, false, err
		}
		p.page = page
	}
	rec := p.page[0]
	p.page = p.page[1:]
	p.next = rec.Seq + 1
	return rec, rec.Seq <= p.to, nil
}
