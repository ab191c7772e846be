package fleet

import (
	"os"
	"path/filepath"

	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/orders"
)

// FaultOrders is the folder, in that of all orders, for those about faults.
func FaultOrders(dir string) string { return filepath.Join(dir, "faults") }

// takeOrders takes in what people ordered about faults at the command line. What an order did is on disk before its file is
// removed, and to take it twice does nothing more.
func (f *Fleet) takeOrders() []faults.Input {
	if len(f.taken) > 0 {
		return nil // those before are not on disk yet, and their files still lie there
	}
	if f.o.Orders == "" || !orders.AnyLeft(FaultOrders(f.o.Orders)) {
		return nil
	}
	left, err := orders.Take[faults.Order](FaultOrders(f.o.Orders))
	if err != nil && f.log.due("orders about faults", f.o.Now()) {
		f.o.Logger.Error("an order about a fault was not taken", "error", err)
	}
	inputs := make([]faults.Input, 0, len(left))
	for _, l := range left {
		f.taken = append(f.taken, l.Path)
		if _, ok := f.engine.book.Get(l.Order.Fault); !ok {
			f.o.Logger.Warn("an order is about a fault that has ended or never was", "fault", l.Order.Fault, "verb", l.Order.Verb, "by", l.Order.By)
			continue
		}
		f.o.Logger.Info("an order about a fault", "fault", l.Order.Fault, "verb", l.Order.Verb, "by", l.Order.By, "note", l.Order.Note)
		inputs = append(inputs, l.Order.Input())
	}
	return inputs
}

// ordersDone removes the files of the orders that were taken and saved.
func (f *Fleet) ordersDone() {
	for _, path := range f.taken {
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) && f.log.due("orders about faults", f.o.Now()) {
			f.o.Logger.Error("an order about a fault was followed, but its file cannot be removed", "error", err)
		}
	}
	f.taken = nil
}
