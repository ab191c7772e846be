package journal

import (
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/farebeat/farebeat/schemas"
)

// Errors to branch on. Each is wrapped in one that names the journal and the way out.
var (
	// ErrFull says that the journal holds as much as it may: the tap is to be refused.
	ErrFull = errors.New("the journal is full")
	// ErrBroken says that the disk failed in a way that leaves the last record in
	// doubt. Close the journal and open it again: what is on the disk decides.
	ErrBroken = errors.New("the journal must be opened again")
	// ErrClosed says that the journal was closed.
	ErrClosed = errors.New("the journal is closed")
	// ErrAhead says that a receipt speaks of records this journal never wrote: it was
	// rolled back or its machine was cloned. Nothing is released for that epoch, and a new epoch begins.
	ErrAhead = errors.New("the ledger holds more than the journal wrote")

	errInUse = errors.New("another process has this journal open")
)

// Options of a journal. The zero value takes the defaults.
type Options struct {
	MaxRecords   int               // records without a receipt, default 20,000
	MaxBytes     int64             // bytes of their frames, default 32 MiB
	SegmentBytes int               // a segment of this size is followed by the next, default 256 KiB, at most 16 MiB
	FirstEpoch   uint32            // epoch of a journal that is new, default 1. Where a journal is thrown away it must grow each time, for example seconds since 1970.
	NoSync       bool              // do not wait for the disk: only a loss of power loses records. For simulations.
	NoLock       bool              // the caller keeps other processes out
	Warn         func(percent int) // called when the journal fills past 50, 80 and 95 %, not under a lock
	Stored       func(Record)      // called once a record is on the disk, before Append returns; it must not call the journal
	filesystem   filesystem        // nil: the disk
}

func (o *Options) defaults() error {
	if o.MaxRecords == 0 {
		o.MaxRecords = 20_000
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = 32 << 20
	}
	if o.SegmentBytes == 0 {
		o.SegmentBytes = 256 << 10
	}
	if o.FirstEpoch == 0 {
		o.FirstEpoch = 1
	}
	if o.filesystem == nil {
		o.filesystem = disk{noSync: o.NoSync}
	}
	if o.MaxRecords < 1 || o.MaxBytes < 1 || o.SegmentBytes < 1 || o.SegmentBytes > maxSegment {
		return fmt.Errorf("journal options: MaxRecords %d, MaxBytes %d and SegmentBytes %d must be positive, the last at most %d", o.MaxRecords, o.MaxBytes, o.SegmentBytes, maxSegment)
	}
	return nil
}

const maxSegment = 16 << 20

// Ref names a record.
type Ref struct{ Epoch, Seq uint32 }

// Range is a run of records without a hole that have no receipt: First to Next-1.
type Range struct{ Epoch, First, Next uint32 }

// Stats is what a heartbeat says of the journal.
type Stats struct {
	Epoch         uint32
	LastSeq       uint32    // last number used in Epoch, 0 for none
	Pending       int       // records without a receipt, all epochs
	PendingAmount int64     // their sum, minor units
	OldestPending time.Time // event time of the oldest, zero for none
	Bytes         int64     // bytes of their frames
	Percent       int       // how full the journal is, 0 to 100
}

// EpochAudit is what was written in one epoch, for a comparison with the ledger.
type EpochAudit struct {
	Epoch    uint32
	Last     uint32      // records 1 to Last were written
	Released uint32      // records 1 to Released are released
	Lost     [][2]uint32 // numbers that damage took while no receipt covered them
}

// entry is a record without a receipt: where it lies, and what Stats adds up.
type entry struct {
	seq    uint32
	size   uint32
	off    int64
	seg    *segment
	amount int64
	utc    int64
}

type segment struct {
	epoch, first uint32
	last         uint32 // highest number in it, 0 for none
	size         int64
	sealed       bool // its header is damaged: nothing is added to it
}

// epoch is one run of numbers; entries are those above released, in order.
type epoch struct {
	mark
	entries []entry
	lost    [][2]uint32
}

// Journal is open on one directory. It is safe for concurrent use; Stats and
// Ranges never wait for the disk.
type Journal struct {
	dir, machine string
	key          []byte
	opts         Options
	fs           filesystem

	disk   sync.Mutex // one file operation at a time; taken before mu
	lock   io.Closer
	made   bool // the directory and the state file are there
	broken error

	mu      sync.Mutex // what follows; never held over file operations
	epochs  []*epoch   // oldest first; the last is the current one
	segs    []*segment // oldest first
	tail    [32]byte   // hash of the current epoch's last record
	pending int
	amount  int64
	bytes   int64
	warned  int
	damage  []Damage
	ticket  TicketMark
}

// Open opens the journal of a machine in dir and repairs it. A directory that is
// not there is made by the first Append, so that a journal that was never needed
// costs nothing. Key is the machine's 32-byte key.
func Open(dir, machine string, key []byte, o Options) (*Journal, error) {
	if err := o.defaults(); err != nil {
		return nil, err
	}
	if machine == "" || len(machine) > maxMachine || len(key) == 0 {
		return nil, fmt.Errorf("open journal %s: a machine id of 1 to %d bytes and a key are needed", dir, maxMachine)
	}
	j := &Journal{dir: dir, machine: machine, key: slices.Clone(key), opts: o, fs: o.filesystem}
	if err := j.recover(); err != nil {
		if j.lock != nil {
			_ = j.lock.Close()
		}
		return nil, fmt.Errorf("open journal %s of machine %s: %w", dir, machine, err)
	}
	return j, nil
}

