package fleet

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/farebeat/farebeat/topics"
)

// FuzzMessages: whatever comes on whatever topic, it breaks nothing, and only a disk may ask for it again.
func FuzzMessages(f *testing.F) {
	good := filepath.Join("..", "schemas", "testdata", "good")
	for schema, topic := range map[string]string{
		"heartbeat": "machine/m1/heartbeat", "gateway": "vehicle/v1/gateway", "recovery": "vehicle/v1/recovery/m1", "transactions": "vehicle/v1/transactions/m1/3-1-2", "report": "report/ada",
		"command": "command/v1/c1", "ticket": "vehicle/v1/ticket/m1", "vehicle-fault": "vehicle/v1/fault/m1", "route-fault": "route/36/fault/R-1",
	} {
		files, err := filepath.Glob(filepath.Join(good, schema, "*"))
		if err != nil || len(files) == 0 {
			f.Fatalf("no example of %s: %v", schema, err)
		}
		for _, file := range files {
			payload, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(topic, payload)
		}
		f.Add(topic, []byte{})
	}
	d := newDepotIn(f, f.TempDir())
	prefix := d.o.Tree.Root()
	handlers := map[topics.Kind]func(context.Context, topics.Address, []byte) error{
		topics.Heartbeat: d.onHeartbeat, topics.Gateway: d.onGateway, topics.Recovery: d.onRecovery, topics.Transactions: d.onTransactions, topics.Report: d.onReport,
		topics.Command: d.onCommand, topics.Ticket: d.onTicket, topics.VehicleFault: d.onStanding, topics.RouteFault: d.onStanding, topics.CommonFault: d.onStanding,
	}
	n := 0
	f.Fuzz(func(t *testing.T, topic string, payload []byte) {
		a, err := d.o.Tree.Parse(prefix + topic)
		handle := handlers[a.Kind]
		if err != nil || handle == nil {
			return // as Fleet.subscribe does
		}
		if err := handle(t.Context(), a, payload); err != nil {
			t.Errorf("%s: %v", topic, err)
		}
		if n++; n%100 == 0 {
			d.now = d.now.Add(time.Second)
			d.round(t.Context(), d.now)
		}
	})
}
