package worker

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/farebeat/farebeat/edge/ble"
	"github.com/farebeat/farebeat/edge/ble/hci"
)

// modeVar has the test's program be a worker's process of some kind.
const modeVar = "WORKER_TEST_MODE"

func TestMain(m *testing.M) {
	if mode := os.Getenv(modeVar); mode != "" {
		os.Exit(beWorker(mode))
	}
	goleak.VerifyTestMain(m)
}

// beWorker is the process that the tests supervise.
func beWorker(mode string) int {
	out := os.Stdout
	open := func(context.Context) (Device, error) { return newFake(mode), nil }
	switch mode {
	case "exits":
		fmt.Fprintln(os.Stderr, "cannot go on")
		return 3
	case "never opens":
		select {}
	case "garbage":
		_, _ = out.Write(bytes.Repeat([]byte("garbage "), 1000))
		select {}
	case "an unknown frame":
		_, _ = out.Write(report{kind: kindReady}.frame().append(nil))
		_, _ = out.Write(frame{kind: 0x7f}.append(nil))
		select {}
	case "speaks first":
		_, _ = out.Write(report{kind: kindPong}.frame().append(nil))
		select {}
	case "goes silent":
		_, _ = out.Write(report{kind: kindReady}.frame().append(nil))
		select {}
	case "half a frame":
		b := report{kind: kindReady}.frame().append(nil)
		_, _ = out.Write(append(b, b[:3]...))
		return 0
	case "a link of nothing":
		_, _ = out.Write(report{kind: kindReady}.frame().append(nil))
		if f, err := readFrame(os.Stdin); err == nil {
			_, _ = out.Write(report{kind: kindDone, id: f.id, value: dialled(1, 7)}.frame().append(nil))
		}
		select {}
	case "an agent":
		w := Start(Options{Log: slog.New(slog.DiscardHandler), Command: func() *exec.Cmd {
			cmd := exec.Command(os.Args[0])
			cmd.Env = []string{modeVar + "=dials for ever"}
			return cmd
		}})
		if _, err := w.running(context.Background()); err == nil {
			fmt.Println(w.Pid())
		}
		select {}
	case "is chatty":
		for i := range 5000 {
			fmt.Fprintln(os.Stderr, i, strings.Repeat("chatter ", 500))
		}
	case "cannot open":
		open = func(context.Context) (Device, error) { return nil, fmt.Errorf("open hci0: %w: mend it", hci.ErrBusy) }
	}
	err := Child{In: os.Stdin, Out: out, Open: open, Abort: func() { os.Exit(9) }}.Serve(context.Background())
	if err != nil {
		return 1
	}
	return 0
}

// fake is a radio in memory with a machine on it, as far as its mode lets it.
type fake struct {
	*ble.Air
	mode string
	done chan struct{}
	once sync.Once
}

func newFake(mode string) *fake {
	f := &fake{Air: ble.NewAir(), mode: mode, done: make(chan struct{})}
	f.Set("m1", &machine{})
	return f
}

func (f *fake) Done() <-chan struct{} { return f.done }
func (f *fake) Err() error            { return fmt.Errorf("hci0: %w", hci.ErrGone) }
func (f *fake) Close() error          { f.Set("m1", nil); f.Wait(); return nil }

func (f *fake) Dial(ctx context.Context, address string) (ble.Link, error) {
	switch f.mode {
	case "dials for ever":
		select {}
	case "panics":
		go panic("as go-ble does")
	case "loses its adapter":
		f.once.Do(func() { close(f.done) })
	}
	l, err := f.Air.Dial(ctx, address)
	if err == nil && f.mode == "hangs in a call" {
		l = stuckLink{l}
	}
	return l, err
}

type stuckLink struct{ ble.Link }

func (stuckLink) ReadInfo(context.Context) ([]byte, error) { select {} }

// machine answers on CONTROL what it hears, and after u32 n on CREDIT sends n numbers on DATA.
type machine struct{}

func (*machine) Advertise() ble.Advertisement {
	return ble.Advertisement{IDHint: ble.IDHint("m1"), Pending: 7, State: ble.StatePending}
}

func (*machine) Connect(p ble.Port) ble.Handler { return &machineEnd{port: p} }

type machineEnd struct {
	port ble.Port
	wg   sync.WaitGroup
}

func (m *machineEnd) Read(ble.Char) []byte { return []byte("information") }
func (m *machineEnd) Closed()              { m.wg.Wait() }
func (m *machineEnd) Write(c ble.Char, value []byte) {
	m.wg.Go(func() {
		if c != ble.CharCredit {
			_ = m.port.Notify(c, value)
			return
		}
		for i := range binary.LittleEndian.Uint32(value) {
			b := make([]byte, m.port.MTU()-3)
			binary.LittleEndian.PutUint32(b, i)
			if m.port.Notify(ble.CharData, b) != nil {
				return
			}
		}
	})
}

// impatient are times that let a test end soon, but a loaded computer be slow.
func impatient() Timing {
	return Timing{
		Start: 2 * time.Second, Heartbeat: 50 * time.Millisecond, Silence: time.Second, Dial: 3 * time.Second, Call: 500 * time.Millisecond, Cancel: 500 * time.Millisecond,
		Delay: func(int) time.Duration { return 10 * time.Millisecond },
	}
}

