// Package topics states Farebeat's topic tree once: how each topic is built and
// parsed, who may write and read it, its QoS, whether it is retained, its schema
// and its greatest size. Everything else (the broker's access control, the documents,
// the subscriptions) is computed from it.
//
// Root: farebeat/v1/{operator}/. New levels are only ever added at the end; end filters
// with "#".
package topics
