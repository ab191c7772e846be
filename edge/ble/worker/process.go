package worker

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/farebeat/farebeat/edge/ble"
)

var (
	errHung  = errors.New("the Bluetooth worker hangs")
	errEnded = errors.New("the Bluetooth worker ended")
)

// writeTimeout is how long the worker may leave the agent's frames unread, where a pipe has room for thousands.
const writeTimeout = 5 * time.Second

// process is one run of the worker.
type process struct {
	cmd             *exec.Cmd
	in, out, stderr *os.File
	turn            chan struct{} // holds one while a frame is written
	done            chan struct{} // closed when the process is of no more use
	gone            chan struct{} // closed when it is no more
	timing          Timing

	mu     sync.Mutex
	err    error // why done is closed
	ready  bool
	left   bool // the agent wants it to end
	heard  int  // frames
	lastID uint32
	calls  map[uint32]*pending
	links  map[uint32]*link
}

// pending is a request under way.
type pending struct {
	result chan report
	found  func(ble.Advertisement)
	dial   bool
	link   *link // what dial brought; set before result has it
}

// watch pings the process and kills one that says nothing. It counts its own ticks: while the agent stands still, as when it
// is stopped or the computer sleeps, the process is not to blame.
func (p *process) watch() {
	t := p.timing
	ticker := time.NewTicker(t.Heartbeat)
	defer ticker.Stop()
	var silent time.Duration
	for before := 0; ; {
		select {
		case <-p.done:
			return
		case <-ticker.C:
			p.mu.Lock()
			ready, heard := p.ready, p.heard
			p.mu.Unlock()
			silent += t.Heartbeat
			if heard != before {
				silent, before = 0, heard
			}
			switch {
			case !ready && silent > t.Start:
				p.kill(fmt.Errorf("%w: the adapter is not open after %s", errHung, t.Start))
			case ready && silent > t.Silence:
				p.kill(fmt.Errorf("%w: no word for %s", errHung, silent))
			case ready:
				_ = p.send(request{kind: kindPing}.frame()) // a failure has killed it
			}
		}
	}
}

// Lines of the process that go into the agent's log.
const (
	maxLine  = 512 // bytes
	maxLines = 100 // of one process
)

// relay logs what the process writes to standard error, the begin of it if it is much.
func (p *process) relay(log *slog.Logger) {
	r := bufio.NewReaderSize(p.stderr, maxLine)
	for n := 0; ; {
		line, more, err := r.ReadLine()
		if err != nil {
			if n > maxLines {
				log.Warn("Bluetooth worker: lines were left out", "lines", n-maxLines)
			}
			return
		}
		if n++; n <= maxLines {
			log.Warn("Bluetooth worker", "line", string(line))
		}
		for more && err == nil {
			_, more, err = r.ReadLine()
		}
	}
}

// take handles what the worker says. It is called from one goroutine. An error ends the process.
func (p *process) take(r report) error {
	p.mu.Lock()
	p.heard++
	if !p.ready && r.kind != kindReady && r.kind != kindFailed {
		p.mu.Unlock()
		return fmt.Errorf("%w: kind %#02x before the radio is open", errProtocol, uint8(r.kind))
	}
	var call *pending
	var notify func([]byte)
	switch r.kind {
	case kindReady:
		p.ready = true
	case kindFound:
		call = p.calls[r.id]
	case kindDone, kindError:
		call = p.calls[r.id]
		delete(p.calls, r.id)
		if call != nil && call.dial && r.kind == kindDone {
			l, err := p.opened(r.value)
			if err != nil {
				p.mu.Unlock()
				return err
			}
			call.link = l
		}
	case kindNotify:
		if l := p.links[r.id]; l != nil {
			notify = l.notify[r.char]
		}
	case kindClosed:
		p.unlink(r.id)
	}
	p.mu.Unlock()
	switch {
	case r.kind == kindFailed:
		return r.err
	case notify != nil:
		notify(r.value)
	case call != nil && r.kind == kindFound && call.found != nil:
		call.found(r.ad)
	case call != nil && r.kind != kindFound:
		call.result <- r // has room: there is one result
	}
	return nil
}

// unlink ends a link on this side. The lock is held.
func (p *process) unlink(id uint32) {
	if l := p.links[id]; l != nil {
		delete(p.links, id)
		close(l.closed)
	}
}

// send writes a frame. A process that does not read is killed.
func (p *process) send(f frame) error {
	select {
	case p.turn <- struct{}{}:
	case <-p.done:
		return p.cause()
	}
	defer func() { <-p.turn }()
	_ = p.in.SetWriteDeadline(time.Now().Add(writeTimeout))
	if _, err := p.in.Write(f.append(make([]byte, 0, 2+frameHeader+len(f.body)))); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = fmt.Errorf("%w: it does not read", errHung)
		}
		p.kill(err)
		return p.cause()
	}
	return nil
}

