package fleet

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/orders"
)

// FaultOrders is the folder, in that of all orders, for those about faults.
func FaultOrders(dir string) string { return filepath.Join(dir, "faults") }

// takeOrders takes in what people ordered about faults: inputs for those that the engine holds, and what became of others, which ended so long ago
// that it holds them no more. What an order did is on disk before its file is removed, and to take it twice does nothing more.
func (f *Fleet) takeOrders(ctx context.Context, now time.Time) (inputs []faults.Input, changes []faults.Change) {
	if len(f.taken) > 0 {
		return nil, nil // those before are not on disk yet, and their files still lie there
	}
	if f.o.Orders == "" || !orders.AnyLeft(FaultOrders(f.o.Orders)) {
		return nil, nil
	}
	left, err := orders.Take[faults.Order](FaultOrders(f.o.Orders))
	if err != nil && f.log.Due("orders about faults", now) {
		f.o.Logger.Error("an order about a fault was not taken", "error", err)
	}
	ended := map[string]faults.Fault{}
	for _, l := range left {
		if _, ok := f.engine.book.Get(l.Order.Fault); ok {
			inputs = append(inputs, l.Order.Input())
		} else if known, err := f.orderOfEnded(ctx, now, l, ended); err != nil {
			if f.log.Due("orders about faults", now) {
				f.o.Logger.Error("an order about a fault waits", "fault", l.Order.Fault, "error", err)
			}
			continue
		} else if known == nil {
			continue // refused
		} else {
			changes = append(changes, known...)
		}
		f.taken = append(f.taken, l.Path)
		f.o.Logger.Info("an order about a fault", "fault", l.Order.Fault, "verb", l.Order.Verb, "by", l.Order.By, "note", l.Order.Note)
	}
	return inputs, changes
}

// orderOfEnded does what is ordered about a fault that only the store has; nil changes where it was refused. ended holds such faults as the orders
// before left them.
func (f *Fleet) orderOfEnded(ctx context.Context, now time.Time, l orders.Left[faults.Order], ended map[string]faults.Fault) ([]faults.Change, error) {
	fault, ok := ended[l.Order.Fault]
	if !ok {
		var err error
		if fault, _, err = f.o.Store.Faults().Get(ctx, l.Order.Fault); errors.Is(err, faults.ErrNotFound) {
			f.o.Logger.Warn("an order is about a fault that never was; it is refused", "fault", l.Order.Fault, "verb", l.Order.Verb, "by", l.Order.By)
			return nil, os.Rename(l.Path, orders.Refused(l.Path))
		} else if err != nil {
			return nil, err
		}
	}
	next, changes := f.o.Engine.Policy.Step(now, fault, l.Order.Input())
	ended[l.Order.Fault] = next
	return append([]faults.Change{}, changes...), nil
}

// ordersDone removes the files of the orders that were taken and saved.
func (f *Fleet) ordersDone() {
	for _, path := range f.taken {
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) && f.log.Due("orders about faults", f.o.Now()) {
			f.o.Logger.Error("an order about a fault was followed, but its file cannot be removed", "error", err)
		}
	}
	f.taken = nil
}
