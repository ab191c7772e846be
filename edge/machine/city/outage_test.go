package city_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/edge/machine/city"
)

func TestParseOutage(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	start := time.Date(2026, 11, 22, 5, 30, 0, 0, berlin)
	local := func(d, h, m, s int) time.Time { return time.Date(2026, 11, d, h, m, s, 0, berlin) }
	for spec, want := range map[string]city.Outage{
		"route=36,share=0.3,at=07:20,for=15m": {Kind: city.Cut, Route: "36", Share: 0.3, At: local(22, 7, 20, 0), For: 15 * time.Minute},
		"vehicle=01216, at=25:10:30":          {Kind: city.Cut, Vehicle: "01216", Share: 1, At: local(23, 1, 10, 30)},
		"machine=m-1,at=+90s":                 {Kind: city.Cut, Machine: "m-1", Share: 1, At: start.Add(90 * time.Second)},
		"count=4,at=2026-11-22T12:00:00Z":     {Kind: city.Cut, Count: 4, Share: 1, At: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)},
		"for=1h":                              {Kind: city.Cut, Share: 1, At: start, For: time.Hour},
	} {
		got, err := city.ParseOutage(city.Cut, spec, start, berlin)
		if err != nil {
			t.Errorf("%s: %v", spec, err)
		}
		if diff := cmp.Diff(want, got, cmp.Comparer(time.Time.Equal)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", spec, diff)
		}
	}
}

func TestParseOutageErrors(t *testing.T) {
	start := time.Date(2026, 11, 22, 5, 30, 0, 0, time.UTC)
	for spec, want := range map[string]string{
		"":                       `--stop "": "" is not key=value; give for example route=36,share=0.3,at=07:20,for=15m`,
		"route":                  `--stop "route": "route" is not key=value; give for example route=36,share=0.3,at=07:20,for=15m`,
		"rout=1":                 `--stop "rout=1": rout=1: the key is not one of route, vehicle, machine, share, count, at, for`,
		"share=0":                `--stop "share=0": share=0: want a number over 0 and at most 1`,
		"share=NaN":              `--stop "share=NaN": share=NaN: want a number over 0 and at most 1`,
		"share=30%":              `--stop "share=30%": share=30%: want a number over 0 and at most 1`,
		"count=0":                `--stop "count=0": count=0: want a whole number from 1`,
		"count=1,share=0.5":      `--stop "count=1,share=0.5": give share or count, not both`,
		"at=7":                   `--stop "at=7": at=7: want a local time such as 07:20, a time after the start such as +90s, or RFC 3339`,
		"at=07:60":               `--stop "at=07:60": at=07:60: want a local time such as 07:20, a time after the start such as +90s, or RFC 3339`,
		"at=48:00":               `--stop "at=48:00": at=48:00: want a local time such as 07:20, a time after the start such as +90s, or RFC 3339`,
		"at=+soon":               `--stop "at=+soon": at=+soon: want a duration after the plus sign, such as +90s`,
		"for=15":                 `--stop "for=15": for=15: want a duration such as 90s, 15m or 2h`,
		"for=-1m":                `--stop "for=-1m": for=-1m: want a duration such as 90s, 15m or 2h`,
		"route=1,route=2":        `--stop "route=1,route=2": route stands there twice`,
		"route=36,at=07:20,for=": `--stop "route=36,at=07:20,for=": "for=" is not key=value; give for example route=36,share=0.3,at=07:20,for=15m`,
	} {
		if _, err := city.ParseOutage(city.Stop, spec, start, time.UTC); err == nil || err.Error() != want {
			t.Errorf("%s: got %v\nwant %s", spec, err, want)
		}
	}
}

func FuzzParseOutage(f *testing.F) {
	f.Add("route=36,share=0.3,at=07:20,for=15m")
	f.Add("count=3,at=+1h")
	f.Add("at=2026-11-22T12:00:00Z,machine=x")
	start := time.Date(2026, 11, 22, 5, 30, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, spec string) {
		o, err := city.ParseOutage(city.Cut, spec, start, time.UTC)
		if err == nil && (o.Share <= 0 || o.Share > 1 || o.Count < 0 || o.For < 0 || o.At.IsZero()) {
			t.Errorf("%q gave %+v", spec, o)
		}
	})
}

func TestTheClock(t *testing.T) {
	real := time.Unix(1000, 0)
	c := city.NewClock(day, 60, func() time.Time { return real })
	real = real.Add(time.Hour)
	if !c.Now().Equal(day) {
		t.Errorf("before Begin it is %s", c.Now())
	}
	c.Begin()
	real = real.Add(2 * time.Second)
	c.Begin()
	if want := day.Add(2 * time.Minute); !c.Now().Equal(want) {
		t.Errorf("after 2 s at 60 times it is %s, want %s", c.Now(), want)
	}
	if got := c.Real(15 * time.Second); got != 250*time.Millisecond {
		t.Errorf("15 s take %s", got)
	}
	if got := city.NewClock(day, -3, time.Now).Speed(); got != 1 {
		t.Errorf("a speed of -3 became %g", got)
	}
}
