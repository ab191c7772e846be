package air

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"
)

// rig is an air whose clock the test turns.
type rig struct {
	t     *testing.T
	air   *Air
	now   time.Time
	heard map[int][][]byte // packets to hosts, by controller
}

func newRig(t *testing.T, settings ...Settings) *rig {
	r := &rig{t: t, now: time.Unix(1_800_000_000, 0), heard: map[int][][]byte{}}
	r.air = New(1, func(id int, p []byte) { r.heard[id] = append(r.heard[id], bytes.Clone(p)) })
	for i, s := range settings {
		s.Address = MakeAddress(uint16(i))
		if id := r.air.Plug(s); id != i {
			t.Fatalf("controller %d, want %d", id, i)
		}
	}
	return r
}

// command sends a command and wants its completion or status to be want.
func (r *rig) command(id int, opcode uint16, want byte, params ...byte) []byte {
	r.t.Helper()
	before := len(r.heard[id])
	r.air.Host(r.now, id, append([]byte{typeCommand, byte(opcode), byte(opcode >> 8), byte(len(params))}, params...))
	for _, p := range r.heard[id][before:] {
		switch {
		case p[1] == eventCommandComplete && binary.LittleEndian.Uint16(p[4:]) == opcode:
			if p[6] != want {
				r.t.Fatalf("command %#04x: status %#02x, want %#02x", opcode, p[6], want)
			}
			return p[7:]
		case p[1] == eventCommandStatus && binary.LittleEndian.Uint16(p[5:]) == opcode:
			if p[3] != want {
				r.t.Fatalf("command %#04x: status %#02x, want %#02x", opcode, p[3], want)
			}
			return nil
		}
	}
	r.t.Fatalf("command %#04x was not answered", opcode)
	return nil
}

// run lets time pass in the steps that the air wants.
func (r *rig) run(d time.Duration) {
	for end := r.now.Add(d); r.now.Before(end); {
		next := r.air.Advance(r.now)
		if !next.After(r.now) {
			r.t.Fatalf("the air wants to be called at %v again", r.now)
		}
		r.now = next
	}
}

// take removes what a host heard of an event or, where code is 0, of data.
func (r *rig) take(id int, code, sub byte) [][]byte {
	var out, rest [][]byte
	for _, p := range r.heard[id] {
		switch {
		case code == 0 && p[0] == typeData, code != 0 && p[0] == typeEvent && p[1] == code && (code != eventLE || p[3] == sub):
			out = append(out, p)
		default:
			rest = append(rest, p)
		}
	}
	r.heard[id] = rest
	return out
}

// advertise has a controller advertise every 100 ms.
func (r *rig) advertise(id int, ad, response []byte) {
	params := make([]byte, 15)
	binary.LittleEndian.PutUint16(params, 160)
	binary.LittleEndian.PutUint16(params[2:], 160)
	r.command(id, 0x2006, 0, params...)
	for opcode, b := range map[uint16][]byte{0x2008: ad, 0x2009: response} {
		p := make([]byte, 32)
		p[0] = byte(len(b))
		copy(p[1:], b)
		r.command(id, opcode, 0, p...)
	}
	r.command(id, 0x200a, 0, 1)
}

// dial asks for a connection with an interval of 15 ms and a supervision timeout of 4 s.
func (r *rig) dial(id int, peer Address) {
	r.t.Helper()
	p := make([]byte, 25)
	copy(p[6:], peer[:])
	binary.LittleEndian.PutUint16(p[13:], 12)
	binary.LittleEndian.PutUint16(p[15:], 24)
	binary.LittleEndian.PutUint16(p[19:], 400)
	r.command(id, 0x200d, 0, p...)
}

// link connects controller 0 with controller 1 and returns both handles.
func (r *rig) link() (handles [2]uint16) {
	r.t.Helper()
	r.advertise(1, []byte{2, 1, 6}, nil)
	r.dial(0, MakeAddress(1))
	r.run(200 * time.Millisecond)
	for id := range 2 {
		made := r.take(id, eventLE, leConnected)
		if len(made) != 1 || made[0][4] != statusOK || int(made[0][7]) != id {
			r.t.Fatalf("controller %d heard % x of a connection", id, made)
		}
		handles[id] = binary.LittleEndian.Uint16(made[0][5:])
	}
	return handles
}

