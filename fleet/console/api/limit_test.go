package api

import (
	"fmt"
	"testing"
	"time"
)

func TestOneCallerDoesNotUseUpAnothersCalls(t *testing.T) {
	l, now := newLimits(), time.Unix(0, 0)
	for i := range passBurst {
		if wait := l.pass("p1", "a", now); wait != 0 {
			t.Fatalf("call %d has to wait %s", i, wait)
		}
	}
	if wait := l.pass("p1", "b", now); wait <= 0 || wait > time.Second {
		t.Errorf("one too many has to wait %s", wait)
	}
	for name, wait := range map[string]time.Duration{
		"another pass": l.pass("p2", "a", now), "nobody, from the same address": l.pass("", "a", now), "later": l.pass("p1", "a", now.Add(time.Second)),
	} {
		if wait != 0 {
			t.Errorf("%s has to wait %s", name, wait)
		}
	}
}

// A flood of callers takes a bounded memory, shares what is left, and takes nothing from whoever was there before.
func TestAFloodOfCallersIsBounded(t *testing.T) {
	tab, now := newTable(time.Second, 2), time.Unix(0, 0)
	tab.Take("early", now)
	waits := 0
	for i := range 3 * maxCallers {
		if tab.Take(fmt.Sprint("flood ", i), now) > 0 {
			waits++
		}
	}
	if tab.Len() != maxCallers {
		t.Errorf("%d callers are remembered, want %d", tab.Len(), maxCallers)
	}
	if waits < maxCallers {
		t.Errorf("%d of the flood wait", waits)
	}
	if tab.Take("early", now) != 0 || tab.Take("early", now) == 0 {
		t.Error("who was there before has other limits than before")
	}
	later := now.Add(time.Hour)
	if tab.Take("new", later) != 0 || tab.Len() > 1 {
		t.Errorf("after an hour of silence %d callers are remembered", tab.Len())
	}
}
