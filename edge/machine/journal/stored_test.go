package journal

import (
	"bytes"
	"testing"
)

// Who is told that a record is stored may cut the power then and there.
func TestStoredSaysWhatIsOnTheDisk(t *testing.T) {
	d := newPowerDisk()
	var told []Record
	o := crashOptions
	o.Stored = func(r Record) {
		told = append(told, r)
		held := all(t, openOn(t, d.reboot(uint64(len(told))), crashOptions))
		if got := held[Ref{r.Epoch, r.Seq}]; !bytes.Equal(got, r.Payload) {
			t.Errorf("record %d-%d is not on the disk when that is said: %q", r.Epoch, r.Seq, got)
		}
	}
	j := openOn(t, d, o)
	fill(t, j, 12)
	if len(told) != 12 || told[11].Seq != 12 || told[11].Amount != 211 {
		t.Errorf("%d records were told of, the last %+v", len(told), told[len(told)-1])
	}
	d.failAt, d.once = d.ops+1, true
	if _, err := j.Append(testTap(12), 1); err == nil || len(told) != 12 {
		t.Errorf("a record that could not be written was told of, error %v", err)
	}
}
