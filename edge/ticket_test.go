package edge

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/farebeat/farebeat/edge/ble"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

// quietScript is of a gateway that only does what it is asked for.
func quietScript(t *testing.T) *script {
	p := newScript(t)
	p.s.timings.listen = -1
	return p
}

// A gateway contacts nobody for whom it has no ticket, says so, and begins when one comes.
func TestNoContactWithoutATicket(t *testing.T) {
	p := quietScript(t)
	p.out = p.s.step(p.now, faultStands{fault("m-1", 5, 0)})
	if c := p.candidates(); c != nil {
		t.Fatalf("%v is contacted without a ticket", c)
	}
	waits := false
	for _, e := range p.out {
		if r, ok := e.(publishRecovery); ok && strings.Contains(r.recovery.NextAction, "ticket") {
			waits = true
		}
	}
	if !waits {
		t.Errorf("nobody is told what is waited for: %+v", p.out)
	}
	for range 100 {
		p.later(time.Second)
		if c := p.candidates(); c != nil {
			t.Fatalf("%v is contacted without a ticket", c)
		}
	}
	if p.in(ticketed{machine: "m-2"}); p.candidates() != nil {
		t.Fatal("the ticket for another machine is used")
	}
	if p.in(ticketed{machine: "m-1"}); !slices.Equal(p.candidates(), []string{"m-1"}) {
		t.Fatalf("%v is contacted", p.candidates())
	}
}

func TestTicketsComeAndGo(t *testing.T) {
	for name, tc := range map[string]struct {
		ins  []input
		want bool // a contact after a fault that follows
	}{
		"stands":                    {[]input{ticketed{machine: "m-1"}}, true},
		"cleared":                   {[]input{ticketed{machine: "m-1"}, ticketGone{"m-1"}}, false},
		"outlives a lost line":      {[]input{ticketed{machine: "m-1"}, connecting{}}, true},
		"stands on the next":        {[]input{ticketed{machine: "m-1"}, connecting{}, ticketed{machine: "m-1"}, settled{}}, true},
		"gone on the next":          {[]input{ticketed{machine: "m-1"}, connecting{}, settled{}}, false},
		"cleared and issued again":  {[]input{ticketed{machine: "m-1"}, ticketGone{"m-1"}, ticketed{machine: "m-1"}}, true},
		"of more machines than fit": {append(manyTickets(maxTasks), ticketed{machine: "m-1"}), false},
	} {
		p := quietScript(t)
		for _, in := range append(tc.ins, faultStands{fault("m-1", 5, 0)}) {
			p.out = p.s.step(p.now, in)
		}
		if got := slices.Contains(p.candidates(), "m-1"); got != tc.want {
			t.Errorf("%s: contacted %t, want %t", name, got, tc.want)
		}
	}
}

func manyTickets(n int) []input {
	var ins []input
	for i := range n {
		ins = append(ins, ticketed{machine: fmt.Sprintf("other-%d", i)})
	}
	return ins
}

// The machine with most money at risk comes first, not the one with most records; once it was read, the others do.
func TestMoneyAtRiskComesFirst(t *testing.T) {
	p := quietScript(t)
	for machine, risk := range map[string]struct {
		pending uint32
		minor   int64
	}{"many-cheap": {500, 50_000}, "few-dear": {20, 90_000}, "middle": {100, 60_000}, "none": {0, 0}} {
		f := fault(machine, risk.pending, 0)
		f.PendingMinor, f.Currency = risk.minor, "USD"
		p.in(faultStands{f})
		p.s.busy = false
	}
	p.in(ticked{})
	if got, want := p.candidates(), []string{"few-dear", "middle", "many-cheap", "none"}; !slices.Equal(got, want) {
		t.Errorf("contacted in the order %v, want %v", got, want)
	}
	all := Records{1: set(1, 20)}
	p.in(declared{machine: "few-dear", all: all, held: Records{1: set(1, 19)}, newest: 1, newestLast: 20, minor: 90_000})
	p.s.busy = false
	p.in(ticked{})
	if got, want := p.candidates(), []string{"middle", "many-cheap", "few-dear", "none"}; !slices.Equal(got, want) {
		t.Errorf("once 19 of its 20 were read: %v, want %v", got, want)
	}
}

