package schemas

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// The names of the schemas, as errors and the topic table carry them.
const (
	NameHeartbeat     = "heartbeat"
	NameMachineState  = "machine-state"
	NameGateway       = "gateway"
	NameVehicleFault  = "vehicle-fault"
	NameRecovery      = "recovery"
	NameTransactions  = "transactions"
	NameReceipt       = "receipt"
	NameRouteOnline   = "route-online"
	NameRouteFault    = "route-fault"
	NameReport        = "report"
	NameCommand       = "command"
	NameCommandResult = "command-result"
	NameEvent         = "event"
	NameFleet         = "fleet"
)

// checker keeps the first thing that is wrong with a message.
type checker struct {
	message string
	err     error
}

func (c *checker) that(ok bool, field, problem string) {
	if !ok && c.err == nil {
		c.err = &Error{Message: c.message, Field: field, Problem: problem}
	}
}

// id checks a required identifier, as topics does: 1 to 64 printable characters.
func (c *checker) id(field, v string) {
	c.that(v != "", field, "is required")
	c.optionalID(field, v)
}

func (c *checker) optionalID(field, v string) {
	c.text(field, v, 0, 64)
	if strings.ContainsAny(v, "+#$") {
		c.that(false, field, fmt.Sprintf("%q: +, # and $ are MQTT's own", v))
	}
}

func (c *checker) text(field, v string, least, most int) {
	if c.err != nil {
		return
	}
	n := utf8.RuneCountInString(v)
	c.that(n >= least, field, "is required")
	if n > most {
		c.that(false, field, fmt.Sprintf("%d characters, at most %d", n, most))
	}
	c.that(utf8.ValidString(v) && !strings.ContainsFunc(v, unicode.IsControl), field, "has a character that is not printable")
}

func (c *checker) time(field string, t time.Time) {
	c.that(!t.IsZero(), field, "is required")
	c.that(t.IsZero() || t.Year() >= 1970 && t.Year() <= 9999, field, "is outside the years 1970 to 9999")
}

func (c *checker) currency(field, v string) {
	ok := len(v) == 3
	for i := 0; ok && i < 3; i++ {
		ok = v[i] >= 'A' && v[i] <= 'Z'
	}
	c.that(ok, field, fmt.Sprintf("%q: want three capitals of ISO 4217", v))
}

func (c *checker) hash(field, v string) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(v)
	c.that(err == nil && len(b) == 32, field, "want 32 bytes as unpadded base64url")
}

func oneOf[T ~string](c *checker, field string, v T, all ...T) {
	if !slices.Contains(all, v) {
		words := make([]string, len(all))
		for i, a := range all {
			words[i] = string(a)
		}
		c.that(false, field, fmt.Sprintf("%q: want one of %s", v, strings.Join(words, ", ")))
	}
}

// Validate implements Message.
func (h *Heartbeat) Validate() error {
	c := checker{message: NameHeartbeat}
	c.text("boot", h.Boot, 1, 64)
	c.time("at", h.At)
	c.optionalID("vehicle", h.Vehicle)
	c.optionalID("route", h.Route)
	c.optionalID("trip", h.Trip)
	switch h.State {
	case Running, Warning, Defective, NotAvailable, ReadyForShutdown:
	default:
		oneOf(&c, "state", h.State, Running, Warning, Defective, NotAvailable, ReadyForShutdown)
	}
	if h.Currency != "" {
		c.currency("currency", h.Currency)
	}
	if h.OldestPending != nil {
		c.time("oldest_pending", *h.OldestPending)
	}
	c.text("fw", h.Firmware, 0, 64)
	c.text("fault", h.Fault, 0, 64)
	return c.err
}

// Validate implements Message.
func (m *MachineState) Validate() error {
	c := checker{message: NameMachineState}
	c.time("as_of", m.AsOf)
	c.id("machine", m.Machine)
	oneOf(&c, "state", m.State, Up, Late, Stranded, Dark, Parked, OutOfService)
	c.time("since", m.Since)
	c.text("reason", m.Reason, 1, 500)
	c.optionalID("vehicle", m.Vehicle)
	c.optionalID("route", m.Route)
	if m.Currency != "" {
		c.currency("currency", m.Currency)
	}
	return c.err
}

// Validate implements Message.
func (g *Gateway) Validate() error {
	c := checker{message: NameGateway}
	c.time("as_of", g.AsOf)
	c.id("vehicle", g.Vehicle)
	oneOf(&c, "status", g.Status, Online, Offline, ConnectionBroken)
	c.that(len(g.Seen) <= 100, "machines_seen", fmt.Sprintf("%d, at most 100", len(g.Seen)))
	for i, s := range g.Seen {
		field := fmt.Sprintf("machines_seen[%d]", i)
		c.id(field+".machine", s.Machine)
		c.that(s.RSSI >= -127 && s.RSSI <= 20, field+".rssi_dbm", fmt.Sprintf("%d: want -127 to 20", s.RSSI))
		c.time(field+".seen_at", s.SeenAt)
	}
	return c.err
}