// run starts a worker whose process is of a mode, or of those modes one after the other.
func run(t testing.TB, timing Timing, modes ...string) (*Worker, *logged) {
	t.Helper()
	l := &logged{}
	started := 0
	w := Start(Options{Log: slog.New(slog.NewTextHandler(l, nil)), Timing: timing, Command: func() *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = []string{modeVar + "=" + modes[min(started, len(modes)-1)], "LOGXI=*=OFF"}
		started++
		return cmd
	}})
	t.Cleanup(func() { w.Close() })
	return w, l
}

// logged is what the worker logs.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// dial dials until the worker is up, since a test's first processes may fail.
func dial(t testing.TB, w *Worker) ble.Link {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		l, err := w.Dial(ctx, "m1")
		if err == nil {
			return l
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
		runtime.Gosched()
	}
}

// works checks that a worker does all that a radio does.
func works(t *testing.T, w *Worker) {
	t.Helper()
	l := dial(t, w)
	defer l.Close()
	ctx := t.Context()
	if b, err := l.ReadInfo(ctx); err != nil || string(b) != "information" {
		t.Errorf("INFO %q, %v", b, err)
	}
	if l.MTU() != ble.UsualMTU {
		t.Errorf("MTU %d", l.MTU())
	}
	heard := make(chan []byte, 1)
	if err := l.Subscribe(ctx, ble.CharControl, func(b []byte) { heard <- b }); err != nil {
		t.Fatal(err)
	}
	for _, say := range []string{"x", strings.Repeat("y", ble.UsualMTU-3)} {
		if err := l.Write(ctx, ble.CharControl, []byte(say)); err != nil {
			t.Fatal(err)
		}
		if got := <-heard; string(got) != say {
			t.Errorf("heard %q, want %q", got, say)
		}
	}
	if err := l.Write(ctx, ble.CharControl, make([]byte, ble.UsualMTU-2)); err == nil {
		t.Error("too long a value was taken")
	}
	numbers(t, l, 1000)
}

// numbers has the machine send n numbers and checks that they come in order.
func numbers(t testing.TB, l ble.Link, n uint32) {
	t.Helper()
	done := make(chan struct{})
	var next uint32
	err := l.Subscribe(t.Context(), ble.CharData, func(b []byte) {
		if got := binary.LittleEndian.Uint32(b); got != next {
			t.Errorf("number %d in the place of %d", got, next)
		}
		if next++; next == n {
			close(done)
		}
	})
	if err == nil {
		err = l.Write(t.Context(), ble.CharCredit, binary.LittleEndian.AppendUint32(nil, n))
	}
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-done:
	case <-l.Closed():
		t.Fatalf("the link is gone after %d of %d", next, n)
	}
}

func TestWorker(t *testing.T) {
	w, _ := run(t, impatient(), "well")
	works(t, w)
	works(t, w)
	ctx, cancel := context.WithCancel(t.Context())
	var seen ble.Advertisement
	if err := w.Scan(ctx, func(a ble.Advertisement) { seen = a; cancel() }); err != nil {
		t.Error(err)
	}
	if want := (ble.Advertisement{Address: "m1", RSSI: -60, IDHint: ble.IDHint("m1"), Pending: 7, State: ble.StatePending}); seen != want {
		t.Errorf("seen %+v", seen)
	}
	if _, err := w.Dial(t.Context(), "m2"); !errors.Is(err, ble.ErrNotFound) || !strings.Contains(err.Error(), "dial m2") {
		t.Errorf("dial: %v", err)
	}
	l := dial(t, w)
	if err := errors.Join(l.Close(), l.Close()); err != nil {
		t.Error(err)
	}
	<-l.Closed()
	if _, err := l.ReadInfo(t.Context()); !errors.Is(err, ble.ErrClosed) {
		t.Errorf("read after the end: %v", err)
	}
	open := dial(t, w)
	w.Close()
	<-open.Closed()
	if _, err := w.Dial(t.Context(), "m1"); !errors.Is(err, ble.ErrClosed) {
		t.Errorf("dial after Close: %v", err)
	}
}

// However the first process fails, the agent has an error that says so, and the next process works.
func TestWorkerRecovers(t *testing.T) {
	for mode, want := range map[string]string{
		"exits":             "exit status 3",
		"never opens":       "the adapter is not open after 2s",
		"garbage":           "broke the protocol",
		"an unknown frame":  "broke the protocol: kind 0x7f",
		"speaks first":      "before the radio is open",
		"goes silent":       "no word for",
		"half a frame":      "the Bluetooth worker ended",
		"a link of nothing": "an MTU of 7",
		"cannot open":       "open hci0: another program has the Bluetooth adapter: mend it",
		"dials for ever":    "could not be cancelled",
		"panics":            "exit status 2",
		"loses its adapter": "the Bluetooth adapter is gone",
	} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			timing := impatient()
			timing.Dial = 300 * time.Millisecond
			if mode == "goes silent" || mode == "a link of nothing" || mode == "panics" || mode == "loses its adapter" {
				timing.Dial = 3 * time.Second
			}
			w, log := run(t, timing, mode, "well")
			_, _ = w.Dial(t.Context(), "m1")
			works(t, w)
			if !strings.Contains(log.String(), want) {
				t.Errorf("the log lacks %q:\n%s", want, log)
			}
		})
	}
}

