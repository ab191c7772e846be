package topics

import (
	"bytes"
	_ "embed" // for asyncapi.json
)

// asyncAPI is generated from Specs and the schemas by TestDocuments.
//
//go:embed asyncapi.json
var asyncAPI []byte //nolint:gochecknoglobals // go:embed needs one

// AsyncAPIDocument returns the contract as an AsyncAPI 3.0 document, the payload of
// meta/asyncapi. The caller may keep and change it.
func AsyncAPIDocument() []byte { return bytes.Clone(asyncAPI) }
