package powercut

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// Step is one call to a store that either takes effect whole or not at all, and that a caller repeats
// until it is confirmed. Do nil means: close the store and open it again.
type Step[S any] struct {
	Name string
	Do   func(S) error
}

// Subject is a store with a day in its life.
type Subject[S any] struct {
	Name  string
	Open  func(dir string) (S, error)
	Close func(S) error
	Steps []Step[S]
	// Dump is all that the store holds, read back and checked: an error where it does not hold together.
	Dump func(S) (string, error)
	// Settle leaves of a dump what does not depend on how often a step was repeated; nil: all of it.
	Settle func(dump string) string
}

// Prove runs the subject undisturbed, then with every kind of fault at every one of its operations, each
// time checks what the store confirmed against what it holds, and logs how many operations there were.
func Prove[S any](t *testing.T, s Subject[S]) {
	percent := debug.SetGCPercent(1000) // thousands of stores that live for milliseconds
	defer debug.SetGCPercent(percent)
	p := newProof(t, s)
	t.Run("power", func(t *testing.T) { p.everyPoint(t, p.ops, p.cutAt) })
	t.Run("failure", func(t *testing.T) { p.everyPoint(t, p.ops, p.failAt) })
	t.Run("full", func(t *testing.T) { p.everyPoint(t, p.grew, p.fullAt) })
}

func newProof[S any](t *testing.T, s Subject[S]) *proof[S] {
	p := &proof[S]{Subject: s, layer: Install(t), root: folder(t)}
	if p.Settle == nil {
		p.Settle = func(dump string) string { return dump }
	}
	p.undisturbed(t)
	return p
}

type proof[S any] struct {
	Subject[S]
	layer  *Layer
	root   string
	dirs   atomic.Int64
	states []string // after the opening, and after each step
	ops    []int    // of the whole day, from opening to closing
	grew   []int    // those of them that need space

	restarts, errors, reopened atomic.Int64
}

// folder is a new one, in memory where the system has such a place.
func folder(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "powercut")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// inFolder runs f with a new folder.
func (p *proof[S]) inFolder(f func(dir string) error) error {
	dir := filepath.Join(p.root, strconv.FormatInt(p.dirs.Add(1), 10))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	return errors.Join(f(dir), os.RemoveAll(dir))
}

// onDisk is inFolder with a disk that holds image and fails as told.
func (p *proof[S]) onDisk(image Image, fault Fault, f func(dir string, d *Disk) error) error {
	return p.inFolder(func(dir string) error {
		if err := image.Write(dir); err != nil {
			return err
		}
		d, err := p.layer.Disk(dir, fault)
		if err != nil {
			return err
		}
		defer p.layer.Forget(d)
		return f(dir, d)
	})
}

