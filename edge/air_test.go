package edge

import (
	"context"

	"github.com/farebeat/farebeat/edge/ble"
	"github.com/farebeat/farebeat/edge/ors"
)

// testAir is the radio around the vehicle: real ATT packets between the gateway
// and the machines, which fail when told to.
type testAir struct {
	air    *ble.Air
	ctx    context.Context
	cancel context.CancelFunc
}

func newTestAir() *testAir {
	ctx, cancel := context.WithCancel(context.Background())
	return &testAir{air: ble.NewAir(), ctx: ctx, cancel: cancel}
}

func (a *testAir) radio() ble.Radio { return a.air }

func (a *testAir) put(m *machine) { a.air.Set(m.id, ors.OnAir(a.ctx, m)) }

// putAt puts a machine on air at an address that is not its own.
func (a *testAir) putAt(address string, m *machine) { a.air.Set(address, ors.OnAir(a.ctx, m)) }

func (a *testAir) remove(m *machine) { a.air.Set(m.id, nil) }

// cutAfter breaks every link to m from now on after n packets of the machine.
func (a *testAir) cutAfter(m *machine, n int) { a.air.Spoil(m.id, ble.Faults{CutAfter: n}) }

// whole lets links to m hold.
func (a *testAir) whole(m *machine) { a.air.Spoil(m.id, ble.Faults{}) }

func (a *testAir) close(ms []*machine) {
	for _, m := range ms {
		a.remove(m)
	}
	a.cancel()
	a.air.Wait()
}
