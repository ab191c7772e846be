package outbox

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"path/filepath"
	"sync"
	"time"

	"github.com/farebeat/farebeat/schemas"
)

// The errors that a caller may want to tell apart.
var (
	// ErrFull means that the machine has as many open batches as the topic allows:
	// stop reading it until a receipt comes.
	ErrFull = fmt.Errorf("%d batches of this machine wait for the ledger's receipt: reading goes on when one comes", schemas.MaxOpenBatches)
	// ErrNoSpace means that the disk, or the size given to the outbox, is used up.
	ErrNoSpace = errors.New("no space left")
	// ErrInUse means that another process has the outbox open.
	ErrInUse = errors.New("another process uses this outbox")
	// ErrDamaged means that what is on disk is not what was written.
	ErrDamaged = errors.New("damaged on disk")
	// ErrNotFound means that there is no such open batch.
	ErrNotFound = errors.New("no such open batch")
	// ErrBadRecord means that a record cannot be one of a machine's journal.
	ErrBadRecord = errors.New("bad record")
)

// maxQuarantined bounds the records that one machine may have set aside: a
// machine that mints one key twice is broken or hostile, and must not fill the disk.
const maxQuarantined = 1000

// Record is one record as the machine minted it. The outbox carries Body and
// never looks into it.
type Record struct {
	Epoch, Seq uint32 // both count from 1
	Body       []byte // 1 to schemas.MaxRecordBytes bytes
}

// BatchID names a batch and with it the slot on the transactions topic: records
// First to Last of an epoch, at most schemas.MaxBatch.
type BatchID struct {
	Machine            string
	Epoch, First, Last uint32
}

// String returns the batch as people and topics write it, such as "m-1 3-1-200".
func (id BatchID) String() string {
	return fmt.Sprintf("%s %d-%d-%d", id.Machine, id.Epoch, id.First, id.Last)
}

// Batch is a sealed batch with its records, First to Last.
type Batch struct {
	BatchID
	SealedAt time.Time // UTC, milliseconds; part of the payload, so that a retry is the same bytes
	Records  [][]byte
}

// Outcome counts what became of the records given to Append.
type Outcome struct {
	New       int // now on disk
	Duplicate int // were here already, same bytes
	Covered   int // the latest receipt says the ledger holds them
	Conflict  int // here already with other bytes: both are kept, the second in quarantine
}

// Mode says how Seal treats records that do not fill a batch.
type Mode int

// The modes of Seal.
const (
	// FullBatches seals only batches of schemas.MaxBatch: more records are on their way.
	FullBatches Mode = iota
	// Everything seals all records.
	Everything
)

// Options configure an outbox. The zero value is good.
type Options struct {
	// MaxBytes bounds the file, 0 means by the disk only. When it is reached Append
	// fails with ErrNoSpace.
	MaxBytes int64
	// Now is the clock of sealing and quarantine times; nil means time.Now.
	Now func() time.Time
}

// Outbox is the disk queue of one gateway. It is safe for concurrent use and
// owns its file alone: a second Open of the same file fails with ErrInUse.
type Outbox struct {
	path string
	now  func() time.Time
	db   *sql.DB

	damage *Damage // of Open

	mu    sync.Mutex // serializes writers and guards views
	views map[string]*view
}

// view is what is known of a machine without asking the disk: a cache, dropped
// after every write that does more than add to it.
type view struct {
	held    map[uint32]Intervals // every record here, by epoch
	sealed  map[uint32]Intervals // the ranges of the open batches, by epoch
	batches int                  // open batches
}

func (v *view) unsealed(epoch uint32) Intervals { return v.held[epoch].Minus(v.sealed[epoch]) }

// needs returns how many open batches the machine will have when all is sealed.
func (v *view) needs() int {
	n := v.batches
	for epoch := range v.held {
		n += v.unsealed(epoch).Pieces(schemas.MaxBatch)
	}
	return n
}

