package fleet

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/farebeat/farebeat/fleet/tickets"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

// quickDir is a folder in memory where the system has such: a disk takes its time to sync.
func quickDir(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "farebeat-fleet-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// stand are the faults among what a broker retains.
func (d *depot) stand(retained map[string][]byte) map[string][]byte {
	out := map[string][]byte{}
	for topic, payload := range retained {
		if a, err := d.o.Tree.Parse(topic); err == nil && a.Kind == topics.VehicleFault {
			out[topic] = payload
		}
	}
	return out
}

// Whatever happens, every machine's fault that stands has one ticket for its vehicle that has not expired, unless the vehicle's are
// revoked, whose tickets never stand; numbers grow; and nothing changes while nothing happens.
func TestTicketsUnderAllThatCanHappen(t *testing.T) {
	runs := 0
	rapid.Check(t, func(r *rapid.T) {
		if runs++; underRace && runs > 20 {
			return // the race detector looks at the same code in each
		}
		d := newDepotIn(t, quickDir(t))
		defer func() { _ = d.store.Close() }()
		ids := []string{"m1", "m2", "m3"}
		last, secrets := map[string]uint64{}, map[string][schemas.TicketKeySize]byte{}
		silent, vehicle, revoked := map[string]bool{}, map[string]string{}, map[string]bool{}
		seq := uint64(0)
		beat := func() {
			for _, id := range ids {
				if silent[id] {
					continue
				}
				seq++
				v := "v" + id
				if vehicle[id] != "" {
					v = vehicle[id]
				}
				d.Heartbeat(id, schemas.AppendHeartbeat(nil, &schemas.Heartbeat{Seq: seq, Boot: "b", At: d.now, Vehicle: v, Route: "36", State: schemas.Running}))
			}
		}
		id := func(r *rapid.T) string { return rapid.SampledFrom(ids).Draw(r, "machine") }
		day := 365 * 24 * time.Hour
		r.Repeat(map[string]func(*rapid.T){
			"silent": func(r *rapid.T) { silent[id(r)] = true },
			"speaks": func(r *rapid.T) { silent[id(r)] = false },
			"moves":  func(r *rapid.T) { vehicle[id(r)] = rapid.SampledFrom([]string{"", "x"}).Draw(r, "to") },
			"time": func(r *rapid.T) {
				for range rapid.IntRange(1, 8).Draw(r, "rounds") {
					beat()
					d.now = d.now.Add(15 * time.Second)
					d.round(d.t.Context(), d.now)
				}
			},
			"clock": func(r *rapid.T) {
				d.now = d.now.Add(rapid.SampledFrom([]time.Duration{day, -day, time.Minute, -time.Minute}).Draw(r, "by"))
			},
			"restart":   func(*rapid.T) { d.restart() },
			"wiped":     func(*rapid.T) { clear(d.retained); d.connect() },
			"reconnect": func(*rapid.T) { d.connect() },
			"command": func(r *rapid.T) {
				d.command(rapid.SampledFrom([]string{"x", "vm1"}).Draw(r, "vehicle"), id(r), "c", d.now.Add(time.Duration(rapid.IntRange(1, 600).Draw(r, "s"))*time.Second))
			},
			"revoke":  func(r *rapid.T) { d.order(tickets.Revoke, "x"); revoked["x"] = true },
			"restore": func(r *rapid.T) { d.order(tickets.Restore, "x"); delete(revoked, "x") },
			"": func(*rapid.T) {
				d.round(d.t.Context(), d.now)
				d.settle()
				before, highest := maps.Clone(d.retained), maps.Clone(last)
				d.round(d.t.Context(), d.now)
				d.settle()
				quiet := maps.EqualFunc(d.stand(before), d.stand(d.retained), bytes.Equal) // else the second round found something
				for topic, payload := range d.retained {
					a, err := d.o.Tree.Parse(topic)
					if err != nil {
						t.Fatal(err)
					}
					switch a.Kind {
					case topics.Ticket:
						_, g := d.ticket(a.Vehicle, a.Machine)
						if quiet && !bytes.Equal(before[topic], payload) {
							t.Fatalf("ticket %v changed while nothing happened", g)
						}
						if secrets[topic] != g.Secret {
							if g.Counter <= highest[a.Machine] {
								t.Fatalf("%v was issued after number %d", g, highest[a.Machine])
							}
							last[a.Machine], secrets[topic] = max(last[a.Machine], g.Counter), g.Secret
						}
						if revoked[a.Vehicle] {
							t.Fatalf("%v stands", g)
						}
					case topics.VehicleFault:
						m, g := d.ticket(a.Vehicle, a.Machine)
						if (m == nil) != revoked[a.Vehicle] || m != nil && !m.ExpiresAt.After(d.now) {
							t.Fatalf("%v for the fault on %s at %s", g, topic, d.now)
						}
					}
				}
			},
		})
	})
}

// 5000 faults at once, as when a depot loses its uplink: all is sealed, saved and handed to the broker.
func BenchmarkIssue5000(b *testing.B) {
	for b.Loop() {
		d := newDepotIn(b, b.TempDir())
		stand := map[tickets.Pair]string{}
		for i := range 5000 {
			stand[tickets.Pair{Machine: fmt.Sprint("m", i), Vehicle: fmt.Sprint("v", i)}] = "F"
		}
		d.tickets.setFaults(b.Context(), stand)
		begun := time.Now()
		d.settle()
		b.ReportMetric(float64(time.Since(begun).Milliseconds()), "ms/5000")
		if n := d.Stats().TicketsIssued.Load(); n != 5000 {
			b.Fatalf("%d were issued", n)
		}
		d.restart()
		_ = d.store.Close()
	}
}
