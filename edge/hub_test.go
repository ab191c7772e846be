package edge

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/farebeat/farebeat/edge/outbox"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

var errNotConnected = errors.New("not connected")

// hub is the broker and the fleet as one gateway meets them: it retains, delivers,
// loses connections, loses acknowledgements, and keeps a ledger that sends
// receipts. It stands here for the real ones because it is told to misbehave.
type hub struct {
	t    testing.TB
	tree topics.Tree
	keys map[string][]byte // by machine

	mu       sync.Mutex
	retained map[string][]byte
	online   bool
	changed  chan struct{} // closed and replaced when online or a connection changes
	conn     *hubConn
	deaf     int // so many transactions more are taken in and not acknowledged
	log      []Message
	ledger   map[string]Records           // what the ledger holds, by machine
	bodies   map[string]map[[2]uint32]any // record bytes, by machine
	holding  bool                         // receipts are held back
	relay    chan Message                 // what the fleet publishes goes here, where it is set
	counter  uint64                       // of the latest ticket
	faults   []string                     // what no gateway may do
}

type hubConn struct {
	gone     chan struct{}
	will     Message
	inbox    chan Message
	handlers map[string]Handler
}

func newHub(t testing.TB, keys map[string][]byte) *hub {
	tree, err := topics.New("tampa")
	if err != nil {
		t.Fatal(err)
	}
	return &hub{
		t: t, tree: tree, keys: keys, retained: map[string][]byte{}, online: true, changed: make(chan struct{}),
		ledger: map[string]Records{}, bodies: map[string]map[[2]uint32]any{},
	}
}

// hubBus is one gateway's session.
type hubBus struct {
	h        *hub
	hooks    BusHooks
	handlers map[string]Handler
}

func (h *hub) connect(hooks BusHooks) (Bus, error) {
	return &hubBus{h: h, hooks: hooks, handlers: map[string]Handler{}}, nil
}

func (b *hubBus) Handle(filter string, _ byte, handler Handler) { b.handlers[filter] = handler }

func (b *hubBus) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		b.h.mu.Lock()
		online, changed := b.h.online, b.h.changed
		b.h.mu.Unlock()
		if !online {
			select {
			case <-ctx.Done():
			case <-changed:
			}
			continue
		}
		if err := b.session(ctx); err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

// session is one connection, from will to will.
func (b *hubBus) session(ctx context.Context) error {
	will, err := b.hooks.Will(ctx)
	if err != nil {
		return err
	}
	c := &hubConn{gone: make(chan struct{}), will: will, inbox: make(chan Message, 10000), handlers: b.handlers}
	b.h.mu.Lock()
	b.h.conn = c
	for topic, payload := range b.h.retained {
		b.h.deliver(Message{Topic: topic, QoS: 1, Retain: true, Payload: payload})
	}
	b.h.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { b.h.serve(ctx, c) })
	defer wg.Wait()
	birth, err := b.hooks.Birth(ctx)
	if err != nil {
		return err
	}
	if err := b.Publish(ctx, birth); err != nil {
		return nil // lost already
	}
	b.hooks.Up()
	select {
	case <-c.gone:
		b.hooks.Down(errors.New("connection lost"))
	case <-ctx.Done():
		farewell, err := b.hooks.Farewell(context.WithoutCancel(ctx))
		if err != nil {
			return err
		}
		b.h.mu.Lock()
		if b.h.conn == c {
			b.h.take(farewell)
			b.h.conn = nil
			close(c.gone)
		}
		b.h.mu.Unlock()
		b.hooks.Down(ctx.Err())
	}
	return nil
}

// serve delivers to the gateway, and what it does not accept again.
func (h *hub) serve(ctx context.Context, c *hubConn) {
	for {
		select {
		case <-c.gone:
			return
		case <-ctx.Done():
			return
		case m := <-c.inbox:
			for filter, handler := range c.handlers {
				if !matches(filter, m.Topic) {
					continue
				}
				for handler(ctx, m.Topic, m.Payload) != nil {
					select {
					case <-time.After(time.Second):
					case <-c.gone:
						return
					}
				}
			}
		}
	}
}

