package journal

import (
	"strings"
	"testing"
	"time"
)

// A machine that never stored a record keeps its mark as well; one that reads as damaged is set aside, not believed.
func TestTicketMark(t *testing.T) {
	d := newPowerDisk()
	j := openOn(t, d, crashOptions)
	if m := j.TicketMark(); m != (TicketMark{}) {
		t.Errorf("%+v before any ticket", m)
	}
	want := TicketMark{Counter: 1 << 60, IssuedAt: time.Date(2026, 11, 22, 23, 41, 9, 120e6, time.UTC)}
	if err := j.KeepTicketMark(want); err != nil {
		t.Fatal(err)
	}
	d = d.reboot(1)
	if m := openOn(t, d, crashOptions).TicketMark(); m != want {
		t.Errorf("after a restart: %+v", m)
	}
	d = d.reboot(2)
	f, err := d.Open(testDir+"/"+ticketFile, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{0xff}, 9); err != nil {
		t.Fatal(err)
	}
	j = openOn(t, d, crashOptions)
	if m := j.TicketMark(); m != (TicketMark{}) {
		t.Errorf("a damaged mark was taken: %+v", m)
	}
	if dmg := j.Damage(); len(dmg) != 1 || !strings.Contains(dmg[0].String(), "older tickets are accepted") {
		t.Errorf("damage %v", dmg)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := j.KeepTicketMark(want); err == nil {
		t.Error("a closed journal keeps a mark")
	}
}

func FuzzTicketMark(f *testing.F) {
	f.Add(TicketMark{Counter: 7, IssuedAt: time.UnixMilli(9)}.encode())
	f.Add([]byte(ticketMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := decodeTicketMark(b); err == nil && string(m.encode()) != string(b) {
			t.Errorf("%x is read as %+v", b, m)
		}
	})
}
