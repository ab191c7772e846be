package edge

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/farebeat/farebeat/edge/ble"
	"github.com/farebeat/farebeat/edge/outbox"
	"github.com/farebeat/farebeat/topics"
)

// Options are what an Agent is made of. Vehicle, Tree, Connect, Radio and Outbox
// are required.
type Options struct {
	Vehicle  string         // the vehicle that carries the gateway, as in GTFS-realtime
	Machines []string       // the vehicle's own machines, so that they are known when they are heard
	Tree     topics.Tree    // the topics of the operator
	Connect  Connect        // makes the MQTT session
	Radio    ble.Radio      // not used by anybody else while the agent runs
	Outbox   *outbox.Outbox // stays the caller's, who closes it after Run
	// Now is the clock that decisions are made with and that messages and the
	// machines' clocks get; nil means time.Now.
	Now func() time.Time
	// Turned is called each Limits.Tick by the goroutine that decides, so that a watchdog sees it go on; may be nil.
	Turned func()
	Logger *slog.Logger // nil means silence
	Timing Timing
	Limits Limits
}

// Timing holds the durations of decisions, on the clock of Options.Now. Zero
// means the default.
type Timing struct {
	Recollect time.Duration // between two good contacts while a fault stands; 5 min
	RetryMin  time.Duration // after the first failed contact; 5 s
	RetryMax  time.Duration // after many; 5 min
	Listen    time.Duration // between two listenings without a task; 30 s, negative for never
	Sightings time.Duration // machines heard are published again at least this often; 1 min
	Forget    time.Duration // a machine not heard for this long is not listed; 1 h
	// ClockUncertainty is what the gateway's clock may be wrong by; 1 s. Machines are
	// told.
	ClockUncertainty time.Duration
}

// Limits holds the durations of radio and network, in real time. Zero means the
// default.
type Limits struct {
	Tick      time.Duration // how often the state is asked what is due; 1 s
	Scan      time.Duration // a machine not heard for this long is not there; 10 s
	Settle    time.Duration // a better candidate is waited for this long; 1 s
	ListenFor time.Duration // one listening without a task; 2 s
	Dial      time.Duration // for a Bluetooth connection and its handshake; 10 s
	Request   time.Duration // for the answer to one request, which is repeated twice; 5 s
	Stall     time.Duration // reading without a new packet; 5 s
	Full      time.Duration // a full outbox is waited for this long with the link held; 10 s
	Publish   time.Duration // for the broker's acknowledgement; 10 s
	Progress  time.Duration // between two progress messages of one machine; 1 s
	Resend    time.Duration // an open batch without a receipt is sent again; 5 min
	SendMin   time.Duration // pause after the first failed sending; 1 s
	SendMax   time.Duration // after many; 30 s
	Confirm   time.Duration // retained faults have arrived this long after a connection; 10 s
}

func (o *Options) complete() error {
	var missing []string
	if o.Vehicle == "" {
		missing = append(missing, "Vehicle")
	}
	if o.Connect == nil {
		missing = append(missing, "Connect")
	}
	if o.Radio == nil {
		missing = append(missing, "Radio")
	}
	if o.Outbox == nil {
		missing = append(missing, "Outbox")
	}
	if missing != nil {
		return fmt.Errorf("options without %v", missing)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return errors.Join(o.Timing.complete(), o.Limits.complete())
}

func (t *Timing) complete() error {
	return fill("Timing", []setting{
		{"Recollect", &t.Recollect, 5 * time.Minute},
		{"RetryMin", &t.RetryMin, 5 * time.Second},
		{"RetryMax", &t.RetryMax, 5 * time.Minute},
		{"Sightings", &t.Sightings, time.Minute},
		{"Forget", &t.Forget, time.Hour},
		{"ClockUncertainty", &t.ClockUncertainty, time.Second},
	}, &t.Listen, 30*time.Second)
}

func (l *Limits) complete() error {
	return fill("Limits", []setting{
		{"Tick", &l.Tick, time.Second},
		{"Scan", &l.Scan, 10 * time.Second},
		{"Settle", &l.Settle, time.Second},
		{"ListenFor", &l.ListenFor, 2 * time.Second},
		{"Dial", &l.Dial, 10 * time.Second},
		{"Request", &l.Request, 5 * time.Second},
		{"Stall", &l.Stall, 5 * time.Second},
		{"Full", &l.Full, 10 * time.Second},
		{"Publish", &l.Publish, 10 * time.Second},
		{"Progress", &l.Progress, time.Second},
		{"Resend", &l.Resend, 5 * time.Minute},
		{"SendMin", &l.SendMin, time.Second},
		{"SendMax", &l.SendMax, 30 * time.Second},
		{"Confirm", &l.Confirm, 10 * time.Second},
	}, nil, 0)
}

// setting is a duration with its default.
type setting struct {
	name  string
	value *time.Duration
	usual time.Duration
}

// fill replaces zeros by defaults. Only the optional one may be negative.
func fill(group string, settings []setting, optional *time.Duration, usual time.Duration) error {
	for _, s := range settings {
		if *s.value < 0 {
			return fmt.Errorf("%s.%s is %v: give a positive duration, or none for %v", group, s.name, *s.value, s.usual)
		}
		if *s.value == 0 {
			*s.value = s.usual
		}
	}
	if optional != nil && *optional == 0 {
		*optional = usual
	}
	return nil
}
