package broker

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"golang.org/x/time/rate"

	"github.com/farebeat/farebeat/topics"
)

// from is a connection from an address.
type from struct {
	net.Conn
	address string
	closed  bool
}

func (f *from) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(f.address))
}
func (f *from) Close() error { f.closed = true; return nil }

func limitsOf(t *testing.T, l Limits) *limits {
	t.Helper()
	tree, err := topics.New("tampa")
	if err != nil {
		t.Fatal(err)
	}
	b, err := New(Options{Tree: tree, Limits: l})
	if err != nil {
		t.Fatal(err)
	}
	return b.hook.limits
}

func TestAddresses(t *testing.T) {
	for address, want := range map[string]string{
		"192.0.2.7:1": "192.0.2.7/32", "[2001:db8:1:2:3::4]:1": "2001:db8:1:2::/64", "[::ffff:192.0.2.7]:1": "192.0.2.7/32", "[fe80::1%eth0]:9": "fe80::/64",
	} {
		if got := prefixOf((&from{address: address}).RemoteAddr()).String(); got != want {
			t.Errorf("%s is of %s, want %s", address, got, want)
		}
	}
}

// A fleet of 5,000 behind one NAT comes back at once, twice; what one address opens beyond that is paced. Loopback is not.
func TestAFleetBehindOneAddressComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limitsOf(t, Limits{})
		enter := func(n int, address string) (in int) {
			for range n {
				if k, err := l.enter(&from{address: address}); err == nil {
					in++
					k.arrived()
					k.leave()
				}
			}
			return in
		}
		if n := enter(20_000, "192.0.2.1:1"); n != 10_000 {
			t.Errorf("%d of 20,000 are let in at once, want 10,000", n)
		}
		time.Sleep(10 * time.Second)
		if n := enter(20_000, "192.0.2.1:1"); n != 2_000 {
			t.Errorf("%d after 10 s, want 2,000", n)
		}
		if n := enter(20_000, "127.0.0.1:1"); n != 20_000 {
			t.Errorf("%d of 20,000 from loopback", n)
		}
		if n := enter(100, "192.0.2.2:1"); n != 100 {
			t.Errorf("%d of 100 from elsewhere", n)
		}
	})
}

// However many addresses come, a bounded number is remembered, and those in use stay.
func TestAddressesAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limitsOf(t, Limits{})
		address := func(i int) string {
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 1).String()
		}
		stays, err := l.enter(&from{address: "192.0.2.1:1"})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 3 * maxAddresses {
			if k, err := l.enter(&from{address: address(i)}); err == nil {
				k.leave()
			}
			if len(l.door.known) > maxAddresses+1 {
				t.Fatalf("%d addresses are remembered", len(l.door.known))
			}
		}
		time.Sleep(time.Minute)
		if _, err := l.enter(&from{address: "198.51.100.1:1"}); err != nil || len(l.door.known) != 2 {
			t.Errorf("%v, %d addresses after a minute, want 2", err, len(l.door.known))
		}
		if stays.leave(); stays.from.open != 0 || l.door.coming.Len() != 1 {
			t.Errorf("%d open, %d on their way", stays.from.open, l.door.coming.Len())
		}
	})
}

// One address that fills the places for handshakes pushes out its own connections, not another's.
func TestWhoMakesRoomForAHandshake(t *testing.T) {
	l := limitsOf(t, Limits{Handshakes: 16})
	honest := &from{address: "192.0.2.1:1"}
	if _, err := l.enter(honest); err != nil {
		t.Fatal(err)
	}
	for range 1_000 {
		if _, err := l.enter(&from{address: "198.51.100.1:1"}); err != nil {
			t.Fatal(err)
		}
	}
	if honest.closed || l.door.coming.Len() != 16 || l.met[limitHandshakes].Load() != 1_000-15 {
		t.Errorf("closed %t, %d on their way, %d pushed out", honest.closed, l.door.coming.Len(), l.met[limitHandshakes].Load())
	}
}

// Identities are forgotten once they are as new, and not before: to connect again wins nothing.
func TestIdentitiesAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limitsOf(t, Limits{ConnectionsPerDevice: 1})
		id := topics.Identity{Role: topics.RoleMachine, Name: "m"}
		for i := range 12 {
			c := &conn{}
			if err := l.join(c, id, ""); (err == nil) != (i < 8) {
				t.Errorf("connection %d: %v", i, err)
			}
			l.part(c)
		}
		time.Sleep(2 * time.Minute)
		if err := l.join(&conn{}, topics.Identity{Role: topics.RoleMachine, Name: "other"}, ""); err != nil || len(l.peers.known) != 1 {
			t.Errorf("%v, %d identities, want the new one alone", err, len(l.peers.known))
		}
	})
}

