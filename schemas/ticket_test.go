package schemas_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/farebeat/farebeat/schemas"
)

func grant() schemas.TicketGrant {
	g := schemas.TicketGrant{
		Machine: "V-0042", Vehicle: "01216", Reason: "f-81", Counter: 1_795_390_869_120,
		IssuedAt:  time.Date(2026, 11, 22, 23, 41, 9, 120e6, time.UTC),
		ExpiresAt: time.Date(2026, 11, 23, 23, 41, 9, 120e6, time.UTC),
	}
	for i := range g.Secret {
		g.Secret[i] = byte(i)
	}
	return g
}

// nonce is what the golden ticket was sealed with.
func nonce() *strings.Reader { return strings.NewReader("twelve bytes") }

func sealed(t testing.TB, g schemas.TicketGrant) []byte {
	t.Helper()
	b, err := schemas.SealTicket(goldenKey(), nonce(), g)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTicketRoundTrip(t *testing.T) {
	for _, g := range []schemas.TicketGrant{
		grant(),
		{Machine: "m", IssuedAt: time.UnixMilli(0).UTC(), ExpiresAt: time.UnixMilli(1).UTC()},
		{Machine: strings.Repeat("m", 64), Vehicle: strings.Repeat("v", 64), Reason: strings.Repeat("r", 64), Counter: 1<<64 - 1, IssuedAt: grant().IssuedAt, ExpiresAt: grant().ExpiresAt},
	} {
		b := sealed(t, g)
		if bytes.Contains(b, g.Secret[:]) || len(b) > schemas.MaxSealedTicket {
			t.Errorf("%d bytes, the secret among them or too many", len(b))
		}
		if got, err := schemas.OpenTicket(goldenKey(), g.Machine, b); err != nil || got != g {
			t.Errorf("got %+v, %v", got, err)
		}
	}
	long := grant()
	long.Reason = strings.Repeat("x", 100)
	if got, err := schemas.OpenTicket(goldenKey(), long.Machine, sealed(t, long)); err != nil || got.Reason != long.Reason[:64] {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestTicketGolden keeps the bytes of the format: machines in the field read them.
func TestTicketGolden(t *testing.T) {
	var m schemas.Ticket
	b, err := os.ReadFile("testdata/good/ticket/for-a-fault.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := schemas.Decode(b, schemas.NameTicket, &m); err != nil {
		t.Fatal(err)
	}
	if want := base64.RawURLEncoding.EncodeToString(sealed(t, grant())); m.Sealed != want {
		t.Errorf("sealed to %s", want)
	}
	half, err := base64.RawURLEncoding.DecodeString(m.Sealed)
	if err != nil {
		t.Fatal(err)
	}
	g, err := schemas.OpenTicket(goldenKey(), m.Machine, half)
	if err != nil || g != grant() || m.Secret != base64.RawURLEncoding.EncodeToString(g.Secret[:]) {
		t.Errorf("%+v, %v", g, err)
	}
}

func TestTicketRefused(t *testing.T) {
	good := sealed(t, grant())
	for i := range good {
		for bit := range 8 {
			bad := bytes.Clone(good)
			bad[i] ^= 1 << bit
			if g, err := schemas.OpenTicket(goldenKey(), "V-0042", bad); err == nil || g != (schemas.TicketGrant{}) {
				t.Fatalf("byte %d, bit %d: %+v, %v", i, bit, g, err)
			}
		}
		if _, err := schemas.OpenTicket(goldenKey(), "V-0042", good[:i]); err == nil {
			t.Fatalf("the first %d bytes are taken", i)
		}
	}
	for name, tc := range map[string]struct {
		key     []byte
		machine string
		sealed  []byte
		want    error
	}{
		"nothing":         {goldenKey(), "V-0042", nil, schemas.ErrTicketForm},
		"other version":   {goldenKey(), "V-0042", append([]byte{2}, good[1:]...), schemas.ErrTicketForm},
		"too long":        {goldenKey(), "V-0042", append(bytes.Clone(good), make([]byte, schemas.MaxSealedTicket)...), schemas.ErrTicketForm},
		"other machine":   {goldenKey(), "V-0043", good, schemas.ErrTicketForeign},
		"other key":       {key(), "V-0042", good, schemas.ErrTicketForged},
		"a byte more":     {goldenKey(), "V-0042", append(bytes.Clone(good), 0), schemas.ErrTicketForged},
		"renamed machine": {goldenKey(), "V-0043", bytes.Replace(bytes.Clone(good), []byte("V-0042"), []byte("V-0043"), 1), schemas.ErrTicketForged},
	} {
		if _, err := schemas.OpenTicket(tc.key, tc.machine, tc.sealed); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
	if _, err := schemas.OpenTicket([]byte("short"), "V-0042", good); err == nil {
		t.Error("a key of 5 bytes opens it")
	}
	for name, g := range map[string]schemas.TicketGrant{"no machine": {}, "long machine": {Machine: strings.Repeat("m", 256)}, "long vehicle": {Machine: "m", Vehicle: strings.Repeat("v", 256)}, "both long": {Machine: strings.Repeat("m", 255), Vehicle: strings.Repeat("v", 255)}} {
		if _, err := schemas.SealTicket(goldenKey(), nonce(), g); err == nil {
			t.Errorf("%s: sealed", name)
		}
	}
	if _, err := schemas.SealTicket(goldenKey(), strings.NewReader("few"), grant()); err == nil {
		t.Error("sealed with a short nonce")
	}
}

// TestTicketsAreMasked: no way to print a ticket shows its secret.
func TestTicketsAreMasked(t *testing.T) {
	g := grant()
	m := schemas.Ticket{Machine: "m", Vehicle: "v", Secret: base64.RawURLEncoding.EncodeToString(g.Secret[:])}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		out := fmt.Sprintf(verb+verb, &m, g)
		if strings.Contains(out, m.Secret) || strings.Contains(out, "1 2 3") || strings.Contains(out, "0x1, 0x2") || strings.Contains(out, hex.EncodeToString(g.Secret[:8])) {
			t.Errorf("%s: %s", verb, out)
		}
	}
}

func FuzzOpenTicket(f *testing.F) {
	f.Add(sealed(f, grant()))
	f.Add([]byte{1, 6, 'V'})
	f.Add([]byte{1, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		if g, err := schemas.OpenTicket(goldenKey(), "V-0042", b); err == nil && g != grant() {
			t.Errorf("%x opens", b)
		}
	})
}