// Open opens the outbox file at path, creating it and its folder if need be, and
// checks it. A file that is in use, of a newer version or another program's is an error. What
// can be read of a damaged one is taken over into a new file, the damaged one is kept under
// another name, and Damage tells. The caller closes the outbox.
func Open(ctx context.Context, path string, opts Options) (*Outbox, error) {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	o := &Outbox{path: path, now: opts.Now, views: map[string]*view{}}
	if err := o.open(ctx, opts); err != nil {
		return nil, o.wrap("open", err)
	}
	return o, nil
}

func (o *Outbox) open(ctx context.Context, opts Options) (err error) {
	path, err := filepath.Abs(o.path)
	if err != nil {
		return err
	}
	if o.damage, err = finishExchange(path, opts); err != nil {
		return err
	}
	o.db, err = openFile(ctx, path, opts.MaxBytes)
	if damaged(err) {
		if o.damage, err = salvage(ctx, path, opts, err); err != nil {
			return err
		}
		o.db, err = openFile(ctx, path, opts.MaxBytes)
	}
	if err != nil || o.damage == nil {
		return err
	}
	return o.db.QueryRowContext(ctx, `SELECT count(*) FROM record`).Scan(&o.damage.Records)
}

// Damage tells of a damaged file that Open set aside; nil if it did not.
func (o *Outbox) Damage() *Damage { return o.damage }

// Close closes the file. What is in it stays.
func (o *Outbox) Close() error { return o.wrap("close", o.db.Close()) }

// write runs f in one durable transaction. The view of machine is dropped when f
// or the commit fails, since the disk alone knows then what is true.
func (o *Outbox) write(ctx context.Context, op, machine string, f func(tx *sql.Tx) error) (err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	defer func() {
		if err != nil {
			delete(o.views, machine)
		}
		err = o.wrap(op, err)
	}()
	tx, err := o.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := f(tx); err != nil {
		return errors.Join(err, rollback(tx))
	}
	return tx.Commit()
}

// Append stores records of a machine and returns after they are on disk. All of
// them are stored or, with an error, none. Records that are here already, or that
// the latest receipt covers, cost nothing. ErrFull and ErrNoSpace mean: stop
// reading and come back later.
func (o *Outbox) Append(ctx context.Context, machine string, records []Record) (Outcome, error) {
	var out Outcome
	if err := check(machine, records); err != nil {
		return out, o.wrap("append", err)
	}
	err := o.write(ctx, "append records of machine "+machine, machine, func(tx *sql.Tx) error {
		v, err := o.view(ctx, tx, machine)
		if err != nil {
			return err
		}
		covered, err := latestCovered(ctx, tx, machine)
		if err != nil {
			return err
		}
		next := v.clone()
		for _, r := range records {
			switch {
			case next.held[r.Epoch].Covers(Interval{r.Seq, r.Seq}):
				same, err := o.again(ctx, tx, machine, r)
				if err != nil {
					return err
				}
				if same {
					out.Duplicate++
				} else {
					out.Conflict++
				}
			case covered[r.Epoch].Covers(Interval{r.Seq, r.Seq}):
				out.Covered++
			default:
				if _, err := tx.ExecContext(ctx, `INSERT INTO record (machine, epoch, seq, crc, body) VALUES (?, ?, ?, ?, ?)`,
					machine, r.Epoch, r.Seq, checksum(r.Body), r.Body); err != nil {
					return err
				}
				next.held[r.Epoch] = next.held[r.Epoch].Union(Of(Interval{r.Seq, r.Seq}))
				out.New++
			}
		}
		if out.New > 0 && next.needs() > schemas.MaxOpenBatches {
			return ErrFull
		}
		o.views[machine] = next
		return nil
	})
	if err != nil {
		return Outcome{}, err
	}
	return out, nil
}

func check(machine string, records []Record) error {
	if machine == "" {
		return fmt.Errorf("%w: no machine", ErrBadRecord)
	}
	for _, r := range records {
		if r.Epoch == 0 || r.Seq == 0 {
			return fmt.Errorf("%w: machine %s, record %d-%d: epochs and sequence numbers count from 1", ErrBadRecord, machine, r.Epoch, r.Seq)
		}
		if n := len(r.Body); n == 0 || n > schemas.MaxRecordBytes {
			return fmt.Errorf("%w: machine %s, record %d-%d has %d bytes, want 1 to %d", ErrBadRecord, machine, r.Epoch, r.Seq, n, schemas.MaxRecordBytes)
		}
	}
	return nil
}

