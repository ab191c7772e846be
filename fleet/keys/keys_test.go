package keys

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/farebeat/farebeat/schemas"
)

func key(t testing.TB, k Keys, machine string) [Size]byte {
	t.Helper()
	got, err := k.Machine(context.Background(), machine)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// The vectors were computed with Python's hmac module after RFC 5869, not with this code:
// a changed derivation would orphan every record ever written.
func TestDerivationNeverChanges(t *testing.T) {
	secret := make([]byte, Size)
	for i := range secret {
		secret[i] = byte(i)
	}
	m, err := NewMaster(secret)
	if err != nil {
		t.Fatal(err)
	}
	for machine, want := range map[string]string{
		"01216-1":     "976606f05a2077269720a1d2e8166021fb0a25ad723918948a04478b2cc1f0cf",
		"bus 7/rear:": "b6df2ac8cac1aebea71b8bd8afa9c250d3d7b626b7680a807b50966487c718a1",
	} {
		got := key(t, m, machine)
		if hex.EncodeToString(got[:]) != want {
			t.Errorf("key of %q = %x, want %s", machine, got, want)
		}
	}
}

func TestMasterRefuses(t *testing.T) {
	if _, err := NewMaster(make([]byte, 31)); err == nil || !strings.Contains(err.Error(), "want 32 bytes, got 31") {
		t.Errorf("31 bytes: %v", err)
	}
	m, err := NewMaster(make([]byte, Size))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Machine(context.Background(), ""); err == nil {
		t.Error("an empty identifier has a key")
	}
}

func TestPrintsAsAMask(t *testing.T) {
	m, err := NewMaster(make([]byte, Size))
	if err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if got := fmt.Sprintf(format, m); got != "keys.Master(secret)" {
			t.Errorf("%s prints %s", format, got)
		}
	}
}

func TestFileRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "master.key")
	made, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %04o, want 0600", info.Mode().Perm())
	}
	read, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if key(t, made, "m-1") != key(t, read, "m-1") {
		t.Error("the key read is not the key made")
	}
	if _, err := Create(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second Create: %v, want fs.ErrExist", err)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("files left: %v, %v", left, err)
	}
}

func TestLoadRefuses(t *testing.T) {
	good := strings.Repeat("a1", Size)
	for name, c := range map[string]struct {
		text string
		mode fs.FileMode
		want string
	}{
		"group":    {good, 0o640, "it is a secret, and open to others (mode 0640); run: chmod 600 "},
		"others":   {good, 0o604, "it is a secret, and open to others (mode 0604)"},
		"empty":    {"", 0o600, "want 64 hexadecimal digits, got 0 characters"},
		"short":    {good[:62], 0o600, "want 64 hexadecimal digits, got 62 characters"},
		"long":     {good + "a", 0o600, "want 64 hexadecimal digits, got 65 characters"},
		"two keys": {good + "\n" + good, 0o600, "want 64 hexadecimal digits, got 67 characters"},
		"not hex":  {"zz" + good[2:], 0o600, "found another character"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "master.key")
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, c.mode); err != nil {
				t.Fatal(err)
			}
			_, err := Load(path)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
				t.Fatalf("got %v, want %q and the path", err, c.want)
			}
			if strings.Contains(err.Error(), "a1a1") {
				t.Errorf("the error shows the secret: %v", err)
			}
		})
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	if _, err := Load(t.TempDir()); err == nil {
		t.Error("a folder was read as a key")
	}
}

func TestLineEndsAllowed(t *testing.T) {
	for _, end := range []string{"", "\n", "\r\n"} {
		path := filepath.Join(t.TempDir(), "master.key")
		if err := os.WriteFile(path, []byte(strings.Repeat("A1", Size)+end), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(path); err != nil {
			t.Errorf("line end %q: %v", end, err)
		}
	}
}

func TestManyCreateOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "master.key")
	const n = 16
	got := make([][Size]byte, n)
	fresh := make([]bool, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			m, created, err := LoadOrCreate(path)
			if err != nil {
				t.Error(err)
				return
			}
			fresh[i] = created
			got[i] = key(t, m, "m-1")
		})
	}
	wg.Wait()
	creators := 0
	for i := range n {
		if got[i] != got[0] {
			t.Fatal("two callers hold different keys")
		}
		if fresh[i] {
			creators++
		}
	}
	if creators != 1 {
		t.Errorf("%d callers created the file", creators)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"", strings.Repeat("0f", Size), strings.Repeat("0f", Size) + "\r\n", strings.Repeat("g", 2*Size)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		secret, err := parse(text)
		if err == nil && len(secret) != Size {
			t.Fatalf("%d bytes from %q", len(secret), text)
		}
	})
}

func BenchmarkMachine(b *testing.B) {
	m, err := NewMaster(make([]byte, Size))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.Machine(context.Background(), "01216-1"); err != nil {
			b.Fatal(err)
		}
	}
}

// A ticket that the keys seal is read by the machine with its own key, and by the keys again.
func TestTickets(t *testing.T) {
	m, err := NewMaster(bytes.Repeat([]byte{1}, Size))
	if err != nil {
		t.Fatal(err)
	}
	at := time.UnixMilli(1_790_000_000_000).UTC()
	g := schemas.TicketGrant{Machine: "m1", Vehicle: "v1", Reason: "F-1", Counter: 7, IssuedAt: at, ExpiresAt: at.Add(time.Hour), Secret: [Size]byte{9}}
	sealed, err := m.SealTicket(t.Context(), g)
	if err != nil {
		t.Fatal(err)
	}
	key, err := m.Machine(t.Context(), "m1")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := schemas.OpenTicket(key[:], "m1", sealed); err != nil || got != g {
		t.Errorf("the machine reads %v, %v", got, err)
	}
	if got, err := m.OpenTicket(t.Context(), "m1", sealed); err != nil || got != g {
		t.Errorf("the keys read %v, %v", got, err)
	}
	if _, err := m.OpenTicket(t.Context(), "m2", sealed); !errors.Is(err, schemas.ErrTicketForeign) {
		t.Errorf("for another machine: %v", err)
	}
	if _, err := m.SealTicket(t.Context(), schemas.TicketGrant{}); err == nil {
		t.Error("a ticket for no machine was sealed")
	}
	if _, err := m.OpenTicket(t.Context(), "", sealed); err == nil {
		t.Error("a ticket for no machine was opened")
	}
}
