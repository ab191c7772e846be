// Package worker runs a radio in a process of its own, so that neither go-ble nor a Bluetooth adapter can crash or hang the
// agent: whatever the worker's process does, the agent has an error in bounded time, and a new process resets the adapter.
package worker

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"time"

	"github.com/farebeat/farebeat/edge/ble"
)

// Timing is how patient the agent is with its worker. Zero stands for the default.
type Timing struct {
	Start     time.Duration // until the adapter is open; 15 s
	Heartbeat time.Duration // between pings; 2 s
	Silence   time.Duration // without a frame from the worker, which answers pings; 8 s
	Dial      time.Duration // 25 s: the radio's own limits are 15 s for the connection and 5 s for the service
	Call      time.Duration // for a GATT procedure; 8 s: its own limit is 5 s
	Cancel    time.Duration // until a request that was cancelled has ended; 8 s
	// Delay is how long to wait after so many failures in a row; ble.RestartDelay with random jitter.
	Delay func(failures int) time.Duration
}

func (t Timing) withDefaults() Timing {
	for d, otherwise := range map[*time.Duration]time.Duration{
		&t.Start: 15 * time.Second, &t.Heartbeat: 2 * time.Second, &t.Silence: 8 * time.Second, &t.Dial: 25 * time.Second,
		&t.Call: 8 * time.Second, &t.Cancel: 8 * time.Second,
	} {
		if *d <= 0 {
			*d = otherwise
		}
	}
	if t.Delay == nil {
		t.Delay = func(failures int) time.Duration { return ble.RestartDelay(failures, rand.Float64()) }
	}
	return t
}

// Options are what a Worker is made of.
type Options struct {
	Command func() *exec.Cmd // the worker's process, which speaks Serve's protocol on standard input and output
	Log     *slog.Logger
	Timing  Timing
}

// settled is how long a process must have worked for its end to count as the first failure.
const settled = time.Minute

// errDown says that no process runs at the moment.
var errDown = errors.New("the Bluetooth worker is down")

// Worker is a ble.Radio in a process that is started again whenever it ends, hangs or says what it should not.
type Worker struct {
	o       Options
	cancel  context.CancelFunc
	stopped chan struct{}

	mu      sync.Mutex
	process *process      // nil: there is none
	changed chan struct{} // closed when process or why changes
	why     error         // there is no process
}

var _ ble.Radio = (*Worker)(nil)

// Start starts the worker's process and supervises it until Close.
func Start(o Options) *Worker {
	o.Timing = o.Timing.withDefaults()
	ctx, cancel := context.WithCancel(context.Background())
	w := &Worker{o: o, cancel: cancel, stopped: make(chan struct{}), changed: make(chan struct{})}
	go w.supervise(ctx)
	return w
}

// Close ends the process and waits for it. Links end with it. It may be called again.
func (w *Worker) Close() error {
	w.cancel()
	<-w.stopped
	return nil
}

// Pid is that of the process that runs, 0 if none does.
func (w *Worker) Pid() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.process == nil {
		return 0
	}
	return w.process.cmd.Process.Pid
}

func (w *Worker) set(p *process, why error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.process, w.why = p, why
	close(w.changed)
	w.changed = make(chan struct{})
}

// supervise runs one process after the other.
func (w *Worker) supervise(ctx context.Context) {
	// The kernel ends the worker with the thread that started it (Pdeathsig), so this goroutine keeps its thread.
	runtime.LockOSThread()
	defer close(w.stopped)
	for failures := 0; ; {
		begun := time.Now()
		err := w.runOne(ctx)
		if ctx.Err() != nil {
			w.set(nil, ble.ErrClosed)
			return
		}
		if time.Since(begun) >= settled {
			failures = 0
		}
		failures++
		wait := w.o.Timing.Delay(failures)
		w.set(nil, fmt.Errorf("%w: %w", errDown, err))
		w.o.Log.Error("the Bluetooth worker ended; it is started again", "err", err, "again_in", wait.Round(time.Millisecond))
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
			w.set(nil, nil) // who asks now waits for the start
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

// runOne runs a process until it ends and returns why.
func (w *Worker) runOne(ctx context.Context) error {
	p, err := begin(w.o)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, p.leave)
	defer stop()
	var watching sync.WaitGroup
	watching.Go(func() { p.watch() })
	watching.Go(func() { p.relay(w.o.Log) })
	r := bufio.NewReaderSize(p.out, 16<<10)
	for {
		f, err := readFrame(r)
		if err == nil {
			var what report
			if what, err = f.report(); err == nil {
				if what.kind == kindReady {
					w.set(p, nil)
				}
				err = p.take(what)
			}
		}
		if err != nil {
			p.kill(err)
			break
		}
	}
	err = p.wait()
	watching.Wait()
	return err
}

// running is the process, once its radio is open. It does not wait while the worker is down.
func (w *Worker) running(ctx context.Context) (*process, error) {
	for {
		w.mu.Lock()
		p, why, changed := w.process, w.why, w.changed
		w.mu.Unlock()
		switch {
		case why != nil:
			return nil, why
		case p != nil:
			return p, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Scan implements ble.Radio. While the worker is down it says at once why.
func (w *Worker) Scan(ctx context.Context, found func(ble.Advertisement)) error {
	p, err := w.running(ctx)
	if err == nil {
		_, err = p.call(ctx, request{kind: kindScan}, &pending{found: found})
	}
	if ctx.Err() != nil && (err == nil || errors.Is(err, ctx.Err())) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("scan: %w", err)
	}
	return nil
}

// Dial implements ble.Radio.
func (w *Worker) Dial(ctx context.Context, address string) (ble.Link, error) {
	p, err := w.running(ctx)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	if address == "" || len(address) > maxAddress {
		return nil, fmt.Errorf("dial %q: not an address", address)
	}
	timed, cancel := context.WithTimeout(ctx, w.o.Timing.Dial)
	defer cancel()
	c := &pending{dial: true}
	if _, err := p.call(timed, request{kind: kindDial, address: address}, c); err != nil {
		return nil, err // the radio has said what it dialled
	}
	return c.link, nil
}

// begin starts a process.
func begin(o Options) (*process, error) {
	var ends [6]*os.File // reading and writing, of each stream
	var err error
	for i := 0; i < len(ends) && err == nil; i += 2 {
		ends[i], ends[i+1], err = os.Pipe()
	}
	if err != nil {
		for _, f := range ends {
			if f != nil {
				f.Close()
			}
		}
		return nil, fmt.Errorf("start the Bluetooth worker: %w", err)
	}
	cmd := o.Command()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = ends[0], ends[3], ends[5]
	tie(cmd)
	err = cmd.Start()
	for _, theirs := range []io.Closer{ends[0], ends[3], ends[5]} {
		theirs.Close()
	}
	p := &process{
		cmd: cmd, in: ends[1], out: ends[2], stderr: ends[4], turn: make(chan struct{}, 1), done: make(chan struct{}), gone: make(chan struct{}), timing: o.Timing,
		calls: map[uint32]*pending{}, links: map[uint32]*link{},
	}
	if err != nil {
		p.closePipes()
		return nil, fmt.Errorf("start the Bluetooth worker %s: %w", cmd.Path, err)
	}
	return p, nil
}
