package main

import (
	"bytes"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/farebeat/farebeat/fleet/limit/limittest"
)

// TestDoorsOfTheConsoleAndOfMetrics: of one address only so many connections are taken; each that is closed is counted, and one a minute is logged.
func TestDoorsOfTheConsoleAndOfMetrics(t *testing.T) {
	for server, tc := range map[string]struct {
		bound func(*doors, net.Listener) net.Listener
		most  int
	}{
		"console": {(*doors).console, 512},
		"metrics": {(*doors).metrics, 64},
	} {
		t.Run(server, func(t *testing.T) {
			var out bytes.Buffer
			reg := prometheus.NewRegistry()
			d := newDoors(reg, slog.New(slog.NewTextHandler(&out, nil)))
			inner, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			strangers := tc.most + 3
			l := tc.bound(d, limittest.Elsewhere(inner, func(n int) string {
				if n < strangers {
					return "192.0.2.1"
				}
				return "192.0.2.2"
			}))
			defer l.Close()
			for range strangers + 1 {
				c, err := net.Dial("tcp", inner.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
			}
			for range tc.most + 1 {
				c, err := l.Accept()
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
			}
			families, err := reg.Gather()
			if err != nil || len(families) != 1 || families[0].GetName() != "farebeat_http_connections_refused_total" {
				t.Fatalf("%v, %v", families, err)
			}
			for _, m := range families[0].GetMetric() {
				if mine, n := m.GetLabel()[0].GetValue() == server, m.GetCounter().GetValue(); mine && n != 3 || !mine && n != 0 {
					t.Errorf("counted %v", m)
				}
			}
			if n := strings.Count(out.String(), "server="+server+" remote=192.0.2.1"); n != 1 {
				t.Errorf("%d lines:\n%s", n, out.String())
			}
		})
	}
}
