package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// SQLite reads its log up to the first frame whose sum does not fit, and forgets the rest without a word. After a crash
// that is right: the rest was never confirmed. But a transaction is only begun once the one before it is on the disk, so where
// another transaction has begun behind the frame that does not fit, that frame was on the disk and rotted, and what would be
// forgotten was confirmed. The layout is that of https://www.sqlite.org/fileformat2.html#walformat.

// checkLog reports ErrDamaged for a log of which confirmed transactions would be forgotten.
func checkLog(path string) error {
	f, err := os.Open(path + "-wal")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	bad, err := findRot(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if bad >= 0 {
		return fmt.Errorf("%w: frame %d of its log rotted, and confirmed transactions lie behind it; run farebeat repair, or restore the last backup", ErrDamaged, bad)
	}
	return nil
}

// findRot returns the number of the first frame that rotted, from 0; -1 for none.
func findRot(log io.ReaderAt) (int, error) {
	head := make([]byte, walHeader)
	if _, err := log.ReadAt(head, 0); err != nil {
		return -1, ignoreEOF(err)
	}
	order, ok := sumOrder(head)
	if !ok {
		return -1, nil // nothing of it counts: a log that was never begun
	}
	sum := walSum{binary.BigEndian.Uint32(head[24:]), binary.BigEndian.Uint32(head[28:])}
	frame := make([]byte, frameHeader+pageSize)
	bad, ended := -1, false // ended: the frame before ends a transaction
	for n := 0; ; n++ {
		_, err := log.ReadAt(frame, walHeader+int64(n)*int64(len(frame)))
		if err != nil {
			return -1, ignoreEOF(err)
		}
		said := walSum{binary.BigEndian.Uint32(frame[16:]), binary.BigEndian.Uint32(frame[20:])}
		ours := string(frame[8:16]) == string(head[16:24]) // salts: else it is left from before the log was begun anew
		good := ours && sum.over(order, frame[:8]).over(order, frame[frameHeader:]) == said
		switch {
		case bad < 0 && !good:
			bad = n
		case bad >= 0 && good && ended:
			return bad, nil
		}
		ended = ours && binary.BigEndian.Uint32(frame[4:]) != 0 // the size of the file, in the last frame of a transaction
		sum = said
	}
}

// sumOrder is how the log's sums are made, by its magic number.
func sumOrder(head []byte) (binary.ByteOrder, bool) {
	switch binary.BigEndian.Uint32(head) {
	case 0x377f0682:
		return binary.LittleEndian, binary.BigEndian.Uint32(head[8:]) == pageSize
	case 0x377f0683:
		return binary.BigEndian, binary.BigEndian.Uint32(head[8:]) == pageSize
	}
	return nil, false
}

// walSum is the running sum of a log.
type walSum struct{ a, b uint32 }

func (s walSum) over(order binary.ByteOrder, data []byte) walSum {
	for ; len(data) >= 8; data = data[8:] {
		s.a += order.Uint32(data) + s.b
		s.b += order.Uint32(data[4:]) + s.a
	}
	return s
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}