func (r *rig) send(id int, handle uint16, body []byte) {
	r.air.Host(r.now, id, append([]byte{typeData, byte(handle), byte(handle >> 8), byte(len(body)), byte(len(body) >> 8)}, body...))
}

func TestBringUp(t *testing.T) {
	r := newRig(t, Settings{Buffers: 7, BufferSize: 100})
	if got := r.command(0, 0x1009, 0); !bytes.Equal(got, []byte{0, 0, 0xee, 0xff, 0xc0, 2}) {
		t.Errorf("the address is % x", got)
	}
	if got := r.command(0, 0x2002, 0); !bytes.Equal(got, []byte{100, 0, 7}) {
		t.Errorf("the buffers are % x", got)
	}
	r.command(0, 0x0c03, 0)
	r.command(0, 0xfc01, statusUnknownCommand)
	r.command(0, 0x200c, statusParameters, 1)
	r.command(0, 0x2008, statusParameters, append([]byte{32}, make([]byte, 31)...)...)
	if c := r.air.Counts(); c.Unknown != 1 || c.Malformed != 1 {
		t.Errorf("counted %+v", c)
	}
}

func TestScanHearsAdvertisementAndResponse(t *testing.T) {
	r := newRig(t, Settings{}, Settings{RSSI: -42})
	r.advertise(1, []byte{2, 1, 6}, []byte{1, 9})
	r.command(0, 0x200b, 0, 1, 0, 0, 0, 0, 0, 0)
	r.command(0, 0x200c, 0, 1, 0)
	r.run(450 * time.Millisecond)
	got := r.take(0, eventLE, leReport)
	if len(got) != 8 {
		t.Fatalf("heard %d reports in 450 ms at 100 ms, want 4 advertisements and 4 responses", len(got))
	}
	want := report(reportResponse, MakeAddress(1), []byte{1, 9}, -42)
	if !bytes.Equal(got[1], want) {
		t.Errorf("the second report is % x, want % x", got[1], want)
	}
	r.air.Hide(MakeAddress(1), true)
	r.run(450 * time.Millisecond)
	if got := r.take(0, eventLE, leReport); len(got) != 0 {
		t.Errorf("heard %d reports of a device out of reach", len(got))
	}
	r.air.Hide(MakeAddress(1), false)
	r.command(0, 0x200c, 0, 1, 1) // each device once
	r.run(450 * time.Millisecond)
	if got := r.take(0, eventLE, leReport); len(got) != 2 {
		t.Errorf("heard %d reports without repetition, want 2", len(got))
	}
}

func TestDataGoesOverInOrderAndFreesBuffers(t *testing.T) {
	r := newRig(t, Settings{}, Settings{})
	h := r.link()
	for i := range 8 {
		r.send(0, h[0], []byte{byte(i), 1, 2})
	}
	r.send(0, h[0], []byte{99}) // more than the controller has buffers for
	r.run(100 * time.Millisecond)
	got := r.take(1, 0, 0)
	if len(got) != 8 {
		t.Fatalf("%d packets came, want 8", len(got))
	}
	for i, p := range got {
		if !bytes.Equal(p, data(h[1], false, []byte{byte(i), 1, 2})) {
			t.Errorf("packet %d is % x", i, p)
		}
	}
	free := 0
	for _, p := range r.take(0, eventCompleted, 0) {
		free += int(binary.LittleEndian.Uint16(p[6:]))
	}
	if free != 8 {
		t.Errorf("%d buffers were freed, want 8", free)
	}
	if c := r.air.Counts(); c.Overrun != 1 || c.Delivered != 8 || c.Bytes != 24 {
		t.Errorf("counted %+v", c)
	}
}

// A link layer packet of 27 bytes takes 708 µs with its acknowledgement, one of 251 bytes 2,500 µs: 21 and 6 fit into 15 ms.
func TestAirTimeBoundsTheRate(t *testing.T) {
	for _, c := range []struct {
		payload, suggest, perEvent int
	}{{251, 251, 6}, {27, 251, 21 / 10}, {251, 0, 21 / 10}} {
		s := Settings{LinkPayload: c.payload, Buffers: 200}
		r := newRig(t, s, s)
		if c.suggest > 0 {
			for id := range 2 {
				r.command(id, 0x2024, 0, byte(c.suggest), 0, 0x48, 0x08)
			}
		}
		h := r.link()
		for range 200 {
			r.send(0, h[0], make([]byte, 251))
		}
		r.run(60 * time.Millisecond)
		if got := len(r.take(1, 0, 0)); got < 3*c.perEvent || got > 5*c.perEvent+2 {
			t.Errorf("%+v: %d packets of 251 bytes in four events", c, got)
		}
	}
}

