package journal

import (
	"errors"
	"os"
	"strconv"
	"testing"
)

// powerSeeds is how many ways for the disk to come back are tried after each loss of power.
func powerSeeds() uint64 {
	if n, err := strconv.ParseUint(os.Getenv("FAREBEAT_POWER_SEEDS"), 10, 16); err == nil && n > 0 {
		return n
	}
	if race {
		return 1
	}
	return 8
}

// operations counts those of a whole day.
func operations(t *testing.T) int {
	t.Helper()
	d := newPowerDisk()
	if err := script(t, openOn(t, d, crashOptions), newWitness()); err != nil {
		t.Fatal(err)
	}
	if d.ops < 60 {
		t.Fatalf("only %d operations: the script does not do what it should", d.ops)
	}
	return d.ops
}

// tryOpen opens a journal that may refuse, since its disk may fail.
func tryOpen(d *powerDisk) (*Journal, error) {
	o := crashOptions
	o.filesystem = d
	return Open(testDir, testMachine, testKey, o)
}

// cutAt is a day that ends with a loss of power at an operation.
func cutAt(t *testing.T, at int) (*powerDisk, *witness) {
	t.Helper()
	d, w := newPowerDisk(), newWitness()
	d.failAt = at
	if err := script(t, openOn(t, d, crashOptions), w); !errors.Is(err, errPower) {
		t.Fatalf("operation %d: %v", at, err)
	}
	return d, w
}

func TestPowerFailsAtEveryOperation(t *testing.T) {
	n, restarts := operations(t), 0
	for at := 1; at <= n; at++ {
		for seed := range powerSeeds() {
			d, w := cutAt(t, at)
			d = d.reboot(seed)
			restarts++
			j := openOn(t, d, crashOptions)
			lost := map[Ref]bool{} // one number, that of the record being written: it may be reported again, but no other
			for _, dmg := range j.Damage() {
				if dmg.LostFirst > 0 && dmg.LostFirst == dmg.LostLast {
					lost[Ref{dmg.Epoch, dmg.LostFirst}] = true
				}
				if dmg.LostFirst > 0 && w.confirmed[Ref{dmg.Epoch, dmg.LostFirst}] != nil {
					t.Fatalf("operation %d, seed %d: %v", at, seed, dmg)
				}
			}
			w.look(t, j, 1)
			if err := script(t, j, w); err != nil {
				t.Fatalf("operation %d, seed %d, after the power came back: %v", at, seed, err)
			}
			j = openOn(t, d, crashOptions)
			w.look(t, j, 0)
			for _, dmg := range j.Damage() {
				if !lost[Ref{dmg.Epoch, dmg.LostFirst}] || dmg.LostFirst != dmg.LostLast {
					t.Fatalf("operation %d, seed %d: the repair left damage: %v", at, seed, dmg)
				}
			}
		}
	}
	t.Logf("journal: all %d operations, %d restarts", n, restarts)
}

// After every loss of power, the power fails again at every operation of the opening that repairs
// what the first one left, and as a variant the disk fails there once.
func TestPowerFailsAtEveryOperationOfTheRepair(t *testing.T) {
	n, points, restarts := operations(t), 0, 0
	for at := 1; at <= n; at++ {
		for seed := range powerSeeds() {
			for again, repaired := 1, false; !repaired; again++ {
				for _, once := range []bool{false, true} {
					d, w := cutAt(t, at)
					d = d.reboot(seed)
					d.failAt, d.once = again, once
					j, err := tryOpen(d)
					repaired = err == nil && d.ops < again
					if repaired {
						break // no operation of this number: the opening was done before
					}
					points++
					if !once {
						d = d.reboot(seed + 100)
					}
					if err != nil || !once {
						restarts++
						j = openOn(t, d, crashOptions)
					}
					w.look(t, j, 1)
					if err := script(t, j, w); err != nil {
						t.Fatalf("operation %d, seed %d, operation %d of the repair: %v", at, seed, again, err)
					}
					w.look(t, openOn(t, d, crashOptions), 0)
				}
			}
		}
	}
	if points < n {
		t.Errorf("only %d operations of repairs after %d losses of power: nothing was torn", points, n)
	}
	t.Logf("journal: %d operations of repairs after losses of power at all %d operations, %d restarts", points, n, restarts)
}

func TestTheDiskFailsOnceAtEveryOperation(t *testing.T) {
	n := operations(t)
	for at := 1; at <= n; at++ {
		d, w := newPowerDisk(), newWitness()
		d.failAt, d.once = at, true
		j := openOn(t, d, crashOptions)
		if err := script(t, j, w); errors.Is(err, ErrBroken) {
			t.Fatalf("operation %d: one failure that could be taken back broke the journal: %v", at, err)
		}
		w.clone().look(t, openOn(t, d.clone(), crashOptions), 0)
		for seed := range powerSeeds() { // what the failed sync gave up is not there; what was confirmed is
			w.clone().look(t, openOn(t, d.reboot(seed), crashOptions), 1)
		}
		w.look(t, j, 0)
		if err := script(t, j, w); err != nil {
			t.Fatalf("operation %d: the journal did not go on: %v", at, err)
		}
		w.clone().look(t, openOn(t, d.reboot(0), crashOptions), 1)
		w.look(t, openOn(t, d, crashOptions), 0)
	}
	t.Logf("journal: all %d operations failed once", n)
}

// A full disk refuses taps and loses none; once there is space, the journal goes on by itself.
func TestTheDiskIsFullFromEveryOperation(t *testing.T) {
	n, refused := operations(t), 0
	for at := 1; at <= n; at++ {
		d, w := newPowerDisk(), newWitness()
		d.failAt, d.full = at, 12
		j := openOn(t, d, crashOptions)
		for tries := 0; ; tries++ {
			err := script(t, j, w)
			if err == nil {
				break
			}
			refused++
			if !errors.Is(err, errSpace) || errors.Is(err, ErrBroken) || tries > 12 {
				t.Fatalf("operation %d, try %d: %v", at, tries, err)
			}
			w.look(t, j, 0)
			w.clone().look(t, openOn(t, d.reboot(0), crashOptions), 1)
		}
		w.look(t, openOn(t, d, crashOptions), 0)
	}
	if refused < n {
		t.Errorf("only %d calls were refused", refused)
	}
	t.Logf("journal: the disk was full from each of all %d operations on, %d calls were refused", n, refused)
}
