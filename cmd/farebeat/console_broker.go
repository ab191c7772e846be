package main

import (
	"maps"
	"slices"
	"strings"

	"github.com/farebeat/farebeat/broker"
	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/fleet/console/view"
)

// brokerView is the broker as the console shows it.
func brokerView(b *broker.Broker, listeners []configs.Listener) view.Broker {
	s := b.Stats()
	v := view.Broker{
		Clients: int(s.Clients), Retained: int(s.Retained), Published: view.Rate{Total: s.Published}, Beats: view.Rate{Total: s.Heartbeats},
		Counters: []view.Counter{
			{Name: "not delivered, reader too slow", Total: s.PublishDropped, Meaning: "a client reads slower than it is sent to; look for it below"},
			{Name: "given up, larger than the client takes", Total: s.QosDropped, Meaning: "an MQTT 5 client said that it takes smaller packets only"},
			{Name: "given up, client away too long", Total: s.InflightFull, Meaning: "too many messages waited for a client that is away"},
			{Name: "connections refused", Total: s.RefusedConnect, Meaning: "a wrong password, a certificate that is void or nobody's, a limit, or a page of another site"},
			{Name: "publishes refused", Total: s.RefusedWrite, Meaning: "somebody tried to write a topic that is not theirs"},
			{Name: "subscriptions refused", Total: s.RefusedRead, Meaning: "somebody tried to read what is not for them"},
			{Name: "messages of the wrong form", Total: s.RefusedForm, Meaning: "wrong QoS, retain flag or size for the topic"},
		},
		Store: view.BrokerStore{
			Kept: s.StoreCommits > 0 || s.StoreFailures > 0, Commits: s.StoreCommits, Waiting: s.StoreWaiting, Failures: s.StoreFailures, Failing: s.StoreFailing, Damaged: s.StoreDamaged,
		},
		Listeners: []view.Listener{},
	}
	v.Counters = append(v.Counters, limitsMet(b.Limited())...)
	for _, l := range listeners {
		v.Listeners = append(v.Listeners, view.Listener{Name: l.Name, Kind: l.Kind, Address: b.Addr(l.Name), ReadOnly: l.ReadOnly, Open: l.AnonymousReaders})
	}
	for _, cert := range b.Certificates() {
		for i := range v.Listeners {
			if v.Listeners[i].Name == cert.Listener {
				v.Listeners[i].Subject, v.Listeners[i].NotAfter = cert.Subject, cert.NotAfter
			}
		}
	}
	for _, c := range b.Clients() {
		v.List = append(v.List, view.Client{
			ID: c.ID, Role: string(c.Role), Name: c.Name, Listener: c.Listener, Remote: c.Remote, ReadOnly: c.ReadOnly, Protocol: c.Protocol, Since: c.Since,
			Subscriptions: c.Subscriptions, In: c.In, Out: c.Out, Waiting: c.Waiting, Dropped: c.Dropped,
		})
	}
	return v
}

// limitsMet is how often limits of the broker were met: all of them together, and each that was by its name.
func limitsMet(limited map[string]uint64) []view.Counter {
	all := view.Counter{Name: "limits met", Meaning: "somebody took more than one may: broker.limits, and docs/operations.md says what each does"}
	var each []view.Counter
	for _, name := range slices.Sorted(maps.Keys(limited)) {
		if n := limited[name]; n > 0 {
			all.Total += n
			each = append(each, view.Counter{Name: "limit: " + strings.ReplaceAll(name, "_", " "), Total: n, Meaning: "broker.limits; the log names who met it"})
		}
	}
	return append([]view.Counter{all}, each...)
}
