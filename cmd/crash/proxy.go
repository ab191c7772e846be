//go:build unix

package main

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// proxy stands between two programs and loses connections: after a random number of bytes, all at once, or by taking no
// new ones.
type proxy struct {
	network, target string
	listener        net.Listener
	calm            *atomic.Bool // nothing is lost by chance
	cuts            atomic.Int64

	mu      sync.Mutex
	rng     *rand.Rand
	refuses bool
	conns   map[net.Conn]bool
}

// Chances of a connection: one of cutOf is lost after up to maxBytes bytes, few of them more often than many.
const (
	cutOf    = 3
	maxBytes = 64 << 10
)

// newProxy listens on an address and forwards to target, both of a network: tcp or unix.
func newProxy(network, address, target string, seed, number uint64, calm *atomic.Bool) (*proxy, error) {
	l, err := net.Listen(network, address) //nolint:noctx // local
	if err != nil {
		return nil, err
	}
	p := &proxy{network: network, target: target, listener: l, calm: calm, rng: rand.New(rand.NewPCG(seed, number)), conns: map[net.Conn]bool{}}
	go p.accept()
	return p, nil
}

func (p *proxy) address() string { return p.listener.Addr().String() }

func (p *proxy) close() {
	_ = p.listener.Close()
	p.cut()
}

func (p *proxy) accept() {
	for {
		in, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		go p.serve(in)
	}
}

// budget is after how many bytes a new connection is lost; 0: not by chance.
func (p *proxy) budget() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rng.IntN(cutOf) > 0 {
		return 0
	}
	return 1 + p.rng.Int64N(1+p.rng.Int64N(maxBytes))
}

func (p *proxy) serve(in net.Conn) {
	defer in.Close()
	out, err := net.DialTimeout(p.network, p.target, 2*time.Second) //nolint:noctx // local
	if err != nil {
		return
	}
	defer out.Close()
	p.mu.Lock()
	if p.refuses {
		p.mu.Unlock()
		return
	}
	p.conns[in] = true
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.conns, in)
		p.mu.Unlock()
	}()
	left := &atomic.Int64{}
	left.Store(p.budget())
	limited := left.Load() > 0
	var wg sync.WaitGroup
	for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
		wg.Go(func() {
			if p.forward(way[1], way[0], left, limited) {
				if half, ok := way[1].(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
					return
				}
			}
			in.Close()
			out.Close()
		})
	}
	wg.Wait()
}

// forward copies until an end, or until the connection's bytes are used up: what is left of the last piece still goes. It
// reports whether the sender ended in order.
func (p *proxy) forward(to io.Writer, from io.Reader, left *atomic.Int64, limited bool) bool {
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		if limited && !p.calm.Load() {
			if rest := left.Add(-int64(n)); rest <= 0 {
				n += int(max(rest, -int64(n)))
				if _, err := to.Write(buf[:n]); err == nil {
					p.cuts.Add(1)
				}
				return false
			}
		}
		if _, werr := to.Write(buf[:n]); werr != nil || err != nil {
			return werr == nil && errors.Is(err, io.EOF)
		}
	}
}

// cut loses all connections now.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
	p.cuts.Add(int64(len(p.conns)))
}

// refuse takes no new connections and loses the old ones, or takes them again.
func (p *proxy) refuse(yes bool) {
	p.mu.Lock()
	p.refuses = yes
	p.mu.Unlock()
	if yes {
		p.cut()
	}
}
