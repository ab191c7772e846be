package expect_test

import (
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/fleet/expect"
	"github.com/farebeat/farebeat/fleet/expect/gtfs"
)

func TestReadHolidays(t *testing.T) {
	got, err := expect.ReadHolidays("h", strings.NewReader("\ufeff# Germany\r\n2026-12-25 # Christmas\r\n\r\n20261226\n2026-12-25\n"))
	if want := map[gtfs.Date]bool{date(t, "2026-12-25"): true, date(t, "2026-12-26"): true}; err != nil || !maps.Equal(got, want) {
		t.Error(err, cmp.Diff(want, got))
	}
	for text, want := range map[string]string{
		"2026-12-25\n25.12.2026\n":    `h line 2: date "25.12.2026": want YYYY-MM-DD or YYYYMMDD`,
		"2026-02-30":                  `h line 1: date "2026-02-30": want YYYY-MM-DD or YYYYMMDD`,
		strings.Repeat("x", 100_000):  `read h: bufio.Scanner: token too long`,
		"2026-12-25 2026-12-26 # two": `h line 1: date "2026-12-25 2026-12-26": want YYYY-MM-DD or YYYYMMDD`,
	} {
		if _, err := expect.ReadHolidays("h", strings.NewReader(text)); err == nil || err.Error() != want {
			t.Errorf("\n got %v\nwant %s", err, want)
		}
	}
}

func FuzzReadHolidays(f *testing.F) {
	f.Add("\ufeff# x\n2026-12-25 # y\r\n20261226")
	f.Fuzz(func(t *testing.T, text string) {
		holidays, err := expect.ReadHolidays("h", strings.NewReader(text))
		if err != nil {
			return
		}
		for d := range holidays {
			if (expect.Days{Holidays: holidays}).Type(d) != expect.Sunday {
				t.Errorf("%s is no Sunday", d)
			}
		}
	})
}