// Validate implements Message.
func (f *Fleet) Validate() error {
	c := checker{message: NameFleet}
	c.time("as_of", f.AsOf)
	oneOf(&c, "status", f.Status, Online, Offline, ConnectionBroken)
	c.time("since", f.Since)
	return c.err
}

// Validate implements Message.
func (r *RouteOnline) Validate() error {
	c := checker{message: NameRouteOnline}
	c.time("as_of", r.AsOf)
	c.id("route", r.Route)
	c.that(min(r.Online, r.Min, r.Max, r.Known, r.Expected, r.Threshold, r.SampleSize) >= 0, "online", "no count may be negative")
	c.that(r.Min <= r.Max, "min", "is greater than max")
	oneOf(&c, "source", r.Source, "hand", "timetable", "history", "none")
	c.that(len(r.Missing) <= 100, "missing", fmt.Sprintf("%d machines, at most 100", len(r.Missing)))
	for i, m := range r.Missing {
		c.id(fmt.Sprintf("missing[%d]", i), m)
	}
	return c.err
}

// Validate implements Message.
func (r *Recovery) Validate() error {
	c := checker{message: NameRecovery}
	c.time("as_of", r.AsOf)
	c.id("machine", r.Machine)
	c.id("vehicle", r.Vehicle)
	c.text("fault", r.Fault, 0, 64)
	oneOf(&c, "state", r.State, RecoveryWaiting, RecoveryScanning, RecoveryConnecting, RecoveryReading, RecoverySending, RecoveryComplete, RecoveryFailed)
	c.that(r.Read <= r.Total, "read", "is greater than total")
	c.that(r.Receipted <= r.Total, "receipted", "is greater than total")
	c.that(r.PerSecond >= 0, "records_per_s", "is negative")
	c.that(r.Attempts >= 0, "attempts", "is negative")
	c.text("last_error", r.LastError, 0, 500)
	c.text("next_step", r.NextAction, 0, 500)
	return c.err
}

// Validate implements Message.
func (t *Transaction) Validate() error {
	c := checker{message: NameTransaction}
	c.id("machine", t.Machine)
	c.that(t.Epoch > 0, "epoch", "is 0")
	c.that(t.Seq > 0, "seq", "is 0")
	c.time("event_time", t.EventTime)
	c.text("tz", t.TZ, 1, 64)
	_, err := time.Parse(time.DateOnly, t.ServiceDate)
	c.that(err == nil, "service_date", fmt.Sprintf("%q: want YYYY-MM-DD", t.ServiceDate))
	c.currency("currency", t.Currency)
	c.text("fare_action", t.FareAction, 1, 64)
	c.text("media", t.Media, 1, 64)
	c.text("token_id", t.TokenID, 0, 128)
	c.optionalID("vehicle_id", t.Vehicle)
	c.optionalID("route_id", t.Route)
	c.optionalID("trip_id", t.Trip)
	c.optionalID("stop_id", t.Stop)
	_, err = base64.StdEncoding.DecodeString(t.Evidence)
	c.that(err == nil, "evidence", "is not base64")
	c.hash("prev", t.Prev)
	c.hash("mac", t.MAC)
	return c.err
}

// Validate implements Message.
func (r *Receipt) Validate() error {
	c := checker{message: NameReceipt}
	c.id("machine", r.Machine)
	c.time("as_of", r.AsOf)
	c.that(len(r.Epochs) <= 8, "epochs", fmt.Sprintf("%d, at most 8", len(r.Epochs)))
	for i, e := range r.Epochs {
		field := fmt.Sprintf("epochs[%d]", i)
		c.that(i == 0 || e.Epoch < r.Epochs[i-1].Epoch, field, "is not older than the one before it")
		c.that(e.Epoch > 0, field+".epoch", "is 0")
		c.that(e.CompleteTo <= e.Highest, field+".complete_to", "is greater than highest")
		c.that(len(e.Gaps) <= MaxGaps, field+".gaps", fmt.Sprintf("%d, at most %d", len(e.Gaps), MaxGaps))
		below := uint64(e.CompleteTo)
		for _, g := range e.Gaps {
			c.that(uint64(g[0]) > below && g[1] >= g[0] && g[1] < e.Highest, field+".gaps", "are not in order between complete_to and highest")
			below = uint64(g[1]) + 1 // two gaps have a record between them
		}
		c.that((len(e.Gaps) == 0) == (e.CompleteTo == e.Highest) && (len(e.Gaps) == 0 || e.Gaps[0][0] == e.CompleteTo+1), field+".gaps", "do not begin after complete_to")
		c.hash(field+".mac", e.MAC)
	}
	return c.err
}

