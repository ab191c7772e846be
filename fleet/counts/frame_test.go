package counts

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func samplePoints() []Point {
	return []Point{
		{Number: 0, Online: 12, Min: 12, Max: 12, Known: 12},
		{Number: 1, Online: 8, Min: 7, Max: 9, Known: 12, Expected: 12, Threshold: 9},
		{Number: 300, Expected: 2, Threshold: 1},
		{Number: math.MaxUint32, Online: MaxCount, Min: MaxCount, Max: MaxCount, Known: MaxCount},
	}
}

func TestFrameComesBack(t *testing.T) {
	for _, points := range [][]Point{{}, samplePoints()} {
		b, err := AppendFrame(nil, points)
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeFrame(b)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(points, got); d != "" {
			t.Errorf("frame (-want +got):\n%s", d)
		}
	}
}

func TestFrameRefusesNonsense(t *testing.T) {
	for _, c := range []struct {
		points []Point
		want   string
	}{
		{[]Point{{Number: 1}, {Number: 1}}, "counts: encode frame: point 1 has number 1, want 2 or more: sort the points"},
		{[]Point{{Number: 7, Online: -1}}, "counts: encode frame: route number 7 has a count of -1, want 0 to 1073741824"},
	} {
		if _, err := AppendFrame(nil, c.points); err == nil || err.Error() != c.want {
			t.Errorf("%v: %v, want %s", c.points, err, c.want)
		}
	}
}

func TestDamagedFramesAreNamed(t *testing.T) {
	good, err := AppendFrame(nil, samplePoints())
	if err != nil {
		t.Fatal(err)
	}
	for n := range good {
		if _, err := DecodeFrame(good[:n]); !errors.Is(err, ErrFrame) {
			t.Errorf("first %d bytes: %v, want ErrFrame", n, err)
		}
	}
	for in, want := range map[string]string{
		"\x02":             "counts: damaged frame: want version 1 in its first byte",
		"\x01\x01\x40\x00": "counts: damaged frame at byte 2: flags 0x40 hold unknown bits",
		"\x01\x09\x00\x00": "counts: damaged frame at byte 1: number 9 is over 2",
		"\x01\x00\x00":     "counts: damaged frame at byte 2: 1 bytes after the end",
	} {
		if _, err := DecodeFrame([]byte(in)); err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", in, err, want)
		}
	}
}

func FuzzDecodeFrame(f *testing.F) {
	good, err := AppendFrame(nil, samplePoints())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{frameVersion, 0})
	f.Add([]byte{frameVersion, 1, hasGap, 0, 255, 255, 255, 255, 15})
	f.Fuzz(func(t *testing.T, b []byte) {
		points, err := DecodeFrame(b)
		if err != nil {
			if !errors.Is(err, ErrFrame) || points != nil && len(points) > len(b) {
				t.Fatalf("%v", err)
			}
			return
		}
		again, err := AppendFrame(nil, points)
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeFrame(again)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(points, got); d != "" {
			t.Fatalf("(-first +again):\n%s", d)
		}
	})
}

func stateOfBoard(t testing.TB) []byte {
	t.Helper()
	b := New(Config{Start: noon})
	b.SetRoster(noon, []string{"712"})
	var x, y Place
	b.Put(at(600), &x, "36", Up)
	b.Put(at(1200), &y, "36", Up)
	b.Put(at(1500), &y, "37", Up)
	return b.AppendState(nil, at(1800))
}

func TestRestartInTheMiddleOfAnHourKeepsItsFirstPart(t *testing.T) {
	b := New(Config{Start: at(2400)}) // ten minutes down
	if err := b.RestoreState(at(2400), stateOfBoard(t)); err != nil {
		t.Fatal(err)
	}
	var x, z Place
	b.Recount(at(2400), &x, noon, []string{"36"})
	b.Put(at(2400), &x, "36", Up)
	b.Put(at(3000), &z, "36", Up)
	h := hoursOf(t, b, at(3600), "36")
	want := HourRow{
		Start: noon, Length: time.Hour, Heard: 50 * time.Minute, Route: "36", Distinct: 3, Peak: 2, Lowest: 0,
		P10: 0, P50: 1, P90: 2, Online: (20+5)*time.Minute + 20*time.Minute + 10*time.Minute,
	}
	if d := cmp.Diff(want, h); d != "" {
		t.Errorf("hour (-want +got):\n%s", d)
	}
}

func TestRestartAfterTheHourGivesItAsFarAsItWent(t *testing.T) {
	b := New(Config{Start: at(9000)})
	if err := b.RestoreState(at(9000), stateOfBoard(t)); err != nil {
		t.Fatal(err)
	}
	rows := b.Hours(at(9000))
	if len(rows) != 3 || rows[0].Route != "36" || rows[0].Distinct != 2 || rows[0].Heard != 30*time.Minute || rows[2].Route != "712" {
		t.Errorf("hours %+v, want half an hour of 36, 37 and 712", rows)
	}
}

func TestDamagedStateLeavesTheBoardEmpty(t *testing.T) {
	good := stateOfBoard(t)
	for i := range good {
		bad := append([]byte(nil), good...)
		bad[i] ^= 0x10
		for _, b := range [][]byte{bad, good[:i]} {
			board := New(Config{Start: at(1800)})
			if err := board.RestoreState(at(1800), b); !errors.Is(err, ErrState) || !strings.HasPrefix(err.Error(), "counts: damaged state") {
				t.Errorf("byte %d: %v, want ErrState", i, err)
			}
			if rows := board.Rows(at(1800)); len(rows) != 0 {
				t.Errorf("byte %d: rows %v after damage", i, rows)
			}
		}
	}
}

func FuzzDecodeState(f *testing.F) {
	f.Add(stateOfBoard(f))
	f.Add([]byte{stateVersion, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		// The checksum would keep the fuzzer out: it is put right first.
		b = sealState(append([]byte{stateVersion}, b...))
		lines, err := decodeState(b)
		if err != nil && !errors.Is(err, ErrState) {
			t.Fatal(err)
		}
		for _, l := range lines {
			if l.name == "" || len(l.name) > maxNameBytes || l.distinct > maxOnline {
				t.Fatalf("line %+v", l)
			}
		}
	})
}

func BenchmarkAppendFrame5000Routes(b *testing.B) {
	points := make([]Point, 5000)
	for i := range points {
		n := 3 + i%17
		points[i] = Point{Number: uint32(i), Online: n, Min: n, Max: n, Known: n + i%10/9, Expected: n, Threshold: max(n-2, 0)}
	}
	var buf []byte
	var err error
	b.ReportAllocs()
	for b.Loop() {
		if buf, err = AppendFrame(buf[:0], points); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(buf))/float64(len(points)), "bytes/route")
}
