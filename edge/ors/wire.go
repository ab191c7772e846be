package ors

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/farebeat/farebeat/schemas"
)

// The opcodes: those below 0x40 are of the Bluetooth Record Access Control Point.
const (
	opReport       = 0x01
	opAbort        = 0x03
	opResponse     = 0x06
	opStatus       = 0x40
	opFaultNotice  = 0x41
	opSetTime      = 0x42
	opFaultCleared = 0x43
	opReceipt      = 0x44
)

// operatorGreaterOrEqual selects records from a sequence number on, as in RACP.
const operatorGreaterOrEqual = 0x03

// The response codes of RACP.
const (
	codeSuccess      = 1
	codeOpcode       = 2 // not supported
	codeOperand      = 5 // invalid
	codeNoRecords    = 6
	codeNotCompleted = 8
)

// reader walks a body; the first field that is not there makes all that follow zero.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if r.bad || n > len(r.b) {
		r.bad = true
		return make([]byte, n)
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) u8() uint8    { return r.take(1)[0] }
func (r *reader) u16() uint16  { return binary.LittleEndian.Uint16(r.take(2)) }
func (r *reader) u32() uint32  { return binary.LittleEndian.Uint32(r.take(4)) }
func (r *reader) i64() int64   { return int64(binary.LittleEndian.Uint64(r.take(8))) }
func (r *reader) text() string { return string(r.take(int(r.u8()))) }

// end is the error of a body that was too short or too long.
func (r *reader) end(what string) error {
	if r.bad || len(r.b) > 0 {
		return fmt.Errorf("%s: %w", what, ErrFormat)
	}
	return nil
}

func appendText(b []byte, s string) []byte {
	if len(s) > 255 {
		s = s[:255]
	}
	return append(append(b, byte(len(s))), s...)
}

func appendI64(b []byte, n int64) []byte { return binary.LittleEndian.AppendUint64(b, uint64(n)) }

func appendU32(b []byte, n ...uint32) []byte {
	for _, v := range n {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return b
}

// encodeRecord is the body of a record: u32 epoch, u32 seq, u64 utc ms, u8 clock generation, u8
// kind, u16 length, payload, and the CRC-32C of all before it.
func encodeRecord(r Record) []byte {
	b := appendU32(nil, r.Epoch, r.Seq)
	b = appendI64(b, r.UTCMillis)
	b = append(b, r.ClockGen, r.Kind)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(r.Payload)))
	b = append(b, r.Payload...)
	return appendU32(b, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
}

func decodeRecord(b []byte) (Record, error) {
	r := reader{b: b}
	rec := Record{Epoch: r.u32(), Seq: r.u32(), UTCMillis: r.i64(), ClockGen: r.u8(), Kind: r.u8()}
	rec.Payload = r.take(int(r.u16()))
	sum := r.u32()
	if err := r.end("record"); err != nil {
		return Record{}, err
	}
	if sum != crc32.Checksum(b[:len(b)-4], crc32.MakeTable(crc32.Castagnoli)) {
		return Record{}, fmt.Errorf("record %d-%d: its checksum is wrong: %w", rec.Epoch, rec.Seq, ErrFormat)
	}
	return rec, nil
}

func encodeStatus(s Status) []byte {
	b := appendText(nil, s.Machine)
	b = appendI64(b, s.UTC.UnixMilli())
	b = append(b, s.ClockGen)
	b = appendI64(appendU32(b, s.Pending), s.PendingMinor)
	b = appendText(b, s.Currency)
	epochs := s.Epochs[max(0, len(s.Epochs)-MaxEpochs):]
	b = append(b, byte(len(epochs)))
	for _, e := range epochs {
		b = appendU32(b, e.Epoch, e.First, e.Next)
	}
	return b
}

func decodeStatus(r *reader) (Status, error) {
	s := Status{Machine: r.text(), UTC: time.UnixMilli(r.i64()).UTC(), ClockGen: r.u8(), Pending: r.u32(), PendingMinor: r.i64(), Currency: r.text()}
	n := int(r.u8())
	if n > MaxEpochs {
		return Status{}, fmt.Errorf("status of %d epochs: %w", n, ErrFormat)
	}
	for range n {
		e := EpochRange{Epoch: r.u32(), First: r.u32(), Next: r.u32()}
		if e.First < 1 || e.Next < e.First {
			r.bad = true
		}
		s.Epochs = append(s.Epochs, e)
	}
	if err := r.end("status"); err != nil {
		return Status{}, err
	}
	return s, nil
}

func encodeReceipt(epochs []schemas.EpochReceipt) ([]byte, error) {
	if len(epochs) > MaxEpochs {
		epochs = epochs[:MaxEpochs]
	}
	b := []byte{byte(len(epochs))}
	for _, e := range epochs {
		mac, err := base64.RawURLEncoding.DecodeString(e.MAC)
		if err != nil || len(mac) != 32 || len(e.Gaps) > schemas.MaxGaps {
			return nil, fmt.Errorf("receipt of epoch %d: %w", e.Epoch, ErrFormat)
		}
		b = append(appendU32(b, e.Epoch, e.CompleteTo, e.Highest), byte(len(e.Gaps)))
		for _, g := range e.Gaps {
			b = appendU32(b, g[0], g[1])
		}
		b = append(b, mac...)
	}
	return b, nil
}

func decodeReceipt(r *reader) ([]schemas.EpochReceipt, error) {
	n := int(r.u8())
	if n > MaxEpochs {
		return nil, fmt.Errorf("receipt of %d epochs: %w", n, ErrFormat)
	}
	epochs := make([]schemas.EpochReceipt, n)
	for i := range epochs {
		e := &epochs[i]
		e.Epoch, e.CompleteTo, e.Highest = r.u32(), r.u32(), r.u32()
		gaps := int(r.u8())
		if gaps > schemas.MaxGaps {
			return nil, fmt.Errorf("receipt of %d gaps: %w", gaps, ErrFormat)
		}
		for range gaps {
			e.Gaps = append(e.Gaps, [2]uint32{r.u32(), r.u32()})
		}
		e.MAC = base64.RawURLEncoding.EncodeToString(r.take(32))
	}
	return epochs, r.end("receipt")
}
