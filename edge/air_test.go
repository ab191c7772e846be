package edge

import (
	"testing"
	"time"

	"github.com/farebeat/farebeat/edge/ble"
)

// testAir is the radio around the vehicle (STUB for overlay).
type testAir struct {
	air *ble.Air
	cut map[string]*int
}

type cutMachine struct {
	*machine
	a *testAir
}

func (c cutMachine) CutAfter() *int { return c.a.cut[c.id] }

func newTestAir(*testing.T) *testAir { return &testAir{air: ble.NewAir(), cut: map[string]*int{}} }

func (a *testAir) put(m *machine)             { a.air.Set(m.id, cutMachine{m, a}) }
func (a *testAir) remove(m *machine)          { a.air.Set(m.id, nil) }
func (a *testAir) radio() ble.Radio           { return a.air }
func (a *testAir) close()                     {}
func (a *testAir) cutAfter(m *machine, n int) { a.cut[m.id] = &n }
func (a *testAir) whole(m *machine)           { delete(a.cut, m.id) }

var _ = time.Second
