package edge

import (
	"context"

	"github.com/farebeat/farebeat/topics/session"
)

// OverMQTT makes the Connect of the gateway of vehicle from the options of its
// session. The hooks in them are overwritten; the client id defaults to
// "gateway-" and the vehicle.
func OverMQTT(vehicle string, o session.Options) Connect {
	return func(hooks BusHooks) (Bus, error) {
		if o.ClientID == "" {
			o.ClientID = "gateway-" + vehicle
		}
		o.Will, o.Birth, o.Farewell = announcer(hooks.Will), announcer(hooks.Birth), announcer(hooks.Farewell)
		o.Up, o.Down = hooks.Up, hooks.Down
		s, err := session.New(o)
		if err != nil {
			return nil, err
		}
		return mqttBus{s}, nil
	}
}

func announcer(make func(context.Context) (Message, error)) session.Announcer {
	return func(ctx context.Context) (session.Message, error) {
		m, err := make(ctx)
		return session.Message(m), err
	}
}

// mqttBus is a session as a Bus.
type mqttBus struct{ s *session.Session }

// Handle implements Bus.
func (b mqttBus) Handle(filter string, qos byte, h Handler) {
	b.s.Handle(filter, qos, func(ctx context.Context, d *session.Delivery) error { return h(ctx, d.Topic, d.Payload) })
}

// Run implements Bus.
func (b mqttBus) Run(ctx context.Context) error { return b.s.Run(ctx) }

// Publish implements Bus.
func (b mqttBus) Publish(ctx context.Context, m Message) error {
	return b.s.Publish(ctx, session.Message(m))
}
