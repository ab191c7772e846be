package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/farebeat/farebeat/schemas"
)

// recovery is the work of Open on a directory that is there.
type recovery struct {
	*Journal
	marks    map[uint32]*epoch
	known    bool // the state file was there and whole
	stateBad bool
	number   uint32 // the current epoch
	tailOK   bool   // tail and the current epoch's last number are certain
	cuts     []cut
}

// cut is a file to shorten once the state file says what is to be known of it.
type cut struct {
	name string
	size int64 // 0: remove it
}

func (j *Journal) recover() error {
	names, err := j.fs.ReadDir(j.dir)
	if errors.Is(err, fs.ErrNotExist) {
		j.epochs = []*epoch{{mark: mark{epoch: j.opts.FirstEpoch}}}
		j.tail = schemas.Genesis(j.machine, j.opts.FirstEpoch)
		return nil
	}
	if err != nil {
		return err
	}
	if err := j.takeLock(); err != nil {
		return err
	}
	r := &recovery{Journal: j, marks: map[uint32]*epoch{}}
	if err := r.readState(); err != nil {
		return err
	}
	if err := r.readSegments(names); err != nil {
		return err
	}
	if err := r.readTicketMark(); err != nil {
		return err
	}
	return r.settle()
}

func (r *recovery) readState() error {
	b, err := r.fs.ReadFile(filepath.Join(r.dir, "state"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	s, err := decodeState(b)
	if err != nil {
		r.stateBad = true
		r.damage = append(r.damage, Damage{File: "state", Bytes: len(b), Problem: problemState + ": " + err.Error()})
		return r.quarantine("state", 0, b)
	}
	if s.machine != r.machine {
		return fmt.Errorf("it is machine %q's: %w", s.machine, errOtherMachine)
	}
	r.known, r.number = true, s.epoch
	for _, m := range s.marks {
		r.marks[m.epoch] = &epoch{mark: m}
	}
	return nil
}

func (r *recovery) readSegments(names []string) error {
	type found struct{ epoch, first uint32 }
	var list []found
	for _, n := range names {
		if e, f, ok := parseSegmentName(n); ok {
			list = append(list, found{e, f})
		} else if strings.HasSuffix(n, ".tmp") {
			r.cuts = append(r.cuts, cut{name: n})
		}
	}
	if len(list) > 0 {
		r.number = max(r.number, list[len(list)-1].epoch)
	}
	if r.number == 0 {
		if r.stateBad {
			return errors.New("the state file is damaged and no segment tells the epoch: move the directory away and set an epoch above any that was used")
		}
		r.number = r.opts.FirstEpoch
	}
	for i, f := range list {
		if err := r.readSegment(f.epoch, f.first, i == len(list)-1); err != nil {
			return err
		}
	}
	return nil
}

// readSegment takes one segment into the books.
func (r *recovery) readSegment(number, first uint32, newest bool) error {
	name := segmentName(number, first)
	b, err := r.fs.ReadFile(filepath.Join(r.dir, name))
	if err != nil {
		return err
	}
	if len(b) > maxSegment+(64<<10) {
		return fmt.Errorf("%s has %d bytes, more than any segment: it is not ours, move it away", name, len(b))
	}
	h, headerOK, records, holes := scan(b, number, first)
	if headerOK && h.machine != r.machine {
		return fmt.Errorf("%s is machine %q's: %w", name, h.machine, errOtherMachine)
	}
	e := r.marks[number]
	if e == nil {
		// Without a word from the state file: what lay before was reclaimed, hence released.
		e = &epoch{mark: mark{epoch: number, released: first - 1}}
		r.marks[number] = e
	}
	seg := &segment{epoch: number, first: first, size: int64(len(b)), sealed: !headerOK}
	for _, p := range records {
		r.take(e, seg, p)
	}
	r.segs = append(r.segs, seg)
	if headerOK {
		e.last = max(e.last, first-1)
	}
	if len(records) > 0 {
		last := records[len(records)-1]
		r.tail, r.tailOK = schemas.HashRecord(last.Payload), last.Seq == e.last
	} else if headerOK {
		r.tail, r.tailOK = h.prev, first-1 == e.last
	}
	if number != r.number {
		r.tailOK = false
	}
	return r.readHoles(seg, b, records, holes, newest)
}

func (r *recovery) take(e *epoch, seg *segment, p placed) {
	seg.last = max(seg.last, p.Seq)
	e.last = max(e.last, p.Seq)
	if p.Seq <= e.released || len(e.entries) > 0 && p.Seq <= e.entries[len(e.entries)-1].seq {
		return
	}
	x := entry{seq: p.Seq, size: uint32(p.size), off: int64(p.off), seg: seg, amount: p.Amount, utc: p.UTCMillis}
	e.entries = append(e.entries, x)
	r.count(x, 1)
}

// readHoles judges what in a segment is no record.
func (r *recovery) readHoles(seg *segment, b []byte, records []placed, holes []hole, newest bool) error {
	name := segmentName(seg.epoch, seg.first)
	if newest && len(records) == 0 && seg.sealed {
		// Its making was cut short, or its head rotted. Either way no record is in it.
		r.segs = r.segs[:len(r.segs)-1]
		r.cuts = append(r.cuts, cut{name: name})
		r.damage = append(r.damage, Damage{File: name, Bytes: len(b), Epoch: seg.epoch, Problem: problemHeader})
		e := r.marks[seg.epoch]
		if e.last == 0 && len(e.entries) == 0 && seg.first == 1 && seg.epoch == r.number {
			r.tail, r.tailOK = schemas.Genesis(r.machine, seg.epoch), true
		}
		r.tailOK = r.tailOK && e.last == seg.first-1
		if len(b) < headerFixed+len(r.machine) {
			return nil
		}
		return r.quarantine(name, 0, b)
	}
	for _, h := range holes {
		d := Damage{File: name, Offset: int64(h.off), Bytes: h.end - h.off, Epoch: seg.epoch, Problem: problemMiddle}
		if newest && h.tail {
			d.Problem = problemTorn
			r.cuts = append(r.cuts, cut{name: name, size: int64(h.off)})
			seg.size = int64(h.off)
			if !h.torn {
				d.Problem = problemTail
			}
			if !h.torn && seg.epoch == r.number {
				e := r.marks[seg.epoch]
				e.last++ // a confirmed record may have stood there
				d.LostFirst, d.LostLast = e.last, e.last
				r.tailOK = false
			}
		}
		r.damage = append(r.damage, d)
		if d.Problem == problemTorn {
			continue
		}
		if err := r.quarantine(name, int64(h.off), b[h.off:h.end]); err != nil {
			return err
		}
	}
	return nil
}

// settle decides where the journal goes on, writes that down, and only then
// shortens files.
func (r *recovery) settle() error {
	j := r.Journal
	if r.marks[r.number] == nil {
		r.marks[r.number] = &epoch{mark: mark{epoch: r.number}}
	}
	for _, e := range r.marks {
		j.epochs = append(j.epochs, e)
	}
	slices.SortFunc(j.epochs, func(a, b *epoch) int { return int(int64(a.epoch) - int64(b.epoch)) })
	cur := j.current()
	if cur.last == 0 && len(cur.entries) == 0 {
		j.tail, r.tailOK = schemas.Genesis(j.machine, cur.epoch), true
	}
	save := !r.known
	if !r.tailOK {
		if !slices.ContainsFunc(j.damage, func(d Damage) bool { return d.Problem == problemTail }) {
			j.damage = append(j.damage, Damage{File: "state", Epoch: cur.epoch, Problem: problemCount})
		}
		next := &epoch{mark: mark{epoch: cur.epoch + 1}}
		if next.epoch == 0 {
			return errors.New("no epoch is left")
		}
		j.epochs = append(j.epochs, next)
		j.tail = schemas.Genesis(j.machine, next.epoch)
		save = true
	}
	for _, e := range j.epochs {
		j.reportMissing(e)
	}
	j.warned = level(j.percent())
	if save {
		if err := j.saveState(); err != nil {
			return err
		}
	}
	j.made = true
	if err := r.shorten(); err != nil {
		return err
	}
	return j.reclaim()
}

func (r *recovery) shorten() error {
	for _, c := range r.cuts {
		path := filepath.Join(r.dir, c.name)
		if c.size == 0 {
			// The state file just written may have taken its .tmp along.
			if err := r.fs.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			continue
		}
		f, err := r.fs.Open(path, false)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Truncate(c.size), f.Sync(), f.Close()); err != nil {
			return err
		}
	}
	return nil
}
