package ors

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/farebeat/farebeat/edge/ble"
	"github.com/farebeat/farebeat/schemas"
)

// testKey is the key of machine m1.
func testKey() []byte { return bytes.Repeat([]byte{0x6b}, schemas.TicketKeySize) }

// The gate of the machine in memory.

func (j *journal) ID() string { return "m1" }

func (j *journal) Key() [schemas.TicketKeySize]byte { return [schemas.TicketKeySize]byte(testKey()) }

func (j *journal) LastTicket(context.Context) (TicketMark, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.mark, nil
}

func (j *journal) KeepTicket(_ context.Context, m TicketMark) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.worn != nil {
		return j.worn
	}
	j.mark = m
	j.kept++
	return nil
}

// issue makes credentials of a grant under a key.
func issue(t testing.TB, key []byte, g schemas.TicketGrant) Credentials {
	t.Helper()
	if _, err := rand.Read(g.Secret[:]); err != nil {
		t.Fatal(err)
	}
	sealed, err := schemas.SealTicket(key, rand.Reader, g)
	if err != nil {
		t.Fatal(err)
	}
	return Credentials{Machine: g.Machine, Sealed: sealed, Secret: g.Secret}
}

func testGrant(counter uint64, issued time.Time, valid time.Duration) schemas.TicketGrant {
	return schemas.TicketGrant{Machine: "m1", Vehicle: "v1", Reason: "f-1", Counter: counter, IssuedAt: issued, ExpiresAt: issued.Add(valid)}
}

// credentials are good for machine m1.
func credentials(t testing.TB) Credentials {
	return issue(t, testKey(), testGrant(7, time.Now(), 24*time.Hour))
}

func TestAdmit(t *testing.T) {
	at := time.Date(2026, 11, 23, 5, 0, 0, 0, time.UTC)
	mark := TicketMark{Counter: 10, IssuedAt: at}
	for name, tc := range map[string]struct {
		g       schemas.TicketGrant
		mark    TicketMark
		elapsed time.Duration
		want    Refusal
	}{
		"the first ever":                      {testGrant(1, at, time.Hour), TicketMark{}, 0, 0},
		"the same again":                      {testGrant(10, at, time.Hour), mark, 59 * time.Minute, 0},
		"the same at its last instant":        {testGrant(10, at, time.Hour), mark, time.Hour, 0},
		"the same, expired":                   {testGrant(10, at, time.Hour), mark, time.Hour + time.Millisecond, RefusedExpired},
		"a newer one":                         {testGrant(11, at.Add(12*time.Hour), time.Hour), mark, 12 * time.Hour, 0},
		"a newer one, expired in the drawer":  {testGrant(11, at.Add(time.Minute), time.Hour), mark, 2 * time.Hour, RefusedExpired},
		"an older one":                        {testGrant(9, at.Add(-time.Hour), 24*time.Hour), mark, 0, RefusedSuperseded},
		"an older one that claims a later":    {testGrant(9, at.Add(time.Hour), 24*time.Hour), mark, 0, RefusedSuperseded},
		"newer, the fleet's clock set back":   {testGrant(11, at.AddDate(-1, 0, 0), time.Hour), mark, time.Hour, 0},
		"newer, after a year in the future":   {testGrant(12, at, time.Hour), TicketMark{11, at.AddDate(1, 0, 0)}, 0, 0},
		"the machine's clock does not matter": {testGrant(11, at.Add(time.Second), time.Hour), mark, -time.Hour, 0},
	} {
		if got := admit(tc.g, tc.mark, tc.elapsed); got != tc.want {
			t.Errorf("%s: %d, want %d", name, got, tc.want)
		}
	}
}

// TestAdmitProperties: whatever the clocks say, a ticket that the fleet issues last and that is shown at once is accepted, and
// none that was issued before the newest accepted one ever is again.
func TestAdmitProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Date(2026, 11, 23, 5, 0, 0, 0, time.UTC)
		fleetClock := time.Duration(0) // off by
		var mark TicketMark
		since := now
		var issued []schemas.TicketGrant
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 7200).Draw(t, "passes")) * time.Second)
			switch rapid.SampledFrom([]string{"issue", "show", "show", "restart", "clock"}).Draw(t, "step") {
			case "clock":
				fleetClock = time.Duration(rapid.IntRange(-9000, 9000).Draw(t, "hours")) * time.Hour
			case "restart":
				since = now
			case "issue":
				g := testGrant(uint64(len(issued)+1), now.Add(fleetClock), 24*time.Hour)
				issued = append(issued, g)
				if r := admit(g, mark, now.Sub(since)); r != 0 && !mark.IssuedAt.Add(now.Sub(since)).After(g.ExpiresAt) {
					t.Fatalf("the newest ticket is refused: %s", r)
				}
			case "show":
				if len(issued) == 0 {
					continue
				}
				g := rapid.SampledFrom(issued).Draw(t, "ticket")
				r := admit(g, mark, now.Sub(since))
				if g.Counter < mark.Counter && r == 0 {
					t.Fatalf("ticket %d is accepted after %d", g.Counter, mark.Counter)
				}
				if r == 0 && g.Counter > mark.Counter {
					mark, since = TicketMark{g.Counter, g.IssuedAt}, now
				}
			}
		}
	})
}

