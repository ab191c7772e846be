package journal

import (
	"encoding/base64"
	"errors"
	"fmt"
	"path/filepath"
	"sort"

	"github.com/farebeat/farebeat/schemas"
)

// Records returns up to limit records of an epoch that have no receipt, in order,
// the first with a number of at least from. None is not an error. Each is checked
// against its sums again: a record that rotted since is set aside (Damage) and left out.
func (j *Journal) Records(epoch, from uint32, limit int) ([]Record, error) {
	j.disk.Lock()
	defer j.disk.Unlock()
	if j.broken != nil {
		return nil, fmt.Errorf("read journal %s: %w", j.dir, j.broken)
	}
	j.mu.Lock()
	var todo []entry
	if e := j.find(epoch); e != nil {
		i := sort.Search(len(e.entries), func(i int) bool { return e.entries[i].seq >= from })
		todo = append(todo, e.entries[i:min(i+max(limit, 0), len(e.entries))]...)
	}
	j.mu.Unlock()
	var out []Record
	for len(todo) > 0 {
		n := 1
		for n < len(todo) && todo[n].seg == todo[0].seg {
			n++
		}
		records, err := j.readRun(todo[:n])
		if err != nil {
			return nil, fmt.Errorf("read journal %s: %w", j.dir, err)
		}
		out = append(out, records...)
		todo = todo[n:]
	}
	return out, nil
}

// readRun reads entries of one segment.
func (j *Journal) readRun(run []entry) ([]Record, error) {
	seg := run[0].seg
	name := segmentName(seg.epoch, seg.first)
	f, err := j.fs.Open(filepath.Join(j.dir, name), false)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	out := make([]Record, 0, len(run))
	for _, e := range run {
		b := make([]byte, e.size)
		if _, err := f.ReadAt(b, e.off); err != nil {
			return nil, fmt.Errorf("%s at byte %d: %w", name, e.off, err)
		}
		r, _, v := parseFrame(b)
		if v == intact && r.Epoch == seg.epoch && r.Seq == e.seq {
			out = append(out, r)
			continue
		}
		if err := j.lose(seg, e, b); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// lose takes a record that rotted out of the books, its bytes set aside.
func (j *Journal) lose(seg *segment, e entry, b []byte) error {
	d := Damage{File: segmentName(seg.epoch, seg.first), Offset: e.off, Bytes: len(b), Epoch: seg.epoch, LostFirst: e.seq, LostLast: e.seq, Problem: "a record no longer matches its checksum; its bytes are set aside"}
	if err := j.quarantine(d.File, e.off, b); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	ep := j.find(seg.epoch)
	for i := range ep.entries {
		if ep.entries[i].seq == e.seq {
			ep.entries = append(ep.entries[:i:i], ep.entries[i+1:]...)
			j.count(e, -1)
			break
		}
	}
	ep.lost = append(ep.lost, [2]uint32{e.seq, e.seq})
	j.damage = append(j.damage, d)
	return nil
}

// Verify proves the MAC of every record without a receipt, and the chain between
// neighbors. It returns how many it proved; the error names the first that fails.
func (j *Journal) Verify() (int, error) {
	proved := 0
	for _, r := range j.Ranges() {
		var prev string
		for next := r.First; next < r.Next; {
			records, err := j.Records(r.Epoch, next, 256)
			if err != nil {
				return proved, err
			}
			if len(records) == 0 {
				break
			}
			for _, rec := range records {
				if rec.Seq >= r.Next {
					next = r.Next
					break
				}
				tx, err := schemas.VerifyTransaction(j.key, rec.Payload)
				if err != nil {
					return proved, fmt.Errorf("verify journal %s: %w", j.dir, err)
				}
				if tx.Machine != j.machine || tx.Epoch != rec.Epoch || tx.Seq != rec.Seq {
					return proved, fmt.Errorf("verify journal %s: the record at epoch %d, seq %d says it is %s epoch %d, seq %d", j.dir, rec.Epoch, rec.Seq, tx.Machine, tx.Epoch, tx.Seq)
				}
				if prev != "" && rec.Seq == next && tx.Prev != prev {
					return proved, fmt.Errorf("verify journal %s: epoch %d, seq %d: %w", j.dir, rec.Epoch, rec.Seq, errChain)
				}
				hash := schemas.HashRecord(rec.Payload)
				prev, next = base64.RawURLEncoding.EncodeToString(hash[:]), rec.Seq+1
				proved++
			}
		}
	}
	return proved, nil
}

var errChain = errors.New("the record does not follow from the one before it")
