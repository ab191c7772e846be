package main

import (
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/farebeat/farebeat/fleet/limit"
)

// The servers, as metrics and log name them.
const (
	doorConsole = "console"
	doorMetrics = "metrics"
)

// doors bound the connections of the HTTP servers for people and monitoring, so that a stranger who opens many takes neither the files of the
// process, which the broker needs, nor the places of others.
type doors struct {
	refused *prometheus.CounterVec
	log     *limit.Table
	logger  *slog.Logger
}

func newDoors(reg prometheus.Registerer, logger *slog.Logger) *doors {
	d := &doors{log: limit.EachMinute(), logger: logger, refused: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "farebeat_http_connections_refused_total", Help: "connections that were closed because their address has too many since the start, by server",
	}, []string{"server"})}
	reg.MustRegister(d.refused)
	for _, server := range []string{doorConsole, doorMetrics} { // a counter that is 0 is there from the start
		d.refused.WithLabelValues(server)
	}
	return d
}

// console is for the console's listener: browsers of a control room come through one address, and a live page holds a connection.
func (d *doors) console(l net.Listener) net.Listener { return d.bound(l, doorConsole, 4096, 512) }

// metrics is for that of metrics.
func (d *doors) metrics(l net.Listener) net.Listener { return d.bound(l, doorMetrics, 256, 64) }

func (d *doors) bound(l net.Listener, server string, all, perAddress int) net.Listener {
	refused := d.refused.WithLabelValues(server)
	return limit.Connections{All: all, PerAddress: perAddress, Refused: func(address string) {
		refused.Inc()
		if d.log.Due(server+"\x00"+address, time.Now()) {
			d.logger.Warn("a connection was closed: its address has too many; one a minute is told", "server", server, "remote", address, "most", perAddress)
		}
	}}.Bound(l)
}
