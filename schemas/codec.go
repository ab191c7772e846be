package schemas

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// field is one member of a message.
type field struct {
	name     string
	optional bool
	index    int
}

// fieldsOf lists the members of a message's struct: those with a json tag.
func fieldsOf(t reflect.Type) []field {
	fields := make([]field, 0, t.NumField())
	for i := range t.NumField() {
		name, option, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if name != "" && name != "-" {
			fields = append(fields, field{name, option == "omitempty", i})
		}
	}
	return fields
}

// decoder reads a message by the tags of its struct.
type decoder struct {
	s     scanner
	types map[reflect.Type][]field // met so far
}

func (d *decoder) message(m Message) {
	v := reflect.ValueOf(m)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		d.s.fail("cannot be read into %T: want a pointer to a struct", m)
		return
	}
	v.Elem().SetZero()
	d.object(v.Elem())
	d.s.end()
}

func (d *decoder) fields(t reflect.Type) []field {
	f, ok := d.types[t]
	if !ok {
		if d.types == nil {
			d.types = map[reflect.Type][]field{}
		}
		f = fieldsOf(t)
		d.types[t] = f
	}
	return f
}

// object reads a struct, whose zero value v must be.
func (d *decoder) object(v reflect.Value) {
	fields := d.fields(v.Type())
	var seen uint64 // by position in fields; a test keeps every message below 64
	next := 0       // members mostly come in the order of the struct
	for more := d.s.open('{', '}', "an object"); more; more = d.s.more('}') {
		key := d.s.key()
		if d.s.problem != "" {
			return
		}
		n := find(fields, key, next)
		if n < 0 {
			d.s.skip(0)
			continue
		}
		d.value(v.Field(fields[n].index))
		if seen&(1<<n) != 0 {
			d.s.fail("is there twice")
		}
		d.s.at(fields[n].name)
		seen |= 1 << n
		next = n + 1
	}
	for n, f := range fields {
		if d.s.problem == "" && !f.optional && seen&(1<<n) == 0 {
			d.s.fail("is required")
			d.s.at(f.name)
		}
	}
}

// find returns the position of the member called key, looking from next on first; -1 for none.
func find(fields []field, key []byte, next int) int {
	for i := range fields {
		n := (next + i) % len(fields)
		if fields[n].name == string(key) {
			return n
		}
	}
	return -1
}

// value reads what the type of v demands.
func (d *decoder) value(v reflect.Value) {
	switch p := v.Addr().Interface().(type) {
	case *time.Time:
		*p = d.s.time()
		return
	case *json.RawMessage:
		d.s.lax = true // one bad record must not make its neighbors unreadable
		*p = bytes.Clone(d.s.skip(0))
		d.s.lax = false
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(string(d.s.str()))
	case reflect.Bool:
		v.SetBool(d.s.bool())
	case reflect.Int, reflect.Int64:
		n := d.s.int()
		if v.OverflowInt(n) {
			d.s.fail("%d: out of range", n)
		}
		v.SetInt(n)
	case reflect.Uint32, reflect.Uint64:
		v.SetUint(d.s.uint(math.MaxUint64 >> (64 - v.Type().Bits())))
	case reflect.Float64:
		v.SetFloat(d.s.float())
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.value(v.Elem())
	case reflect.Struct:
		d.object(v)
	case reflect.Slice, reflect.Array:
		d.array(v)
	default:
		d.s.fail("has a type that no message may have: %s", v.Type())
	}
}

// array reads a slice, or an array of exactly its length.
func (d *decoder) array(v reflect.Value) {
	n := 0
	for more := d.s.open('[', ']', "an array"); more; more = d.s.more(']') {
		if v.Kind() == reflect.Slice {
			v.Grow(1)
			v.SetLen(n + 1)
		}
		if n < v.Len() {
			d.value(v.Index(n))
			d.s.at("[" + strconv.Itoa(n) + "]")
		} else {
			d.s.skip(0)
		}
		n++
	}
	if v.Kind() == reflect.Array && n != v.Len() {
		d.s.fail("%d elements, want %d", n, v.Len())
	}
}

// appendMessage writes m, which must be valid.
func appendMessage(dst []byte, m Message) ([]byte, error) {
	v := reflect.ValueOf(m)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return nil, fmt.Errorf("encode: %T: want a pointer to a struct", m)
	}
	return appendValue(dst, v.Elem())
}

// appendValue writes what decoder.value reads.
func appendValue(dst []byte, v reflect.Value) ([]byte, error) {
	switch x := v.Addr().Interface().(type) {
	case *time.Time:
		return appendTime(dst, *x), nil
	case *json.RawMessage:
		return append(dst, *x...), nil
	}
	switch v.Kind() {
	case reflect.String:
		return appendString(dst, v.String()), nil
	case reflect.Bool:
		return strconv.AppendBool(dst, v.Bool()), nil
	case reflect.Int, reflect.Int64:
		return strconv.AppendInt(dst, v.Int(), 10), nil
	case reflect.Uint32, reflect.Uint64:
		return strconv.AppendUint(dst, v.Uint(), 10), nil
	case reflect.Float64:
		return strconv.AppendFloat(dst, v.Float(), 'f', -1, 64), nil
	case reflect.Pointer:
		if !v.IsNil() {
			return appendValue(dst, v.Elem())
		}
	case reflect.Struct:
		return appendObject(dst, v)
	case reflect.Slice, reflect.Array:
		return appendArray(dst, v)
	}
	return nil, fmt.Errorf("encode: a %s is nothing that a message may hold", v.Type())
}

func appendObject(dst []byte, v reflect.Value) ([]byte, error) {
	dst = append(dst, '{')
	for i, separator := 0, ""; i < v.NumField(); i++ {
		name, option, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		value := v.Field(i)
		if name == "" || name == "-" || option == "omitempty" && empty(value) {
			continue
		}
		dst = append(append(append(append(dst, separator...), '"'), name...), '"', ':')
		var err error
		if dst, err = appendValue(dst, value); err != nil {
			return nil, err
		}
		separator = ","
	}
	return append(dst, '}'), nil
}

// empty is what omitempty means in encoding/json.
func empty(v reflect.Value) bool {
	if v.Kind() == reflect.Slice {
		return v.Len() == 0
	}
	return v.Kind() != reflect.Struct && v.IsZero()
}

func appendArray(dst []byte, v reflect.Value) ([]byte, error) {
	dst = append(dst, '[')
	for i := range v.Len() {
		if i > 0 {
			dst = append(dst, ',')
		}
		var err error
		if dst, err = appendValue(dst, v.Index(i)); err != nil {
			return nil, err
		}
	}
	return append(dst, ']'), nil
}
