// Package yamlfile decodes the YAML files that people write for rules: strictly, with errors
// that name the line, what is wrong there and what would be right.
package yamlfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// MaxSize is the greatest file in bytes that Decode reads.
const MaxSize = 4 << 20

// Decode reads the one document of b into a pointer to a struct. An empty file leaves it as it
// is; an unknown key and a second document are errors.
func Decode(b []byte, into any) error {
	if len(b) > MaxSize {
		return fmt.Errorf("%d bytes is more than %d", len(b), MaxSize)
	}
	dec := yaml.NewDecoder(bytes.NewReader(b))
	dec.KnownFields(true)
	if err := dec.Decode(into); err != nil && !errors.Is(err, io.EOF) {
		return plain(err, into)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return errors.New("holds a second YAML document after ---; put all into one")
	}
	return nil
}

// plain turns the decoder's words into ours.
func plain(err error, into any) error {
	var typeErr *yaml.TypeError
	if !errors.As(err, &typeErr) {
		return errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	unknown := regexp.MustCompile(`^(line \d+): field (.+) not found in type (\S+)$`)
	known := map[string][]string{}
	walk(reflect.TypeOf(into), map[reflect.Type]bool{}, func(t reflect.Type, key string, _ reflect.Type) {
		known[t.String()] = append(known[t.String()], key)
	})
	out := make([]string, 0, len(typeErr.Errors))
	for _, e := range typeErr.Errors {
		if m := unknown.FindStringSubmatch(e); m != nil {
			e = fmt.Sprintf("%s: unknown key %q; known here are %s", m[1], m[2], strings.Join(known[m[3]], ", "))
		}
		out = append(out, e)
	}
	return errors.New(strings.Join(out, "; "))
}

// Keys lists every key that Decode knows in v and what it holds, each as TYPE.KEY with
// TYPE the key above it, empty at the top.
func Keys(v any) []string {
	above := map[reflect.Type]string{}
	var out []string
	walk(reflect.TypeOf(v), map[reflect.Type]bool{}, func(t reflect.Type, key string, holds reflect.Type) {
		if _, ok := above[holds]; !ok {
			above[holds] = key
		}
		out = append(out, above[t]+"."+key)
	})
	return out
}

// walk calls visit for each key of each struct under t, those of a struct before those under it.
func walk(t reflect.Type, seen map[reflect.Type]bool, visit func(in reflect.Type, key string, holds reflect.Type)) {
	t = element(t)
	if t.Kind() != reflect.Struct || seen[t] || isLeaf(t) {
		return
	}
	seen[t] = true
	under := keysOf(t, t, visit)
	for _, u := range under {
		walk(u, seen, visit)
	}
}

// keysOf visits the keys of t as those of owner, which holds it inline, and returns what they hold.
func keysOf(owner, t reflect.Type, visit func(in reflect.Type, key string, holds reflect.Type)) []reflect.Type {
	var under []reflect.Type
	for i := range t.NumField() {
		f := t.Field(i)
		key, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case strings.Contains(options, "inline"):
			under = append(under, keysOf(owner, f.Type, visit)...)
		case key != "" && key != "-":
			visit(owner, key, element(f.Type))
			under = append(under, f.Type)
		}
	}
	return under
}

func element(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	return t
}

// isLeaf reports whether t reads itself: it has no keys of its own.
func isLeaf(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(reflect.TypeFor[yaml.Unmarshaler]())
}

// Short writes a duration as a person does: 10m rather than 10m0s.
func Short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
