package broker_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/farebeat/farebeat/broker"
	"github.com/farebeat/farebeat/topics"
)

// A ticket reaches the gateway that it is for and the fleet. Who subscribed to everything, was granted it, or was away
// when it was published gets all but the tickets: live, retained, and from the disk after a restart.
func TestTicketsReachTheirGatewayOnly(t *testing.T) {
	file := filepath.Join(t.TempDir(), "broker.db")
	ticket := pub{root + "vehicle/v1/ticket/m1", "secret", 1, true}
	again := pub{root + "vehicle/v1/ticket/m2", "secret too", 1, true}
	fault := pub{root + "vehicle/v1/fault/m1", "open", 1, true}
	readers := []struct {
		id     topics.Identity
		filter string
		gets   bool // tickets
	}{
		{fleetID, "#", true},
		{viewerID, "#", false},
		{topics.Identity{Role: topics.RoleOperator, Name: "o/1"}, "vehicle/+/+/m1", false},
		{topics.Identity{Role: topics.RoleThirdParty, Name: "t", Grants: []string{"vehicle/#"}}, "vehicle/#", false},
		{gatewayID("v1"), "vehicle/v1/ticket/#", true},
		{gatewayID("v2"), "vehicle/v2/ticket/#", false},
	}
	reader := func(t *testing.T, b *broker.Broker, i int) *raw {
		return dial(t, b, readers[i].id, connect{id: "reader", keep: true})
	}
	check := func(t *testing.T, when string, i int, r *raw) {
		t.Helper()
		tickets := 0
		for _, pk := range r.all() {
			r.acknowledge(pk)
			if strings.Contains(pk.TopicName, "/ticket/") {
				tickets++
			}
		}
		if (tickets > 0) != readers[i].gets {
			t.Errorf("%s: %s %q got %d tickets", when, readers[i].id.Role, readers[i].id.Name, tickets)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		withStore(t, file, broker.Options{}, func(b *broker.Broker, _ *disk) {
			f := dial(t, b, fleetID, connect{id: "fleet"})
			f.mustPublish(ticket)
			for i, who := range readers {
				r := reader(t, b, i)
				if codes, _ := r.subscribe(1, root+who.filter); codes[0] != 1 {
					t.Fatalf("%s: %#x", who.id.Role, codes[0])
				}
				check(t, "retained", i, r)
				f.mustPublish(again)
				check(t, "live", i, r)
				r.net.Close()
			}
			synctest.Wait()
			f.mustPublish(ticket)
			f.mustPublish(fault)
			time.Sleep(2 * time.Second)
		})
		withStore(t, file, broker.Options{}, func(b *broker.Broker, _ *disk) {
			for i := range readers {
				r := reader(t, b, i)
				if i > 0 { // for the fleet, which subscribes anew, nothing retained is kept
					check(t, "after a restart", i, r)
				}
				r.bye()
			}
			viewer := dial(t, b, viewerID, connect{id: "new"})
			viewer.subscribe(1, root+"#")
			got := viewer.all()
			if !slices.ContainsFunc(got, func(pk packets.Packet) bool { return pk.TopicName == fault.topic }) {
				t.Error("the viewer lacks what is not confidential")
			}
		})
	})
}