func matches(filter, topic string) bool {
	f, t := strings.Split(filter, "/"), strings.Split(topic, "/")
	if len(f) != len(t) {
		return false
	}
	for i := range f {
		if f[i] != "+" && f[i] != t[i] {
			return false
		}
	}
	return true
}

// deliver queues m for the gateway. h.mu is held.
func (h *hub) deliver(m Message) {
	if h.conn != nil {
		h.conn.inbox <- m
	}
}

func (b *hubBus) Publish(ctx context.Context, m Message) error {
	b.h.mu.Lock()
	defer b.h.mu.Unlock()
	c := b.h.conn
	if c == nil {
		return errNotConnected
	}
	b.h.take(m)
	if strings.Contains(m.Topic, "/transactions/") && b.h.deaf > 0 {
		b.h.deaf--
		b.h.mu.Unlock()
		defer b.h.mu.Lock()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.gone:
			return errNotConnected
		}
	}
	return nil
}

// take takes in a publication of the gateway, as broker and as fleet. h.mu is held.
func (h *hub) take(m Message) {
	h.log = append(h.log, m)
	if err := h.tree.MayWrite(topics.Identity{Role: topics.RoleGateway, Name: "bus-1"}, m.Topic); err != nil {
		h.faults = append(h.faults, err.Error())
		return
	}
	if m.Retain && len(m.Payload) == 0 {
		h.checkClear(m.Topic)
		delete(h.retained, m.Topic)
		return
	}
	if m.Retain {
		h.retained[m.Topic] = m.Payload
	}
	to, err := h.tree.Parse(m.Topic)
	if err != nil {
		h.faults = append(h.faults, err.Error())
		return
	}
	if spec, _ := topics.Lookup(to.Kind); len(m.Payload) > spec.MaxBytes || m.QoS != spec.QoS || m.Retain != spec.Retain {
		h.faults = append(h.faults, m.Topic+": against the topic table")
	}
	if to.Kind == topics.Transactions {
		h.ingest(to, m.Payload)
	}
}

// checkClear complains where a slot is cleared that the ledger has not got.
func (h *hub) checkClear(topic string) {
	to, err := h.tree.Parse(topic)
	if err != nil || to.Kind != topics.Transactions {
		return
	}
	if !h.ledger[to.Machine][to.Batch.Epoch].Covers(outbox.Interval{First: to.Batch.First, Last: to.Batch.Last}) {
		h.faults = append(h.faults, topic+" was cleared, but the ledger lacks it")
	}
}

// ingest is the ledger: genuine records in, each once, and a receipt out.
func (h *hub) ingest(to topics.Address, payload []byte) {
	if !h.retainedFleet().LedgerReady {
		h.faults = append(h.faults, to.Batch.String()+" was sent while the ledger was not ready")
	}
	b, err := schemas.DecodeBatch(payload)
	if err != nil {
		h.faults = append(h.faults, err.Error())
		return
	}
	if h.bodies[b.Machine] == nil {
		h.bodies[b.Machine], h.ledger[b.Machine] = map[[2]uint32]any{}, Records{}
	}
	for _, r := range b.Records {
		tx, err := schemas.VerifyTransaction(h.keys[b.Machine], r)
		if err != nil {
			h.faults = append(h.faults, err.Error())
			return
		}
		key := [2]uint32{tx.Epoch, tx.Seq}
		if before, ok := h.bodies[b.Machine][key]; ok && before != string(r) {
			h.faults = append(h.faults, "the same record with other bytes")
		}
		h.bodies[b.Machine][key] = string(r)
		h.ledger[b.Machine][tx.Epoch] = h.ledger[b.Machine][tx.Epoch].Union(set(tx.Seq, tx.Seq))
	}
	if !h.holding {
		h.receipt(b.Machine)
	}
}

