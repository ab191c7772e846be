package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	stateMagic = "FBS1"
	stateFixed = 17
	maxEpochs  = 64 // epochs the state file speaks of
)

// mark is what the state file says of one epoch.
type mark struct {
	epoch    uint32
	last     uint32 // highest number used when the file was written: a floor for the current epoch
	released uint32 // all up to here are released
}

// state is the content of the state file: "FBS1" | u32 CRC of the rest | u32
// current epoch | u32 count | u8 length | machine id | count times u32 epoch,
// u32 last, u32 released, epochs growing.
type state struct {
	machine string
	epoch   uint32
	marks   []mark
}

func (s *state) encode() []byte {
	b := append([]byte(stateMagic), 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint32(b, s.epoch)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(s.marks)))
	b = append(b, uint8(len(s.machine)))
	b = append(b, s.machine...)
	for _, m := range s.marks {
		b = binary.LittleEndian.AppendUint32(b, m.epoch)
		b = binary.LittleEndian.AppendUint32(b, m.last)
		b = binary.LittleEndian.AppendUint32(b, m.released)
	}
	binary.LittleEndian.PutUint32(b[4:], checksum(b[8:]))
	return b
}

func decodeState(b []byte) (state, error) {
	le := binary.LittleEndian
	if len(b) < stateFixed || string(b[:4]) != stateMagic {
		return state{}, errors.New("it is not a state file")
	}
	if le.Uint32(b[4:]) != checksum(b[8:]) {
		return state{}, errors.New("it does not match its checksum")
	}
	s := state{epoch: le.Uint32(b[8:])}
	count, n := le.Uint32(b[12:]), int(b[16])
	b = b[stateFixed:]
	if s.epoch == 0 || count > maxEpochs || len(b) != n+int(count)*12 {
		return state{}, errors.New("its length does not fit its content")
	}
	s.machine, b = string(b[:n]), b[n:]
	for ; len(b) > 0; b = b[12:] {
		m := mark{epoch: le.Uint32(b), last: le.Uint32(b[4:]), released: le.Uint32(b[8:])}
		if k := len(s.marks); m.epoch == 0 || m.epoch > s.epoch || m.released > m.last || k > 0 && s.marks[k-1].epoch >= m.epoch {
			return state{}, fmt.Errorf("it contradicts itself at epoch %d", m.epoch)
		}
		s.marks = append(s.marks, m)
	}
	return s, nil
}
