package schemas

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
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
	NameCommonFault   = "common-fault"
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
		c.that(false, field, fmt.Sprintf("%.64q: +, # and $ are MQTT's own", v))
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

// time checks the year as it is written and in UTC, so that Encode can write what was read.
func (c *checker) time(field string, t time.Time) {
	c.that(!t.IsZero(), field, "is required")
	for _, year := range [...]int{t.Year(), t.UTC().Year()} {
		c.that(year >= 1970 && year <= 9999, field, "is outside the years 1970 to 9999")
	}
}

func (c *checker) currency(field, v string) {
	ok := len(v) == 3
	for i := 0; ok && i < 3; i++ {
		ok = v[i] >= 'A' && v[i] <= 'Z'
	}
	if !ok {
		c.that(false, field, fmt.Sprintf("%.32q: want three capitals of ISO 4217", v))
	}
}

// hash checks 32 bytes in base64url.
func (c *checker) hash(field, v string) { c.bytes(field, v, 32) }

func (c *checker) base64(field, v string) {
	_, err := base64.StdEncoding.Strict().DecodeString(v)
	c.that(err == nil && !strings.ContainsAny(v, "\r\n"), field, "is not base64")
}

// count checks a number of things; the bound lets it be an int on a 32-bit gateway.
func (c *checker) count(field string, n int) {
	if n < 0 || n > math.MaxInt32 {
		c.that(false, field, fmt.Sprintf("%d: want 0 to %d", n, math.MaxInt32))
	}
}

// atMost checks the length of an array.
func (c *checker) atMost(field string, n, most int) {
	if n > most {
		c.that(false, field, fmt.Sprintf("%d elements, at most %d", n, most))
	}
}

