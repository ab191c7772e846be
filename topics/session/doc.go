// Package session keeps one MQTT 3.1.1 session with a broker alive: it connects, says that it
// is there, subscribes, hands messages to handlers, and when the line breaks does all of it again
// until it is told to stop.
//
// What it promises:
//
//   - A QoS-1 message is acknowledged to the broker only after every handler whose filter
//     matches has returned nil. A handler that fails is called again with the same
//     message, after a pause, for as long as the connection lasts; what is behind it in the same handler
//     waits. So a handler returns an error only for what may succeed later (a full disk), and nil for what
//     never will (a malformed message, counted and set aside).
//   - Publish with QoS 1 returns nil only after the acknowledgement of that very message. Any
//     error means: it may or may not have arrived, publish it again.
//   - Each handler gets its messages one at a time and in the order of arrival, unless
//     HandleParallel asked for more; then messages of one topic keep their order.
//   - Handlers may call Publish and wait.
//
// What it does not promise: that a message comes once, so receivers are idempotent; nor that one which was
// received and not yet handled when a connection ends comes again. With CleanSession the broker forgets
// it. Without, Mochi v2.7.9 still forgets some: it has one table of packet identifiers for both directions, and a
// QoS-1 publish of the client strikes out the unacknowledged delivery of the same identifier (measured: of 20
// such deliveries 10 came again after 10 publishes, 1 after 40). What must not be lost is therefore
// retained until a receipt, as transactions are: every connection subscribes anew and is told it again.
//
// It is the only importer of paho. What paho v1.5.1 does otherwise than one expects, and what is
// done about it, stands where it matters.
package session
