package broker

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// Stats is what a broker did since its start. All but Clients, Retained, the two
// counts of what came in, and what is written and waits are 0 on a healthy system.
type Stats struct {
	Clients        int64  // connected now
	Retained       int64  // messages held now
	Published      uint64 // messages received
	Heartbeats     uint64 // of them
	PublishDropped uint64 // not delivered because the reader was too slow
	QosDropped     uint64 // given up because they are larger than the client said it takes (MQTT 5)
	InflightFull   uint64 // QoS-1 messages for a client that is away, for which too many wait
	RefusedConnect uint64
	RefusedWrite   uint64 // role or identity may not write the topic
	RefusedRead    uint64
	RefusedForm    uint64 // wrong QoS, retain flag or size

	// Of the store; all 0 without one.
	StoreCommits  uint64 // transactions, each with one fsync
	StoreChanges  uint64 // in them
	StoreWaiting  int    // bytes that wait for the disk now
	StoreFailures uint64 // attempts to write that failed; they are repeated
	StoreFailing  bool   // the last attempt failed: nothing is acknowledged or delivered
	StoreDamaged  uint64 // files found damaged at the start and set aside
}

// Stats returns the counters.
func (b *Broker) Stats() Stats {
	c, i := &b.hook.counters, b.server.Info
	s := Stats{
		Clients:        atomic.LoadInt64(&i.ClientsConnected),
		Retained:       int64(b.hook.retained.len()),
		Published:      c.published.Load(),
		Heartbeats:     c.heartbeats.Load(),
		PublishDropped: c.publishDropped.Load(),
		QosDropped:     c.qosDropped.Load(),
		InflightFull:   c.inflightFull.Load(),
		RefusedConnect: c.refusedConnect.Load(),
		RefusedWrite:   c.refusedWrite.Load(),
		RefusedRead:    c.refusedRead.Load(),
		RefusedForm:    c.refusedForm.Load(),
	}
	if j := b.hook.commits; j != nil {
		s.StoreCommits, s.StoreChanges, s.StoreFailures = j.written.Load(), j.changes.Load(), j.failures.Load()
		s.StoreWaiting, s.StoreFailing = j.waitingBytes(), j.failing.Load() != nil
		if b.o.Store.Damage() != nil {
			s.StoreDamaged = 1
		}
	}
	return s
}

// collector gives Stats to Prometheus.
type collector struct{ b *Broker }

// Describe implements prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	s := c.b.Stats()
	emit := func(name, help string, kind prometheus.ValueType, value float64, labels ...string) {
		var names, values []string
		for i := 0; i+1 < len(labels); i += 2 {
			names, values = append(names, labels[i]), append(values, labels[i+1])
		}
		ch <- prometheus.MustNewConstMetric(prometheus.NewDesc("farebeat_broker_"+name, help, names, nil), kind, value, values...)
	}
	emit("clients", "Clients connected now.", prometheus.GaugeValue, float64(s.Clients))
	emit("retained_messages", "Retained messages held now.", prometheus.GaugeValue, float64(s.Retained))
	emit("published_total", "Messages received.", prometheus.CounterValue, float64(s.Published))
	emit("heartbeats_total", "Heartbeats received.", prometheus.CounterValue, float64(s.Heartbeats))
	for reason, n := range map[string]uint64{
		"slow_reader": s.PublishDropped, "too_large": s.QosDropped, "away": s.InflightFull,
	} {
		emit("dropped_total", "Messages that were not delivered; 0 on a healthy system.", prometheus.CounterValue, float64(n), "reason", reason)
	}
	for reason, n := range map[string]uint64{"connect": s.RefusedConnect, "write": s.RefusedWrite, "read": s.RefusedRead, "form": s.RefusedForm} {
		emit("refused_total", "What clients tried and may not.", prometheus.CounterValue, float64(n), "what", reason)
	}
	for limit, n := range c.b.Limited() {
		emit("limited_total", "How often a limit of what clients may take was met; 0 on a healthy system.", prometheus.CounterValue, float64(n), "limit", limit)
	}
	if u := c.b.o.Users; u != nil {
		u.collect(emit)
	}
	if c.b.hook.commits == nil {
		return
	}
	failing := 0.0
	if s.StoreFailing {
		failing = 1
	}
	emit("store_commits_total", "Transactions of the broker's store, each with one fsync.", prometheus.CounterValue, float64(s.StoreCommits))
	emit("store_changes_total", "Changes in them.", prometheus.CounterValue, float64(s.StoreChanges))
	emit("store_waiting_bytes", "What waits for the disk.", prometheus.GaugeValue, float64(s.StoreWaiting))
	emit("store_failures_total", "Attempts to write that failed; 0 on a healthy system.", prometheus.CounterValue, float64(s.StoreFailures))
	emit("store_failing", "1 while nothing can be written, acknowledged or delivered.", prometheus.GaugeValue, failing)
	emit("store_damaged_total", "Files found damaged at the start and set aside.", prometheus.CounterValue, float64(s.StoreDamaged))
}

// collect gives the figures of a users file that is watched.
func (u *Users) collect(emit func(name, help string, kind prometheus.ValueType, value float64, labels ...string)) {
	s := u.Status()
	if s.File == "" {
		return
	}
	failing := 0.0
	if s.Err != nil {
		failing = 1
	}
	emit("users_loads_total", "How often the users file was taken, the start counted.", prometheus.CounterValue, float64(s.Loads))
	emit("users_failures_total", "How often the users file became wrong; 0 on a healthy system.", prometheus.CounterValue, float64(s.Failures))
	emit("users_failing", "1 while the users in force are not what the file says.", prometheus.GaugeValue, failing)
}
