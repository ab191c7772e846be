package topics

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// plain reports whether a byte stands for itself in an identifier: the unreserved
// characters of RFC 3986.
func plain(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.' || c == '~'
}

const upperHex = "0123456789ABCDEF"

// checkID says what an identifier may be: 1 to MaxID characters, printable, and none of MQTT's
// own. GTFS identifiers hold spaces, slashes and colons.
func checkID(level, id string) error {
	switch {
	case id == "":
		return fmt.Errorf("%s is empty", level)
	case !utf8.ValidString(id):
		return fmt.Errorf("%s %q: not UTF-8", level, id)
	case utf8.RuneCountInString(id) > MaxID:
		return fmt.Errorf("%s %.16q...: %d characters, at most %d", level, id, utf8.RuneCountInString(id), MaxID)
	case strings.ContainsAny(id, "+#$"):
		return fmt.Errorf("%s %q: +, # and $ are MQTT's own", level, id)
	case strings.ContainsFunc(id, unicode.IsControl):
		return fmt.Errorf("%s %q: has a control character", level, id)
	}
	return nil
}

func encodeID(level, id string) (string, error) {
	if err := checkID(level, id); err != nil {
		return "", err
	}
	if isPlain(id) {
		return id, nil
	}
	var b strings.Builder
	for i := range len(id) {
		if c := id[i]; plain(c) {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', upperHex[c>>4], upperHex[c&15]})
		}
	}
	return b.String(), nil
}

// decodeID accepts exactly what encodeID writes, so that no two topics mean one thing.
func decodeID(level, enc string) (string, error) {
	if isPlain(enc) {
		if len(enc) == 0 || len(enc) > MaxID {
			return "", checkID(level, enc)
		}
		return enc, nil
	}
	b := make([]byte, 0, len(enc))
	for i := 0; i < len(enc); i++ {
		switch c := enc[i]; {
		case plain(c):
			b = append(b, c)
		case c == '%' && i+2 < len(enc):
			hi, lo := strings.IndexByte(upperHex, enc[i+1]), strings.IndexByte(upperHex, enc[i+2])
			if hi < 0 || lo < 0 || plain(byte(hi<<4|lo)) {
				return "", fmt.Errorf("%s %q: %q is no percent-encoding of ours", level, enc, enc[i:i+3])
			}
			b = append(b, byte(hi<<4|lo))
			i += 2
		default:
			return "", fmt.Errorf("%s %q: %q must be percent-encoded", level, enc, c)
		}
	}
	id := string(b)
	if err := checkID(level, id); err != nil {
		return "", err
	}
	return id, nil
}

func isPlain(s string) bool {
	for i := range len(s) {
		if !plain(s[i]) {
			return false
		}
	}
	return true
}
