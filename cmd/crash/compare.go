//go:build unix

package main

import (
	"fmt"
	"slices"
	"strings"
)

// Key names a record.
type Key struct {
	Machine    string
	Epoch, Seq uint32
}

// String is the key as people write it.
func (k Key) String() string { return fmt.Sprintf("%s %d-%d", k.Machine, k.Epoch, k.Seq) }

func (k Key) compare(o Key) int {
	if c := strings.Compare(k.Machine, o.Machine); c != 0 {
		return c
	}
	if k.Epoch != o.Epoch {
		return int(int64(k.Epoch) - int64(o.Epoch))
	}
	return int(int64(k.Seq) - int64(o.Seq))
}

// Stored is one record as somebody has it.
type Stored struct {
	Key
	SHA256 string // of the bytes that the machine minted, hex
	Amount int64  // minor units
}

// Written is what a journal says that it wrote in one epoch.
type Written struct {
	Machine        string
	Epoch          uint32
	Last, Released uint32
	Lost           [][2]uint32 // taken by damage
}

// Evidence is what is to be compared, each from its own source.
type Evidence struct {
	Witnessed   []Stored  // told by the machines, after their disks had it; twice is a number used twice
	Journals    []Written // read from the machines' disks
	Ledger      []Stored  // every row
	Quarantined int       // records that the ledger set aside as contradicting or not proved
	Problems    uint64    // of the ledger's proof of MAC and chain
	Missing     uint64    // numbers in gaps of the ledger
	OpenFaults  int
	Slots       int // transaction slots left at the broker
}

// Verdict is what the comparison found. The run is good where every count is 0.
type Verdict struct {
	Lost       int `json:"lost"`    // on a machine's disk once, and not in the ledger
	Doubled    int `json:"doubled"` // in the ledger more than once, or never written by the machine
	Conflicts  int `json:"conflicts"`
	Altered    int `json:"altered"` // in the ledger with other bytes or another amount
	Unreleased int `json:"unreleased"`
	Damaged    int `json:"damaged"` // lost to damage in a journal
	Problems   int `json:"problems"`
	Stuck      int `json:"stuck_faults"`
	Slots      int `json:"slots_left"`

	Findings []string `json:"findings,omitempty"` // the first of them, in words
	First    *Key     `json:"first,omitempty"`    // the first record that is lost, doubled or altered

	lost map[Key]bool // counted already
}

const maxFindings = 20

// Good reports whether nothing at all is wrong.
func (v *Verdict) Good() bool {
	return v.Lost+v.Doubled+v.Conflicts+v.Altered+v.Unreleased+v.Damaged+v.Problems+v.Stuck+v.Slots == 0
}

// String is the verdict in one line.
func (v *Verdict) String() string {
	s := fmt.Sprintf("lost %d, doubled %d, conflicts %d, stuck faults %d", v.Lost, v.Doubled, v.Conflicts, v.Stuck)
	for _, n := range []struct {
		count int
		name  string
	}{
		{v.Altered, "altered"},
		{v.Unreleased, "not released"},
		{v.Damaged, "damaged in a journal"},
		{v.Problems, "not proved"},
		{v.Slots, "slots left"},
	} {
		if n.count > 0 {
			s += fmt.Sprintf(", %s %d", n.name, n.count)
		}
	}
	return s
}

func (v *Verdict) note(count *int, n int, format string, args ...any) {
	*count += n
	if len(v.Findings) < maxFindings {
		v.Findings = append(v.Findings, fmt.Sprintf(format, args...))
	}
}

// lose counts a record once, whoever misses it.
func (v *Verdict) lose(k Key, why string) {
	if !v.lost[k] {
		v.lost[k] = true
		v.of(k, &v.Lost, "%s", why)
	}
}

func (v *Verdict) of(k Key, count *int, format string, args ...any) {
	if v.First == nil {
		v.First = &k
	}
	v.note(count, 1, "%s: "+format, append([]any{k}, args...)...)
}