// again handles a record whose key is here already and reports whether its bytes
// are the same. Other bytes go to quarantine: the ledger judges, not the gateway.
func (o *Outbox) again(ctx context.Context, tx *sql.Tx, machine string, r Record) (same bool, err error) {
	var body []byte
	if err := tx.QueryRowContext(ctx, `SELECT body FROM record WHERE machine = ? AND epoch = ? AND seq = ?`, machine, r.Epoch, r.Seq).Scan(&body); err != nil {
		return false, err
	}
	if string(body) == string(r.Body) {
		return true, nil
	}
	return false, o.quarantine(ctx, tx, machine, r, "the same key with other bytes")
}

func (o *Outbox) quarantine(ctx context.Context, tx *sql.Tx, machine string, r Record, reason string) error {
	var n int
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM quarantine WHERE machine = ?`, machine).Scan(&n); err != nil {
		return err
	}
	if n >= maxQuarantined {
		return fmt.Errorf("%w: machine %s has %d records in quarantine already (record %d-%d: %s): have the machine replaced", ErrBadRecord, machine, n, r.Epoch, r.Seq, reason)
	}
	sum := sha256.Sum256(r.Body)
	_, err := tx.ExecContext(ctx, `INSERT INTO quarantine (machine, epoch, seq, sha256, reason, at_ms, body) VALUES (?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT DO NOTHING`, machine, r.Epoch, r.Seq, sum[:], reason, o.now().UnixMilli(), r.Body)
	return err
}

// Held returns which records of a machine are here, by epoch, sealed or not.
func (o *Outbox) Held(ctx context.Context, machine string) (map[uint32]Intervals, error) {
	o.mu.Lock()
	cached := o.views[machine]
	o.mu.Unlock()
	if cached != nil {
		return maps.Clone(cached.held), nil
	}
	held := map[uint32]Intervals{}
	err := o.write(ctx, "list records of machine "+machine, machine, func(tx *sql.Tx) error {
		v, err := o.view(ctx, tx, machine)
		if err != nil {
			return err
		}
		for epoch, set := range v.held {
			held[epoch] = set
		}
		return nil
	})
	return held, err
}

func (o *Outbox) view(ctx context.Context, tx *sql.Tx, machine string) (*view, error) {
	if v := o.views[machine]; v != nil {
		return v, nil
	}
	v := &view{held: map[uint32]Intervals{}, sealed: map[uint32]Intervals{}}
	held := map[uint32][]Interval{}
	err := each(ctx, tx, `SELECT epoch, seq FROM record WHERE machine = ? ORDER BY epoch, seq`, []any{machine}, func(scan scanner) error {
		var epoch, seq uint32
		if err := scan(&epoch, &seq); err != nil {
			return err
		}
		if ivs := held[epoch]; len(ivs) > 0 && ivs[len(ivs)-1].Last+1 == seq {
			ivs[len(ivs)-1].Last = seq
		} else {
			held[epoch] = append(ivs, Interval{seq, seq})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for epoch, ivs := range held {
		v.held[epoch] = Of(ivs...)
	}
	err = each(ctx, tx, `SELECT epoch, first, last FROM batch WHERE machine = ?`, []any{machine}, func(scan scanner) error {
		var epoch, first, last uint32
		if err := scan(&epoch, &first, &last); err != nil {
			return err
		}
		v.sealed[epoch] = v.sealed[epoch].Union(Of(Interval{first, last}))
		v.batches++
		return nil
	})
	if err != nil {
		return nil, err
	}
	o.views[machine] = v
	return v, nil
}

func (v *view) clone() *view {
	return &view{held: maps.Clone(v.held), sealed: maps.Clone(v.sealed), batches: v.batches}
}

type scanner func(dest ...any) error

// each calls f for every row of a query.
func each(ctx context.Context, tx *sql.Tx, query string, args []any, f func(scan scanner) error) error {
	rows, err := tx.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	for rows.Next() {
		if err := f(rows.Scan); err != nil {
			return errors.Join(err, rows.Close())
		}
	}
	return errors.Join(rows.Err(), rows.Close())
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }
