package journal

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
)

// Damage is one thing that was found wrong on the disk, and what became of it.
type Damage struct {
	File      string // in the journal's directory
	Offset    int64  // of the first byte concerned
	Bytes     int    // how many
	Epoch     uint32 // 0 where no record is concerned
	LostFirst uint32 // first number lost, 0 for none
	LostLast  uint32 // last number lost
	Problem   string // what it is and what was done, for a person
}

// String is one line for a log.
func (d Damage) String() string {
	s := d.File
	if d.Bytes > 0 {
		s += fmt.Sprintf(" byte %d, %d bytes", d.Offset, d.Bytes)
	}
	s += ": " + d.Problem
	if d.LostFirst > 0 {
		s += fmt.Sprintf("; records %d to %d of epoch %d are lost", d.LostFirst, d.LostLast, d.Epoch)
	}
	return s
}

// quarantine keeps damaged bytes where a person can look at them. What is there
// already is not written again.
func (j *Journal) quarantine(name string, off int64, b []byte) error {
	dir := filepath.Join(j.dir, "quarantine")
	path := filepath.Join(dir, fmt.Sprintf("%s-%d.bad", name, off))
	if there, err := exists(j.fs, path); there || err != nil {
		return err
	}
	err := j.fs.MkdirAll(dir)
	if err == nil {
		err = j.fs.SyncDir(j.dir)
	}
	if err == nil {
		err = replace(j.fs, path, b)
	}
	if err != nil {
		return fmt.Errorf("set damaged bytes of %s aside: %w", name, err)
	}
	return nil
}

// missing lists the numbers above the release pointer that no entry has.
func (e *epoch) missing() [][2]uint32 {
	var out [][2]uint32
	last := e.released
	for _, x := range e.entries {
		if x.seq > last+1 {
			out = append(out, [2]uint32{last + 1, x.seq - 1})
		}
		last = x.seq
	}
	if e.last > last {
		out = append(out, [2]uint32{last + 1, e.last})
	}
	return out
}

// reportMissing fills e.lost and says so, once for each run of numbers.
func (j *Journal) reportMissing(e *epoch) {
	e.lost = e.missing()
	for _, l := range e.lost {
		if slices.ContainsFunc(j.damage, func(d Damage) bool { return d.Epoch == e.epoch && d.LostFirst == l[0] && d.LostLast == l[1] }) {
			continue
		}
		if i := j.holding(e.epoch, l[0]); i >= 0 {
			j.damage[i].LostFirst, j.damage[i].LostLast = l[0], l[1]
			continue
		}
		d := Damage{File: segmentName(e.epoch, l[0]), Epoch: e.epoch, LostFirst: l[0], LostLast: l[1], Problem: problemLost}
		j.damage = append(j.damage, d)
	}
}

// holding finds the report of damaged bytes in the segment where a lost number
// would lie, or -1.
func (j *Journal) holding(number, seq uint32) int {
	name := ""
	for _, s := range j.segs {
		if s.epoch == number && s.first <= seq {
			name = segmentName(number, s.first)
		}
	}
	return slices.IndexFunc(j.damage, func(d Damage) bool { return d.File == name && d.LostFirst == 0 && d.Problem == problemMiddle })
}

const (
	problemTorn   = "a record was torn by a loss of power before it was confirmed; it is cut off and its number is used again"
	problemTail   = "the last record does not match its checksum; its bytes are set aside and a new epoch begins"
	problemMiddle = "bytes that are no record; they are set aside"
	problemHeader = "the head of a segment is torn or damaged and no record follows; the file is set aside"
	problemCount  = "records that were used are not there; a new epoch begins"
	problemLost   = "numbers were used and their records are not there"
	problemState  = "the state file is damaged; the release pointer is taken from the segments, records may be sent twice"
)

var errOtherMachine = errors.New("the journal belongs to another machine: give each machine its own directory")