// Compare says how the ledger differs from what the machines wrote. A record that a machine's disk holds and that
// was not witnessed is a kill between the two: the journal counts.
func Compare(e Evidence) Verdict {
	v := Verdict{lost: map[Key]bool{}}
	ledger := v.index(e.Ledger)
	v.witnessed(e.Witnessed, ledger)
	v.journals(e.Journals, ledger)
	if e.Quarantined > 0 {
		v.note(&v.Conflicts, e.Quarantined, "%d records in quarantine", e.Quarantined)
	}
	if e.Problems > 0 {
		v.note(&v.Problems, int(e.Problems), "%d records or chains that the ledger cannot prove", e.Problems)
	}
	if e.Missing > 0 {
		v.note(&v.Problems, int(e.Missing), "%d numbers in gaps of the ledger", e.Missing)
	}
	if e.OpenFaults > 0 {
		v.note(&v.Stuck, e.OpenFaults, "%d faults are open", e.OpenFaults)
	}
	if e.Slots > 0 {
		v.note(&v.Slots, e.Slots, "%d transaction slots stand at the broker", e.Slots)
	}
	return v
}

// index is the ledger by key; the same bytes or the same key twice is doubled money.
func (v *Verdict) index(rows []Stored) map[Key]Stored {
	ledger := make(map[Key]Stored, len(rows))
	bytes := make(map[string]Key, len(rows))
	for _, r := range rows {
		if _, twice := ledger[r.Key]; twice {
			v.of(r.Key, &v.Doubled, "twice in the ledger")
		} else if other, twice := bytes[r.SHA256]; twice {
			v.of(r.Key, &v.Doubled, "the same bytes as %s", other)
		}
		ledger[r.Key], bytes[r.SHA256] = r, r.Key
	}
	return ledger
}

func (v *Verdict) witnessed(lines []Stored, ledger map[Key]Stored) {
	seen := make(map[Key]Stored, len(lines))
	for _, w := range lines {
		if before, twice := seen[w.Key]; twice {
			if before.SHA256 != w.SHA256 {
				v.of(w.Key, &v.Conflicts, "the machine used the number for two records")
			}
			continue
		}
		seen[w.Key] = w
		got, ok := ledger[w.Key]
		switch {
		case !ok:
			v.lose(w.Key, "was on the machine's disk and is not in the ledger")
		case got.SHA256 != w.SHA256 || got.Amount != w.Amount:
			v.of(w.Key, &v.Altered, "minted %s over %d, the ledger has %s over %d", w.SHA256, w.Amount, got.SHA256, got.Amount)
		}
	}
}

func (v *Verdict) journals(list []Written, ledger map[Key]Stored) {
	known := map[string]bool{}
	last := map[Key]uint32{} // by epoch, Seq 0
	for _, w := range list {
		known[w.Machine] = true
		last[Key{Machine: w.Machine, Epoch: w.Epoch}] = w.Last
		if w.Released < w.Last {
			v.note(&v.Unreleased, int(w.Last-w.Released), "%s epoch %d: released to %d of %d", w.Machine, w.Epoch, w.Released, w.Last)
		}
		for _, l := range w.Lost {
			v.note(&v.Damaged, int(l[1]-l[0])+1, "%s epoch %d: damage took %d to %d", w.Machine, w.Epoch, l[0], l[1])
		}
		for seq := uint32(1); seq <= w.Last; seq++ {
			k := Key{w.Machine, w.Epoch, seq}
			if _, ok := ledger[k]; !ok {
				v.lose(k, "the journal wrote it and the ledger has it not")
			}
		}
	}
	for _, k := range sortedKeys(ledger) {
		if known[k.Machine] && k.Seq > last[Key{Machine: k.Machine, Epoch: k.Epoch}] {
			v.of(k, &v.Doubled, "the ledger has it and the journal never wrote it")
		}
	}
}

func sortedKeys(m map[Key]Stored) []Key {
	out := make([]Key, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.SortFunc(out, Key.compare)
	return out
}