func oneOf[T ~string](c *checker, field string, v T, all ...T) {
	if !slices.Contains(all, v) {
		words := make([]string, len(all))
		for i, a := range all {
			words[i] = string(a)
		}
		c.that(false, field, fmt.Sprintf("%.64q: want one of %s", v, strings.Join(words, ", ")))
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
	c.text("depot", h.Depot, 0, 64)
	c.text("network", h.Network, 0, 64)
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
	if m.LastHeartbeat != nil {
		c.time("last_heartbeat", *m.LastHeartbeat)
	}
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
	c.atMost("machines_seen", len(g.Seen), MaxSeen)
	for i, s := range g.Seen {
		if c.err != nil {
			break
		}
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
	c.count("online", r.Online)
	c.count("min", r.Min)
	c.count("max", r.Max)
	c.count("known", r.Known)
	c.count("expected", r.Expected)
	c.count("threshold", r.Threshold)
	c.count("sample_size", r.SampleSize)
	c.that(r.Min <= r.Max, "min", "is greater than max")
	oneOf(&c, "source", r.Source, "hand", "timetable", "history", "none")
	c.atMost("missing", len(r.Missing), MaxMissing)
	for i, m := range r.Missing {
		if c.err != nil {
			break
		}
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
	c.that(r.PerSecond >= 0 && r.PerSecond <= 1e9, "records_per_s", "is outside 0 to 1e9")
	c.count("attempts", r.Attempts)
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
	c.date("service_date", t.ServiceDate)
	c.currency("currency", t.Currency)
	c.text("fare_action", t.FareAction, 1, 64)
	c.text("media", t.Media, 1, 64)
	c.text("token_id", t.TokenID, 0, 128)
	c.optionalID("vehicle_id", t.Vehicle)
	c.optionalID("route_id", t.Route)
	c.optionalID("trip_id", t.Trip)
	c.optionalID("stop_id", t.Stop)
	c.base64("evidence", t.Evidence)
	c.hash("prev", t.Prev)
	c.hash("mac", t.MAC)
	return c.err
}

// Validate implements Message.
func (r *Receipt) Validate() error {
	c := checker{message: NameReceipt}
	c.id("machine", r.Machine)
	c.time("as_of", r.AsOf)
	c.atMost("epochs", len(r.Epochs), MaxEpochs)
	for i, e := range r.Epochs {
		if c.err != nil {
			break
		}
		field := fmt.Sprintf("epochs[%d]", i)
		c.that(i == 0 || e.Epoch < r.Epochs[i-1].Epoch, field+".epoch", "is not older than the one before it")
		e.check(&c, field)
	}
	return c.err
}

// check holds the gaps against complete_to and highest: they must tell one story, because a
// machine deletes on its word.
func (e *EpochReceipt) check(c *checker, field string) {
	c.that(e.Epoch > 0, field+".epoch", "is 0")
	c.that(e.CompleteTo <= e.Highest, field+".complete_to", "is greater than highest")
	c.atMost(field+".gaps", len(e.Gaps), MaxGaps)
	next := uint64(e.CompleteTo) + 1 // the first gap begins here, later ones after a record
	for i, g := range e.Gaps {
		c.that(i > 0 || uint64(g[0]) == next, field+".gaps", "do not begin right after complete_to")
		c.that(uint64(g[0]) >= next && g[1] >= g[0] && g[1] < e.Highest, field+".gaps", "are not apart and in order between complete_to and highest")
		next = uint64(g[1]) + 2
	}
	c.that(len(e.Gaps) > 0 || e.CompleteTo == e.Highest, field+".gaps", "are missing between complete_to and highest")
	c.hash(field+".mac", e.MAC)
}

func (e *CloudEvent[T]) validate(c *checker) {
	c.that(e.SpecVersion == "1.0", "specversion", fmt.Sprintf("%.32q: want 1.0", e.SpecVersion))
	c.text("id", e.ID, 1, 128)
	c.text("source", e.Source, 1, 256)
	c.text("type", e.Type, 1, 128)
	c.text("subject", e.Subject, 0, 256)
	c.time("time", e.Time)
	c.that(e.DataContentType == "application/json", "datacontenttype", fmt.Sprintf("%.32q: want application/json", e.DataContentType))
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
	case *CommonFault:
		c.message = NameCommonFault
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

func (c *checker) fault(id, kind, reason string, s Severity, cond FaultCondition) {
	c.id("data.fault", id)
	c.text("data.kind", kind, 1, 64)
	oneOf(c, "data.severity", s, Info, Minor, Major, Critical)
	oneOf(c, "data.condition", cond, Suspected, Open, Recovering, Recovered, Closed, Abandoned)
	c.text("data.reason", reason, 0, 500)
}

func (m *MachineFault) check(c *checker) {
	c.fault(m.Fault, m.Kind, m.Reason, m.Severity, m.Condition)
	c.text("data.title", m.Title, 1, 200)
	c.text("data.next_step", m.NextStep, 0, 500)
	c.id("data.machine", m.Machine)
	c.id("data.vehicle", m.Vehicle)
	c.optionalID("data.route", m.Route)
	c.time("data.opened_at", m.OpenedAt)
	c.time("data.as_of", m.AsOf)
	if m.LastHeartbeat != nil {
		c.time("data.last_heartbeat", *m.LastHeartbeat)
	}
	if m.Currency != "" {
		c.currency("data.currency", m.Currency)
	}
}

func (r *RouteFault) check(c *checker) {
	c.fault(r.Fault, r.Kind, r.Reason, r.Severity, r.Condition)
	c.text("data.title", r.Title, 1, 200)
	c.text("data.next_step", r.NextStep, 0, 500)
	c.id("data.route", r.Route)
	c.time("data.opened_at", r.OpenedAt)
	c.time("data.as_of", r.AsOf)
	c.count("data.online", r.Online)
	c.count("data.expected", r.Expected)
	c.count("data.threshold", r.Threshold)
}

func (f *CommonFault) check(c *checker) {
	c.fault(f.Fault, f.Kind, f.Reason, f.Severity, f.Condition)
	c.text("data.title", f.Title, 1, 200)
	c.text("data.next_step", f.NextStep, 0, 500)
	c.optionalID("data.vehicle", f.Vehicle)
	c.text("data.depot", f.Depot, 0, 64)
	c.text("data.network", f.Network, 0, 64)
	c.text("data.fw", f.Firmware, 0, 64)
	c.text("data.service", f.Service, 0, 64)
	c.time("data.opened_at", f.OpenedAt)
	c.time("data.as_of", f.AsOf)
	c.count("data.lost", f.Lost)
	c.count("data.known", f.Known)
}

func (f *FaultEvent) check(c *checker) {
	c.fault(f.Fault, f.Kind, f.Reason, f.Severity, f.Condition)
	oneOf(c, "data.change", f.Change, "opened", "updated", "recovered", "reopened", "closed", "acknowledged", "shelved", "abandoned")
	oneOf(c, "data.attention", f.Attention, Unseen, Acknowledged, Assigned, Shelved)
	c.optionalID("data.route", f.Route)
	c.optionalID("data.machine", f.Machine)
	c.optionalID("data.vehicle", f.Vehicle)
	c.text("data.depot", f.Depot, 0, 64)
	c.text("data.network", f.Network, 0, 64)
	c.text("data.fw", f.Firmware, 0, 64)
	c.text("data.service", f.Service, 0, 64)
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
	c.that(len(r.Detail) == 0 || json.Valid(r.Detail) && utf8.Valid(r.Detail), "detail", "is not JSON")
	return c.err
}
