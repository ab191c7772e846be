package series_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	protocol "github.com/influxdata/line-protocol"

	"github.com/farebeat/farebeat/fleet/counts"
	"github.com/farebeat/farebeat/fleet/series"
	"github.com/farebeat/farebeat/fleet/store"
)

// influxd is a real InfluxDB 1.8.
type influxd struct {
	t       testing.TB
	bin     string
	dir     string
	address string
	cmd     *exec.Cmd
}

// startInflux starts the InfluxDB that FAREBEAT_INFLUXD names.
func startInflux(t testing.TB) *influxd {
	bin := os.Getenv("FAREBEAT_INFLUXD")
	if bin == "" {
		t.Skip("FAREBEAT_INFLUXD names no influxd 1.8: scripts/test builds one and runs this")
	}
	d := &influxd{t: t, bin: bin, dir: t.TempDir(), address: freeAddress(t)}
	config := fmt.Sprintf(`
reporting-disabled = true
bind-address = %q
[meta]
  dir = %q
[data]
  dir = %q
  wal-dir = %q
  query-log-enabled = false
[http]
  bind-address = %q
  flux-enabled = true
  log-enabled = false
[monitor]
  store-enabled = false
[logging]
  level = "error"
`, freeAddress(t), filepath.Join(d.dir, "meta"), filepath.Join(d.dir, "data"), filepath.Join(d.dir, "wal"), d.address)
	if err := os.WriteFile(filepath.Join(d.dir, "influxdb.conf"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	d.start()
	t.Cleanup(d.kill)
	d.query("CREATE DATABASE farebeat")
	return d
}

func freeAddress(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (d *influxd) start() {
	d.t.Helper()
	d.cmd = exec.Command(d.bin, "-config", filepath.Join(d.dir, "influxdb.conf"))
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; {
		if r, err := http.Get("http://" + d.address + "/ping"); err == nil {
			r.Body.Close()
			return
		}
		if time.Now().After(end) {
			d.t.Fatal("influxd did not start within a minute")
		}
		<-time.After(20 * time.Millisecond)
	}
}

// kill ends it at once, as kill -9 does.
func (d *influxd) kill() {
	if d.cmd != nil {
		_ = d.cmd.Process.Kill() // it may have ended
		_ = d.cmd.Wait()
		d.cmd = nil
	}
}

// query asks in InfluxQL.
func (d *influxd) query(q string) (rows [][]any) {
	d.t.Helper()
	r, err := http.PostForm("http://"+d.address+"/query?epoch=s&db=farebeat", url.Values{"q": {q}})
	if err != nil {
		d.t.Fatal(err)
	}
	defer r.Body.Close()
	var answer struct {
		Results []struct {
			Error  string
			Series []struct {
				Tags   map[string]string
				Values [][]any
			}
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&answer); err != nil {
		d.t.Fatal(err)
	}
	for _, x := range answer.Results {
		if x.Error != "" {
			d.t.Fatalf("%s: %s", q, x.Error)
		}
		for _, s := range x.Series {
			for _, v := range s.Values {
				rows = append(rows, append([]any{s.Tags["route"]}, v...))
			}
		}
	}
	return rows
}

// points are all points of a measurement, by route and second.
func (d *influxd) points(field, measurement string) map[string]float64 {
	d.t.Helper()
	out := map[string]float64{}
	for _, row := range d.query(fmt.Sprintf("SELECT %s FROM %s GROUP BY route", field, measurement)) {
		out[fmt.Sprintf("%v %.0f", row[0], row[1])] = row[2].(float64)
	}
	return out
}

func (d *influxd) config(name string) series.Config {
	return series.Config{Name: name, URL: "http://" + d.address, Bucket: "farebeat", Timeout: 5 * time.Second}
}

// fake is a server that really parses what it is sent and keeps it, and answers as the test says, in the ways of 2.x and 3.x.
type fake struct {
	*httptest.Server
	mu     sync.Mutex
	points map[string]float64 // n by route and second
	answer func(request int, lines []string) (code int, headers map[string]string, body string)
	asked  int
	most   int // lines in one request
}

func newFake(t testing.TB, answer func(int, []string) (int, map[string]string, string)) *fake {
	f := &fake{points: map[string]float64{}, answer: answer}
	f.Server = httptest.NewServer(http.HandlerFunc(f.serve))
	t.Cleanup(f.Close)
	return f
}

func (f *fake) serve(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var body io.Reader = r.Body
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		body = z
	}
	b, err := io.ReadAll(body)
	if err != nil || r.URL.Path != "/api/v2/write" || r.URL.Query().Get("precision") != "s" {
		http.Error(w, "not a write", http.StatusNotFound)
		return
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	f.asked++
	f.most = max(f.most, len(lines))
	code, headers, text := http.StatusNoContent, map[string]string(nil), ""
	if f.answer != nil {
		code, headers, text = f.answer(f.asked, lines)
	}
	if code == 0 { // the connection breaks in the middle of the answer
		f.keep(b)
		panic(http.ErrAbortHandler)
	}
	for k, v := range headers {
		w.Header().Set(k, v)
	}
	if code < 300 || strings.Contains(text, "partial write") {
		f.keep(b)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = io.WriteString(w, text)
}

func (f *fake) keep(b []byte) {
	handler := protocol.NewMetricHandler()
	handler.SetTimePrecision(time.Second)
	points, _ := protocol.NewParser(handler).Parse(b)
	for _, p := range points {
		for _, field := range p.FieldList() {
			if field.Key == "n" {
				f.points[fmt.Sprintf("%s %d", p.TagList()[0].Value, p.Time().Unix())] = float64(field.Value.(int64))
			}
		}
	}
}

func (f *fake) config(name string) series.Config {
	return series.Config{Name: name, URL: f.URL, Token: "secret", Org: "o", Bucket: "b", Timeout: 5 * time.Second}
}

// book is a store with minutes in it.
type book struct {
	t    testing.TB
	path string
	*store.Store
	next int // minute
}

func newBook(t testing.TB) *book {
	b := &book{t: t, path: filepath.Join(t.TempDir(), "farebeat.db")}
	b.reopen()
	t.Cleanup(func() { b.Close() })
	return b
}

func (b *book) reopen() {
	var err error
	if b.Store, err = store.Open(context.Background(), b.path, store.Options{}); err != nil {
		b.t.Fatal(err)
	}
}

const routes = 7

// write saves minutes; the number online of a route is told by minute and route.
func (b *book) write(minutes int) {
	b.t.Helper()
	for range minutes {
		if err := b.Counts().SaveFrame(context.Background(), b.frame(b.next)); err != nil {
			b.t.Fatal(err)
		}
		b.next++
	}
}

func (b *book) frame(minute int) counts.Frame {
	f := counts.Frame{At: noon.Add(time.Duration(minute) * time.Minute)}
	for r := range routes {
		n := (minute*routes + r + 97_000) % 97
		f.Rows = append(f.Rows, counts.RouteMinute{Route: fmt.Sprint("R", r), Online: n, Known: n, Min: n, Max: n})
	}
	return f
}

// want is what an InfluxDB must hold.
func (b *book) want() map[string]float64 {
	out := map[string]float64{}
	err := b.Counts().Frames(context.Background(), time.Time{}, noon.AddDate(1, 0, 0), func(f counts.Frame) error {
		for _, r := range f.Rows {
			out[fmt.Sprintf("%s %d", r.Route, f.At.Unix())] = float64(r.Online)
		}
		return nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return out
}

func (b *book) options() series.Options {
	return series.Options{Counts: b.Counts(), Cursors: b.Store, Now: time.Now}
}

// ship runs a sink until it has shipped all, or stop says so.
func (b *book) ship(c series.Config, stop func(series.Status) bool) series.Status {
	b.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s, err := series.New(ctx, c, b.options())
	if err != nil {
		b.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { s.Run(ctx); close(ended) }()
	end := time.NewTimer(2 * time.Minute)
	defer end.Stop()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for {
		select {
		case <-end.C:
			b.t.Fatalf("not shipped within two minutes: %+v", s.Status())
		case <-look.C:
		}
		if stop == nil && b.shipped(c.Name) && idle(s.Status()) || stop != nil && stop(s.Status()) {
			cancel()
			<-ended
			return s.Status()
		}
	}
}

// idle reports whether a sink says that nothing waits. It says so a moment after it moved its cursor.
func idle(st series.Status) bool { return st.Behind == 0 && st.Since.IsZero() }

// shipped reports whether the cursor stands behind all changes.
func (b *book) shipped(sink string) bool {
	value, err := b.Meta(context.Background(), series.CursorName(sink))
	last, errLast := b.Counts().LastChange(context.Background())
	if err := errors.Join(err, errLast); err != nil {
		b.t.Fatal(err)
	}
	var c struct{ N int64 }
	return value != nil && json.NewDecoder(bytes.NewReader(value)).Decode(&c) == nil && c.N == last
}

func same(t testing.TB, want, got map[string]float64) {
	t.Helper()
	missing, other := 0, 0
	for k, v := range want {
		if g, ok := got[k]; !ok {
			missing++
		} else if g != v {
			other++
		}
	}
	if missing+other > 0 || len(got) != len(want) {
		t.Errorf("%d points are missing, %d have another value, %d are there of %d", missing, other, len(got), len(want))
	}
}
