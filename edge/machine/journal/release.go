package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/farebeat/farebeat/schemas"
)

// Release gives up the records that the ledger's receipts cover, from the oldest
// of each epoch to the first that is not held, and returns how many. The release
// pointer is on the disk before a byte is.
//
// Every receipt must be MACed with the machine's key: one that is not is an error
// that wraps schemas.ErrMAC, and nothing is released. A receipt for records that
// were never written is ErrAhead.
func (j *Journal) Release(receipts []schemas.EpochReceipt) (int, error) {
	for _, r := range receipts {
		if err := schemas.VerifyReceipt(j.key, j.machine, r); err != nil {
			return 0, fmt.Errorf("release in journal %s: %w", j.dir, err)
		}
	}
	j.disk.Lock()
	defer j.disk.Unlock()
	if j.broken != nil {
		return 0, fmt.Errorf("release in journal %s: %w", j.dir, j.broken)
	}
	ahead := j.ahead(receipts)
	n, err := j.release(receipts)
	if err == nil && ahead > 0 {
		err = fmt.Errorf("epoch %d: %w; a new epoch begins", ahead, ErrAhead)
		j.mu.Lock()
		cur := j.current().epoch
		j.mu.Unlock()
		if ahead >= cur {
			err = errors.Join(err, j.begin(ahead+1))
		}
	}
	if err != nil {
		return n, fmt.Errorf("release in journal %s: %w", j.dir, err)
	}
	return n, nil
}

// ahead returns the newest epoch of which a receipt says more than was written.
func (j *Journal) ahead(receipts []schemas.EpochReceipt) uint32 {
	j.mu.Lock()
	defer j.mu.Unlock()
	var newest uint32
	for _, r := range receipts {
		e := j.find(r.Epoch)
		if e != nil && r.Highest > e.last || e == nil && r.Epoch > j.current().epoch && r.Highest > 0 {
			newest = max(newest, r.Epoch)
		}
	}
	return newest
}

func (j *Journal) release(receipts []schemas.EpochReceipt) (int, error) {
	j.mu.Lock()
	freed := map[*epoch]int{}
	total, newest := 0, uint32(0)
	for _, r := range receipts {
		e := j.find(r.Epoch)
		if e == nil || r.Highest > e.last {
			continue
		}
		newest = max(newest, r.Epoch)
		n := 0
		for n < len(e.entries) && r.Holds(e.entries[n].seq) {
			n++
		}
		if n > freed[e] {
			total += n - freed[e]
			freed[e] = n
		}
	}
	before := map[*epoch]uint32{}
	for _, e := range j.epochs {
		// Of a closed epoch that damage left empty no receipt will ever speak; one for a later epoch ends the matter, lest
		// the loss be reported for ever.
		if e != j.current() && len(e.entries) == 0 && e.released < e.last && e.epoch < newest {
			before[e], e.released = e.released, e.last
		}
	}
	for e, n := range freed {
		before[e] = e.released
		e.released = e.entries[n-1].seq
		if n == len(e.entries) && e != j.current() {
			e.released = e.last // past what is lost at the end of a closed epoch
		}
	}
	j.mu.Unlock()
	if len(before) == 0 {
		return 0, nil
	}
	if err := j.saveState(); err != nil {
		j.mu.Lock()
		for e, old := range before {
			e.released = old
		}
		j.mu.Unlock()
		return 0, err
	}
	j.mu.Lock()
	for e, n := range freed {
		for _, x := range e.entries[:n] {
			j.count(x, -1)
		}
		e.entries = append([]entry(nil), e.entries[n:]...)
	}
	j.mu.Unlock()
	return total, j.reclaim()
}

// reclaim removes segments of which every record is released. The newest stays:
// the chain and the counter go on from it.
func (j *Journal) reclaim() error {
	j.mu.Lock()
	var keep, drop []*segment
	for i, s := range j.segs {
		e := j.find(s.epoch)
		if i < len(j.segs)-1 && (e == nil || s.last <= e.released) {
			drop = append(drop, s)
		} else {
			keep = append(keep, s)
		}
	}
	j.segs = keep
	j.mu.Unlock()
	var err error
	for _, s := range drop {
		if e := j.fs.Remove(filepath.Join(j.dir, segmentName(s.epoch, s.first))); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}
