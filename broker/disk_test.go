package broker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/farebeat/farebeat/broker"
	"github.com/farebeat/farebeat/broker/store"
)

// disk is a store that a test can stop, fail and look into.
type disk struct {
	broker.Journal
	mu     sync.Mutex
	fail   error
	groups []int // changes of each transaction
}

var errNoSpace = errors.New("no space left on device")

func (d *disk) Commit(changes []store.Change) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail != nil {
		return d.fail
	}
	if len(changes) > 0 {
		d.groups = append(d.groups, len(changes))
	}
	return d.Journal.Commit(changes)
}

func (d *disk) set(err error) {
	d.mu.Lock()
	d.fail = err
	d.mu.Unlock()
}

func openStore(t testing.TB, file string) *store.Store {
	t.Helper()
	s, err := store.Open(context.Background(), file, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// withStore runs a broker on a file within a test and closes both.
func withStore(t *testing.T, file string, o broker.Options, test func(b *broker.Broker, d *disk)) {
	t.Helper()
	o.Tree, o.Store = tampa(t), openStore(t, file)
	b, err := broker.New(o)
	if err != nil {
		t.Fatal(err)
	}
	d := &disk{}
	b.SetJournal(func(j broker.Journal) broker.Journal { d.Journal = j; return d })
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer func() { // also when the test gives up: a bubble must not be left with goroutines in it
		closeBroker(t, b)
		if err := o.Store.Close(); err != nil {
			t.Error(err)
		}
	}()
	test(b, d)
}

// Nothing of a QoS-1 publish is seen before it is on disk: no acknowledgement, no delivery, no retained message. Heartbeats
// and newcomers do not wait. Then all are acknowledged in their order, out of a few transactions.
func TestDurableBeforeTold(t *testing.T) {
	const n = 500
	file := filepath.Join(t.TempDir(), "broker.db")
	synctest.Test(t, func(t *testing.T) {
		withStore(t, file, broker.Options{}, func(b *broker.Broker, d *disk) {
			state := func(i, v int) pub {
				return pub{root + "machine/m" + strconv.Itoa(i) + "/state", strconv.Itoa(v), 1, true}
			}
			f := dial(t, b, fleetID, connect{id: "other"})
			f.mustPublish(state(0, 1))
			r := dial(t, b, viewerID, connect{id: "r"})
			r.subscribe(1, root+"machine/#")
			r.expect("machine/m0/state=1")
			groups := len(d.groups)

			d.set(errNoSpace)
			for i := range n {
				if err := f.publish(state(i, 2)); err != nil {
					t.Fatal(err)
				}
			}
			f.ping() // read, and not acknowledged: ping returns what came before its answer
			m := dial(t, b, machineID("m1"), connect{id: "m"})
			m.mustPublish(pub{topic: root + "machine/m1/heartbeat", payload: "{}"})
			r.expect("machine/m1/heartbeat={}")
			late := dial(t, b, viewerID, connect{id: "late"})
			late.subscribe(1, root+"machine/+/state")
			late.expect("machine/m0/state=1")
			if got := append(f.ping(), append(r.ping(), late.ping()...)...); len(got) != 0 {
				t.Fatalf("%d packets before the disk has anything: %s", len(got), text(got[0]))
			}

			d.set(nil)
			time.Sleep(10 * time.Second) // the next attempt
			for i := range n {
				ack, err := f.read()
				if err != nil || ack.FixedHeader.Type != packets.Puback || ack.PacketID != uint16(i+2) {
					t.Fatalf("%v %d %v, want the acknowledgement of %d", ack.FixedHeader.Type, ack.PacketID, err, i+2)
				}
			}
			for i := range n {
				r.expect(fmt.Sprintf("machine/m%d/state=2", i))
				late.expect(fmt.Sprintf("machine/m%d/state=2", i))
			}
			if got := len(d.groups) - groups; got > 3 {
				t.Errorf("%d transactions for publishes of one connection that were on their way together", got)
			}
		})
	})
}

// A subscription of a session that is to outlive the broker is on disk before it is acknowledged. Neither a newcomer that asks for
// no such thing waits for a disk that fails, nor the fleet in the process, nor one whose subscription stands.
func TestSubscriptionsAreDurable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "broker.db")
	synctest.Test(t, func(t *testing.T) {
		withStore(t, file, broker.Options{}, func(b *broker.Broker, d *disk) {
			old := dial(t, b, gatewayID("v1"), connect{id: "old", keep: true})
			old.subscribe(1, root+"command/v1/+")
			d.set(errNoSpace)
			granted := make(chan bool, 1)
			g := dial(t, b, gatewayID("v1"), connect{id: "g", keep: true})
			go func() {
				g.subscribe(1, root+"command/v1/+")
				granted <- true
			}()
			time.Sleep(10 * time.Second)
			select {
			case <-granted:
				t.Error("it was granted before it was on disk")
			default:
			}
			dial(t, b, viewerID, connect{id: "r"}).subscribe(1, root+"#")
			dial(t, b, fleetID, connect{id: "fleet", keep: true}).subscribe(1, root+"#")
			old.subscribe(1, root+"command/v1/+")
			time.Sleep(10 * time.Second)
			d.set(nil)
			<-granted
			ended := make(chan bool, 1)
			d.set(errNoSpace)
			go func() {
				g.unsubscribe(root + "command/v1/+")
				ended <- true
			}()
			g2 := dial(t, b, gatewayID("v2"), connect{id: "g", keep: true})
			go g2.trySend(packets.Packet{
				FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: 1, Filters: packets.Subscriptions{{Filter: root + "command/v2/+", Qos: 1}},
			})
			time.Sleep(10 * time.Second)
			g2.net.Close() // one that waits may go
			select {
			case <-ended:
				t.Error("the end of a subscription was granted before it was on disk")
			default:
			}
			d.set(nil)
			<-ended
		})
	})
}

