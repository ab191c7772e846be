package schemas

import (
	"fmt"
)

// Message is the body of one topic. Validate reports the first field that breaks
// the message's schema as an *Error.
type Message interface {
	Validate() error
}

// Error says which field of which message is wrong, and how.
type Error struct {
	Message string // name of the schema, such as "heartbeat"
	Field   string // JSON path of the field, empty for the message as a whole
	Problem string // what is wrong, with the value where it is short
}

// Error implements error.
func (e *Error) Error() string {
	if e.Field == "" {
		return fmt.Sprintf("%s: %s", e.Message, e.Problem)
	}
	return fmt.Sprintf("%s: field %q: %s", e.Message, e.Field, e.Problem)
}

// Decode reads one JSON object into m, a pointer to a struct, and validates it. It is strict where
// encoding/json is not, so that two readers never take one payload for different things: names match
// exactly, no member is there twice, null is no value, numbers have the exact form, strings are UTF-8.
// Unknown members are ignored; a missing required member (one without omitempty), an ill-typed one, or
// bytes after the object is an *Error of the schema called name. m is undefined after an error and
// shares no memory with b.
func Decode(b []byte, name string, m Message) error {
	d := decoder{s: scanner{b: b}}
	d.message(m)
	if err := d.s.error(name); err != nil {
		return err
	}
	return m.Validate()
}

// Encode validates m, a pointer to a struct, and returns it as compact JSON: times in UTC with
// milliseconds, members in the order of the struct.
func Encode(m Message) ([]byte, error) {
	if err := m.Validate(); err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return appendMessage(nil, m)
}
