// Package schemas holds every message that crosses Farebeat's MQTT topics: its
// Go type, its JSON Schema, and good and bad examples of it. It imports nothing
// else of Farebeat, so that edge, fleet and third parties share one vocabulary.
//
// Times are RFC 3339 in UTC with milliseconds. Amounts are integers in the minor
// unit of an ISO 4217 currency. Sequence numbers count from 1 and never repeat
// inside an epoch.
package schemas