func TestSupervisionEndsALostLink(t *testing.T) {
	r := newRig(t, Settings{}, Settings{})
	h := r.link()
	r.air.LoseNow(MakeAddress(1))
	r.run(3900 * time.Millisecond)
	if got := r.take(0, eventDisconnected, 0); len(got) > 0 {
		t.Fatalf("the link ended before its supervision timeout: % x", got)
	}
	r.run(200 * time.Millisecond)
	for id := range 2 {
		if got := r.take(id, eventDisconnected, 0); len(got) != 1 || !bytes.Equal(got[0], disconnected(h[id], statusTimeout)) {
			t.Errorf("controller %d heard % x", id, got)
		}
	}
}

func TestMuteWithinTheTimeoutLosesNothing(t *testing.T) {
	r := newRig(t, Settings{}, Settings{})
	h := r.link()
	r.air.Mute(r.now.Add(3 * time.Second))
	r.send(1, h[1], []byte{1})
	r.run(2900 * time.Millisecond)
	if len(r.take(0, 0, 0)) > 0 {
		t.Error("a packet came while all was mute")
	}
	r.run(200 * time.Millisecond)
	if got := r.take(0, 0, 0); len(got) != 1 {
		t.Errorf("%d packets came after it, want 1", len(got))
	}
	if got := r.take(0, eventDisconnected, 0); len(got) > 0 {
		t.Errorf("the link ended: % x", got)
	}
}

func TestDisconnectTellsBothSides(t *testing.T) {
	r := newRig(t, Settings{}, Settings{})
	h := r.link()
	r.command(0, 0x0406, 0, byte(h[0]), byte(h[0]>>8), 0x13)
	r.run(50 * time.Millisecond)
	for id, reason := range map[int]byte{0: statusLocalEnded, 1: 0x13} {
		if got := r.take(id, eventDisconnected, 0); len(got) != 1 || got[0][6] != reason {
			t.Errorf("controller %d heard % x, want reason %#02x", id, got, reason)
		}
	}
	r.command(0, 0x0406, statusNoConnection, byte(h[0]), byte(h[0]>>8), 0x13)
}

func TestUnpluggedAndResetEndsAreNoticedByTheOtherOne(t *testing.T) {
	for name, harm := range map[string]func(r *rig){
		"unplug": func(r *rig) { r.air.Unplug(0) },
		"reset":  func(r *rig) { r.command(0, 0x0c03, 0) },
	} {
		r := newRig(t, Settings{}, Settings{})
		r.link()
		harm(r)
		r.run(5 * time.Second)
		if got := r.take(1, eventDisconnected, 0); len(got) != 1 || got[0][6] != statusTimeout {
			t.Errorf("%s: the other side heard % x", name, got)
		}
		if got := r.take(0, eventDisconnected, 0); len(got) > 0 {
			t.Errorf("%s: its own host heard % x", name, got)
		}
	}
}

func TestLossPlan(t *testing.T) {
	r := newRig(t, Settings{Buffers: 100}, Settings{})
	r.air.LoseLinks(MakeAddress(1), 1, 5, 5)
	r.air.LosePackets(0.3)
	h := r.link()
	for range 20 {
		r.send(0, h[0], []byte{1, 2, 3})
	}
	r.run(10 * time.Second)
	if got := r.take(1, 0, 0); len(got) != 5 {
		t.Errorf("%d packets came before the link was lost, want 5", len(got))
	}
	h = r.link()
	for range 20 {
		r.send(0, h[0], []byte{1, 2, 3})
	}
	r.run(10 * time.Second)
	if got := r.take(1, 0, 0); len(got) != 20 {
		t.Errorf("%d packets came over the second link, want all 20: lost ones are sent again", len(got))
	}
	if c := r.air.Counts(); c.LinksLost != 1 {
		t.Errorf("counted %+v", c)
	}
	r.air.LoseLinks(MakeAddress(0), 1, 1, 1)
	r.air.Heal()
	r.command(0, 0x0406, 0, byte(h[0]), byte(h[0]>>8), 0x13)
	r.run(time.Second)
	h = r.link()
	r.send(0, h[0], []byte{1})
	r.send(0, h[0], []byte{2})
	r.run(time.Second)
	if got := r.take(1, 0, 0); len(got) != 2 {
		t.Errorf("%d packets came after all faults ended, want 2", len(got))
	}
}

