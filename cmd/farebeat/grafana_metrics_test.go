package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metricsql"
	dto "github.com/prometheus/client_model/go"

	brokerstore "github.com/farebeat/farebeat/broker/store"
	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/fleet/keys"
	"github.com/farebeat/farebeat/fleet/store"
	"github.com/farebeat/farebeat/topics"
)

// metricFamily is what a server tells of one metric.
type metricFamily struct {
	counter bool
	labels  map[string]bool
}

// gathered are the metrics of a server that has one of everything.
func gathered(t *testing.T) map[string]metricFamily {
	t.Helper()
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(t.Context(), storePath(dir), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	retained, err := brokerstore.Open(t.Context(), filepath.Join(dir, "broker.db"), brokerstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer retained.Close()
	master, err := keys.NewMaster([]byte(strings.Repeat("k", 32)))
	if err != nil {
		t.Fatal(err)
	}
	tree, err := topics.New("local")
	if err != nil {
		t.Fatal(err)
	}
	c := configs.Default()
	c.Broker.Listeners, c.Broker.MetricsAddress, c.Console.Address = nil, "", ""
	c.Fleet.Notify.Webhooks = []configs.Webhook{{Name: "desk", URL: "http://127.0.0.1:9/", SecretFile: secret}}
	c.Fleet.Influx = []configs.Influx{{Name: "grafana", URL: "http://127.0.0.1:9", Bucket: "farebeat"}}
	known, err := readKnowledge(t.Context(), c, time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s, err := newServer(t.Context(), serverOptions{
		tree: tree, config: c, engine: known.engine, expected: known.expected, rules: known.rules, store: db, brokerStore: retained, keys: master, tick: c.Fleet.Tick, now: time.Now,
		logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	families, err := s.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	// Prometheus adds up, and two labels to everything.
	out := map[string]metricFamily{"up": {labels: map[string]bool{"instance": true, "job": true}}}
	for _, f := range families {
		labels := map[string]bool{"instance": true, "job": true}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = true
			}
		}
		out[f.GetName()] = metricFamily{f.GetType() == dto.MetricType_COUNTER, labels}
	}
	return out
}

func TestDashboardMetricsAreGathered(t *testing.T) {
	families := gathered(t)
	asked := map[string]bool{}
	variable := regexp.MustCompile(`^label_values\((\w+), (\w+)\)$`)
	legend := regexp.MustCompile(`{{(\w+)}}`)
	for _, b := range boards(t) {
		for _, v := range b.Templating.List {
			if v.Type != "query" || v.Datasource.Type != "prometheus" {
				continue
			}
			text, _ := v.Query.(map[string]any)["query"].(string)
			if m := variable.FindStringSubmatch(text); m == nil || !families[m[1]].labels[m[2]] {
				t.Errorf("%s: variable %s asks %q", b.file, v.Name, text)
			}
		}
		for _, p := range b.Panels {
			for _, q := range p.Targets {
				if q.Datasource.Type != "prometheus" {
					continue
				}
				grouped, err := checkExpr(families, asked, q.Expr)
				if err != nil {
					t.Errorf("%s: %s: %s: %v", b.file, p.Title, q.Expr, err)
				}
				for _, m := range legend.FindAllStringSubmatch(q.LegendFormat, -1) {
					if !slices.Contains(grouped, m[1]) {
						t.Errorf("%s: %s: the legend names %s, which %s leaves out", b.file, p.Title, m[1], q.Expr)
					}
				}
			}
		}
	}
	for name := range families {
		if strings.HasPrefix(name, "farebeat_") && !asked[name] {
			t.Errorf("no dashboard shows %s", name)
		}
	}
}

// checkExpr finds metrics, labels and rates that are none, and returns the labels that the result is grouped by. MetricsQL, whose parser this is, takes
// all of PromQL.
func checkExpr(families map[string]metricFamily, asked map[string]bool, text string) (grouped []string, err error) {
	expr, err := metricsql.Parse(strings.NewReplacer("$__rate_interval", "1m", "$instance", ".*").Replace(text))
	if err != nil {
		return nil, err
	}
	if strings.Contains(string(expr.AppendString(nil)), "$") {
		return nil, errors.New("has a variable that is none")
	}
	var errs []error
	metricsql.VisitAll(expr, func(e metricsql.Expr) {
		switch e := e.(type) {
		case *metricsql.MetricExpr:
			name, others := metricOf(e)
			f, ok := families[name]
			if !ok {
				errs = append(errs, fmt.Errorf("there is no metric %q", name))
				return
			}
			asked[name] = true
			for _, l := range others {
				if !f.labels[l] {
					errs = append(errs, fmt.Errorf("%s has no label %q", name, l))
				}
			}
		case *metricsql.AggrFuncExpr:
			grouped = append(grouped, e.Modifier.Args...)
		case *metricsql.FuncExpr:
			rollup, ok := e.Args[0].(*metricsql.RollupExpr)
			if e.Name != "rate" && e.Name != "increase" || !ok {
				errs = append(errs, fmt.Errorf("%s is not looked at", e.Name))
				return
			}
			if m, ok := rollup.Expr.(*metricsql.MetricExpr); ok {
				if name, _ := metricOf(m); !families[name].counter {
					errs = append(errs, fmt.Errorf("%s of %s, which is no counter", e.Name, name))
				}
			}
		}
	})
	for _, g := range grouped {
		for name := range asked {
			if strings.Contains(text, name+"{") && !families[name].labels[g] {
				errs = append(errs, fmt.Errorf("%s has no label %q to group by", name, g))
			}
		}
	}
	return grouped, errors.Join(errs...)
}

// metricOf is the name of a selector and the labels that it asks of.
func metricOf(e *metricsql.MetricExpr) (name string, labels []string) {
	for _, group := range e.LabelFilterss {
		for _, f := range group {
			if f.Label == "__name__" {
				name = f.Value
			} else {
				labels = append(labels, f.Label)
			}
		}
	}
	return name, labels
}
