package enrol

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/farebeat/farebeat/fleet/limit"
)

// TestAPanicIsNotTakenForAScanner: it is an error each time, while lines about connections that come to nothing are one a minute.
func TestAPanicIsNotTakenForAScanner(t *testing.T) {
	var out bytes.Buffer
	r := &Registry{o: Options{Now: func() time.Time { return morning }, Logger: slog.New(slog.NewTextHandler(&out, nil))}, log: limit.EachMinute()}
	for _, line := range []string{
		"http: TLS handshake error from 10.0.0.1:1: EOF\n", "http: panic serving 10.0.0.1:2: boom\n", "http: TLS handshake error from 10.0.0.1:3: EOF\n", "http: panic serving 10.0.0.1:4: boom\n",
	} {
		if n, err := (handshakes{r}).Write([]byte(line)); n != len(line) || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	}
	if warnings, errs := strings.Count(out.String(), "level=WARN"), strings.Count(out.String(), "level=ERROR"); warnings != 1 || errs != 2 {
		t.Errorf("%d warnings and %d errors:\n%s", warnings, errs, out.String())
	}
	if got := r.stats.Refused(); got["handshake"] != 2 || got["panic"] != 2 {
		t.Errorf("counted %v", got)
	}
}

// TestTooManyOfAnAddress: each is counted, and one a minute of an address is logged.
func TestTooManyOfAnAddress(t *testing.T) {
	var out bytes.Buffer
	r := &Registry{o: Options{Now: func() time.Time { return morning }, Logger: slog.New(slog.NewTextHandler(&out, nil))}, log: limit.EachMinute()}
	for _, address := range []string{"192.0.2.1", "192.0.2.1", "2001:db8::/64", "192.0.2.1"} {
		r.tooManyOf(address)
	}
	if n := strings.Count(out.String(), "has too many"); n != 2 || !strings.Contains(out.String(), "remote=192.0.2.1 most=64") || r.stats.Refused()["address_connections"] != 4 {
		t.Errorf("%d lines, counted %v:\n%s", n, r.stats.Refused(), out.String())
	}
}