func TestParseTicket(t *testing.T) {
	h := newHub(t, map[string][]byte{"m-1": make([]byte, 32)})
	h.ticket("m-1")
	topic := h.topic(topics.Address{Kind: topics.Ticket, Vehicle: "bus-1", Machine: "m-1"})
	good := string(h.retained[topic])
	in, err := parse(h.tree, "bus-1", topic, []byte(good))
	if got, ok := in.(ticketed); err != nil || !ok || got.machine != "m-1" || len(got.ticket.sealed) == 0 || got.ticket.secret == [32]byte{} {
		t.Fatalf("%v, %v", in, err)
	}
	if text := fmt.Sprintf("%v %+v %#v", in, in, in); strings.Contains(text, "sealed") || strings.Contains(text, fmt.Sprintf("%d", in.(ticketed).ticket.secret[:4])) {
		t.Errorf("a ticket shows in logs: %s", text)
	}
	if in, err := parse(h.tree, "bus-1", topic, nil); err != nil || in != (ticketGone{"m-1"}) {
		t.Errorf("cleared: %v, %v", in, err)
	}
	for name, bad := range map[string]string{
		"other machine": strings.Replace(good, "m-1", "m-2", 1), "other vehicle": strings.Replace(good, "bus-1", "bus-2", 1),
		"not JSON": good[1:], "no secret": strings.Replace(good, "secret", "secrets", 1),
	} {
		if in, err := parse(h.tree, "bus-1", topic, []byte(bad)); err == nil {
			t.Errorf("%s: taken as %v", name, in)
		}
	}
	if _, err := parse(h.tree, "bus-2", topic, []byte(good)); err == nil {
		t.Error("a ticket for another vehicle is taken")
	}
}

// TestImpostor: a device with the machine's hint and a better signal does not keep the true one from being read, learns
// nothing, and is asked last from then on.
func TestImpostor(t *testing.T) {
	m := newMachine("m-1")
	m.tap(t, 3, 450)
	thief := newMachine("m-1")
	thief.key = []byte(strings.Repeat("?", 32))
	thief.tap(t, 3, 900)
	drive(t, nil, func(r *rig) {
		r.air.putAt("a-thief", thief) // before the true one in every order
		r.hub.fault(fault("m-1", 450, 0))
		r.home(m, 450, time.Minute)
		if told := thief.told(); len(told.notices) > 0 || thief.pending() != 900 {
			t.Errorf("the impostor was told %+v", told)
		}
		failed := r.agent.visitor.suspects.failures("a-thief")
		if failed == 0 {
			t.Error("the impostor was never tried: the test shows nothing")
		}
		m.tap(t, 3, 50)
		r.home(m, 500, 10*time.Minute)
		if again := r.agent.visitor.suspects.failures("a-thief"); again != failed {
			t.Errorf("the impostor was tried %d times more although the true machine is known", again-failed)
		}
		r.air.air.Set("a-thief", nil)
	}, m)
}

func TestSuspectsAreBounded(t *testing.T) {
	s := newSuspects()
	for i := range 10 * maxSuspects {
		s.note("m-1", fmt.Sprint(i), true)
		if len(s.failed) > maxSuspects {
			t.Fatalf("%d addresses are kept", len(s.failed))
		}
	}
	s.note("m-1", "a", true)
	s.note("m-1", "a", true)
	if s.failures("a") != 2 {
		t.Errorf("%d failures, want 2", s.failures("a"))
	}
	if s.note("m-1", "a", false); s.failures("a") != 0 {
		t.Error("a good session leaves a suspicion")
	}
}

