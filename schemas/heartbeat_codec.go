package schemas

import (
	"math"
	"strconv"
	"time"
	"unicode/utf8"
)

// maxInterned bounds each of the two generations of strings that a decoder remembers. It
// holds what 100,000 machines say: boot, vehicle and trip are each machine's own.
const maxInterned = 1 << 18

// maxInternedBytes is above the longest string that a valid heartbeat holds.
const maxInternedBytes = 256

// HeartbeatDecoder reads heartbeats without reflection and, once it has seen a fleet's
// identifiers, without allocating. It is not safe for concurrent use.
type HeartbeatDecoder struct {
	s          scanner
	young, old map[string]string
	most       int // strings in young
	oldest     time.Time
}

// NewHeartbeatDecoder makes a decoder that remembers nothing.
func NewHeartbeatDecoder() *HeartbeatDecoder {
	return &HeartbeatDecoder{young: map[string]string{}, most: maxInterned}
}

// Decode reads one heartbeat into hb, whose strings may be kept; OldestPending points into
// the decoder and is good until the next call. Unknown members are skipped. hb is undefined
// after an error, which is an *Error.
func (d *HeartbeatDecoder) Decode(b []byte, hb *Heartbeat) error {
	*hb = Heartbeat{}
	s := &d.s
	*s = scanner{b: b, scratch: s.scratch[:0]}
	defer func() { s.b = nil }() // the payload is the caller's
	var seen uint
	for more := s.open('{', '}', "an object"); more; more = s.more('}') {
		key := s.key()
		if s.problem != "" {
			break
		}
		name, bit := d.member(key, hb)
		if bit&seen != 0 {
			s.fail("is there twice")
		}
		seen |= bit
		s.at(name)
	}
	for bit, name := range [...]string{"seq", "boot", "at", "state"} {
		if s.problem == "" && seen&(1<<bit) == 0 {
			s.fail("is required")
			s.at(name)
		}
	}
	s.end()
	if err := s.error(NameHeartbeat); err != nil {
		return err
	}
	return hb.Validate()
}

// member reads the value of one member and returns its name and its bit; the required ones
// have the lowest.
func (d *HeartbeatDecoder) member(key []byte, hb *Heartbeat) (name string, bit uint) {
	s := &d.s
	switch string(key) { // does not allocate
	case "seq":
		hb.Seq = s.uint(math.MaxUint64)
		return "seq", 1 << 0
	case "boot":
		hb.Boot = d.str()
		return "boot", 1 << 1
	case "at":
		hb.At = s.time()
		return "at", 1 << 2
	case "state":
		hb.State = RunState(d.str())
		return "state", 1 << 3
	case "vehicle":
		hb.Vehicle = d.str()
		return "vehicle", 1 << 4
	case "route":
		hb.Route = d.str()
		return "route", 1 << 5
	case "trip":
		hb.Trip = d.str()
		return "trip", 1 << 6
	case "pending":
		hb.Pending = uint32(s.uint(math.MaxUint32))
		return "pending", 1 << 7
	case "pending_minor":
		hb.PendingMinor = s.int()
		return "pending_minor", 1 << 8
	case "currency":
		hb.Currency = d.str()
		return "currency", 1 << 9
	case "oldest_pending":
		d.oldest = s.time()
		hb.OldestPending = &d.oldest
		return "oldest_pending", 1 << 10
	case "last_seq":
		hb.LastSeq = uint32(s.uint(math.MaxUint32))
		return "last_seq", 1 << 11
	case "epoch":
		hb.Epoch = uint32(s.uint(math.MaxUint32))
		return "epoch", 1 << 12
	case "fw":
		hb.Firmware = d.str()
		return "fw", 1 << 13
	case "depot":
		hb.Depot = d.str()
		return "depot", 1 << 15
	case "network":
		hb.Network = d.str()
		return "network", 1 << 16
	case "fault":
		hb.Fault = d.str()
		return "fault", 1 << 14
	}
	s.skip(0)
	return "", 0
}

// str reads a string and returns the one copy of it that is kept. A string that was not used for a
// generation is forgotten, so that random ones cannot fill the memory.
func (d *HeartbeatDecoder) str() string {
	b := d.s.str()
	if s, ok := d.young[string(b)]; ok {
		return s
	}
	if len(b) > maxInternedBytes {
		return string(b)
	}
	s, ok := d.old[string(b)]
	if !ok {
		s = string(b)
	}
	if len(d.young) >= d.most {
		d.old, d.young = d.young, make(map[string]string, d.most)
	}
	d.young[s] = s
	return s
}

// AppendHeartbeat appends hb as compact JSON, the same as Encode writes. hb must be valid.
func AppendHeartbeat(dst []byte, hb *Heartbeat) []byte {
	dst = append(dst, `{"seq":`...)
	dst = strconv.AppendUint(dst, hb.Seq, 10)
	dst = appendString(append(dst, `,"boot":`...), hb.Boot)
	dst = appendTime(append(dst, `,"at":`...), hb.At)
	dst = appendOptional(dst, `,"vehicle":`, hb.Vehicle)
	dst = appendOptional(dst, `,"route":`, hb.Route)
	dst = appendOptional(dst, `,"trip":`, hb.Trip)
	dst = appendString(append(dst, `,"state":`...), string(hb.State))
	dst = appendCount(dst, `,"pending":`, hb.Pending)
	if hb.PendingMinor != 0 {
		dst = strconv.AppendInt(append(dst, `,"pending_minor":`...), hb.PendingMinor, 10)
	}
	dst = appendOptional(dst, `,"currency":`, hb.Currency)
	if hb.OldestPending != nil {
		dst = appendTime(append(dst, `,"oldest_pending":`...), *hb.OldestPending)
	}
	dst = appendCount(dst, `,"last_seq":`, hb.LastSeq)
	dst = appendCount(dst, `,"epoch":`, hb.Epoch)
	dst = appendOptional(dst, `,"fw":`, hb.Firmware)
	dst = appendOptional(dst, `,"depot":`, hb.Depot)
	dst = appendOptional(dst, `,"network":`, hb.Network)
	dst = appendOptional(dst, `,"fault":`, hb.Fault)
	return append(dst, '}')
}

func appendOptional(dst []byte, name, v string) []byte {
	if v == "" {
		return dst
	}
	return appendString(append(dst, name...), v)
}

func appendCount(dst []byte, name string, v uint32) []byte {
	if v == 0 {
		return dst
	}
	return strconv.AppendUint(append(dst, name...), uint64(v), 10)
}

// appendString writes a JSON string. What is not UTF-8 becomes U+FFFD.
func appendString(dst []byte, v string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	for i, r := range v {
		switch {
		case r == '"' || r == '\\':
			dst = append(dst, '\\', byte(r))
		case r < 0x20:
			dst = append(dst, '\\', 'u', '0', '0', hex[r>>4], hex[r&15])
		case r < utf8.RuneSelf:
			dst = append(dst, v[i])
		default:
			dst = utf8.AppendRune(dst, r)
		}
	}
	return append(dst, '"')
}

// appendTime writes a time as every message has it: UTC, milliseconds.
func appendTime(dst []byte, t time.Time) []byte {
	return append(t.UTC().AppendFormat(append(dst, '"'), "2006-01-02T15:04:05.000Z"), '"')
}