// undisturbed learns what the store holds after each step, and how many operations a day takes.
func (p *proof[S]) undisturbed(t *testing.T) {
	t.Helper()
	err := p.inFolder(func(dir string) error {
		r := runner[S]{p: p, dir: dir, done: -1}
		defer r.close() //nolint:errcheck // closed below where it counts
		for r.done < len(p.Steps) {
			if err := r.step(); err != nil {
				return err
			}
			dump, err := p.Dump(r.store)
			if err != nil {
				return err
			}
			p.states = append(p.states, dump)
		}
		return r.close()
	})
	if err == nil {
		err = p.onDisk(nil, Fault{}, func(dir string, d *Disk) error {
			r := runner[S]{p: p, dir: dir, done: -1}
			err := errors.Join(r.rest(), r.close())
			for at := range d.Ops() {
				p.ops = append(p.ops, at+1)
			}
			p.grew = d.grew
			return err
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	if len(p.ops) < 4*len(p.Steps) {
		t.Fatalf("only %d operations in %d steps: the layer does not see them", len(p.ops), len(p.Steps))
	}
}

// runner is a store on its way through the steps.
type runner[S any] struct {
	p     *proof[S]
	dir   string
	store S
	open  bool
	done  int  // steps that the store confirmed; -1: not opened yet for the first time
	again bool // a step was perhaps taken more than once
}

// step opens the store where it is closed and takes the next step.
func (r *runner[S]) step() error {
	if r.done >= 0 && r.p.Steps[r.done].Do == nil {
		if err := r.close(); err != nil {
			return err
		}
	}
	if err := r.reopen(); err != nil {
		return err
	}
	if r.done >= 0 && r.p.Steps[r.done].Do != nil {
		if err := r.p.Steps[r.done].Do(r.store); err != nil {
			return err
		}
	}
	r.done++
	return nil
}

func (r *runner[S]) reopen() error {
	if r.open {
		return nil
	}
	var err error
	if r.store, err = r.p.Open(r.dir); err == nil {
		r.open = true
	}
	return err
}

func (r *runner[S]) rest() error {
	for r.done < len(r.p.Steps) {
		if err := r.step(); err != nil {
			return err
		}
	}
	return nil
}

func (r *runner[S]) close() error {
	if !r.open {
		return nil
	}
	r.open = false
	return r.p.Close(r.store)
}

// where names the step that the runner is at.
func (r *runner[S]) where() string {
	switch {
	case r.done < 0:
		return "the first opening"
	case r.done == len(r.p.Steps):
		return "the closing"
	}
	return fmt.Sprintf("step %d (%s)", r.done+1, r.p.Steps[r.done].Name)
}

// holds checks that the store holds what it confirmed, and of the step that it did not confirm all or nothing.
func (r *runner[S]) holds() error {
	got, err := r.p.Dump(r.store)
	if err != nil {
		return err
	}
	at := max(r.done, 0)
	if r.same(got, at) || at+1 < len(r.p.states) && r.same(got, at+1) {
		return nil
	}
	return fmt.Errorf("with %d steps confirmed it %s", at, difference(got, r.p.states[at]))
}

// same compares with the state after a step; where steps may have been repeated, but for what depends on that.
func (r *runner[S]) same(got string, done int) bool {
	want := r.p.states[done]
	return got == want || r.again && r.p.Settle(got) == r.p.Settle(want)
}

// finish takes the steps that were not confirmed, again where need be, and compares with an undisturbed day.
func (r *runner[S]) finish() error {
	if err := r.rest(); err != nil {
		return fmt.Errorf("%s: %w", r.where(), err)
	}
	r.again = true
	if err := r.holds(); err != nil {
		return fmt.Errorf("at the end of the day: %w", err)
	}
	return nil
}

// difference says which lines are in one text and not in the other.
func difference(got, want string) string {
	only := func(a, b string) string {
		in := map[string]int{}
		for line := range strings.Lines(b) {
			in[line]++
		}
		var out strings.Builder
		for line := range strings.Lines(a) {
			if in[line]--; in[line] < 0 {
				out.WriteString("  " + line)
			}
		}
		return out.String()
	}
	return fmt.Sprintf("holds what it should not:\n%sand lacks:\n%s", only(got, want), only(want, got))
}

// everyPoint runs check for each of ops, on as many processors as there are.
func (p *proof[S]) everyPoint(t *testing.T, ops []int, check func(at int) error) {
	p.restarts.Store(0)
	p.errors.Store(0)
	p.reopened.Store(0)
	points := some(ops)
	next := make(chan int)
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for at := range next {
				if err := check(at); err != nil {
					t.Errorf("operation %d of %d: %v", at, len(p.ops), err)
				}
			}
		})
	}
	for _, at := range points {
		if t.Failed() {
			break
		}
		next <- at
	}
	close(next)
	wg.Wait()
	t.Logf("%s, %d steps: %d of %d operations; %d restarts from what the disk held, %d calls that failed, %d of them only done after opening again",
		p.Name, len(p.Steps), len(points), len(ops), p.restarts.Load(), p.errors.Load(), p.reopened.Load())
}

// some is all of ops; under the race detector, which makes all ten times as slow, and with -short a part of them.
func some(ops []int) []int {
	if !race && !testing.Short() {
		return ops
	}
	step := max(1, len(ops)/12)
	var out []int
	for i := step / 2; i < len(ops); i += step {
		out = append(out, ops[i])
	}
	return out
}

// seeds is how many ways for the disk to come back are tried after each loss of power.
func seeds() uint64 {
	if n, err := strconv.ParseUint(os.Getenv("FAREBEAT_POWER_SEEDS"), 10, 16); err == nil && n > 0 {
		return n
	}
	return 2
}

// cutAt cuts the power at one operation, and starts again from everything that the disk may hold then.
func (p *proof[S]) cutAt(at int) error {
	return p.onDisk(nil, Fault{Kind: Cut, At: at}, func(dir string, d *Disk) error {
		r := runner[S]{p: p, dir: dir, done: -1}
		err := errors.Join(r.rest(), r.close())
		if !d.Struck() {
			return fmt.Errorf("the power was never cut in %d operations: %w", d.Ops(), err)
		}
		where := r.where()
		seen := map[[sha256.Size]byte]bool{}
		n := seeds()
		for seed := range n {
			mixed := seed
			if seed > 1 || at%3 > 0 {
				mixed = seed * uint64(1+at) // the same part of what was not synced would make for the same luck everywhere
			}
			image, err := d.Reboot(mixed)
			if err != nil {
				return err
			}
			if sum := image.Sum(); seen[sum] {
				continue
			} else {
				seen[sum] = true
			}
			if err := p.restart(image, r, seed, at, seed == uint64(at)%n); err != nil {
				return fmt.Errorf("%s, seed %d: %w", where, seed, err)
			}
		}
		return nil
	})
}

