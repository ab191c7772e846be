package broker_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/farebeat/farebeat/broker"
	"github.com/farebeat/farebeat/topics"
)

// A stolen gateway cannot fill the store: neither by batches nor by wills. What takes the place of another, what clears and what the fleet
// writes passes, and so does another gateway.
func TestRetainedPerGateway(t *testing.T) {
	for name, limits := range map[string]broker.Limits{"messages": {RetainedPerGateway: 3}, "bytes": {RetainedBytesPerGateway: 1 << 20}} {
		for _, version := range []byte{4, 5} {
			t.Run(fmt.Sprint(name, version), func(t *testing.T) {
				batch := func(v string, i int) pub {
					return pub{fmt.Sprintf("%svehicle/%s/transactions/m/1-%d-%[3]d", root, v, i), strings.Repeat("x", 300_000), 1, true}
				}
				disc := openStore(t, filepath.Join(t.TempDir(), "broker.db"))
				t.Cleanup(func() { disc.Close() }) // after the broker
				w := newTown(t, 0, broker.Options{Limits: limits, Store: disc})
				g := w.in(t, "v1", connect{id: "g", version: version})
				for i := range 3 {
					g.mustPublish(batch("v1", i+1))
				}
				g.mustPublish(batch("v1", 2))
				if err := g.publish(batch("v1", 4)); err != nil {
					t.Fatal(err)
				}
				if version == 5 {
					if pk, err := g.read(); err != nil || pk.FixedHeader.Type != packets.Puback || pk.ReasonCode != packets.ErrQuotaExceeded.Code {
						t.Errorf("%v %#x %v, want a PUBACK 0x97", pk.FixedHeader.Type, pk.ReasonCode, err)
					}
				} else {
					closed(t, g.net)
					g = w.in(t, "v1", connect{id: "g", version: version})
				}
				w.met(t, map[string]uint64{"retained_gateway": 1})

				f := w.in(t, "fleet", connect{id: "f"})
				f.mustPublish(pub{root + "vehicle/v1/fault/m", "{}", 1, true})
				w.in(t, "v2", connect{id: "g"}).mustPublish(batch("v2", 1))
				bequest := w.in(t, "v1", connect{id: "will", will: &will{batch("v1", 9).topic, strings.Repeat("x", 10_000), 1, true}})
				if name == "messages" {
					bequest.net.Close()
					until(t, "the will is refused", func() bool { return w.Limited()["retained_gateway"] == 2 })
				}

				clear := batch("v1", 1)
				clear.payload = ""
				g.mustPublish(clear)
				g.mustPublish(batch("v1", 4))
				checkHeld(t, w.Broker)
			})
		}
	}
}

func TestRetainedBytes(t *testing.T) {
	w := newTown(t, 0, broker.Options{Limits: broker.Limits{RetainedBytes: 1 << 20}})
	f := w.in(t, "fleet", connect{id: "f"})
	for i := range 400 {
		f.mustPublish(pub{fmt.Sprint(root, "machine/m", i, "/state"), strings.Repeat("x", 4_000), 1, true}) // the fleet's own are never refused
	}
	g := w.in(t, "v1", connect{id: "g", version: 5})
	if err := g.publish(pub{root + "vehicle/v1/gateway", "{}", 1, true}); err != nil {
		t.Fatal(err)
	}
	if pk, err := g.read(); err != nil || pk.ReasonCode != packets.ErrQuotaExceeded.Code {
		t.Errorf("%#x %v, want 0x97", pk.ReasonCode, err)
	}
	w.met(t, map[string]uint64{"retained_bytes": 1})
}

func checkHeld(t *testing.T, b *broker.Broker) {
	t.Helper()
	gateways, n, really, reallyN := b.Held()
	if diff := cmp.Diff(really, gateways); diff != "" || n != reallyN {
		t.Errorf("%d bytes are reckoned of %d: %s", n, reallyN, diff)
	}
}

// What is reckoned is what is retained, whoever writes and clears, over restarts and where a writer breaks off.
func TestHeldIsWhatIsRetained(t *testing.T) {
	file := filepath.Join(t.TempDir(), "broker.db")
	rng := rand.New(rand.NewPCG(1, 2))
	for range 3 {
		synctest.Test(t, func(t *testing.T) {
			withStore(t, file, broker.Options{Limits: broker.Limits{RetainedPerGateway: 12}}, func(b *broker.Broker, _ *disk) {
				checkHeld(t, b)
				for range 20 {
					for _, id := range []topics.Identity{fleetID, gatewayID("v1"), gatewayID("v2")} {
						r := dial(t, b, id, connect{id: "x", version: 5})
						go func() { _, _ = io.Copy(io.Discard, r.in) }()
						vehicle := id.Name
						if id.Role == topics.RoleFleet {
							vehicle = fmt.Sprint("v", 1+rng.IntN(2))
						}
						for range 20 {
							p := pub{fmt.Sprintf("%svehicle/%s/transactions/m/1-%d-200", root, vehicle, 1+rng.IntN(20)), strings.Repeat("x", rng.IntN(3)*rng.IntN(100)), 1, true}
							if err := r.publish(p); err != nil {
								t.Fatal(err)
							}
						}
						if rng.IntN(2) == 0 {
							synctest.Wait()
						}
						r.net.Close()
					}
				}
				synctest.Wait()
				checkHeld(t, b)
				if gateways, _, _, _ := b.Held(); gateways["v1"][0] > 20 || len(gateways) == 0 {
					t.Errorf("held: %v", gateways)
				}
			})
		})
	}
}