// What a machine refuses it says, changes nothing, and serves the next gateway.
func TestTicketsThatAreRefused(t *testing.T) {
	onAir(t, newJournal(5, 20), ble.Faults{}, func(b *bench) {
		now := time.Now()
		good := issue(t, testKey(), testGrant(100, now, 24*time.Hour))
		try := func(c Credentials) error {
			link, err := b.air.Dial(b.t.Context(), "m1")
			if err != nil {
				t.Fatal(err)
			}
			defer link.Close()
			_, err = Open(b.t.Context(), link, c, Options{})
			return err
		}
		if err := try(good); err != nil {
			t.Fatal(err)
		}
		flipped := good
		flipped.Sealed = bytes.Clone(good.Sealed)
		flipped.Sealed[len(flipped.Sealed)-1] ^= 1
		stolen := good // the sealed half was sniffed, its secret is not known
		stolen.Secret = [32]byte{1}
		newer := issue(t, testKey(), testGrant(101, now, time.Hour))
		newer.Secret = [32]byte{1}
		other := testGrant(102, now, time.Hour)
		other.Machine = "m2"
		for name, tc := range map[string]struct {
			c    Credentials
			want Refusal
		}{
			"superseded":          {issue(t, testKey(), testGrant(99, now, 24*time.Hour)), RefusedSuperseded},
			"foreign":             {issue(t, testKey(), other), RefusedForeign},
			"other key":           {issue(t, make([]byte, 32), testGrant(101, now, time.Hour)), RefusedForged},
			"changed":             {flipped, RefusedForged},
			"sniffed":             {stolen, RefusedForged},
			"sniffed before used": {newer, RefusedForged},
			"no ticket":           {Credentials{Machine: "m1", Sealed: []byte("ticket")}, RefusedForm},
			"empty":               {Credentials{Machine: "m1"}, RefusedForm},
		} {
			err := try(tc.c)
			var refused *RefusedError
			if !errors.As(err, &refused) || refused.Code != tc.want {
				t.Errorf("%s: %v, want %q", name, err, tc.want)
			}
			if b.j.mark.Counter != 100 || b.j.kept != 1 {
				t.Fatalf("%s changed the mark: %+v, written %d times", name, b.j.mark, b.j.kept)
			}
			if err := try(good); err != nil {
				t.Fatalf("after %s: %v", name, err)
			}
		}
		time.Sleep(24*time.Hour + time.Second)
		var refused *RefusedError
		if err := try(good); !errors.As(err, &refused) || refused.Code != RefusedExpired {
			t.Errorf("after a day: %v", err)
		}
		b.j.worn = errors.New("worn out")
		if err := try(issue(t, testKey(), testGrant(200, time.Now(), time.Hour))); !errors.As(err, &refused) || refused.Code != RefusedUnavailable {
			t.Errorf("with a worn disk: %v", err)
		}
		b.j.worn = nil
		if err := try(issue(t, testKey(), testGrant(200, time.Now(), time.Hour))); err != nil {
			t.Errorf("the disk is back: %v", err)
		}
	})
}

// TestImpostor: a device that does not know the machine's key cannot open a session with a gateway, whatever it answers.
func TestImpostorIsNoticed(t *testing.T) {
	onAir(t, newJournal(5, 20), ble.Faults{}, func(b *bench) {
		for name, answer := range map[string][]byte{
			"a made up welcome": append([]byte{typeWelcome, Major, Minor, suiteNoise}, bytes.Repeat([]byte{9}, noiseMessage)...),
			"low order point":   append([]byte{typeWelcome, Major, Minor, suiteNoise}, make([]byte, noiseMessage)...),
		} {
			b.air.Set("thief", answering{answer})
			link, err := b.air.Dial(b.t.Context(), "thief")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Open(b.t.Context(), link, credentials(t), Options{}); !errors.Is(err, ErrForged) {
				t.Errorf("%s: %v", name, err)
			}
			link.Close()
			b.air.Set("thief", nil)
		}
	})
}

// answering answers every HELLO with the same bytes.
type answering struct{ answer []byte }

func (answering) Advertise() ble.Advertisement { return ble.Advertisement{IDHint: ble.IDHint("m1")} }

func (a answering) Connect(p ble.Port) ble.Handler { return &answeringLink{a.answer, p, false} }

type answeringLink struct {
	answer []byte
	port   ble.Port
	said   bool
}

func (l *answeringLink) Read(ble.Char) []byte { return encodeInfo(ble.IDHint("m1")) }

func (l *answeringLink) Write(ble.Char, []byte) {
	if !l.said {
		l.said = true
		go func() { _ = l.port.Notify(ble.CharSession, append([]byte{0xc0}, l.answer...)) }()
	}
}

func (l *answeringLink) Closed() {}

func TestCredentialsAreMasked(t *testing.T) {
	c := credentials(t)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if out := fmt.Sprintf(verb, c); out != "credentials for machine m1" {
			t.Errorf("%s: %s", verb, out)
		}
	}
	for r := RefusedVersion; r <= RefusedUnavailable+1; r++ {
		if text := (&RefusedError{r}).Error(); strings.Contains(text, "refusal") != (r > RefusedUnavailable) {
			t.Errorf("%d: %s", r, text)
		}
	}
}
