package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"
)

// TicketMark is the newest ticket that the machine accepted: its counter, and when the fleet issued it.
type TicketMark struct {
	Counter  uint64
	IssuedAt time.Time
}

// The content of the file "ticket": "FBT1" | u32 CRC of the rest | u64 counter | i64 issued, ms since 1970.
const (
	ticketFile  = "ticket"
	ticketMagic = "FBT1"
	ticketSize  = 24
)

func (m TicketMark) encode() []byte {
	b := append([]byte(ticketMagic), 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, m.Counter)
	b = binary.LittleEndian.AppendUint64(b, uint64(m.IssuedAt.UnixMilli()))
	binary.LittleEndian.PutUint32(b[4:], checksum(b[8:]))
	return b
}

func decodeTicketMark(b []byte) (TicketMark, error) {
	le := binary.LittleEndian
	if len(b) != ticketSize || string(b[:4]) != ticketMagic {
		return TicketMark{}, errors.New("it is not a ticket file")
	}
	if le.Uint32(b[4:]) != checksum(b[8:]) {
		return TicketMark{}, errors.New("it does not match its checksum")
	}
	return TicketMark{Counter: le.Uint64(b[8:]), IssuedAt: time.UnixMilli(int64(le.Uint64(b[16:]))).UTC()}, nil
}

// readTicketMark takes the mark back. Where the file is damaged the machine begins without one: tickets that were
// superseded hold again until a newer one is seen, but no gateway is locked out of the records.
func (r *recovery) readTicketMark() error {
	b, err := r.fs.ReadFile(filepath.Join(r.dir, ticketFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if r.ticket, err = decodeTicketMark(b); err != nil {
		r.damage = append(r.damage, Damage{File: ticketFile, Bytes: len(b), Problem: err.Error() + ": older tickets are accepted until a new one comes"})
		return r.quarantine(ticketFile, 0, b)
	}
	return nil
}

// TicketMark is what KeepTicketMark kept last, zero at first.
func (j *Journal) TicketMark() TicketMark {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.ticket
}

// KeepTicketMark has the mark on the disk before it returns.
func (j *Journal) KeepTicketMark(m TicketMark) error {
	j.disk.Lock()
	defer j.disk.Unlock()
	if j.broken != nil {
		return fmt.Errorf("keep a ticket's mark in journal %s: %w", j.dir, j.broken)
	}
	if !j.made {
		if err := j.make(); err != nil {
			return fmt.Errorf("keep a ticket's mark in journal %s: %w", j.dir, err)
		}
	}
	if err := replace(j.fs, filepath.Join(j.dir, ticketFile), m.encode()); err != nil {
		return fmt.Errorf("keep a ticket's mark in journal %s: %w", j.dir, err)
	}
	j.mu.Lock()
	j.ticket = m
	j.mu.Unlock()
	return nil
}
