package journal

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"

	"github.com/farebeat/farebeat/schemas"
)

// Append mints tx as the next record and returns once it is on the disk. It sets
// the machine, epoch, seq, prev and mac of tx. ClockGen is the generation of the
// clock that EventTime was read from.
//
// After an error the record is not in the journal and its number is free again,
// except where the error is ErrBroken: then only Open can say.
func (j *Journal) Append(tx *schemas.Transaction, clockGen uint8) (Ref, error) {
	j.disk.Lock()
	ref, crossed, err := j.append(tx, clockGen)
	j.disk.Unlock()
	if err != nil {
		return Ref{}, fmt.Errorf("append to journal %s: %w", j.dir, err)
	}
	if crossed > 0 && j.opts.Warn != nil {
		j.opts.Warn(crossed)
	}
	return ref, nil
}

func (j *Journal) append(tx *schemas.Transaction, clockGen uint8) (Ref, int, error) {
	if j.broken != nil {
		return Ref{}, 0, j.broken
	}
	if err := j.room(); err != nil {
		return Ref{}, 0, err
	}
	if !j.made {
		if err := j.make(); err != nil {
			return Ref{}, 0, err
		}
	}
	j.mu.Lock()
	cur, prev := j.current(), j.tail
	j.mu.Unlock()
	tx.Machine, tx.Epoch, tx.Seq = j.machine, cur.epoch, cur.last+1
	payload, hash, err := schemas.MintTransaction(j.key, prev, tx)
	if err != nil {
		return Ref{}, 0, err
	}
	rec := Record{
		Epoch: tx.Epoch, Seq: tx.Seq, UTCMillis: tx.EventTime.UnixMilli(), Amount: tx.AmountMinor,
		ClockGen: clockGen, Kind: KindTransaction, Payload: payload,
	}
	frame := appendFrame(make([]byte, 0, frameHead+len(payload)), &rec)
	seg, err := j.segmentFor(len(frame), tx.Epoch, tx.Seq, prev)
	if err != nil {
		return Ref{}, 0, err
	}
	if err := j.write(seg, frame); err != nil {
		return Ref{}, 0, err
	}
	e := entry{seq: tx.Seq, size: uint32(len(frame)), off: seg.size, seg: seg, amount: tx.AmountMinor, utc: tx.EventTime.UnixMilli()}
	crossed := j.committed(cur, e, hash)
	if j.opts.Stored != nil {
		j.opts.Stored(rec)
	}
	return Ref{tx.Epoch, tx.Seq}, crossed, nil
}

// committed takes a record that is on the disk into the books. It returns the
// threshold that this record crossed, or 0.
func (j *Journal) committed(cur *epoch, e entry, hash [32]byte) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	e.seg.size += int64(e.size)
	e.seg.last = e.seq
	cur.last = e.seq
	cur.entries = append(cur.entries, e)
	j.tail = hash
	j.count(e, 1)
	if l := level(j.percent()); l > j.warned {
		j.warned = l
		return l
	}
	return 0
}

// level is the highest threshold that percent reaches, or 0.
func level(percent int) int {
	switch {
	case percent >= 95:
		return 95
	case percent >= 80:
		return 80
	case percent >= 50:
		return 50
	default:
		return 0
	}
}

// count adds an entry to the sums, or takes it off them. The lock mu is held.
func (j *Journal) count(e entry, sign int) {
	j.pending += sign
	j.amount += int64(sign) * e.amount
	j.bytes += int64(sign) * int64(e.size)
	if sign < 0 {
		j.warned = min(j.warned, level(j.percent()+10)) // 10 points of hysteresis
	}
}

// room refuses what would go beyond the bounds, and makes room in the numbers.
func (j *Journal) room() error {
	j.mu.Lock()
	pending, bytes, last := j.pending, j.bytes, j.current().last
	j.mu.Unlock()
	if pending >= j.opts.MaxRecords {
		return fmt.Errorf("%w: %d records without a receipt, at most %d; collect the machine", ErrFull, pending, j.opts.MaxRecords)
	}
	if bytes+frameHead+schemas.MaxRecordBytes > j.opts.MaxBytes && pending > 0 {
		return fmt.Errorf("%w: %d bytes without a receipt, at most %d; collect the machine", ErrFull, bytes, j.opts.MaxBytes)
	}
	if last >= math.MaxUint32-1 {
		return j.begin(0)
	}
	return nil
}

// segmentFor returns the segment that takes the next frame, making one where
// that is needed. Its header is on the disk before a record is.
func (j *Journal) segmentFor(size int, epoch, seq uint32, prev [32]byte) (*segment, error) {
	j.mu.Lock()
	var active *segment
	if n := len(j.segs); n > 0 {
		active = j.segs[n-1]
	}
	j.mu.Unlock()
	if active != nil && !active.sealed && active.epoch == epoch && (active.last == 0 || active.size+int64(size) <= int64(j.opts.SegmentBytes)) {
		return active, nil
	}
	h := header{epoch: epoch, first: seq, prev: prev, machine: j.machine}
	b := h.append(nil)
	path := filepath.Join(j.dir, segmentName(epoch, seq))
	if err := writeNew(j.fs, path, b); err != nil {
		return nil, errors.Join(err, j.fs.Remove(path))
	}
	if err := j.fs.SyncDir(j.dir); err != nil {
		return nil, errors.Join(err, j.fs.Remove(path))
	}
	seg := &segment{epoch: epoch, first: seq, size: int64(len(b))}
	j.mu.Lock()
	j.segs = append(j.segs, seg)
	j.mu.Unlock()
	return seg, nil
}

// write puts a frame at the end of a segment and has it on the disk. What fails
// half-way is taken back; where even that fails the journal is broken.
func (j *Journal) write(seg *segment, frame []byte) error {
	f, err := j.fs.Open(filepath.Join(j.dir, segmentName(seg.epoch, seg.first)), false)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(frame, seg.size)
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		// A file that failed to sync may hold the frame or not; cut it off, and be sure.
		if undo := errors.Join(f.Truncate(seg.size), f.Sync()); undo != nil {
			j.broken = fmt.Errorf("%w after: %w", ErrBroken, errors.Join(err, undo))
			err = j.broken
		}
		return errors.Join(err, f.Close())
	}
	if err := f.Close(); err != nil {
		j.broken = fmt.Errorf("%w after: %w", ErrBroken, err)
		return j.broken
	}
	return nil
}