func (h *hub) retainedFleet() schemas.Fleet {
	var f schemas.Fleet
	if err := schemas.Decode(h.retained[h.topic(topics.Address{Kind: topics.Fleet})], schemas.NameFleet, &f); err != nil {
		return schemas.Fleet{}
	}
	return f
}

// receipt publishes what the ledger holds of a machine. h.mu is held.
func (h *hub) receipt(machine string) {
	r := schemas.Receipt{Machine: machine, AsOf: dawn}
	for _, epoch := range slices.Backward(slices.Sorted(maps.Keys(h.ledger[machine]))) {
		held := h.ledger[machine][epoch]
		if len(held) == 0 {
			continue
		}
		e := schemas.EpochReceipt{Epoch: epoch, Highest: held[len(held)-1].Last}
		for _, gap := range set(1, e.Highest).Minus(held) {
			e.Gaps = append(e.Gaps, [2]uint32{gap.First, gap.Last})
		}
		e.CompleteTo = e.Highest
		if len(e.Gaps) > 0 {
			e.CompleteTo = e.Gaps[0][0] - 1
		}
		e.MAC = schemas.ReceiptMAC(h.keys[machine], machine, e)
		r.Epochs = append(r.Epochs, e)
	}
	h.put(topics.Address{Kind: topics.Receipt, Vehicle: "bus-1", Machine: machine}, &r)
}

func (h *hub) topic(to topics.Address) string {
	topic, err := h.tree.Build(to)
	if err != nil {
		h.t.Fatal(err)
	}
	return topic
}

// put retains and delivers a message of the fleet; nil clears. h.mu is held.
func (h *hub) put(to topics.Address, m schemas.Message) {
	var payload []byte
	if m != nil {
		var err error
		if payload, err = schemas.Encode(m); err != nil {
			h.t.Error(err)
			return
		}
	}
	topic := h.topic(to)
	delete(h.retained, topic)
	if spec, _ := topics.Lookup(to.Kind); payload != nil && spec.Retain {
		h.retained[topic] = payload
	}
	if h.relay != nil {
		spec, _ := topics.Lookup(to.Kind)
		h.relay <- Message{Topic: topic, QoS: spec.QoS, Retain: spec.Retain, Payload: payload}
	}
	h.deliver(Message{Topic: topic, QoS: 1, Payload: payload})
}

func (h *hub) do(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
}

func (h *hub) fleet(ready bool, session uint64) {
	h.do(func() {
		h.put(topics.Address{Kind: topics.Fleet}, &schemas.Fleet{AsOf: dawn, Status: schemas.Online, LedgerReady: ready, Since: dawn, Session: session})
	})
}

// ticket publishes a new ticket for a machine, as the fleet does before it tells of a fault. h.mu is held.
func (h *hub) ticket(machine string) {
	h.counter++
	g := schemas.TicketGrant{Machine: machine, Vehicle: "bus-1", Reason: "test", Counter: h.counter, IssuedAt: time.Now(), ExpiresAt: time.Now().Add(24 * time.Hour)}
	if _, err := rand.Read(g.Secret[:]); err != nil {
		h.t.Fatal(err)
	}
	key := h.keys[machine]
	if key == nil {
		key = make([]byte, schemas.TicketKeySize) // no such machine is on air
	}
	sealed, err := schemas.SealTicket(key, rand.Reader, g)
	if err != nil {
		h.t.Fatal(err)
	}
	h.put(topics.Address{Kind: topics.Ticket, Vehicle: "bus-1", Machine: machine}, &schemas.Ticket{
		Machine: machine, Vehicle: "bus-1", AsOf: g.IssuedAt, ExpiresAt: g.ExpiresAt,
		Secret: base64.RawURLEncoding.EncodeToString(g.Secret[:]), Sealed: base64.RawURLEncoding.EncodeToString(sealed),
	})
}

