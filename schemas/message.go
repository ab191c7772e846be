package schemas

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
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

// Decode reads one JSON object into m and validates it. Unknown members are
// ignored; a missing or ill-typed required member, or bytes after the object,
// is an *Error. m is undefined after an error.
func Decode(b []byte, name string, m Message) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	if err := dec.Decode(m); err != nil {
		return jsonError(name, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return &Error{Message: name, Problem: "bytes after the end of the JSON object"}
	}
	return m.Validate()
}

// Encode validates m and returns it as compact JSON.
func Encode(m Message) ([]byte, error) {
	if err := m.Validate(); err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(m); err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

func jsonError(name string, err error) error {
	var typeErr *json.UnmarshalTypeError
	if errors.As(err, &typeErr) {
		return &Error{Message: name, Field: typeErr.Field, Problem: fmt.Sprintf("want %s, got a JSON %s", typeErr.Type, typeErr.Value)}
	}
	var timeErr *time.ParseError
	if errors.As(err, &timeErr) {
		return &Error{Message: name, Problem: fmt.Sprintf("time %s is not RFC 3339", timeErr.Value)}
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &Error{Message: name, Problem: "the JSON ends too early"}
	}
	return &Error{Message: name, Problem: "not JSON: " + err.Error()}
}