// A machine's hint may be sent from any number of addresses. The one that proved to be the machine stays in the list and first;
// while none has, each has its chance, and those that failed go before those of which nothing is known.
func TestDevicesOfOneHint(t *testing.T) {
	s := newSuspects()
	h := heard{ads: map[string][]ble.Advertisement{}}
	flood := func(from, n int) {
		for i := range n {
			h.add("m-1", ble.Advertisement{Address: fmt.Sprint("x", from+i), RSSI: 20}, &s)
		}
	}
	flood(0, 100)
	if n := len(h.devices("m-1", &s)); n != maxPerMachine {
		t.Errorf("%d devices are kept for one machine, want %d", n, maxPerMachine)
	}
	s.note("m-1", "true", false)
	h.add("m-1", ble.Advertisement{Address: "true", RSSI: -90}, &s)
	flood(100, 10_000)
	if d := h.devices("m-1", &s); d[0].Address != "true" || len(h.sightings(dawn, &s)) != 1 || h.sightings(dawn, &s)[0].RSSI != -90 {
		t.Errorf("the machine is not first: %+v", d[0])
	}
	s.note("m-1", "true", true)
	if d := h.devices("m-1", &s); d[len(d)-1].Address != "true" {
		t.Errorf("one that failed is tried before others: %+v", d)
	}
	kept := 0
	for range 400 { // without a proof, among 100: about a third
		s, h = newSuspects(), heard{ads: map[string][]ble.Advertisement{}}
		h.add("m-1", ble.Advertisement{Address: "true"}, &s)
		flood(0, 99)
		if slices.ContainsFunc(h.devices("m-1", &s), func(ad ble.Advertisement) bool { return ad.Address == "true" }) {
			kept++
		}
	}
	if kept == 0 || kept == 400 {
		t.Errorf("the first of 100 is kept %d times of 400: a flood decides", kept)
	}
	for range maxPerMachine { // all in the list failed before: a new one takes the place of one
		s.note("m-1", h.devices("m-1", &s)[0].Address, true)
	}
	h.add("m-1", ble.Advertisement{Address: "new", RSSI: -90}, &s)
	if d := h.devices("m-1", &s); d[0].Address != "new" {
		t.Errorf("a new device is not tried before those that failed: %+v", d[0])
	}
}

// A link that breaks after some records is tried again soon, however often it breaks; one that brings nothing is not.
func TestProgressKeepsRetriesShort(t *testing.T) {
	for read, want := range map[uint64]time.Duration{7: testTimings().backoffMin, 0: testTimings().backoffMax} {
		p := quietScript(t)
		p.in(faultStands{fault("m-1", 50, 0)})
		for range 10 {
			p.in(contactEnded{contactResult{machine: "m-1", read: read, err: ble.ErrClosed}})
			p.later(time.Hour)
		}
		p.in(contactEnded{contactResult{machine: "m-1", read: read, err: ble.ErrClosed}})
		if wait := p.s.tasks["m-1"].due.Sub(p.now); wait != want {
			t.Errorf("after losing %d links that brought %d records each it waits %s, want %s", 11, read, wait, want)
		}
	}
}

func TestACommandThatWaitsForATicketSaysSo(t *testing.T) {
	p := quietScript(t)
	c := schemas.Command{ID: "c-1", Verb: schemas.VerbCollect, Machine: "m-1", ExpiresAt: p.now.Add(time.Minute)}
	texts := func() (all string) {
		for _, e := range p.out {
			if r, ok := e.(publishResult); ok {
				all += string(r.result.State) + " " + r.result.Text
			}
		}
		return all
	}
	p.out = p.s.step(p.now, commanded{c})
	if got := texts(); !strings.Contains(got, "WAITING") || !strings.Contains(got, "ticket") {
		t.Errorf("at first: %s", got)
	}
	p.later(2 * time.Minute)
	if got := texts(); !strings.Contains(got, "FAILED") || !strings.Contains(got, "no ticket for the machine came from the fleet") {
		t.Errorf("at its end: %s", got)
	}
}