func (h *hub) fault(f schemas.MachineFault) {
	ev := schemas.CloudEvent[schemas.MachineFault]{
		SpecVersion: "1.0", ID: f.Fault + "-1", Source: "/farebeat/tampa", Type: "com.farebeat.fault", Time: f.AsOf, DataContentType: "application/json", Data: f,
	}
	h.do(func() {
		h.ticket(f.Machine)
		h.put(topics.Address{Kind: topics.VehicleFault, Vehicle: f.Vehicle, Machine: f.Machine}, &ev)
	})
}

func (h *hub) clearFault(machine string) {
	h.do(func() { h.put(topics.Address{Kind: topics.VehicleFault, Vehicle: "bus-1", Machine: machine}, nil) })
}

func (h *hub) command(c schemas.Command) {
	h.do(func() {
		h.ticket(c.Machine)
		h.put(topics.Address{Kind: topics.Command, Vehicle: "bus-1", Command: c.ID}, &c)
	})
}

// cut breaks the connection; the broker publishes the will.
func (h *hub) cut(stayAway bool) {
	h.do(func() {
		h.online = !stayAway
		if h.conn != nil {
			h.retained[h.conn.will.Topic] = h.conn.will.Payload
			close(h.conn.gone)
			h.conn = nil
		}
		close(h.changed)
		h.changed = make(chan struct{})
	})
}

func (h *hub) restore() {
	h.do(func() {
		h.online = true
		close(h.changed)
		h.changed = make(chan struct{})
	})
}

// wipe is a broker that lost its disk; the fleet publishes its own topics again.
func (h *hub) wipe() { h.do(func() { h.retained = map[string][]byte{} }) }

func (h *hub) decode(to topics.Address, name string, m schemas.Message) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	payload, ok := h.retained[h.topic(to)]
	if !ok {
		return false
	}
	if err := schemas.Decode(payload, name, m); err != nil {
		h.t.Fatal(err)
	}
	return true
}

func (h *hub) recovery(machine string) schemas.Recovery {
	var r schemas.Recovery
	h.decode(topics.Address{Kind: topics.Recovery, Vehicle: "bus-1", Machine: machine}, schemas.NameRecovery, &r)
	return r
}

// recoveries returns all progress that is retained.
func (h *hub) recoveries() []schemas.Recovery {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []schemas.Recovery
	for topic, payload := range h.retained {
		var r schemas.Recovery
		if to, err := h.tree.Parse(topic); err == nil && to.Kind == topics.Recovery && schemas.Decode(payload, schemas.NameRecovery, &r) == nil {
			out = append(out, r)
		}
	}
	return out
}

func (h *hub) gateway() schemas.Gateway {
	var g schemas.Gateway
	h.decode(topics.Address{Kind: topics.Gateway, Vehicle: "bus-1"}, schemas.NameGateway, &g)
	return g
}

// results returns the states that a command went through.
func (h *hub) results(id string) []schemas.CommandResult {
	h.mu.Lock()
	defer h.mu.Unlock()
	topic := h.topic(topics.Address{Kind: topics.CommandResult, Vehicle: "bus-1", Command: id})
	var out []schemas.CommandResult
	for _, m := range h.log {
		if m.Topic != topic {
			continue
		}
		var r schemas.CommandResult
		if err := schemas.Decode(m.Payload, schemas.NameCommandResult, &r); err != nil {
			h.t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

// slots returns the transactions topics that are retained.
func (h *hub) slots() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []string
	for topic := range h.retained {
		if to, err := h.tree.Parse(topic); err == nil && to.Kind == topics.Transactions {
			out = append(out, to.Machine+" "+to.Batch.String())
		}
	}
	slices.Sort(out)
	return out
}

// held returns how many records of a machine the ledger holds.
func (h *hub) held(machine string) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ledger[machine].Count()
}

// check fails the test where the gateway did what it may not.
func (h *hub) check() {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, f := range h.faults {
		h.t.Error(f)
	}
}

func delivery(topic, payload string) Message {
	return Message{Topic: topic, QoS: 1, Payload: []byte(payload)}
}