// Close gives the directory free. The journal stays readable for Stats only.
func (j *Journal) Close() error {
	j.disk.Lock()
	defer j.disk.Unlock()
	if errors.Is(j.broken, ErrClosed) {
		return nil
	}
	j.broken = ErrClosed
	if j.lock == nil {
		return nil
	}
	return j.lock.Close()
}

// Stats is how the journal stands.
func (j *Journal) Stats() Stats {
	j.mu.Lock()
	defer j.mu.Unlock()
	cur := j.current()
	s := Stats{Epoch: cur.epoch, LastSeq: cur.last, Pending: j.pending, PendingAmount: j.amount, Bytes: j.bytes, Percent: j.percent()}
	for _, e := range j.epochs {
		if len(e.entries) > 0 {
			s.OldestPending = time.UnixMilli(e.entries[0].utc).UTC()
			break
		}
	}
	return s
}

// Ranges lists the records without a receipt, oldest epoch first; damage makes
// more than one range of an epoch.
func (j *Journal) Ranges() []Range {
	j.mu.Lock()
	defer j.mu.Unlock()
	var out []Range
	for _, e := range j.epochs {
		for i, x := range e.entries {
			if i == 0 || e.entries[i-1].seq+1 != x.seq {
				out = append(out, Range{Epoch: e.epoch, First: x.seq})
			}
			out[len(out)-1].Next = x.seq + 1
		}
	}
	return out
}

// Audit lists the epochs that the journal remembers, oldest first: the last 64
// at most, and all that hold records.
func (j *Journal) Audit() []EpochAudit {
	j.mu.Lock()
	defer j.mu.Unlock()
	var out []EpochAudit
	for _, e := range j.epochs {
		out = append(out, EpochAudit{Epoch: e.epoch, Last: e.last, Released: e.released, Lost: slices.Clone(e.lost)})
	}
	return out
}

// Damage lists what was found damaged since Open, Open included.
func (j *Journal) Damage() []Damage {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.damage)
}

// Lost is how many numbers above the release pointers damage took.
func (j *Journal) Lost() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	n := 0
	for _, e := range j.epochs {
		for _, l := range e.lost {
			if l[1] > e.released {
				n += int(l[1]-l[0]) + 1
			}
		}
	}
	return n
}

func (j *Journal) current() *epoch { return j.epochs[len(j.epochs)-1] }

func (j *Journal) percent() int {
	return min(100, max(100*j.pending/j.opts.MaxRecords, int(100*j.bytes/j.opts.MaxBytes)))
}

// find returns an epoch the journal knows, or nil.
func (j *Journal) find(number uint32) *epoch {
	i, ok := slices.BinarySearchFunc(j.epochs, number, func(e *epoch, n uint32) int { return int(int64(e.epoch) - int64(n)) })
	if !ok {
		return nil
	}
	return j.epochs[i]
}

// NewEpoch begins a new epoch: the counter was reset, or the operator wants it.
// Records of the old one stay until their receipt.
func (j *Journal) NewEpoch() error {
	j.disk.Lock()
	defer j.disk.Unlock()
	if err := j.begin(0); err != nil {
		return fmt.Errorf("begin an epoch in journal %s: %w", j.dir, err)
	}
	return nil
}

// begin begins the epoch after the current one, or a later one if least says so.
// The disk lock is held.
func (j *Journal) begin(least uint32) error {
	if j.broken != nil {
		return j.broken
	}
	j.mu.Lock()
	next := j.current().epoch
	if next == math.MaxUint32 {
		j.mu.Unlock()
		return errors.New("no epoch is left")
	}
	next = max(next+1, least)
	j.epochs = append(j.epochs, &epoch{mark: mark{epoch: next}})
	j.tail = schemas.Genesis(j.machine, next)
	j.mu.Unlock()
	if !j.made {
		return j.make()
	}
	return j.saveState()
}

// make creates the directory, takes the lock and writes the first state file.
func (j *Journal) make() error {
	if err := j.fs.MkdirAll(j.dir); err != nil {
		return err
	}
	if err := j.takeLock(); err != nil {
		return err
	}
	if err := j.saveState(); err != nil {
		return err
	}
	j.made = true
	return nil
}

func (j *Journal) takeLock() error {
	if j.opts.NoLock || j.lock != nil {
		return nil
	}
	l, err := j.fs.Lock(filepath.Join(j.dir, "lock"))
	if err != nil {
		return err
	}
	j.lock = l
	return nil
}

// saveState writes the state file and forgets epochs that nothing is left of.
func (j *Journal) saveState() error {
	j.mu.Lock()
	for len(j.epochs) > maxEpochs && len(j.epochs[0].entries) == 0 {
		j.epochs = j.epochs[1:]
	}
	if len(j.epochs) > maxEpochs {
		j.mu.Unlock()
		return fmt.Errorf("more than %d epochs hold records without a receipt: collect them first", maxEpochs)
	}
	s := state{machine: j.machine, epoch: j.current().epoch}
	for _, e := range j.epochs {
		s.marks = append(s.marks, e.mark)
	}
	j.mu.Unlock()
	return replace(j.fs, filepath.Join(j.dir, "state"), s.encode())
}