// A procedure that hangs in go-ble costs its link and, where it cannot be freed, the process; never the agent.
func TestWorkerHangsInACall(t *testing.T) {
	w, _ := run(t, impatient(), "hangs in a call", "well")
	l := dial(t, w)
	if _, err := l.ReadInfo(t.Context()); !errors.Is(err, ble.ErrClosed) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("read: %v", err)
	}
	<-l.Closed()
	works(t, w)
}

// While the worker is down, callers hear at once why, in errors that they can tell apart.
func TestWorkerSaysWhyItIsDown(t *testing.T) {
	timing := impatient()
	timing.Delay = func(int) time.Duration { return time.Hour }
	w, _ := run(t, timing, "cannot open")
	for range 2 {
		err := w.Scan(t.Context(), func(ble.Advertisement) {})
		if !errors.Is(err, hci.ErrBusy) || !strings.Contains(err.Error(), "mend it") || errors.Is(err, hci.ErrGone) {
			t.Errorf("scan: %v", err)
		}
	}
	if _, err := w.Dial(t.Context(), "m1"); !errors.Is(err, hci.ErrBusy) {
		t.Errorf("dial: %v", err)
	}
}

// A process that writes much to standard error does not fill the agent's log.
func TestWorkerIsChatty(t *testing.T) {
	w, log := run(t, impatient(), "is chatty")
	works(t, w)
	w.Close()
	if n := len(log.String()); n > 2*maxLine*maxLines || !strings.Contains(log.String(), "left out") {
		t.Errorf("%d bytes of log", n)
	}
}

// The process is killed over and over while it is used: nothing of it is left, neither here nor in the kernel.
func TestWorkerKilledOverAndOver(t *testing.T) {
	w, _ := run(t, impatient(), "well")
	works(t, w)
	before, goroutines := openFiles(t), runtime.NumGoroutine()
	for range 20 {
		l := dial(t, w)
		pid := w.Pid()
		process, err := os.FindProcess(pid)
		if err == nil {
			err = process.Kill()
		}
		if err != nil {
			t.Fatal(err)
		}
		<-l.Closed()
		if err := l.Write(t.Context(), ble.CharControl, []byte("x")); !errors.Is(err, ble.ErrClosed) {
			t.Errorf("write: %v", err)
		}
		for w.Pid() == pid {
			runtime.Gosched()
		}
		if err := process.Signal(syscall.Signal(0)); !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("process %d is still there: %v", pid, err)
		}
		_ = process.Release()
	}
	works(t, w)
	for range 1000 {
		if runtime.NumGoroutine() <= goroutines {
			break
		}
		runtime.Gosched()
	}
	if n := openFiles(t); n != before {
		t.Errorf("%d files are open, %d were", n, before)
	}
	if n := runtime.NumGoroutine(); n > goroutines {
		t.Errorf("%d goroutines, %d were", n, goroutines)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("this system does not list open files: ", err)
	}
	return len(entries)
}

// The process ends when the agent's end of its input does, whatever it is doing.
func TestChildEndsWithTheAgent(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"well", "dials for ever"} {
		cmd := exec.Command(os.Args[0])
		cmd.Env = []string{modeVar + "=" + mode, "LOGXI=*=OFF"}
		in, err := cmd.StdinPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		_, _ = in.Write(request{kind: kindDial, id: 1, address: "m1"}.frame().append(nil))
		in.Close()
		err = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); mode == "well" && code != 0 || mode != "well" && code != 9 {
			t.Errorf("%s: %v", mode, err)
		}
	}
}

// An agent that is killed leaves no process behind that holds the adapter, whatever that is doing.
func TestAgentIsKilled(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(os.Args[0])
	cmd.Env = []string{modeVar + "=an agent"}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscan(out, &pid); err != nil {
		t.Fatal(err)
	}
	child, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(child.Signal(syscall.Signal(0)), cmd.Process.Kill()); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	for child.Signal(syscall.Signal(0)) == nil && !zombie(pid) { // the test's time limit bounds it
		runtime.Gosched()
	}
	_ = child.Release()
}

// zombie reports whether a process has ended and only waits for its new parent to notice.
func zombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(b), ") Z ")
}

// BenchmarkNotifications measures notifications of 244 bytes from the machine in the worker's process to the agent.
func BenchmarkNotifications(b *testing.B) {
	w, _ := run(b, Timing{}, "well")
	l := dial(b, w)
	defer l.Close()
	b.SetBytes(ble.UsualMTU - 3)
	b.ReportAllocs()
	b.ResetTimer()
	const batch = 4096 // the worker cuts a link on which more waits than it may hold
	for done := 0; done < b.N; done += batch {
		numbers(b, l, uint32(min(batch, b.N-done)))
	}
}
