package city

import (
	"context"
	"time"

	"github.com/farebeat/farebeat/edge/machine"
	"github.com/farebeat/farebeat/schemas"
)

type jobKind uint8

const (
	jobSync jobKind = iota // only bring the machine into the state wanted
	jobBeat
	jobTap
)

// want is the state a machine is to be in.
type want struct {
	on, cut, parking bool
	crashed          bool // if not on: no goodbye
	duty             machine.Duty
}

type job struct {
	unit *unit
	kind jobKind
	now  time.Time
	want want
	fare machine.Fare
}

// worker acts for the machines of one lane.
type worker struct {
	city *City
	hb   schemas.Heartbeat
	buf  []byte
}

func (w *worker) do(ctx context.Context, j job) {
	u := j.unit
	w.reconcile(ctx, u, j.want)
	if !u.powered {
		return
	}
	switch j.kind {
	case jobTap:
		u.m.SetUplink(u.up != nil && u.up.Up())
		if _, err := u.m.Tap(w.city.clock.Now(), j.fare); err != nil {
			w.city.o.Logger.Debug("a tap was refused", "machine", u.m.ID(), "err", err)
		}
	case jobBeat:
		w.beat(ctx, u, j.want.parking)
	case jobSync:
	}
}

func (w *worker) beat(ctx context.Context, u *unit, parking bool) {
	if u.up == nil {
		return
	}
	if err := u.m.Heartbeat(w.city.clock.Now(), &w.hb); err != nil {
		return
	}
	w.buf = schemas.AppendHeartbeat(w.buf[:0], &w.hb)
	ctx, cancel := context.WithTimeout(ctx, w.city.o.Timeout)
	defer cancel()
	if err := u.up.Publish(ctx, u.topic, 0, w.buf); err != nil {
		w.city.tally.failed.Add(1)
		w.city.o.Logger.Debug("a heartbeat was not sent", "machine", u.m.ID(), "err", err)
		return
	}
	w.city.tally.heartbeats.Add(1)
	if parking {
		u.goodbyes.Add(1)
	}
}

// reconcile brings a machine into the state wanted, as far as that goes now; what
// fails is tried again with the machine's next job.
func (w *worker) reconcile(ctx context.Context, u *unit, s want) {
	if !s.on {
		w.off(u, s.crashed)
		return
	}
	u.m.SetDuty(s.duty, s.parking)
	if !u.powered {
		w.boot(ctx, u)
	}
	if !u.powered {
		return
	}
	if s.cut && u.up != nil {
		u.m.SetUplink(false)
		u.up.Cut()
		u.up = nil
	}
	if !s.cut && u.up == nil {
		w.connect(ctx, u)
	}
}

func (w *worker) boot(ctx context.Context, u *unit) {
	if err := u.m.PowerOn(); err != nil {
		w.city.o.Logger.Error("a machine does not boot", "machine", u.m.ID(), "err", err)
		return
	}
	u.powered = true
	if w.city.o.Radio == nil {
		return
	}
	stop, err := w.city.o.Radio(ctx, u.m)
	if err != nil {
		w.city.o.Logger.Error("a machine has no radio", "machine", u.m.ID(), "err", err)
		return
	}
	u.radio = stop
}

func (w *worker) connect(ctx context.Context, u *unit) {
	ctx, cancel := context.WithTimeout(ctx, w.city.o.Timeout)
	defer cancel()
	up, err := w.city.o.Connect(ctx, u.m.ID())
	if err != nil {
		w.city.tally.connects.Add(1)
		w.city.o.Logger.Debug("a machine has no uplink", "machine", u.m.ID(), "err", err)
		return
	}
	u.up = up
	u.m.SetUplink(true)
}

// off switches a machine off: in order, or as a loss of power does.
func (w *worker) off(u *unit, crashed bool) {
	if !u.powered {
		return
	}
	u.powered = false
	if u.radio != nil {
		u.radio()
		u.radio = nil
	}
	if u.up != nil {
		u.m.SetUplink(false)
		if crashed {
			u.up.Cut()
		} else if err := u.up.Close(); err != nil {
			w.city.o.Logger.Debug("an uplink did not close", "machine", u.m.ID(), "err", err)
		}
		u.up = nil
	}
	if err := u.m.PowerOff(); err != nil {
		w.city.o.Logger.Error("a machine does not switch off", "machine", u.m.ID(), "err", err)
	}
}

// end switches off what is still on when the city ends.
func (w *worker) end(lane int) {
	for _, u := range w.city.units {
		if u.lane == lane {
			w.off(u, false)
		}
	}
}