// call sends a request and waits for its result. When ctx ends, the request is cancelled, and the process is killed if that
// takes too long.
func (p *process) call(ctx context.Context, q request, c *pending) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c.result = make(chan report, 1)
	p.mu.Lock()
	p.lastID++
	q.id = p.lastID
	p.calls[q.id] = c
	p.mu.Unlock()
	if err := p.send(q.frame()); err != nil {
		return nil, err
	}
	select {
	case r := <-c.result:
		return r.value, r.err
	case <-p.done:
		return nil, p.cause()
	case <-ctx.Done():
	}
	if err := p.send(request{kind: kindCancel, id: q.id}.frame()); err != nil {
		return nil, err
	}
	timer := time.NewTimer(p.timing.Cancel)
	defer timer.Stop()
	select {
	case r := <-c.result:
		return r.value, r.err // it may have succeeded meanwhile
	case <-p.done:
		return nil, p.cause()
	case <-timer.C:
		p.kill(fmt.Errorf("%w: a request could not be cancelled within %s", errHung, p.timing.Cancel))
		return nil, errors.Join(ctx.Err(), p.cause())
	}
}

// kill ends the process at once. Calls and links end with it.
func (p *process) kill(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, os.ErrClosed) {
		err = errEnded
	}
	p.err = err
	close(p.done)
	for id := range p.links {
		p.unlink(id)
	}
	if !p.left {
		_ = p.cmd.Process.Kill() // it may have ended already
	}
}

// leaveTime is how long a process may take to end by itself, so that machines hear that their links end.
const leaveTime = 3 * time.Second

// leave has the process end in order: it does when its input ends.
func (p *process) leave() {
	p.mu.Lock()
	p.left = true
	p.mu.Unlock()
	p.in.Close()
	timer := time.AfterFunc(leaveTime, func() { _ = p.cmd.Process.Kill() })
	go func() {
		<-p.gone
		timer.Stop()
	}()
}

// cause is the error of calls that the process did not live to answer, nil while it runs.
func (p *process) cause() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		return nil
	}
	return &remoteError{text: fmt.Sprintf("%s: %s", errDown, p.err), kinds: []error{ble.ErrClosed, errDown, p.err}}
}

// wait returns when the process is gone, and why it is.
func (p *process) wait() error {
	err := p.cmd.Wait()
	close(p.gone)
	p.closePipes()
	p.mu.Lock()
	why := p.err
	p.mu.Unlock()
	if errors.Is(why, errEnded) && err != nil {
		return fmt.Errorf("%w: %w", why, err)
	}
	return why
}

func (p *process) closePipes() {
	for _, f := range []*os.File{p.in, p.out, p.stderr} {
		f.Close()
	}
}

// link is the agent's end of a link.
type link struct {
	p      *process
	id     uint32
	mtu    int
	closed chan struct{}
	notify map[ble.Char]func([]byte) // of the process's lock
}

// opened makes a link of what a dial brought. The lock is held: what the worker says of the link next finds it.
func (p *process) opened(value []byte) (*link, error) {
	id, mtu, err := parseDialled(value)
	if err == nil && p.links[id] != nil {
		err = fmt.Errorf("%w: link %d twice", errProtocol, id)
	}
	if err != nil {
		return nil, err
	}
	l := &link{p: p, id: id, mtu: mtu, closed: make(chan struct{}), notify: map[ble.Char]func([]byte){}}
	p.links[id] = l
	if p.err != nil {
		p.unlink(id)
	}
	return l, nil
}

// call is a GATT procedure on the link.
func (l *link) call(ctx context.Context, q request) ([]byte, error) {
	select {
	case <-l.closed:
		return nil, errors.Join(ble.ErrClosed, l.p.cause())
	default:
	}
	q.link = l.id
	timed, cancel := context.WithTimeout(ctx, l.p.timing.Call)
	defer cancel()
	value, err := l.p.call(timed, q, &pending{})
	if err != nil && errors.Is(err, context.DeadlineExceeded) {
		l.Close() // after a procedure that did not end, a link is of no use
	}
	return value, err
}

// MTU implements ble.Link.
func (l *link) MTU() int { return l.mtu }

// ReadInfo implements ble.Link.
func (l *link) ReadInfo(ctx context.Context) ([]byte, error) {
	return l.call(ctx, request{kind: kindRead})
}

// Subscribe implements ble.Link.
func (l *link) Subscribe(ctx context.Context, c ble.Char, notify func([]byte)) error {
	l.p.mu.Lock()
	l.notify[c] = notify
	l.p.mu.Unlock()
	_, err := l.call(ctx, request{kind: kindSubscribe, char: c})
	return err
}

// Write implements ble.Link.
func (l *link) Write(ctx context.Context, c ble.Char, value []byte) error {
	if len(value) > l.mtu-3 {
		return fmt.Errorf("write %d bytes to %04x: the link takes %d", len(value), uint16(c), l.mtu-3)
	}
	_, err := l.call(ctx, request{kind: kindWrite, char: c, value: value})
	return err
}

// Closed implements ble.Link.
func (l *link) Closed() <-chan struct{} { return l.closed }

// Close implements ble.Link.
func (l *link) Close() error {
	l.p.mu.Lock()
	open := l.p.links[l.id] == l
	l.p.unlink(l.id)
	l.p.mu.Unlock()
	if open {
		_ = l.p.send(request{kind: kindClose, id: l.id}.frame()) // a failure has killed the process, and the link with it
	}
	return nil
}
