// Package check holds payloads against the JSON Schemas of schemas. It is for tests and
// tools: services decode with schemas, which checks the same and more.
package check

import (
	"bytes"
	"fmt"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/farebeat/farebeat/schemas"
)

// Checker holds the compiled schemas. It is safe for concurrent use.
type Checker struct {
	compiled map[string]*jsonschema.Schema
}

// New compiles every schema. An error means that one of them is broken, and which.
func New() (*Checker, error) {
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat() // date-time and date are checked, not only told
	for _, name := range schemas.Names() {
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema(name)))
		if err != nil {
			return nil, fmt.Errorf("read schema %s: %w", name, err)
		}
		if err := compiler.AddResource(id(name), doc); err != nil {
			return nil, fmt.Errorf("read schema %s: %w", name, err)
		}
	}
	c := &Checker{compiled: map[string]*jsonschema.Schema{}}
	for _, name := range schemas.Names() {
		s, err := compiler.Compile(id(name))
		if err != nil {
			return nil, fmt.Errorf("compile schema %s: %w", name, err)
		}
		c.compiled[name] = s
	}
	return c, nil
}

// id is the $id of a schema.
func id(name string) string { return "urn:farebeat:v1:" + name }

// Validate holds a payload against the schema called name. The error names each place where
// the payload breaks it.
func (c *Checker) Validate(name string, payload []byte) error {
	s, ok := c.compiled[name]
	if !ok {
		return fmt.Errorf("no schema is called %q; see schemas.Names", name)
	}
	if !utf8.Valid(payload) {
		return fmt.Errorf("%s: not UTF-8", name)
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(payload))
	if err != nil {
		return fmt.Errorf("%s: not JSON: %w", name, err)
	}
	if err := s.Validate(v); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// Schema returns the JSON Schema 2020-12 called name, or nil if there is none.
func Schema(name string) []byte { return schemas.Schema(name) }
