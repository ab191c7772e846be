package dispatch

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

// Whereabouts is what is known of where a machine is.
type Whereabouts struct {
	Vehicle string // bound: the one its latest heartbeat named
	SeenBy  string // the last whose gateway saw it over BLE
	Depot   string // that of the gateway in its depot's yard
}

// Carrier is the vehicle whose gateway is to act on a machine: the one it is bound to, else
// the last that saw it over BLE. Where the bound one's gateway is not there but that of the
// one that saw the machine is, the machine has moved: that one. Where neither is known its depot's. Empty where nobody
// knows.
func Carrier(w Whereabouts, online func(vehicle string) bool) string {
	switch {
	case w.Vehicle == "":
		return cmp.Or(w.SeenBy, w.Depot)
	case w.SeenBy != "" && w.SeenBy != w.Vehicle && !online(w.Vehicle) && online(w.SeenBy):
		return w.SeenBy
	}
	return w.Vehicle
}

// Config bounds what is asked of gateways. A zero field stands for its default.
type Config struct {
	// PerSecond is how many gateways more may be sent to collect each second where many
	// faults open at once; 50.
	PerSecond int
	// Patience is how long a parent fault keeps its children from being collected: what puts
	// many machines off line is waited for, but not for ever; 15 min.
	Patience time.Duration
}

func (c Config) withDefaults() Config {
	if c.PerSecond <= 0 {
		c.PerSecond = 50
	}
	if c.Patience <= 0 {
		c.Patience = 15 * time.Minute
	}
	return c
}

// Digest tells payloads apart.
type Digest [sha256.Size]byte

// DigestOf is the digest of a payload, as for one that stands in a broker already.
func DigestOf(payload []byte) Digest { return sha256.Sum256(payload) }

// Desired is all that should stand retained: payloads by topic.
type Desired map[string][]byte

// Unrouted is a machine's fault that no gateway can be told of, and why.
type Unrouted struct {
	Fault  string
	Reason string
}

// Message is one publication: QoS 1, retained. An empty Payload clears the topic.
type Message struct {
	Topic   string
	Payload []byte
}

// Dispatcher makes messages of faults. It is immutable and safe for concurrent use.
type Dispatcher struct {
	tree topics.Tree
	cfg  Config
}

// New makes a dispatcher for an operator's topics.
func New(tree topics.Tree, cfg Config) *Dispatcher {
	return &Dispatcher{tree: tree, cfg: cfg.withDefaults()}
}

// Want works out what should stand at now for the faults that have not ended. A machine
// has one topic: its gravest fault stands there, one that puts money at risk first. What
// cannot be routed is listed, by fault id. Of equal faults the payloads are equal to the byte,
// so that only what changed is published again.
func (d *Dispatcher) Want(now time.Time, open []faults.Fault) (Desired, []Unrouted) {
	want := Desired{}
	var lost []Unrouted
	chosen := map[string]faults.Fault{}
	for _, f := range open {
		if f.Ended() || f.Condition == schemas.Abandoned || f.Condition == schemas.Suspected {
			continue
		}
		switch {
		case f.Subject.Machine != "":
			if old, ok := chosen[f.Subject.Machine]; !ok || graver(f, old) {
				chosen[f.Subject.Machine] = f
			}
		case f.Subject.Route != "":
			lost = d.put(want, lost, f, topics.Address{Kind: topics.RouteFault, Route: f.Subject.Route, Fault: f.ID}, d.routeFault(f))
		default:
			lost = d.put(want, lost, f, topics.Address{Kind: topics.CommonFault, Fault: f.ID}, d.commonFault(f))
		}
	}
	collect := d.collecting(now, open, chosen)
	for _, f := range chosen {
		if f.Machine == nil || f.Machine.Vehicle == "" {
			lost = append(lost, Unrouted{f.ID, "no vehicle is known to carry machine " + strconv.Quote(f.Subject.Machine)})
			continue
		}
		to := topics.Address{Kind: topics.VehicleFault, Vehicle: f.Machine.Vehicle, Machine: f.Subject.Machine}
		lost = d.put(want, lost, f, to, d.machineFault(f, collect[f.ID]))
	}
	slices.SortFunc(lost, func(a, b Unrouted) int { return cmp.Compare(a.Fault, b.Fault) })
	return want, lost
}

