package limit_test

import (
	"strings"
	"testing"

	"github.com/farebeat/farebeat/fleet/limit"
)

func TestAddressesOfClients(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.1:50000": "192.0.2.1", "192.0.2.1": "192.0.2.1", "[2001:db8::1]:1": "2001:db8::/64", "[::ffff:192.0.2.1]:1": "192.0.2.1",
		"10.0.0.1:99": "10.0.0.1", "[::ffff:10.0.0.1]:99": "10.0.0.1", "[2001:db8::1:2:3]:99": "2001:db8::/64", "[::1]:99": "::1", "pipe": "pipe",
		"[::1]:80": "::1", "[fe80::1%eth0]:1": "fe80::/64", "@": "@", "": "", strings.Repeat("x", 100): strings.Repeat("x", 64),
	} {
		if got := limit.Address(remote); got != want {
			t.Errorf("%q is %q, want %q", remote, got, want)
		}
	}
}