// restart opens what the disk held, checks it and goes on, to the end of the day or for one step. With every other
// seed the power fails once more on the way, mostly while the store is being opened.
func (p *proof[S]) restart(image Image, before runner[S], seed uint64, at int, toTheEnd bool) error {
	rng := rand.New(rand.NewPCG(seed, uint64(at)))
	fault := Fault{}
	if seed%2 == 1 {
		fault = Fault{Kind: Cut, At: 1 + rng.IntN(12)}
	}
	for {
		var next Image
		p.restarts.Add(1)
		err := p.onDisk(image, fault, func(dir string, d *Disk) error {
			r := runner[S]{p: p, dir: dir, done: before.done, again: before.again}
			err := r.comeBack(toTheEnd)
			if closed := r.close(); err == nil {
				err = closed
			}
			if !d.Struck() {
				return err
			}
			before = r
			next, err = d.Reboot(rng.Uint64())
			return err
		})
		if err != nil || next == nil {
			return err
		}
		image, fault = next, Fault{}
	}
}

// comeBack opens a store after a loss of power, checks it and goes on.
func (r *runner[S]) comeBack(toTheEnd bool) error {
	if err := r.reopen(); err != nil {
		return fmt.Errorf("open again: %w", err)
	}
	r.done = max(r.done, 0)
	if err := r.holds(); err != nil {
		return err
	}
	if r.done == len(r.p.Steps) {
		return nil
	}
	r.again = true
	if toTheEnd {
		return r.finish()
	}
	if err := r.step(); err != nil {
		return fmt.Errorf("%s: %w", r.where(), err)
	}
	return nil
}

// failAt lets one operation fail. The call that needed it fails, or is done in spite of it; taken again it works.
func (p *proof[S]) failAt(at int) error {
	for seed := range max(1, seeds()/2) {
		if err := p.through(Fault{Kind: Fail, At: at, Seed: seed}, 1); err != nil {
			return fmt.Errorf("seed %d: %w", seed, err)
		}
	}
	return nil
}

// fullAt lets the disk be full for a while.
func (p *proof[S]) fullAt(at int) error {
	return p.through(Fault{Kind: Full, At: at, Length: 8}, 8)
}

// through goes through the day on a disk that does not do all it is asked for. A call that fails is taken again, up to
// tries times, then once more after opening again. What was confirmed must be there and survive a loss of power, both right
// after the first call that is confirmed again and at the end; where the fault came only with the closing, another opening.
func (p *proof[S]) through(fault Fault, tries int) error {
	return p.onDisk(nil, fault, func(dir string, d *Disk) error {
		r := runner[S]{p: p, dir: dir, done: -1}
		defer r.close() //nolint:errcheck // closed below where it counts
		for r.done < len(p.Steps) {
			before := d.Struck()
			if err := r.stubborn(tries); err != nil {
				return err
			}
			if d.Struck() != before {
				if err := p.powerGone(d, r); err != nil {
					return err
				}
			}
		}
		if d.Struck() {
			return errors.Join(r.holds(), p.powerGone(d, r), r.close())
		}
		if err := r.close(); err != nil {
			p.errors.Add(1)
		}
		for n := 0; ; n++ {
			if err := r.reopen(); err == nil {
				break
			} else if n > tries {
				return fmt.Errorf("open at the end: %w", err)
			}
		}
		return errors.Join(r.holds(), r.close())
	})
}

// powerGone checks what a loss of power would leave at this moment, at the least.
func (p *proof[S]) powerGone(d *Disk, r runner[S]) error {
	image, err := d.Reboot(0)
	if err != nil {
		return err
	}
	if err := p.restart(image, r, 0, 0, false); err != nil {
		return fmt.Errorf("after a loss of power with %d steps confirmed: %w", r.done, err)
	}
	return nil
}

// stubborn takes the next step until it works.
func (r *runner[S]) stubborn(tries int) error {
	for n := 0; ; n++ {
		where := r.where()
		err := r.step()
		if err == nil {
			return nil
		}
		r.p.errors.Add(1)
		r.again = r.again || n > 0
		if r.open {
			if wrong := r.holds(); wrong != nil {
				return fmt.Errorf("%s failed (%w), and then: %w", where, err, wrong)
			}
		}
		switch {
		case n < tries:
		case n == tries:
			r.p.reopened.Add(1)
			_ = r.close() // the disk is as it is
		default:
			return fmt.Errorf("%s works no more: %w", where, err)
		}
	}
}
