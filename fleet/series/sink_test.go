package series_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/fleet/counts"
	"github.com/farebeat/farebeat/fleet/series"
	"github.com/farebeat/farebeat/fleet/store"
)

func TestEverythingArrivesInARealInfluxDB(t *testing.T) {
	d := startInflux(t)
	b := newBook(t)
	b.write(300)
	hours := []counts.HourRow{{Start: noon, Length: time.Hour, Heard: time.Hour, Online: 3 * time.Hour, Route: "R1", Distinct: 4, Peak: 4, Lowest: 2, P10: 2, P50: 3, P90: 4}}
	if err := b.Counts().SaveHours(t.Context(), hours); err != nil {
		t.Fatal(err)
	}
	st := b.ship(d.config("first"), nil)
	same(t, b.want(), d.points("n", "online"))
	if got := d.points("mean", "online_1h"); len(got) != 1 || got[fmt.Sprint("R1 ", noon.Unix())] != 3 {
		t.Errorf("hours: %v", got)
	}
	if st.Shipped != 300*routes+1 || st.Dropped+st.Aside != 0 || st.Behind != 0 || !st.Since.IsZero() {
		t.Errorf("%+v", st)
	}
	// A minute that is saved again, or late, comes too.
	again := b.frame(17)
	again.Rows[0].Online = 1000
	again.Rows[0].Max = 1000
	for _, f := range []counts.Frame{again, b.frame(-600)} {
		if err := b.Counts().SaveFrame(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
	b.ship(d.config("first"), nil)
	same(t, b.want(), d.points("n", "online"))
	// A second sink begins with all that there is, and backfill puts back what somebody deleted.
	b.ship(d.config("second"), nil)
	d.query("DELETE FROM online WHERE route = 'R3'")
	done := 0
	if _, _, err := series.Backfill(t.Context(), d.config("first"), b.options(), time.Time{}, noon.AddDate(1, 0, 0), func(time.Time) { done++ }); err != nil || done != 301 {
		t.Errorf("%d minutes, %v", done, err)
	}
	same(t, b.want(), d.points("n", "online"))
}

// A store that was lost is read back: every minute as it was, and nothing that is there is touched.
func TestRebuildFromARealInfluxDB(t *testing.T) {
	d := startInflux(t)
	b := newBook(t)
	b.write(150)
	blind := b.frame(70)
	blind.Blind = true
	hour := counts.HourRow{Start: noon, Length: time.Hour, Heard: time.Hour, Online: 90 * time.Minute, Route: "R1", Distinct: 4, Peak: 4, Lowest: 2, P10: 2, P50: 3, P90: 4}
	if err := errors.Join(b.Counts().SaveFrame(t.Context(), blind), b.Counts().SaveHours(t.Context(), []counts.HourRow{hour})); err != nil {
		t.Fatal(err)
	}
	b.ship(d.config("x"), nil)
	fresh := newBook(t)
	mine := fresh.frame(20)
	mine.Rows = mine.Rows[:1]
	mine.Rows[0].Online, mine.Rows[0].Max = 999, 999
	if err := fresh.Counts().SaveFrame(t.Context(), mine); err != nil {
		t.Fatal(err)
	}
	r, closeReader := series.NewReader(d.config("x"))
	defer closeReader()
	hours := 0
	out, err := series.Rebuild(t.Context(), r, fresh.Counts(), noon.Add(-time.Hour), noon.Add(4*time.Hour), func(time.Time) { hours++ })
	if err != nil || out != (series.Rebuilt{Minutes: 149, Hours: 1}) || hours != 5 {
		t.Fatalf("%+v, %d hours looked at, %v", out, hours, err)
	}
	want, got := frames(t, b), frames(t, fresh)
	want[20] = mine
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if rows, err := fresh.Counts().Hours(t.Context(), noon, noon.Add(time.Hour), ""); err != nil || cmp.Diff([]counts.HourRow{hour}, rows) != "" {
		t.Errorf("%v, %v", rows, err)
	}
	if again, err := series.Rebuild(t.Context(), r, fresh.Counts(), noon, noon.Add(4*time.Hour), nil); err != nil || again != (series.Rebuilt{}) {
		t.Errorf("again: %+v, %v", again, err)
	}
	c := d.config("x")
	c.Bucket = "nowhere"
	other, closeOther := series.NewReader(c)
	defer closeOther()
	if _, err := series.Rebuild(t.Context(), other, fresh.Counts(), noon, noon.Add(time.Hour), nil); err == nil || !strings.Contains(err.Error(), "database not found") {
		t.Error(err)
	}
}

func frames(t *testing.T, b *book) []counts.Frame {
	t.Helper()
	var out []counts.Frame
	if err := b.Counts().Frames(t.Context(), noon, noon.AddDate(1, 0, 0), func(f counts.Frame) error { out = append(out, f); return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestShip is the exporter in a process of its own, for the next test to kill.
func TestShip(t *testing.T) {
	if os.Getenv("FAREBEAT_SHIP") == "" {
		t.Log("only as a child process")
		return
	}
	b := &book{t: t, path: os.Getenv("FAREBEAT_SHIP")}
	b.reopen()
	last := 0
	if err := b.Counts().Frames(t.Context(), noon, noon.AddDate(1, 0, 0), func(counts.Frame) error { last++; return nil }); err != nil {
		t.Fatal(err)
	}
	b.next = last
	c := series.Config{Name: "influx", URL: os.Getenv("FAREBEAT_SHIP_TO"), Bucket: "farebeat", Timeout: time.Second}
	s, err := series.New(t.Context(), c, b.options())
	if err != nil {
		t.Fatal(err)
	}
	go s.Run(context.Background())
	for { // a minute every few milliseconds, until somebody kills us
		b.write(1)
		s.Poke()
		time.Sleep(3 * time.Millisecond)
	}
}

// InfluxDB is away for a while, and meanwhile the process that counts and ships is killed three times: afterwards no point
// is missing. FAREBEAT_OUTAGE says for how long, 6 s without it.
func TestOutageAndKillsLoseNothing(t *testing.T) {
	d := startInflux(t)
	outage := 6 * time.Second
	if v := os.Getenv("FAREBEAT_OUTAGE"); v != "" {
		var err error
		if outage, err = time.ParseDuration(v); err != nil {
			t.Fatal(err)
		}
	}
	b := newBook(t)
	path := b.path
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	var child *exec.Cmd
	start := func() {
		child = exec.Command(os.Args[0], "-test.run", "^TestShip$", "-test.timeout", "0")
		child.Env = append(os.Environ(), "FAREBEAT_SHIP="+path, "FAREBEAT_SHIP_TO=http://"+d.address)
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
	}
	kill := func() {
		_ = child.Process.Kill() // as kill -9
		_ = child.Wait()
	}
	start()
	wait(t, func() bool { return len(d.points("n", "online")) > 50*routes })
	d.kill()
	for range 3 {
		time.Sleep(outage / 4)
		kill()
		start()
	}
	time.Sleep(outage / 4)
	d.start()
	before := len(d.points("n", "online"))
	wait(t, func() bool { return len(d.points("n", "online")) > before })
	kill()
	b.reopen()
	want := b.want()
	b.ship(series.Config{Name: "influx", URL: "http://" + d.address, Bucket: "farebeat", Timeout: 5 * time.Second}, nil)
	same(t, want, d.points("n", "online"))
	t.Logf("away for %s, killed 4 times: %d points in the store, %d before InfluxDB came back, all there", outage, len(want), before)
}

func wait(t testing.TB, done func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !done(); {
		if time.Now().After(end) {
			t.Fatal("it did not happen within two minutes")
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestAnswers(t *testing.T) {
	refuse := func(code int, body string, headers ...string) func(int, []string) (int, map[string]string, string) {
		return func(n int, _ []string) (int, map[string]string, string) {
			h := map[string]string{}
			for i := 0; i+1 < len(headers); i += 2 {
				h[headers[i]] = headers[i+1]
			}
			if n <= 2 {
				return code, h, body
			}
			return http.StatusNoContent, nil, ""
		}
	}
	bad := func(code int, body string) func(int, []string) (int, map[string]string, string) {
		return func(_ int, lines []string) (int, map[string]string, string) {
			for _, l := range lines {
				if strings.HasPrefix(l, "online,route=R3 ") && strings.HasSuffix(l, fmt.Sprint(noon.Add(5*time.Minute).Unix())) {
					return code, nil, body
				}
			}
			return http.StatusNoContent, nil, ""
		}
	}
	for name, tc := range map[string]struct {
		answer  func(int, []string) (int, map[string]string, string)
		lost    int // points that never come
		aside   uint64
		dropped uint64
	}{
		"503":                   {answer: refuse(503, `{"code":"unavailable","message":"busy"}`)},
		"500":                   {answer: refuse(500, `{"error":"engine: cache maximum memory size exceeded"}`)},
		"429":                   {answer: refuse(429, `{"code":"too many requests","message":"slow"}`, "Retry-After", "1")},
		"the connection breaks": {answer: refuse(0, "")},
		"one bad line, 2.x":     {answer: bad(400, `{"code":"invalid","message":"unable to parse 'online': bad timestamp"}`), lost: 1, aside: 1},
		"one bad line, 422":     {answer: bad(422, `{"code":"unprocessable entity","message":"failure writing points to database: field type conflict"}`), lost: 1, aside: 1},
		"too large": {answer: func(_ int, lines []string) (int, map[string]string, string) {
			if len(lines) > 10 {
				return 413, nil, `{"code":"request too large","message":"cannot read data: points batch is too large"}`
			}
			return 204, nil, ""
		}},
		"partial write": {answer: bad(400, `{"code":"invalid","message":"partial write: points beyond retention policy dropped=3"}`), dropped: 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t, tc.answer)
			b := newBook(t)
			b.write(20)
			st := b.ship(f.config("x"), nil)
			want := b.want()
			if tc.lost > 0 {
				delete(want, fmt.Sprint("R3 ", noon.Add(5*time.Minute).Unix()))
			}
			same(t, want, f.points)
			asides, err := b.Counts().Asides(t.Context(), "x")
			if err != nil || st.Aside != tc.aside || uint64(len(asides)) != tc.aside || st.Dropped != tc.dropped {
				t.Errorf("%+v, %d lines aside, %v", st, len(asides), err)
			}
			if tc.aside > 0 && (!strings.HasPrefix(asides[0].Line, "online,route=R3 ") || asides[0].Reason == "") {
				t.Errorf("%+v", asides)
			}
			// What was dropped or set aside is remembered.
			if again := b.ship(f.config("x"), nil); again.Aside != tc.aside || again.Dropped != tc.dropped {
				t.Errorf("after a restart %+v", again)
			}
			f.mu.Lock()
			f.points = map[string]float64{}
			f.mu.Unlock()
			// Shipped again, it is refused again, and the rest is there.
			_, refused, err := series.Backfill(t.Context(), f.config("x"), b.options(), time.Time{}, noon.AddDate(1, 0, 0), nil)
			if err != nil || uint64(len(refused)) != tc.aside {
				t.Errorf("backfill: %d refused, %v", len(refused), err)
			}
			same(t, want, f.points)
		})
	}
}

// What takes no line at all is no reason to set any aside: all waits, somebody is told, and nothing is missing once it is mended.
func TestWhatTakesNothingLosesNothing(t *testing.T) {
	for name, refusal := range map[string]struct {
		code int
		body string
	}{
		"not InfluxDB": {400, "The plain HTTP request was sent to HTTPS port"},
		"other types":  {422, `{"code":"unprocessable entity","message":"partial write: field type conflict: input field \"n\" is type integer, already exists as type float dropped=1000000"}`},
		"a tiny proxy": {413, "too large"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var mended atomic.Bool
			f := newFake(t, func(int, []string) (int, map[string]string, string) {
				if mended.Load() {
					return http.StatusNoContent, nil, ""
				}
				return refusal.code, nil, refusal.body
			})
			b := newBook(t)
			b.write(20)
			st := b.ship(f.config("x"), func(st series.Status) bool { return st.Refused })
			if asides, err := b.Counts().Asides(t.Context(), "x"); len(asides) > 0 || err != nil || st.Aside+st.Dropped+st.Shipped > 0 || st.Behind != 20 {
				t.Errorf("%+v, %d set aside, %v", st, len(asides), err)
			}
			if f.asked > 20 {
				t.Errorf("it was asked %d times", f.asked)
			}
			mended.Store(true)
			f.mu.Lock()
			f.points = map[string]float64{} // what answered before was not it
			f.mu.Unlock()
			b.ship(f.config("x"), nil)
			same(t, b.want(), f.points)
		})
	}
}

// InfluxDB 1.8 takes a batch but for the points that its retention policy does not keep, and says so in its own way.
func TestPartialWritesOfARealInfluxDB(t *testing.T) {
	d := startInflux(t)
	d.query("CREATE RETENTION POLICY short ON farebeat DURATION 1h REPLICATION 1")
	b := newBook(t)
	b.write(3) // long ago, or far ahead: noon is fixed
	now := time.Now().Truncate(time.Minute)
	f := b.frame(3)
	f.At = now
	if err := b.Counts().SaveFrame(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	old := counts.Frame{At: now.Add(-48 * time.Hour), Rows: f.Rows}
	if err := b.Counts().SaveFrame(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	c := d.config("x")
	c.Bucket = "farebeat/short"
	st := b.ship(c, nil)
	if st.Dropped < routes || st.Aside != 0 || st.Shipped+st.Dropped != 5*routes {
		t.Errorf("%+v", st)
	}
	if rows := d.query(fmt.Sprintf("SELECT n FROM short.online WHERE time >= %ds GROUP BY route", now.Unix())); len(rows) < routes {
		t.Errorf("%d points of now are there", len(rows))
	}
	c.Bucket = "nowhere"
	c.Name = "y"
	st = b.ship(c, func(st series.Status) bool { return st.Refused })
	if !strings.Contains(st.Error, "database not found") {
		t.Errorf("%+v", st)
	}
}

// Somebody must mend the token: everything waits, nothing is lost, and it is said.
func TestRefused(t *testing.T) {
	for _, code := range []int{401, 403, 404} {
		f := newFake(t, func(int, []string) (int, map[string]string, string) {
			return code, nil, `{"code":"unauthorized","message":"no"}`
		})
		b := newBook(t)
		b.write(5)
		s, err := series.New(t.Context(), f.config("x"), b.options())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { s.Run(ctx); close(ended) }()
		wait(t, func() bool { return s.Failure() != nil })
		cancel()
		<-ended
		st := s.Status()
		if !st.Refused || st.Behind != 5 || !st.Oldest.Equal(noon) || !strings.Contains(s.Failure().Error(), "refuses: unauthorized: no") {
			t.Errorf("%d: %+v, %v", code, st, s.Failure())
		}
		f.mu.Lock()
		f.answer = nil
		f.mu.Unlock()
		b.ship(f.config("x"), nil)
		same(t, b.want(), f.points)
	}
}

// A sink that lags for long is a failure, and no longer when it goes on.
func TestLagIsAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBook(t)
		b.write(5)
		c := series.Config{Name: "x", URL: "http://127.0.0.1:1", Bucket: "b", Timeout: time.Second} // nobody listens there
		ctx, cancel := context.WithCancel(t.Context())
		s, err := series.New(ctx, c, b.options())
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() { s.Run(ctx); close(ended) }()
		time.Sleep(14 * time.Minute)
		if err := s.Failure(); err != nil {
			t.Error(err)
		}
		time.Sleep(5 * time.Minute)
		if err := s.Failure(); err == nil || !strings.Contains(err.Error(), "has taken nothing since") {
			t.Errorf("%v: %+v", err, s.Status())
		}
		cancel()
		<-ended
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		b.reopen() // for the cleanup
	})
}

func TestClassify(t *testing.T) {
	if a := series.Classify(nil); a.Action != series.Advance {
		t.Error(a)
	}
	if a := series.Classify(context.DeadlineExceeded); a.Action != series.Wait {
		t.Error(a)
	}
}

func BenchmarkShip5000Routes60Minutes(b *testing.B) {
	d := startInflux(b)
	bk := newBook(b)
	for m := range 60 {
		f := counts.Frame{At: noon.Add(time.Duration(m) * time.Minute)}
		for r := range 5_000 {
			f.Rows = append(f.Rows, counts.RouteMinute{Route: fmt.Sprint("R", r), Online: (m + r) % 40, Known: 40, Min: 0, Max: 40, Expected: 38})
		}
		if err := bk.Counts().SaveFrame(b.Context(), f); err != nil {
			b.Fatal(err)
		}
	}
	for i := 0; b.Loop(); i++ {
		bk.ship(d.config(fmt.Sprint("sink", i)), nil)
	}
	b.ReportMetric(float64(5_000*60*b.N)/b.Elapsed().Seconds(), "points/s")
}

var _ series.Store = (*store.Counts)(nil)
