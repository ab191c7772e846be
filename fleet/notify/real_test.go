package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/store"
)

// alertmanagerVariable names the program of Alertmanager.
const alertmanagerVariable = "FAREBEAT_ALERTMANAGER"

// realAlertmanager is the program itself, on an address of its own.
type realAlertmanager struct {
	t       *testing.T
	program string
	config  string
	address string
	cmd     *exec.Cmd
	exited  chan struct{}
}

// pager is whom Alertmanager notifies.
type pager struct{ pages chan string }

func (p *pager) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var m struct {
		Alerts []struct {
			Status string            `json:"status"`
			Labels map[string]string `json:"labels"`
		} `json:"alerts"`
	}
	if err := json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&m); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	for _, a := range m.Alerts {
		p.pages <- fmt.Sprintf("%s %s %s", a.Labels["alertname"], a.Labels["fault"], a.Status)
	}
}

// next wants the next pages to be these, in any order. It waits for as long as the test may run.
func (p *pager) next(t *testing.T, want ...string) {
	t.Helper()
	got := make([]string, len(want))
	for i := range got {
		got[i] = <-p.pages
	}
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func newRealAlertmanager(t *testing.T) (*realAlertmanager, *pager) {
	t.Helper()
	program := os.Getenv(alertmanagerVariable)
	if program == "" {
		t.Skipf("%s names no Alertmanager; scripts/test installs one and sets it", alertmanagerVariable)
	}
	p := &pager{pages: make(chan string, 100)}
	server := httptest.NewServer(p)
	t.Cleanup(server.Close)
	config := filepath.Join(t.TempDir(), "alertmanager.yml")
	text := fmt.Sprintf(`route: {receiver: pager, group_by: [fault], group_wait: 0s, group_interval: 1s, repeat_interval: 4h}
receivers: [{name: pager, webhook_configs: [{url: %q, send_resolved: true}]}]
`, server.URL)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	a := &realAlertmanager{t: t, program: program, config: config, address: address}
	t.Cleanup(a.stop)
	return a, p
}

// start starts it with an empty state and waits until it serves.
func (a *realAlertmanager) start() {
	a.t.Helper()
	var log bytes.Buffer
	a.cmd = exec.Command(a.program, "--config.file="+a.config, "--storage.path="+a.t.TempDir(), "--web.listen-address="+a.address, "--cluster.listen-address=")
	a.cmd.Stderr = &log
	if err := a.cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	process, exited := a.cmd, make(chan struct{})
	go func() { _ = process.Wait(); close(exited) }()
	a.exited = exited
	for {
		res, err := http.Get("http://" + a.address + "/-/ready")
		if err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case <-exited:
			a.t.Fatalf("Alertmanager ended: %s", &log)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// stop kills it, and with it all that it knew.
func (a *realAlertmanager) stop() {
	if a.exited == nil {
		return
	}
	_ = a.cmd.Process.Kill() // it may have ended
	<-a.exited
}

// A person is paged once when a fault opens and once when it ended, whatever happens to us and to Alertmanager meanwhile.
func TestRealAlertmanagerPagesOnce(t *testing.T) {
	am, pager := newRealAlertmanager(t)
	am.start()
	s, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "fleet.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var ahead atomic.Int64 // what the clock is ahead of the wall
	r := &rig{t: t, store: s}
	r.o = Options{
		Store: s, Tree: tree(t), Logger: slog.New(slog.NewTextHandler(r, nil)),
		Now:           func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) },
		Alertmanagers: []Alertmanager{{Name: "am", URL: "http://" + am.address}},
	}
	r.start()
	a, b := machineLife("a"), newLife("b", faults.Subject{Route: "36"}, faults.RouteSilent, time.Now())
	r.save(a.opened())
	pager.next(t, "FarebeatCustody a firing")
	for range 3 {
		r.kill()
		r.start()
		r.settled()
	}
	r.save(b.opened())
	pager.next(t, "FarebeatRoute b firing") // and not a once more
	r.save(b.closed())
	pager.next(t, "FarebeatRoute b resolved")

	am.stop()
	c := machineLife("c")
	r.save(c.opened(), a.change(faults.ChangeUpdated, nil)) // while Alertmanager is away
	am.start()                                              // and knows nothing
	pager.next(t, "FarebeatCustody a firing", "FarebeatCustody c firing")
	am.stop()
	am.start()
	ahead.Add(int64(r.o.Resend + DefaultResend)) // nothing changed; it is time to send all again
	r.n.Poke()
	pager.next(t, "FarebeatCustody a firing", "FarebeatCustody c firing")
	r.kill()
	r.save(a.closed(), c.closed()) // while nobody could tell
	r.start()
	pager.next(t, "FarebeatCustody a resolved", "FarebeatCustody c resolved")
	r.settled()
	r.kill()
	am.stop()
	select {
	case page := <-pager.pages:
		t.Errorf("paged %q too", page)
	default:
	}
}

// settled waits until all that was saved was taken.
func (r *rig) settled() {
	r.t.Helper()
	last, err := r.store.LastEvent(context.Background())
	if err != nil {
		r.t.Fatal(err)
	}
	for {
		var c cursor
		value, err := r.store.Meta(context.Background(), "notify.alertmanager.am")
		if err == nil {
			err = json.Unmarshal(value, &c)
		}
		if err != nil {
			r.t.Fatal(err)
		}
		if s := r.n.Status()[0]; c.N == last && (s.Sent > 0 || last == 0) {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Alertmanager takes everything that we may send: it checks more than its specification says.
func TestRealAlertmanagerTakesEveryKind(t *testing.T) {
	am, _ := newRealAlertmanager(t)
	am.start()
	o := Options{Tree: tree(t), Now: time.Now, Alertmanagers: []Alertmanager{{Name: "am", URL: "http://" + am.address + "/"}}}
	if got, err := Test(t.Context(), o, "am"); err != nil || got.Status != http.StatusOK {
		t.Errorf("%+v, %v", got, err)
	}
	n, err := build(o)
	if err != nil {
		t.Fatal(err)
	}
	sender := n.channels[0].sender.(*alertmanager)
	for _, kind := range append(faults.Kinds(), "kind_of_tomorrow", "\xff") {
		f := faults.Fault{ID: "x", Kind: kind, Severity: "", Subject: faults.Subject{Machine: "m \"\\\n\xff{}", Route: "36é"}, OpenedAt: time.Now()}
		part := alerts("demo", f, originOf(f, nil), time.Now(), time.Now().Add(time.Minute))
		if _, err := sender.request(t.Context(), part); err != nil || len(part) != 1 {
			t.Errorf("%s: %v", kind, err)
		}
	}
	var got []struct{ Labels map[string]string }
	res, err := http.Get("http://" + am.address + "/api/v2/alerts")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(&got); err != nil {
		t.Fatal(err)
	}
	families := map[string]bool{}
	for _, a := range got {
		families[a.Labels["alertname"]] = true
	}
	want := map[string]bool{"FarebeatTest": true}
	for _, kind := range append(faults.Kinds(), "kind_of_tomorrow", "\xff") {
		want[alertNameAsSent(kind)] = true
	}
	if diff := cmp.Diff(want, families); diff != "" {
		t.Error(diff)
	}
}

func alertNameAsSent(kind faults.Kind) string {
	return clean(map[string]string{"n": alertName(kind.Entry().Family)})["n"]
}
