package broker

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// Stats is what a broker did since its start. All but Clients, Retained and the two
// counts of what came in are 0 on a healthy system.
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
}

// Stats returns the counters.
func (b *Broker) Stats() Stats {
	c, i := &b.hook.counters, b.server.Info
	return Stats{
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
}