func TestPasswordsThatWaitAreBounded(t *testing.T) {
	hash, err := HashPassword("correct horse")
	if err != nil {
		t.Fatal(err)
	}
	_, made := NewSecret()
	users, err := NewUsers([]User{{Name: "ann", Role: topics.RoleViewer, Hash: hash}, {Name: "m", Role: topics.RoleMachine, ID: "m", Hash: made}})
	if err != nil {
		t.Fatal(err)
	}
	l := limitsOf(t, Limits{})
	l.h.b.o.Users = users
	as := func(name string) error {
		_, err := l.identified(&conn{gone: make(chan struct{})}, packets.Packet{Connect: packets.ConnectParams{Username: []byte(name)}},
			func(*conn, packets.Packet) (topics.Identity, error) { return topics.Identity{}, nil })
		return err
	}
	if half := max(1, runtime.GOMAXPROCS(0)/2); cap(l.checking) != half {
		t.Errorf("%d are checked at once, want %d", cap(l.checking), half)
	}
	l.waiting.Store(maxPasswordQueue)
	for name, want := range map[string]bool{"ann": false, "nobody": false, "m": true} {
		if err := as(name); (err == nil) != want {
			t.Errorf("%s while others wait: %v", name, err)
		}
	}
	if n := l.met[limitPasswords].Load(); n != 2 || l.waiting.Load() != maxPasswordQueue {
		t.Errorf("counted %d, %d wait", n, l.waiting.Load())
	}
	l.waiting.Store(0)
	if err := as("ann"); err != nil || len(l.checking) != 0 {
		t.Errorf("%v, %d are being checked", err, len(l.checking))
	}
}

// TestEachIdentityHasRatesOfItsOwn: what one uses up, others have still.
func TestEachIdentityHasRatesOfItsOwn(t *testing.T) {
	l, now := limitsOf(t, Limits{}), time.Now()
	of := func(role topics.Role, name string) *peer {
		return l.peers.get(l, topics.Identity{Role: role, Name: name}, now)
	}
	flood := of(topics.RoleMachine, "m1")
	for _, r := range []*rate.Limiter{flood.connects, flood.messages, flood.bytes, flood.heartbeats} {
		if !r.AllowN(now, r.Burst()) {
			t.Fatal("it cannot use up what is its own")
		}
	}
	for _, other := range []*peer{of(topics.RoleMachine, "m2"), of(topics.RoleGateway, "m1")} {
		for i, r := range []*rate.Limiter{other.connects, other.messages, other.bytes, other.heartbeats} {
			if r.TokensAt(now) != float64(r.Burst()) {
				t.Errorf("rate %d of another has %f of %d left", i, r.TokensAt(now), r.Burst())
			}
		}
	}
	if of(topics.RoleMachine, "m1") != flood {
		t.Error("it begins anew when it comes again")
	}
}

// TestTheSessionThatWasLeftTheLongestAgoMakesRoom, whenever it was made.
func TestTheSessionThatWasLeftTheLongestAgoMakesRoom(t *testing.T) {
	l := limitsOf(t, Limits{SessionsPerIdentity: 2})
	id := topics.Identity{Role: topics.RoleGateway, Name: "v1"}
	l.h.attach.Lock()
	defer l.h.attach.Unlock()
	add := func(name string, left int64) *session {
		s := &session{h: l.h, id: owner(byUser, id) + name, left: left}
		l.h.sessions.Store(s.id, s)
		l.addSession(s, id)
		return s
	}
	first, second := add("first", 20), add("second", 10) // the first came back and left again
	third := add("third", 30)
	for s, want := range map[*session]bool{first: true, second: false, third: true} {
		if is := l.h.session(s.id) != nil; is != want {
			t.Errorf("%s is kept: %t", s.id, is)
		}
	}
}

// FuzzMeter: whatever comes, in whatever pieces, the meter finds the same packets as Mochi's decoder of lengths does, and never panics.
func FuzzMeter(f *testing.F) {
	f.Add([]byte{0x10, 2, 0, 0, 0xc0, 0, 0x30, 3, 0, 1, 'a', 0x40, 2, 0, 1}, 3)
	f.Add([]byte{0x10, 0x80, 0x80, 0x80, 0x80, 0x80}, 1)
	f.Add([]byte{0x10, 0xff, 0xff, 0xff, 0x7f}, 2)
	f.Add([]byte("GET / HTTP/1.1\r\n"), 4)
	l := &limits{Limits: DefaultLimits()}
	f.Fuzz(func(t *testing.T, in []byte, piece int) {
		whole, pieces := meter{l: l, most: 512 << 10}, meter{l: l, most: 512 << 10}
		messages, counted, err := whole.take(in)
		var m, c int
		var perr error
		piece = max(1, min(piece, len(in)))
		for rest := in; len(rest) > 0 && perr == nil; {
			n := min(piece, len(rest))
			var dm, dc int
			dm, dc, perr = pieces.take(rest[:n])
			m, c, rest = m+dm, c+dc, rest[n:]
		}
		if (err == nil) != (perr == nil) || err == nil && (m != messages || c != counted) {
			t.Fatalf("whole: %d, %d, %v; in pieces: %d, %d, %v", messages, counted, err, m, c, perr)
		}
		if err != nil {
			return
		}
		r, want := bytes.NewReader(in), 0
		for {
			first, err := r.ReadByte()
			if err != nil {
				break
			}
			if first>>4 != packets.Puback {
				want++
			}
			n, _, err := packets.DecodeLength(r)
			if err != nil {
				break
			}
			_, _ = r.Seek(int64(n), 1)
			if r.Len() == 0 {
				break
			}
		}
		if messages != want || counted < len(in) {
			t.Fatalf("%d packets of %d, %d bytes of %d", messages, want, counted, len(in))
		}
		if len(in) > 0 && whole.count > 0 && in[0]>>4 != packets.Connect {
			t.Fatal(errors.New("a stranger passed"))
		}
	})
}
