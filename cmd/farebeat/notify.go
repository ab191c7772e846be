package main

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/fleet"
	"github.com/farebeat/farebeat/fleet/faults"
	"github.com/farebeat/farebeat/fleet/notify"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

// checkKinds names what is no kind of fault.
func checkKinds(c configs.Config) []string {
	var problems []string
	for i, w := range c.Fleet.Notify.Webhooks {
		for j, k := range w.Kinds {
			if !slices.Contains(faults.Kinds(), faults.Kind(k)) {
				problems = append(problems, fmt.Sprintf("fleet.notify.webhooks[%d].kinds[%d]: want one of %v, got %q", i, j, faults.Kinds(), k))
			}
		}
	}
	return problems
}

// notifyOptions turns the configuration into whom to tell, all but the store. It reads the secrets.
func notifyOptions(c configs.Config, tree topics.Tree, now func() time.Time, logger *slog.Logger) (notify.Options, error) {
	n := c.Fleet.Notify
	o := notify.Options{Tree: tree, Resend: n.Resend, MaxAge: n.MaxAge, RefusedFor: n.RefusedFor, Now: now, Logger: logger}
	if problems := checkKinds(c); len(problems) > 0 {
		return o, usageError(&configs.Error{Problems: problems})
	}
	for i, w := range n.Webhooks {
		secrets, err := notify.ReadSecrets(w.SecretFile)
		if err != nil {
			return o, usageError(fmt.Errorf("fleet.notify.webhooks[%d].secret_file: %w", i, err))
		}
		hook := notify.Webhook{Name: w.Name, URL: w.URL, Secrets: secrets, MinSeverity: schemas.Severity(w.MinSeverity), Routes: w.Routes}
		for _, k := range w.Kinds {
			hook.Kinds = append(hook.Kinds, faults.Kind(k))
		}
		o.Webhooks = append(o.Webhooks, hook)
	}
	for i, a := range n.Alertmanagers {
		am := notify.Alertmanager{Name: a.Name, URL: a.URL}
		if a.CredentialsFile != "" {
			var err error
			if am.Authorization, err = notify.ReadAuthorization(a.CredentialsFile); err != nil {
				return o, usageError(fmt.Errorf("fleet.notify.alertmanagers[%d].credentials_file: %w", i, err))
			}
		}
		o.Alertmanagers = append(o.Alertmanagers, am)
	}
	return o, nil
}

func newNotifyCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "notify", Short: "Try the receivers of notifications"}
	cmd.AddCommand(newNotifyTestCmd())
	return cmd
}

func newNotifyTestCmd() *cobra.Command {
	var flags configFlags
	var to string
	cmd := &cobra.Command{
		Use:   "test",
		Short: "Send a test to a webhook or an Alertmanager, and print what it answers",
		Long: `Send a test to a webhook or an Alertmanager of the configuration, and print what it answers. A webhook gets a signed event
of the type io.farebeat.notify.test; an Alertmanager gets the alert FarebeatTest, which ends after a minute. It says that no
fault stands. Nothing is stored, so that it can be run beside the fleet service.`,
		Example: "  farebeat notify test --config farebeat.yaml --to desk",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.load()
			if err != nil {
				return err
			}
			tree, err := topics.New(c.Operator)
			if err != nil {
				return usageError(err)
			}
			o, err := notifyOptions(c, tree, time.Now, slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			answer, err := notify.Test(cmd.Context(), o, to)
			switch {
			case errors.Is(err, notify.ErrUnknown):
				return usageError(fmt.Errorf("--to: %w under fleet.notify", err))
			case err != nil:
				return fmt.Errorf("%s did not take the test: %w", to, err)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s took the test: it answered %d %s\n", to, answer.Status, answer.Text)
			return err
		},
	}
	flags.register(cmd)
	cmd.Flags().StringVar(&to, "to", "", "name of a webhook or an Alertmanager of the configuration")
	must(cmd.MarkFlagRequired("to"))
	return cmd
}

// notifyCollector gives the channels' figures to Prometheus.
type notifyCollector struct{ n *notify.Notifier }

// Describe implements prometheus.Collector.
func (notifyCollector) Describe(chan<- *prometheus.Desc) {} // the channels are known when they are asked

// Collect implements prometheus.Collector.
func (c notifyCollector) Collect(ch chan<- prometheus.Metric) {
	for _, s := range c.n.Status() {
		put := func(name, help string, kind prometheus.ValueType, value float64) {
			desc := prometheus.NewDesc("farebeat_notify_"+name, help, []string{"kind", "name"}, nil)
			ch <- prometheus.MustNewConstMetric(desc, kind, value, s.Kind, s.Name)
		}
		put("sent_total", "events or alerts that the receiver took since the start", prometheus.CounterValue, float64(s.Sent))
		put("failed_total", "requests that the receiver did not take since the start", prometheus.CounterValue, float64(s.Failed))
		put("skipped_total", "events that were too old to be sent since the start", prometheus.CounterValue, float64(s.Skipped))
		put("set_aside_total", "events that the receiver refused for too long since the start", prometheus.CounterValue, float64(s.SetAside))
		put("lag_seconds", "age of the oldest event that is still to be told", prometheus.GaugeValue, s.Lag.Seconds())
		failing := 0.0
		if s.Failure != nil {
			failing = 1
		}
		put("failing", "1 if the receiver took nothing for 15 minutes", prometheus.GaugeValue, failing)
	}
}

// notifyParts are the channels as parts of the service, whose failure is a fault.
func notifyParts(n *notify.Notifier) []fleet.Part {
	var parts []fleet.Part
	for i, c := range n.Status() {
		parts = append(parts, fleet.Part{
			Name: c.Kind + " " + c.Name, Kind: faults.NotifyChannel, Failure: func() error { return n.Status()[i].Failure },
		})
	}
	return parts
}
