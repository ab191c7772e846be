package broker

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/farebeat/farebeat/broker/store"
)

// Bounds of what waits for the disk.
const (
	maxPending      = 1_024    // publishes of one connection whose acknowledgement is not out yet
	maxPendingBytes = 64 << 20 // of all changes that wait; then publishers wait, too
	maxGroup        = 4_096    // changes of one transaction
	maxGroupBytes   = 8 << 20
	perChange       = 200         // bytes reckoned for a change beside its payload
	lazyDelay       = time.Second // how long what may be written at any time waits for company
	retryMin        = time.Second // between attempts to write to a disk that fails
	retryMax        = 8 * time.Second
)

// journal is where changes go, a *store.Store. After an error nothing of the group counts as written.
type journal interface {
	Commit(changes []store.Change) error
}

// commits brings changes to the disk in the order in which they come: one goroutine joins what waits into one
// transaction, and only when that is on disk does it deliver the messages in it and lets their acknowledgements go. Nobody is
// waited for: while one transaction reaches the disk the next group collects by itself.
//
// While the disk fails the group stays in memory and is tried again. Nothing is acknowledged or delivered meanwhile, and
// publishers wait once enough has collected.
type commits struct {
	h       *hook
	journal journal
	wake    chan struct{} // 1 deep
	closing chan struct{} // closed when nobody is to wait any more
	stop    chan struct{} // closed when nothing more comes
	stopped chan struct{}

	mu      sync.Mutex
	waiting []work
	bytes   int           // of waiting and of the group that is being written
	room    chan struct{} // closed when there is room again, nil if nobody waits
	lazy    lazy
	next    int64 // number for a session, a will or a queued message

	failing  atomic.Pointer[failure]
	written  atomic.Uint64 // transactions
	changes  atomic.Uint64 // in them
	failures atomic.Uint64 // attempts that failed
}

// work is a change that waits, or a publish.
type work struct {
	change store.Change // nil for a publish that changes nothing by itself
	m      *message     // what is delivered once the change is on disk, nil for nothing
	origin string       // client id of its writer
	conn   *conn        // whose publish it is, to be acknowledged as id; nil for none
	id     uint16
	done   chan struct{} // closed when it is on disk, may be nil
}

func (w *work) size() int {
	if w.m == nil {
		return perChange
	}
	return perChange + len(w.m.payload)
}

// lazy is what may be lost in a crash at the price of a message that comes twice. It goes with the next transaction.
type lazy struct {
	dequeued []store.Dequeue
	replayed map[store.Replayed]bool
	touched  map[int64]store.TouchSession
	timer    *time.Timer // nil while there is nothing
}

// failure is why nothing reaches the disk.
type failure struct {
	since    time.Time
	attempts int
	err      error
}

func newCommits(h *hook, j journal) *commits {
	return &commits{
		h: h, journal: j, wake: make(chan struct{}, 1), closing: make(chan struct{}), stop: make(chan struct{}), stopped: make(chan struct{}),
		lazy: lazy{replayed: map[store.Replayed]bool{}, touched: map[int64]store.TouchSession{}},
	}
}

func (j *commits) waitingBytes() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.bytes
}

// number gives a number that nothing else has.
func (j *commits) number() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.next++
	return j.next
}

// put adds work without waiting.
func (j *commits) put(list ...work) {
	j.mu.Lock()
	j.add(list)
	j.mu.Unlock()
}

func (j *commits) add(list []work) {
	for _, w := range list {
		if s, ok := w.change.(store.Subscribe); ok {
			delete(j.lazy.replayed, store.Replayed{Session: s.Session, Filter: s.Filter})
		}
		j.waiting = append(j.waiting, w)
		j.bytes += w.size()
	}
	j.poke()
}

