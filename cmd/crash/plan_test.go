//go:build unix

package main

import (
	"reflect"
	"slices"
	"testing"
	"time"
)

func draw(seed uint64, n int) []Step {
	p := NewPlan(seed)
	out := make([]Step, n)
	for i := range out {
		out[i] = p.Next()
	}
	return out
}

func TestAPlanIsItsSeed(t *testing.T) {
	if !reflect.DeepEqual(draw(7, 500), draw(7, 500)) {
		t.Error("one seed gave two plans")
	}
	if reflect.DeepEqual(draw(7, 500), draw(8, 500)) {
		t.Error("two seeds gave one plan")
	}
}

func TestAPlanHasEverything(t *testing.T) {
	kinds, targets := map[Kind]int{}, map[string]int{}
	offsets := map[string]time.Duration{}
	kills, long := 0, time.Duration(0)
	for _, s := range draw(1, 5000) {
		kinds[s.Kind]++
		long += s.Pause
		if s.kills() {
			kills++
			targets[s.Target]++
		}
		if !slices.Contains(processNames(), s.Target) {
			t.Fatalf("%s is no process", s.Target)
		}
		if s.Kind == Jump {
			if s.Offset == offsets[s.Target] || s.Offset.Abs() > 24*time.Hour {
				t.Errorf("a jump of %s from %s to %s", s.Target, offsets[s.Target], s.Offset)
			}
			offsets[s.Target] = s.Offset
		}
		if lasts := s.Kind == Fill || s.Kind == Refuse || s.Kind == Deaf || s.Kind == Replace; lasts != (s.For > 0) {
			t.Errorf("%s lasts %s", s.Kind, s.For)
		}
	}
	for _, k := range []Kind{Kill, Wipe, Replace, Jump, Fill, Cut, Refuse, Deaf} {
		if kinds[k] == 0 {
			t.Errorf("no %s among 5000 steps", k)
		}
	}
	for _, name := range processNames() {
		if targets[name] < kills/20 {
			t.Errorf("%s is killed %d times of %d", name, targets[name], kills)
		}
	}
	if rate := float64(kills) / long.Seconds(); rate < 1 || rate > 4 { // the kills themselves take time too
		t.Errorf("%.2f kills a second", rate)
	}
}
