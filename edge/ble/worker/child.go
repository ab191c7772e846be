package worker

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/farebeat/farebeat/edge/ble"
)

const (
	orphanedAfter = 15 * time.Second // without a word of the agent, which pings: it hangs, and is not served on
	maxRequests   = 64               // at a time
	maxOutgoing   = 8192             // frames that wait for the agent: beyond, links are cut
	maxFound      = 64               // and advertisements are left out
)

// Device is the radio that a worker process serves.
type Device interface {
	ble.Radio
	Done() <-chan struct{} // closed when it is of no more use; Err says why
	Err() error
	Close() error
}

// Child is the worker's process.
type Child struct {
	In   io.Reader // frames of the agent; when it ends, the agent has
	Out  io.Writer // frames to the agent
	Open func(ctx context.Context) (Device, error)
	// Abort ends the process at once. It is called where go-ble or a write to the agent hangs for abortAfter when all should end.
	Abort func()
}

// abortAfter is how long an orderly end may take.
const abortAfter = 5 * time.Second

// Serve opens the radio and does what the agent asks until In ends, or the radio is of no more use. The agent is told why;
// the error is what it could not be told.
func (p Child) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	c := &child{out: p.Out, kick: make(chan struct{}, 1), requests: map[uint32]context.CancelFunc{}, links: map[uint32]ble.Link{}, broken: make(chan struct{})}
	hung := time.AfterFunc(time.Hour, p.Abort)
	hung.Stop()
	defer func() { hung.Stop() }()
	var writing sync.WaitGroup
	writing.Go(c.write)
	defer writing.Wait()
	defer c.finish()
	defer c.wg.Wait()
	defer c.end(cancel)
	device, err := p.Open(ctx)
	if err != nil {
		c.say(report{kind: kindFailed, err: err})
		return nil
	}
	defer device.Close()
	defer func() { hung = time.AfterFunc(abortAfter, p.Abort) }()
	c.device = device
	c.say(report{kind: kindReady})
	reading := make(chan error, 1)
	alive := time.NewTimer(orphanedAfter)
	defer alive.Stop()
	go func() { reading <- c.read(ctx, p.In, alive) }() // ends with in, which may be after this returns: the process ends then
	select {
	case err = <-reading:
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	case <-alive.C:
		return fmt.Errorf("the agent said nothing for %s", orphanedAfter)
	case <-c.broken:
		return nil // nobody reads: the agent is gone
	case <-ctx.Done():
		return nil
	case <-device.Done():
		c.say(report{kind: kindFailed, err: device.Err()})
		return nil
	}
}

type child struct {
	device Device
	out    io.Writer
	kick   chan struct{} // holds one when there is something to write
	broken chan struct{} // closed when writing failed
	wg     sync.WaitGroup

	mu       sync.Mutex
	outgoing []frame
	closing  bool // nothing more is said
	over     bool // nothing more is begun
	requests map[uint32]context.CancelFunc
	links    map[uint32]ble.Link
	lastLink uint32
}

// end stops what is under way.
func (c *child) end(cancel context.CancelFunc) {
	cancel()
	c.mu.Lock()
	c.over = true
	open := slices.Collect(maps.Values(c.links))
	c.mu.Unlock()
	for _, l := range open {
		l.Close()
	}
}

// read takes requests until in ends.
func (c *child) read(ctx context.Context, in io.Reader, alive *time.Timer) error {
	r := bufio.NewReader(in)
	for {
		f, err := readFrame(r)
		if err != nil {
			return err
		}
		q, err := f.request()
		if err != nil {
			return err
		}
		alive.Reset(orphanedAfter)
		if err := c.take(ctx, q); err != nil {
			return err
		}
	}
}

// take begins what a request asks for.
func (c *child) take(ctx context.Context, q request) error {
	switch q.kind {
	case kindPing:
		c.say(report{kind: kindPong, id: q.id})
		return nil
	case kindCancel:
		c.mu.Lock()
		cancel := c.requests[q.id]
		c.mu.Unlock()
		if cancel != nil {
			cancel()
		}
		return nil
	case kindClose:
		c.mu.Lock()
		defer c.mu.Unlock()
		if l := c.links[q.id]; l != nil && !c.over {
			c.wg.Go(func() { l.Close() })
		}
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		cancel()
		return ble.ErrClosed
	}
	if c.requests[q.id] != nil || len(c.requests) >= maxRequests {
		cancel()
		return fmt.Errorf("%w: request %d of %d", errProtocol, q.id, len(c.requests))
	}
	c.requests[q.id] = cancel
	c.wg.Go(func() {
		defer cancel()
		value, err := c.do(ctx, q)
		c.mu.Lock()
		delete(c.requests, q.id)
		c.mu.Unlock()
		if err != nil {
			c.say(report{kind: kindError, id: q.id, err: err})
			return
		}
		c.say(report{kind: kindDone, id: q.id, value: value})
	})
	return nil
}

func (c *child) link(id uint32) ble.Link {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.links[id]
}

// do is one request.
func (c *child) do(ctx context.Context, q request) (value []byte, err error) {
	switch q.kind {
	case kindScan:
		return nil, c.device.Scan(ctx, func(ad ble.Advertisement) {
			if len(ad.Address) <= maxAddress {
				c.say(report{kind: kindFound, id: q.id, ad: ad})
			}
		})
	case kindDial:
		return c.dial(ctx, q.address)
	}
	l := c.link(q.link)
	if l == nil {
		return nil, ble.ErrClosed
	}
	switch q.kind {
	case kindRead:
		return l.ReadInfo(ctx)
	case kindSubscribe:
		return nil, l.Subscribe(ctx, q.char, func(b []byte) {
			if !c.say(report{kind: kindNotify, id: q.link, char: q.char, value: b}) {
				go l.Close() // the agent does not keep up with a device that ignores its credits; closing waits for this call
			}
		})
	}
	return nil, l.Write(ctx, q.char, q.value)
}

func (c *child) dial(ctx context.Context, address string) ([]byte, error) {
	l, err := c.device.Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return nil, errors.Join(ble.ErrClosed, l.Close())
	}
	c.lastLink++
	id := c.lastLink
	c.links[id] = l
	c.wg.Go(func() {
		<-l.Closed()
		c.mu.Lock()
		delete(c.links, id)
		c.mu.Unlock()
		c.say(report{kind: kindClosed, id: id})
	})
	return dialled(id, l.MTU()), nil
}

// say queues a report and never waits. It reports whether there was room; only notifications and advertisements lack it.
func (c *child) say(r report) bool {
	f := r.frame()
	c.mu.Lock()
	defer c.mu.Unlock()
	switch n := len(c.outgoing); {
	case c.closing, r.kind == kindFound && n >= maxFound, r.kind == kindNotify && n >= maxOutgoing:
		return false
	}
	c.outgoing = append(c.outgoing, f)
	select {
	case c.kick <- struct{}{}:
	default:
	}
	return true
}

// finish has write return once all is written.
func (c *child) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closing = true
	close(c.kick)
}

// write sends what is queued, many frames at a time where many wait.
func (c *child) write() {
	var buf []byte
	for range c.kick {
		c.mu.Lock()
		frames := c.outgoing
		c.outgoing = nil
		c.mu.Unlock()
		for len(frames) > 0 {
			buf = buf[:0]
			for len(frames) > 0 && len(buf) < 16<<10 {
				buf = frames[0].append(buf)
				frames = frames[1:]
			}
			if _, err := c.out.Write(buf); err != nil {
				close(c.broken)
				for range c.kick { // whoever speaks on is not held up
				}
				return
			}
		}
	}
}