func TestDialTakesItsTimeAndCanBeCancelled(t *testing.T) {
	r := newRig(t, Settings{}, Settings{})
	r.advertise(1, nil, nil)
	r.run(99 * time.Millisecond) // the next advertisement comes within the least time of a dial
	r.dial(0, MakeAddress(1))
	p := make([]byte, 25)
	binary.LittleEndian.PutUint16(p[13:], 12)
	binary.LittleEndian.PutUint16(p[19:], 400)
	r.command(0, 0x200d, statusDisallowed, p...)
	r.command(0, 0x200e, 0)
	got := r.take(0, eventLE, leConnected)
	if len(got) != 1 || got[0][4] != statusNoConnection {
		t.Errorf("a cancelled dial says % x", got)
	}
	r.command(0, 0x200e, statusDisallowed)
	r.air.AddBeacon(r.now, Beacon{Address: MakeAddress(9), Every: time.Millisecond, Say: func(int) ([]byte, []byte) { return make([]byte, 40), nil }})
	r.dial(0, MakeAddress(9))
	r.run(time.Second)
	if got := r.take(0, eventLE, leConnected); len(got) > 0 {
		t.Errorf("a beacon was connected to: % x", got)
	}
	requests := r.air.Requests()
	if len(requests) != 2 || requests[1].Peer != MakeAddress(9) || requests[1].Central != MakeAddress(0) {
		t.Errorf("the requests are %v", requests)
	}
}

func TestUpdateOfAConnection(t *testing.T) {
	r := newRig(t, Settings{}, Settings{})
	h := r.link()
	p := make([]byte, 14)
	binary.LittleEndian.PutUint16(p, h[0])
	binary.LittleEndian.PutUint16(p[4:], 80)
	binary.LittleEndian.PutUint16(p[8:], 50)
	r.command(0, 0x2013, 0, p...)
	if got := r.take(1, eventLE, leUpdated); len(got) != 1 {
		t.Fatalf("the peripheral heard %d updates", len(got))
	}
	r.air.LoseNow(MakeAddress(0))
	r.run(900 * time.Millisecond)
	if got := r.take(1, eventDisconnected, 0); len(got) != 1 {
		t.Errorf("the supervision timeout of 500 ms did not end the link")
	}
	binary.LittleEndian.PutUint16(p[4:], 1)
	r.command(0, 0x2013, statusNoConnection, p...)
}

// FuzzHost has a controller take whatever a host may send, and the hosts get sound packets only.
func FuzzHost(f *testing.F) {
	f.Add([]byte{typeCommand, 3, 0x0c, 0}, []byte{typeData, 0x40, 0, 1, 0, 9})
	f.Add([]byte{typeCommand, 0x0d, 0x20, 25, 0, 0, 0, 0, 0, 0, 1, 0, 0xee, 0xff, 0xc0, 2, 0, 6, 0, 6, 0, 0, 0, 10, 0, 0, 0, 0, 0}, []byte{typeCommand, 6, 4, 3, 0x40, 0, 0x13})
	f.Add([]byte{typeCommand, 8, 0x20, 32, 31}, []byte{typeCommand, 0x13, 0x20, 14})
	f.Add([]byte{typeData, 0x40, 0x10, 0xff, 0xff}, []byte{typeCommand, 0x24, 0x20, 4, 251, 0, 0, 0})
	f.Add([]byte{}, []byte{0xff, 0})
	f.Fuzz(func(t *testing.T, first, second []byte) {
		r := newRig(t, Settings{}, Settings{})
		r.link()
		clear(r.heard)
		for _, p := range [][]byte{first, second, first} {
			for id := range 2 {
				r.air.Host(r.now, id, p)
			}
			r.run(100 * time.Millisecond)
		}
		for id, list := range r.heard {
			for _, p := range list {
				sound := len(p) >= 3 && p[0] == typeEvent && int(p[2]) == len(p)-3 ||
					len(p) >= 5 && p[0] == typeData && int(binary.LittleEndian.Uint16(p[3:])) == len(p)-5
				if !sound {
					t.Errorf("controller %d says % x to its host", id, p)
				}
			}
		}
	})
}
