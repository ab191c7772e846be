package outbox_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/farebeat/farebeat/edge/outbox"
	"github.com/farebeat/farebeat/schemas"
)

// model is the outbox as its contract has it, in a map.
type model struct {
	records map[[2]uint32]string
	batches []outbox.BatchID
	clear   map[outbox.BatchID]bool
}

func (m *model) inBatch(epoch, seq uint32) bool {
	for _, b := range m.batches {
		if b.Epoch == epoch && b.First <= seq && seq <= b.Last {
			return true
		}
	}
	return false
}

// compare checks an outbox, however it was come by, against the model.
func (m *model) compare(t interface {
	Fatalf(string, ...any)
	Helper()
}, o *outbox.Outbox,
) {
	t.Helper()
	ctx := context.Background()
	held, err := o.Held(ctx, "m-1")
	if err != nil {
		t.Fatalf("held: %v", err)
	}
	var n uint64
	for _, s := range held {
		n += s.Count()
	}
	for key := range m.records {
		if !held[key[0]].Covers(outbox.Interval{First: key[1], Last: key[1]}) {
			t.Fatalf("record %d-%d is gone", key[0], key[1])
		}
	}
	if n != uint64(len(m.records)) {
		t.Fatalf("%d records, want %d", n, len(m.records))
	}
	open, err := o.OpenBatches(ctx)
	if err != nil || fmt.Sprint(open) != fmt.Sprint(m.batches) {
		t.Fatalf("open batches %v, want %v (%v)", open, m.batches, err)
	}
	slots, err := o.SlotsToClear(ctx)
	if err != nil || len(slots) != len(m.clear) {
		t.Fatalf("slots to clear %v, want %v (%v)", slots, m.clear, err)
	}
	for _, s := range slots {
		if !m.clear[s] {
			t.Fatalf("slot %v is to be cleared", s)
		}
	}
	for _, id := range open {
		b, err := o.Load(ctx, id)
		if err != nil {
			t.Fatalf("load %v: %v", id, err)
		}
		for i, r := range b.Records {
			if want := m.records[[2]uint32{id.Epoch, id.First + uint32(i)}]; string(r) != want {
				t.Fatalf("record %d-%d is %q, want %q", id.Epoch, int(id.First)+i, r, want)
			}
		}
	}
}

// copyOf copies the files of an open outbox as a crash leaves them, and opens the copy.
func copyOf(ctx context.Context, dir, into string) (*outbox.Outbox, error) {
	if err := os.MkdirAll(into, 0o700); err != nil {
		return nil, err
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(into, f.Name()), b, 0o600); err != nil {
			return nil, err
		}
	}
	return outbox.Open(ctx, filepath.Join(into, "outbox.db"), outbox.Options{})
}

// After every step, whatever the order of steps, the program may be killed: what
// it finds at its next start is what the model says, and it goes on from there.
func TestCrashAfterEveryStep(t *testing.T) {
	ctx := t.Context()
	quick := "/dev/shm" // copies need no disk; where there is no such folder, the usual one
	if _, err := os.Stat(quick); err != nil {
		quick = ""
	}
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(quick, "outbox")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = os.RemoveAll(dir) }()
		here := filepath.Join(dir, "0")
		o, err := outbox.Open(ctx, filepath.Join(here, "outbox.db"), outbox.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { o.Close() }()
		m := &model{records: map[[2]uint32]string{}, clear: map[outbox.BatchID]bool{}}
		for i := range rapid.IntRange(1, 12).Draw(t, "steps") {
			step(ctx, t, o, m)
			m.compare(t, o)
			there := filepath.Join(dir, strconv.Itoa(i+1))
			reopened, err := copyOf(ctx, here, there)
			if err != nil {
				t.Fatalf("after step %d: %v", i, err)
			}
			m.compare(t, reopened)
			if err := o.Close(); err != nil {
				t.Fatal(err)
			}
			o, here = reopened, there
		}
	})
}

func step(ctx context.Context, t *rapid.T, o *outbox.Outbox, m *model) {
	epoch := rapid.Uint32Range(1, 2).Draw(t, "epoch")
	switch rapid.SampledFrom([]string{"append", "append", "seal", "receipt", "cleared"}).Draw(t, "step") {
	case "append":
		first := rapid.Uint32Range(1, 300).Draw(t, "first")
		rs := records("m-1", epoch, first, first+rapid.Uint32Range(0, 250).Draw(t, "more"))
		if _, err := o.Append(ctx, "m-1", rs); err != nil {
			t.Fatal(err)
		}
		held, err := o.Held(ctx, "m-1")
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rs { // what the latest receipt covers is not stored
			if held[epoch].Covers(outbox.Interval{First: r.Seq, Last: r.Seq}) {
				m.records[[2]uint32{epoch, r.Seq}] = string(r.Body)
			} else if latest, ok, err := o.LatestReceipt(ctx, "m-1"); err != nil || !ok || !holds(latest, epoch, r.Seq) {
				t.Fatalf("record %d-%d was not stored and no receipt has it", epoch, r.Seq)
			}
		}
	case "seal":
		ids, err := o.Seal(ctx, "m-1", rapid.SampledFrom([]outbox.Mode{outbox.FullBatches, outbox.Everything}).Draw(t, "mode"))
		if err != nil {
			t.Fatal(err)
		}
		m.batches = append(m.batches, ids...)
		for _, id := range ids {
			delete(m.clear, id)
		}
	case "receipt":
		to := rapid.Uint32Range(0, 500).Draw(t, "complete to")
		r := receipt("m-1", epoch, to, to)
		if gap := rapid.Uint32Range(0, 100).Draw(t, "gap"); gap > 0 {
			r = receipt("m-1", epoch, to, to+gap+50, [2]uint32{to + 1, to + gap})
		}
		gone, err := o.Receipt(ctx, r)
		if err != nil {
			t.Fatal(err)
		}
		m.receipt(t, r, epoch, gone)
	case "cleared":
		for id := range m.clear {
			if err := o.SlotCleared(ctx, id); err != nil {
				t.Fatal(err)
			}
			delete(m.clear, id)
			break
		}
	}
}