func (e *CloudEvent[T]) validate(c *checker) {
	c.that(e.SpecVersion == "1.0", "specversion", fmt.Sprintf("%q: want 1.0", e.SpecVersion))
	c.text("id", e.ID, 1, 128)
	c.text("source", e.Source, 1, 256)
	c.text("type", e.Type, 1, 128)
	c.text("subject", e.Subject, 0, 256)
	c.time("time", e.Time)
	c.that(e.DataContentType == "application/json", "datacontenttype", fmt.Sprintf("%q: want application/json", e.DataContentType))
}

// Validate implements Message for the payloads that are CloudEvents.
func (e *CloudEvent[T]) Validate() error {
	var c checker
	switch data := any(&e.Data).(type) {
	case *MachineFault:
		c.message = NameVehicleFault
		e.validate(&c)
		data.check(&c)
	case *RouteFault:
		c.message = NameRouteFault
		e.validate(&c)
		data.check(&c)
	case *FaultEvent:
		c.message = NameEvent
		e.validate(&c)
		data.check(&c)
	default:
		return &Error{Message: "cloudevent", Problem: fmt.Sprintf("%T is not the data of any topic", data)}
	}
	return c.err
}

func (c *checker) fault(id, kind, title, reason, next string, s Severity, cond FaultCondition) {
	c.id("data.fault", id)
	c.text("data.kind", kind, 1, 64)
	oneOf(c, "data.severity", s, Info, Minor, Major, Critical)
	c.text("data.title", title, 1, 200)
	oneOf(c, "data.condition", cond, Suspected, Open, Recovering, Recovered, Closed, Abandoned)
	c.text("data.reason", reason, 0, 500)
	c.text("data.next_step", next, 0, 500)
}

func (m *MachineFault) check(c *checker) {
	c.fault(m.Fault, m.Kind, m.Title, m.Reason, m.NextStep, m.Severity, m.Condition)
	c.id("data.machine", m.Machine)
	c.id("data.vehicle", m.Vehicle)
	c.optionalID("data.route", m.Route)
	c.time("data.opened_at", m.OpenedAt)
	c.time("data.as_of", m.AsOf)
}

func (r *RouteFault) check(c *checker) {
	c.fault(r.Fault, r.Kind, r.Title, r.Reason, r.NextStep, r.Severity, r.Condition)
	c.id("data.route", r.Route)
	c.time("data.opened_at", r.OpenedAt)
	c.time("data.as_of", r.AsOf)
	c.that(min(r.Online, r.Expected, r.Threshold) >= 0, "data.online", "no count may be negative")
}

func (f *FaultEvent) check(c *checker) {
	c.fault(f.Fault, f.Kind, f.Change, f.Reason, "", f.Severity, f.Condition)
	oneOf(c, "data.change", f.Change, "opened", "updated", "recovered", "reopened", "closed", "acknowledged", "shelved", "abandoned")
	oneOf(c, "data.attention", f.Attention, Unseen, Acknowledged, Assigned, Shelved)
	c.optionalID("data.route", f.Route)
	c.optionalID("data.machine", f.Machine)
	c.optionalID("data.vehicle", f.Vehicle)
}

// Validate implements Message.
func (r *Report) Validate() error {
	c := checker{message: NameReport}
	c.text("id", r.ID, 1, 64)
	c.time("at", r.At)
	c.that(r.Machine != "" || r.Route != "", "machine", "or route is required")
	c.optionalID("machine", r.Machine)
	c.optionalID("route", r.Route)
	c.optionalID("vehicle", r.Vehicle)
	c.text("text", r.Text, 1, 500)
	c.text("by", r.By, 1, 64)
	return c.err
}

// Validate implements Message.
func (r *Command) Validate() error {
	c := checker{message: NameCommand}
	c.id("id", r.ID)
	c.time("at", r.At)
	c.text("by", r.By, 1, 64)
	oneOf(&c, "verb", r.Verb, VerbCollect, VerbProbe, VerbSetTime, VerbReboot)
	c.id("machine", r.Machine)
	c.time("expires_at", r.ExpiresAt)
	return c.err
}

// Validate implements Message.
func (r *CommandResult) Validate() error {
	c := checker{message: NameCommandResult}
	c.id("id", r.ID)
	c.time("as_of", r.AsOf)
	oneOf(&c, "state", r.State, CommandWaiting, CommandRunning, CommandFinished, CommandFailed)
	c.text("text", r.Text, 0, 500)
	return c.err
}
