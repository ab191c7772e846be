package ble

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// leftover leaves the socket's name behind, as a machine that is killed does.
func leftover(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Fatal(err)
	}
}

// sighted scans once and lists the addresses that answer.
func sighted(t *testing.T, s *Sockets) (addresses []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), advertisingInterval/2)
	defer cancel()
	if err := s.Scan(ctx, func(a Advertisement) { addresses = append(addresses, a.Address) }); err != nil {
		t.Fatal(err)
	}
	return addresses
}

func TestSocketOfAKilledMachine(t *testing.T) {
	dir := shortDir(t)
	s := NewSockets(dir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "m1"+socketSuffix)
	for name, leave := range map[string]func(){
		"socket": func() { leftover(t, path) },
		"file": func() {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		leave()
		if seen := sighted(t, s); len(seen) > 0 {
			t.Errorf("%s: %v in sight", name, seen)
		}
		if _, err := s.Dial(t.Context(), "m1"); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: dial: %v", name, err)
		}
		off, err := s.Put("m1", &parrot{})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if seen := sighted(t, s); len(seen) != 1 || seen[0] != "m1" {
			t.Errorf("%s: %v in sight", name, seen)
		}
		l := dial(t, s)
		heard := make(chan string, 1)
		if err := l.Subscribe(t.Context(), CharControl, func(b []byte) { heard <- string(b) }); err != nil {
			t.Fatal(err)
		}
		if err := l.Write(t.Context(), CharControl, []byte("there?")); err != nil {
			t.Fatal(err)
		}
		if got := <-heard; got != "there?" {
			t.Errorf("%s: heard %q", name, got)
		}
		off()
		<-l.Closed()
		if err := l.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: after it was off: %v", name, err)
		}
	}
}

// Two machines of one id would steal each other's records: the second is told so, and the first stays.
func TestSecondMachineAtAnAddress(t *testing.T) {
	s := NewSockets(shortDir(t))
	off, err := s.Put("m1", &parrot{})
	if err != nil {
		t.Fatal(err)
	}
	defer off()
	l := dial(t, s)
	defer l.Close()
	if second, err := s.Put("m1", &parrot{}); err == nil {
		second()
		t.Fatal("two machines listen at one address")
	} else if !strings.Contains(err.Error(), "a machine listens at") || !strings.Contains(err.Error(), "another id") {
		t.Errorf("%v", err)
	}
	if _, err := l.ReadInfo(t.Context()); err != nil {
		t.Errorf("the first machine's link: %v", err)
	}
	other, err := s.Put("m2", &parrot{})
	if err != nil {
		t.Fatal(err)
	}
	defer other()
	if seen := sighted(t, s); strings.Join(seen, " ") != "m1 m2" {
		t.Errorf("%v in sight", seen)
	}
}

func TestAddressesOfSockets(t *testing.T) {
	dir := shortDir(t)
	s := NewSockets(dir)
	for _, id := range []string{"a/b", "../x", "50%", "Linie 7", "ü"} {
		off, err := s.Put(id, &parrot{})
		if err != nil {
			t.Fatalf("%q: %v", id, err)
		}
		if seen := sighted(t, s); len(seen) != 1 || seen[0] != id {
			t.Errorf("%q: %q in sight", id, seen)
		}
		off()
	}
	for id, want := range map[string]string{
		"": "not an address", ".": "not an address", "..": "not an address", strings.Repeat("m", maxSocketPath): "shorter path",
	} {
		if off, err := s.Put(id, &parrot{}); err == nil {
			off()
			t.Errorf("%q is on air", id)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", id, err)
		}
		if _, err := s.Dial(t.Context(), id); err == nil {
			t.Errorf("%q was dialled", id)
		}
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder: %v, %v", info, err)
	}
}