func holds(r schemas.Receipt, epoch, seq uint32) bool {
	for _, e := range r.Epochs {
		if e.Epoch == epoch && e.Holds(seq) {
			return true
		}
	}
	return false
}

// receipt applies a receipt to the model, record by record: nothing may have
// gone that it does not hold.
func (m *model) receipt(t *rapid.T, r schemas.Receipt, epoch uint32, gone []outbox.BatchID) {
	for key := range m.records {
		if !m.inBatch(key[0], key[1]) && holds(r, key[0], key[1]) {
			delete(m.records, key)
		}
	}
	var left []outbox.BatchID
	for _, b := range m.batches {
		covered := true
		for seq := b.First; seq <= b.Last; seq++ {
			covered = covered && holds(r, b.Epoch, seq)
		}
		if !covered {
			left = append(left, b)
			continue
		}
		if len(gone) == 0 || gone[0] != b {
			t.Fatalf("batch %v is covered, the outbox gave up %v", b, gone)
		}
		gone = gone[1:]
		m.clear[b] = true
		for seq := b.First; seq <= b.Last; seq++ {
			delete(m.records, [2]uint32{b.Epoch, seq})
		}
	}
	if len(gone) > 0 {
		t.Fatalf("the outbox gave up %v, which epoch %d of %+v does not cover", gone, epoch, r)
	}
	m.batches = left
}

// TestMain lets this binary be the program that is killed.
func TestMain(m *testing.M) {
	if path := os.Getenv("OUTBOX_TEST_CHILD"); path != "" {
		if err := appendForEver(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// appendForEver appends and seals and prints the last record each time that
// Append has returned.
func appendForEver(path string) error {
	ctx := context.Background()
	o, err := outbox.Open(ctx, path, outbox.Options{})
	if err != nil {
		return err
	}
	held, err := o.Held(ctx, "m-1")
	if err != nil {
		return err
	}
	next := uint32(held[3].Count()) + 1
	for ; ; next += 7 {
		if _, err := o.Append(ctx, "m-1", records("m-1", 3, next, next+6)); err != nil {
			return err
		}
		fmt.Println(next + 6)
		if _, err := o.Seal(ctx, "m-1", outbox.FullBatches); err != nil {
			return err
		}
	}
}

// A process that is killed with -9 at any instant loses nothing that Append
// returned for, and its file opens again without a word.
func TestKillMinusNine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "outbox.db")
	acknowledged := 0
	for round := range 8 {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), "OUTBOX_TEST_CHILD="+path)
		var complaint bytes.Buffer
		cmd.Stderr = &complaint
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for range 3 + 4*round { // kill at another place each time
			if !lines.Scan() {
				t.Fatalf("the child ended by itself: %s", complaint.String())
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		last := lines.Text()
		rest, err := io.ReadAll(out)
		if err != nil {
			t.Fatal(err)
		}
		if all := strings.Fields(last + "\n" + string(rest)); len(all) > 0 {
			last = all[len(all)-1]
		}
		_ = cmd.Wait() // it was killed
		if acknowledged, err = strconv.Atoi(last); err != nil {
			t.Fatalf("the child printed %q", last)
		}
		checkAfterKill(t, path, acknowledged)
	}
}

func checkAfterKill(t *testing.T, path string, acknowledged int) {
	t.Helper()
	o, err := outbox.Open(t.Context(), path, outbox.Options{Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	held, err := o.Held(t.Context(), "m-1")
	if err != nil {
		t.Fatal(err)
	}
	if len(held[3]) != 1 || held[3][0].First != 1 || int(held[3][0].Last) < acknowledged || held[3][0].Last%7 != 0 {
		t.Fatalf("held %v after %d were acknowledged", held[3], acknowledged)
	}
	open, err := o.OpenBatches(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range open {
		b, err := o.Load(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range b.Records {
			if want := body("m-1", 3, id.First+uint32(i)); !bytes.Equal(r, want) {
				t.Fatalf("record %d is %q", int(id.First)+i, r)
			}
		}
	}
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{1, 20, 200} {
		b.Run(fmt.Sprintf("records=%d", size), func(b *testing.B) {
			o := fresh(b)
			seq := uint32(0)
			for b.Loop() {
				if _, err := o.Append(b.Context(), "m-1", records("m-1", 1, seq+1, seq+uint32(size))); err != nil {
					b.Fatal(err)
				}
				if seq += uint32(size); seq >= 12000 {
					b.StopTimer()
					if _, err := o.Receipt(b.Context(), receipt("m-1", 1, seq, seq)); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
				}
				if seq > top/2 {
					b.Fatal("out of sequence numbers")
				}
			}
			b.ReportMetric(float64(b.N)*float64(size)/b.Elapsed().Seconds(), "records/s")
		})
	}
}