func (j *commits) poke() {
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// putSlowly adds work when there is room for it: so a disk that is slow or fails slows the publishers down. False if
// gone was closed first; nil never is. Nobody waits for a broker that closes.
func (j *commits) putSlowly(gone <-chan struct{}, list ...work) bool {
	for {
		j.mu.Lock()
		if j.bytes < maxPendingBytes {
			j.add(list)
			j.mu.Unlock()
			return true
		}
		if j.room == nil {
			j.room = make(chan struct{})
		}
		room := j.room
		j.mu.Unlock()
		select {
		case <-room:
		case <-gone:
			return false
		case <-j.closing:
			return false
		}
	}
}

// dequeue notes that a session acknowledged a message.
func (j *commits) dequeue(session, id int64) {
	j.lazily(func(l *lazy) { l.dequeued = append(l.dequeued, store.Dequeue{Session: session, ID: id}) })
}

func (j *commits) replayed(session int64, filters []string) {
	j.lazily(func(l *lazy) {
		for _, f := range filters {
			l.replayed[store.Replayed{Session: session, Filter: f}] = true
		}
	})
}

// touch notes that a session's client came or left. The latest counts.
func (j *commits) touch(t store.TouchSession) {
	j.lazily(func(l *lazy) { l.touched[t.Number] = t })
}

func (j *commits) lazily(note func(*lazy)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	note(&j.lazy)
	if j.lazy.timer == nil {
		j.lazy.timer = time.AfterFunc(lazyDelay, j.poke)
	}
}

// run writes until stop is closed and everything is written, or the disk fails then.
func (j *commits) run() {
	defer close(j.stopped)
	for {
		select {
		case <-j.wake:
		case <-j.stop:
		}
		for {
			group, changes := j.take()
			if len(group) == 0 && len(changes) == 0 {
				break
			}
			if !j.write(group, changes) {
				return
			}
		}
		select {
		case <-j.stop:
			return
		default:
		}
	}
}

// take is the next group, and what may be written with it.
func (j *commits) take() ([]work, []store.Change) {
	j.mu.Lock()
	defer j.mu.Unlock()
	n, bytes := 0, 0
	for n < len(j.waiting) && n < maxGroup && bytes < maxGroupBytes {
		bytes += j.waiting[n].size()
		n++
	}
	group := j.waiting[:n:n]
	if j.waiting = j.waiting[n:]; len(j.waiting) == 0 {
		j.waiting = nil
	}
	return group, j.lazy.take()
}

func (l *lazy) take() []store.Change {
	if l.timer == nil {
		return nil
	}
	l.timer.Stop()
	changes := make([]store.Change, 0, len(l.dequeued)+len(l.replayed)+len(l.touched))
	for _, d := range l.dequeued {
		changes = append(changes, d)
	}
	for r := range l.replayed {
		changes = append(changes, r)
	}
	for _, t := range l.touched {
		changes = append(changes, t)
	}
	*l = lazy{replayed: map[store.Replayed]bool{}, touched: map[int64]store.TouchSession{}}
	return changes
}

// write brings a group to the disk, however long that takes, and then lets the world know. False if the broker closed
// while the disk failed.
func (j *commits) write(group []work, late []store.Change) bool {
	changes, rows := j.prepare(group)
	changes = append(changes, late...)
	for pause := retryMin; ; pause = min(2*pause, retryMax) {
		err := j.journal.Commit(changes)
		j.note(len(changes), err)
		if err == nil {
			break
		}
		select {
		case <-time.After(pause):
		case <-j.stop:
			return false
		}
	}
	j.tell(group, rows)
	j.mu.Lock()
	for i := range group {
		j.bytes -= group[i].size()
	}
	if j.room != nil && j.bytes < maxPendingBytes {
		close(j.room)
		j.room = nil
	}
	j.mu.Unlock()
	return true
}

// note keeps the state of the disk.
func (j *commits) note(changes int, err error) {
	was := j.failing.Load()
	if err == nil {
		if changes > 0 {
			j.written.Add(1)
			j.changes.Add(uint64(changes))
		}
		if was != nil {
			j.failing.Store(nil)
			j.h.b.o.Logger.Info("the broker's store is written again; what waited is acknowledged now",
				"attempts", was.attempts, "failed_for", time.Since(was.since).Round(time.Second))
		}
		return
	}
	j.failures.Add(1)
	now := failure{since: time.Now(), attempts: 1, err: err}
	if was != nil {
		now.since, now.attempts = was.since, was.attempts+1
	} else {
		j.h.b.o.Logger.Error("the broker's store cannot be written: publishes are not acknowledged or delivered until it can", "error", err)
	}
	j.failing.Store(&now)
}

// rows says under which number a message of a group was kept for a session.
type rows map[rowKey]int64

type rowKey struct {
	session *session
	work    int
}

// prepare makes the changes of a group. A message is kept for each session that outlives its connection.
func (j *commits) prepare(group []work) ([]store.Change, rows) {
	changes := make([]store.Change, 0, len(group))
	var kept rows
	for i := range group {
		w := &group[i]
		if w.change != nil {
			changes = append(changes, w.change)
		}
		if w.m == nil || w.m.qos == 0 {
			continue
		}
		for id, sub := range j.h.readers(w.m.topic) {
			s := j.h.session(id)
			if s == nil || !s.keeps(w.m) || sub.Qos == 0 || sub.NoLocal && id == w.origin {
				continue
			}
			if kept == nil {
				kept = rows{}
			}
			row := j.number()
			kept[rowKey{s, i}] = row
			changes = append(changes, store.Enqueue{
				Session: s.number, ID: row, Retain: w.m.retain && sub.RetainAsPublished, Message: w.m.stored(identifiers(sub)),
			})
		}
	}
	return changes, kept
}

// tell delivers what is on disk now and then acknowledges it, each connection's publishes in their order. It
// does not wait for anybody: sessions have goroutines of their own to write.
func (j *commits) tell(group []work, numbers rows) {
	acks := map[*conn][]uint16{}
	for i := range group {
		w := &group[i]
		if w.m != nil {
			j.h.deliver(w.origin, w.m, func(s *session) int64 {
				row := numbers[rowKey{s, i}]
				delete(numbers, rowKey{s, i})
				return row
			})
		}
		if w.conn != nil {
			acks[w.conn] = append(acks[w.conn], w.id)
		}
		if w.done != nil {
			close(w.done)
		}
	}
	for key, row := range numbers { // of those who unsubscribed in between
		j.dequeue(key.session.number, row)
	}
	for c, ids := range acks {
		c.session.acknowledge(c, ids)
	}
}

// close writes what waits, unless the disk fails, and ends.
func (j *commits) close() {
	close(j.stop)
	<-j.stopped
}