// A disk that fails is tried again and again, tells, and loses nothing; publishers wait once enough has collected.
func TestFailingDisk(t *testing.T) {
	file := filepath.Join(t.TempDir(), "broker.db")
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		withStore(t, file, broker.Options{Registry: reg}, func(b *broker.Broker, d *disk) {
			f := dial(t, b, fleetID, connect{id: "other"})
			r := dial(t, b, viewerID, connect{id: "r"})
			r.subscribe(1, root+"vehicle/#")
			d.set(errNoSpace)
			sent := make(chan int, 1)
			go func() { // more than may wait, of one connection and in all
				for i := range 900 {
					if err := f.publish(pub{root + "vehicle/v1/transactions/m1/1-1-" + strconv.Itoa(i+1), strings.Repeat("x", 100_000), 1, true}); err != nil {
						t.Error(err)
					}
				}
				sent <- 900
			}()
			time.Sleep(500 * time.Millisecond)
			if err := b.StoreFailure(); err != nil {
				t.Errorf("one attempt that failed is told: %v", err)
			}
			time.Sleep(time.Hour)
			err := b.StoreFailure()
			if err == nil || !errors.Is(err, errNoSpace) {
				t.Errorf("the failure is told as %v", err)
			}
			s := b.Stats()
			if !s.StoreFailing || s.StoreFailures < 400 || s.StoreFailures > 500 || s.StoreWaiting < 60<<20 || s.StoreWaiting > 80<<20 || s.Retained != 0 {
				t.Errorf("while it fails: %+v", s)
			}
			select {
			case <-sent:
				t.Error("the publisher was not slowed down")
			default:
			}
			if families, err := reg.Gather(); err != nil || len(families) != 13 {
				t.Errorf("%d metrics, %v", len(families), err)
			}

			d.set(nil)
			acked := make(chan struct{})
			go func() {
				defer close(acked)
				for range 900 {
					if ack, err := f.read(); err != nil || ack.FixedHeader.Type != packets.Puback {
						t.Errorf("%v %v instead of an acknowledgement", ack.FixedHeader.Type, err)
						return
					}
				}
			}()
			for i := range 900 {
				if pk := r.next(); !strings.HasSuffix(pk.TopicName, "/1-1-"+strconv.Itoa(i+1)) {
					t.Fatalf("got %s as number %d", pk.TopicName, i+1)
				}
			}
			<-acked
			synctest.Wait()
			if s := b.Stats(); s.StoreFailing || b.StoreFailure() != nil || s.StoreWaiting != 0 || s.Retained != 900 || s.PublishDropped != 0 {
				t.Errorf("after it: %+v, %v", s, b.StoreFailure())
			}
		})
	})
}

// A file that is full, with SQLite's own error.
func TestFullFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "broker.db")
	synctest.Test(t, func(t *testing.T) {
		withStore(t, file, broker.Options{}, func(b *broker.Broker, d *disk) {
			s := d.Journal.(*store.Store)
			if err := s.Limit(30); err != nil { // 120 kB
				t.Fatal(err)
			}
			g := dial(t, b, gatewayID("v1"), connect{id: "g"})
			topic := func(i int) string { return root + "vehicle/v1/transactions/m1/1-1-" + strconv.Itoa(i+1) }
			acked := 0
			for i := range 25 {
				if err := g.publish(pub{topic(i), strings.Repeat("x", 10_000), 1, true}); err != nil {
					t.Fatal(err)
				}
				time.Sleep(10 * time.Second)
				acked += len(g.ping())
			}
			if err := b.StoreFailure(); acked == 0 || acked > 12 || err == nil || !strings.Contains(err.Error(), "the disk is full") || !strings.Contains(err.Error(), file) {
				t.Fatalf("%d acknowledged in 120 kB, %v", acked, err)
			}
			if err := s.Limit(1 << 20); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			if acked += len(g.ping()); acked != 25 || b.StoreFailure() != nil {
				t.Errorf("%d of 25 acknowledged once there was space; %v", acked, b.StoreFailure())
			}
		})
		withStore(t, file, broker.Options{}, func(b *broker.Broker, _ *disk) {
			if n := b.Stats().Retained; n != 25 {
				t.Errorf("%d of 25 after the restart", n)
			}
		})
	})
}

// A file that is damaged is set aside, told, and its readable part used.
func TestDamagedFileIsTold(t *testing.T) {
	file := filepath.Join(t.TempDir(), "broker.db")
	if err := os.WriteFile(file, []byte(strings.Repeat("no database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		withStore(t, file, broker.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))}, func(b *broker.Broker, _ *disk) {
			if s := b.Stats(); s.StoreDamaged != 1 || !strings.Contains(log.String(), file+".damaged-") || !strings.Contains(log.String(), "publish it again") {
				t.Errorf("%+v, log %q", s, log.String())
			}
			dial(t, b, fleetID, connect{id: "f"}).mustPublish(pub{root + "fleet", "{}", 1, true})
		})
	})
}