// graver reports whether f rather than g stands on the machine's topic.
func graver(f, g faults.Fault) bool {
	if a, b := f.Family() == faults.FamilyCustody, g.Family() == faults.FamilyCustody; a != b {
		return a
	}
	return cmp.Or(cmp.Compare(rank(f.Severity), rank(g.Severity)), cmp.Compare(g.ID, f.ID)) > 0
}

func rank(s schemas.Severity) int {
	return slices.Index([]schemas.Severity{schemas.Info, schemas.Minor, schemas.Major, schemas.Critical}, s)
}

// collecting says which faults have their gateway collect. Children of a parent wait for as
// long as Patience; of the others each burst is spread. The order within a burst is by id, which
// never changes: a gateway that was told to collect is not called back.
func (d *Dispatcher) collecting(now time.Time, open []faults.Fault, chosen map[string]faults.Fault) map[string]bool {
	byID := make(map[string]faults.Fault, len(open))
	for _, f := range open {
		byID[f.ID] = f
	}
	type due struct {
		f    faults.Fault
		from time.Time // when it could first be collected
	}
	var all []due
	for _, f := range chosen {
		from := f.OpenedAt
		p, ok := byID[f.Parent]
		for range generations {
			if !ok {
				break
			}
			if p.Kind.Storm() {
				from = latest(from, p.OpenedAt.Add(d.cfg.Patience))
			}
			p, ok = byID[p.Parent]
		}
		all = append(all, due{f, from})
	}
	slices.SortFunc(all, func(a, b due) int {
		return cmp.Or(a.from.Compare(b.from), cmp.Compare(a.f.ID, b.f.ID))
	})
	// Each second has PerSecond places; who finds none takes the first free one after.
	out := make(map[string]bool, len(all))
	var at time.Time
	used := 0
	for _, x := range all {
		if at.Add(time.Second).Before(x.from) || at.IsZero() {
			at, used = x.from, 0
		}
		if used >= d.cfg.PerSecond {
			at, used = at.Add(time.Second), 0
		}
		used++
		out[x.f.ID] = !now.Before(latest(at, x.from))
	}
	return out
}

// generations bounds the parents of a fault: a machine's route, vehicle or depot, network, platform.
const generations = 5

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// put encodes an event and puts it on its topic; what the schemas or topics refuse is
// listed, so that one bad id does not keep all others from being told.
func (d *Dispatcher) put(want Desired, lost []Unrouted, f faults.Fault, to topics.Address, m schemas.Message) []Unrouted {
	topic, err := d.tree.Build(to)
	if err != nil {
		return append(lost, Unrouted{f.ID, err.Error()})
	}
	payload, err := schemas.Encode(m)
	if err != nil {
		return append(lost, Unrouted{f.ID, err.Error()})
	}
	want[topic] = payload
	return lost
}

// Diff lists what to publish so that all that should stand does: first what is to be cleared,
// then what is new or changed, each by topic. standing is what stands now, as read from the broker
// at a start or remembered since.
func (want Desired) Diff(standing map[string]Digest) []Message {
	var clear, publish []Message
	for topic := range standing {
		if _, ok := want[topic]; !ok {
			clear = append(clear, Message{Topic: topic})
		}
	}
	for topic, payload := range want {
		if d, ok := standing[topic]; !ok || d != DigestOf(payload) {
			publish = append(publish, Message{topic, payload})
		}
	}
	byTopic := func(a, b Message) int { return cmp.Compare(a.Topic, b.Topic) }
	slices.SortFunc(clear, byTopic)
	slices.SortFunc(publish, byTopic)
	return append(clear, publish...)
}

// source is the CloudEvents source of the operator's fleet.
func (d *Dispatcher) source() string { return "/farebeat/v1/" + d.tree.Operator() + "/fleet" }

// short cuts a text to the schema's bound without breaking a character.
func short(s string) string {
	r := []rune(s)
	if len(r) <= maxText {
		return s
	}
	return fmt.Sprintf("%s…", string(r[:maxText-1]))
}
