package edge

import "context"

// Message is one MQTT publication.
type Message struct {
	Topic   string
	QoS     byte
	Retain  bool
	Payload []byte // empty and retained: clears the topic
}

// Handler takes in one message; the payload is valid during the call. A QoS-1
// message is acknowledged to the broker only after nil is returned, so that an
// error brings it back.
type Handler func(ctx context.Context, topic string, payload []byte) error

// Bus is what the agent needs of an MQTT session.
type Bus interface {
	// Handle registers h for filter. It is called before Run.
	Handle(filter string, qos byte, h Handler)
	// Run connects, subscribes, and connects again whenever the connection is lost,
	// until ctx ends; then it disconnects cleanly.
	Run(ctx context.Context) error
	// Publish returns nil for QoS 1 only after the broker acknowledged this very
	// message, and an error at once while there is no connection.
	Publish(ctx context.Context, m Message) error
}

// BusHooks is what a Bus asks of the agent.
type BusHooks struct {
	// Will is asked for before each connection and numbers it; an error puts the
	// connection off. Birth is asked for after it, for the same connection, and
	// published when the subscriptions are up; Farewell before a clean disconnect.
	Will, Birth, Farewell func(ctx context.Context) (Message, error)
	Up                    func()      // the connection is subscribed and announced
	Down                  func(error) // it is lost, or ended
}

// Connect makes a Bus with the agent's hooks. It does not wait for a connection.
type Connect func(hooks BusHooks) (Bus, error)
