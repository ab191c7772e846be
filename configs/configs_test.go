package configs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/farebeat/farebeat/configs"
)

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "f.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSampleFileIsTheDefault(t *testing.T) {
	got, err := configs.Load(configs.Options{File: "farebeat.yaml"})
	if err != nil {
		t.Fatal(err)
	}
	want, err := configs.Load(configs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(mustPrint(t, want), mustPrint(t, got)); diff != "" {
		t.Errorf("farebeat.yaml is not the default: %s", diff)
	}
	if diff := cmp.Diff(configs.Default(), want, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("nothing set is not the default: %s", diff)
	}
}

func mustPrint(t *testing.T, c configs.Config) string {
	t.Helper()
	b, err := c.Print()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestSampleFileHasEveryKey(t *testing.T) {
	sample, err := os.ReadFile("farebeat.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(mustPrint(t, configs.Default())) {
		key, _, _ := strings.Cut(strings.TrimLeft(line, " -"), ":")
		if !strings.Contains(string(sample), key+":") {
			t.Errorf("configs/farebeat.yaml does not show %s", key)
		}
	}
}

func TestFlagsBeatEnvironmentBeatsFile(t *testing.T) {
	file := write(t, "operator: a\ndata: a\nlog: {level: warn}\nfleet:\n  tick: 2s\n")
	c, err := configs.Load(configs.Options{
		File: file,
		Env:  []string{"HOME=/x", "FAREBEAT_DATA=b", "FAREBEAT_OPERATOR=b", "FAREBEAT_FLEET_HEARTBEAT_INTERVAL=30s", "FAREBEAT_MACHINE_TAPS_PER_HOUR=7.5", "FAREBEAT_BROKER_ALLOW_SIMULATOR=true"},
		Set:  []string{"operator=c"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if c.Operator != "c" || c.Data != "b" || c.Log.Level != "warn" || c.Fleet.Tick != 2*time.Second ||
		c.Fleet.HeartbeatInterval != 30*time.Second || c.Machine.TapsPerHour != 7.5 || !c.Broker.AllowSimulator {
		t.Errorf("got %+v", c)
	}
}

func TestWhatTheUserSees(t *testing.T) {
	for name, tc := range map[string]struct {
		yaml string
		opts configs.Options
		want []string
	}{
		"misspelt key": {
			yaml: "broker:\n  metric_address: 127.0.0.1:1\n",
			want: []string{"$FILE line 2: broker.metric_address: unknown key; did you mean broker.metrics_address?"},
		},
		"misspelt section": {yaml: "# a comment\nflete:\n  gtfs: x\n", want: []string{"$FILE line 2: flete: unknown key; did you mean fleet?"}},
		"misspelt key in a list": {
			yaml: "broker:\n  listeners:\n    - {name: a, kind: tcp, adress: 127.0.0.1:1}\n",
			want: []string{"$FILE line 3: broker.listeners[0].adress: unknown key; did you mean broker.listeners[0].address?"},
		},
		"nothing near":      {yaml: "zzzzzz: 1\n", want: []string{"$FILE line 1: zzzzzz: unknown key"}},
		"two at once":       {yaml: "operater: x\nlog:\n  levl: info\n", want: []string{"did you mean operator?", "did you mean log.level?"}},
		"scalar section":    {yaml: "fleet: yes\n", want: []string{`$FILE line 1: fleet: want keys below it, got "yes"`}},
		"no YAML":           {yaml: "a: [1\n", want: []string{"$FILE: line 1: did not find expected"}},
		"level":             {yaml: "log: {level: loud}\n", want: []string{`log.level: want one of debug, info, warn, error, got "loud"`}},
		"duration":          {yaml: "fleet: {tick: 5}\n", want: []string{"fleet.tick: want at least 100ms"}},
		"duration in words": {yaml: "fleet: {tick: soon}\n", want: []string{`fleet.tick`, `want a duration such as 15s, got "soon"`}},
		"zone":              {yaml: "timezone: EST5\n", want: []string{`timezone: want a time zone such as America/New_York, got "EST5"`}},
		"tls without key": {
			yaml: "broker:\n  listeners: [{name: a, kind: tls, address: '127.0.0.1:8883'}]\n",
			want: []string{"broker.listeners[0].cert_file: is required for a tls or wss listener"},
		},
		"same name": {yaml: "broker:\n  listeners: [{name: a, kind: tcp, address: '127.0.0.1:1'}, {name: a, kind: ws, address: '127.0.0.1:2'}]\n", want: []string{"broker.listeners: two entries have the same name"}},
		"limits": {
			yaml: "broker:\n  limits: {packet_bytes: 5, messages: -1, slow_reader: 10ms}\n",
			want: []string{`broker.limits.packet_bytes: want at least 1114112, got "5"`, "broker.limits.messages: want at least 10", "broker.limits.slow_reader: want at least 1s"},
		},
		"hook in clear": {
			yaml: "fleet:\n  notify:\n    webhooks: [{name: a, url: 'http://desk.example/token', secret_file: s}]\n",
			want: []string{"fleet.notify.webhooks[0].url: http sends in clear over the network: use https, or set allow_http: true"},
		},
		"hook without secret": {
			yaml: "fleet:\n  notify:\n    webhooks: [{name: a, url: 'https://desk.example/token', min_severity: grave}]\n",
			want: []string{"fleet.notify.webhooks[0].secret_file: is required", "fleet.notify.webhooks[0].min_severity: want one of info, minor, major, critical"},
		},
		"no address":        {yaml: "fleet:\n  notify:\n    alertmanagers: [{name: a, url: 'am:9093'}]\n", want: []string{"fleet.notify.alertmanagers[0].url: want a URL such as https://host/path"}},
		"password in a URL": {yaml: "fleet:\n  notify:\n    alertmanagers: [{name: a, url: 'https://u:p@am'}]\n", want: []string{"fleet.notify.alertmanagers[0].url: has a user or password in it: put it in a file"}},
		"fragment":          {yaml: "fleet:\n  notify:\n    alertmanagers: [{name: a, url: 'https://am/#x'}]\n", want: []string{"alertmanagers[0].url: has a fragment"}},
		"one name for two": {
			yaml: "fleet:\n  notify:\n    webhooks: [{name: a, url: 'https://x', secret_file: s}]\n    alertmanagers: [{name: a, url: 'https://am'}]\n",
			want: []string{`fleet.notify.alertmanagers[0].name: "a" is the name of a webhook`},
		},
		"alerts nowhere": {yaml: "broker: {metrics_address: ''}\nfleet: {notify: {gtfs_rt: true}}\n", want: []string{"fleet.notify.gtfs_rt: is served on broker.metrics_address, which is empty"}},
		"resend":         {yaml: "fleet: {notify: {resend: 1s}}\n", want: []string{"fleet.notify.resend: want at least 10s"}},
		"hours":          {yaml: "fleet:\n  expected: [{route: '36', hours: 9-7, expected: 1}]\n", want: []string{`fleet.expected[0].hours: "9-7": want a range such as 07-09, its end after its start`}},
		"holiday":        {yaml: "fleet: {holidays: ['25.12.2026']}\n", want: []string{`fleet.holidays[0]: want a date such as 2026-12-25, got "25.12.2026"`}},
		"both sources":   {yaml: "fleet: {gtfs: a, expected_file: b}\n", want: []string{"fleet.expected_file: cannot be set together with gtfs"}},
		"long id":        {yaml: "edge: {vehicle: " + strings.Repeat("x", 65) + "}\n", want: []string{"edge.vehicle: want at most 64 characters, got 65"}},
		"unknown env":    {opts: configs.Options{Env: []string{"FAREBEAT_BROKER_USER_FILE=x"}}, want: []string{"environment: FAREBEAT_BROKER_USER_FILE: unknown variable; did you mean FAREBEAT_BROKER_USERS_FILE?"}},
		"unknown flag":   {opts: configs.Options{Set: []string{"fleet.tik=1s"}}, want: []string{"--set fleet.tik: unknown key; did you mean fleet.tick?"}},
		"flag no value":  {opts: configs.Options{Set: []string{"operator"}}, want: []string{"--set operator: want key=value"}},
		"flag of a list": {opts: configs.Options{Set: []string{"broker.listeners=[]"}}, want: []string{"--set broker.listeners: is a list or a section, which only the configuration file can have"}},
	} {
		t.Run(name, func(t *testing.T) {
			o := tc.opts
			if tc.yaml != "" {
				o.File = write(t, tc.yaml)
			}
			_, err := configs.Load(o)
			if err == nil {
				t.Fatal("accepted")
			}
			for _, want := range tc.want {
				if want = strings.ReplaceAll(want, "$FILE", o.File); !strings.Contains(err.Error(), want) {
					t.Errorf("\n got %s\nwant %s", err, want)
				}
			}
		})
	}
}

// TestNoListenerIsInClearBeyondLoopback: unless its own key says so, and none is where nobody could come in.
func TestNoListenerIsInClearBeyondLoopback(t *testing.T) {
	tls := "cert_file: c, key_file: k, "
	for _, tc := range []struct{ users, listener, want string }{
		{"u", `kind: tcp, address: "127.0.0.1:1883"`, ""},
		{"u", `kind: ws, address: "127.0.0.1:9001"`, ""},
		{"", `kind: tcp, address: "localhost:1883"`, ""},
		{"u", `kind: tcp, address: "0.0.0.0:1883"`, "broker.listeners[0].address: 0.0.0.0:1883 is in clear and others reach it"},
		{"u", `kind: tcp, address: ":1883"`, "is in clear"},
		{"u", `kind: ws, address: "[::]:9001"`, "plaintext_beyond_loopback: true"},
		{"u", `kind: ws, address: "mqtt.example:9001"`, "is in clear"},
		{"u", `kind: tcp, address: "localhost.example:1883"`, "is in clear"},
		{"u", `kind: tcp, address: "10.1.2.3:1883", plaintext_beyond_loopback: true`, ""},
		{"", `kind: tcp, address: "10.1.2.3:1883", plaintext_beyond_loopback: true`, "nobody could come in"},
		{"u", tls + `kind: tls, address: "10.1.2.3:8883"`, ""},
		{"", tls + `kind: tls, address: "10.1.2.3:8883"`, "nobody could come in: set client_ca_file, or broker.users_file"},
		{"", tls + `kind: wss, address: "10.1.2.3:8883", client_ca_file: ca`, ""},
		{"", tls + `kind: tls, address: "10.1.2.3:8883", client_ca_file: ca, client_cert_required: true`, ""},
		{"u", tls + `kind: tls, address: "127.0.0.1:8883", client_cert_required: true`, "client_cert_required: want client_ca_file"},
		{"u", `kind: tcp, address: "127.0.0.1:1883", client_ca_file: ca`, "there are no certificates on a tcp listener"},
	} {
		text := fmt.Sprintf("broker:\n  users_file: %q\n  listeners: [{name: a, %s}]\n", tc.users, tc.listener)
		_, err := configs.Load(configs.Options{File: write(t, text)})
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("users %q, %s: %v, want %q", tc.users, tc.listener, err, tc.want)
		}
	}
}

func TestMetricsAreNotServedBeyondLoopback(t *testing.T) {
	for text, want := range map[string]string{
		`metrics_address: "127.0.0.1:9180"`:                                 "",
		`metrics_address: "localhost:9180"`:                                 "",
		`metrics_address: ""`:                                               "",
		`metrics_address: "0.0.0.0:9180"`:                                   "broker.metrics_address: 0.0.0.0:9180 is in clear and others reach it",
		`metrics_address: ":9180"`:                                          "say metrics_beyond_loopback: true",
		`metrics_address: "10.1.2.3:9180"`:                                  "is in clear",
		`{metrics_address: "10.1.2.3:9180", metrics_beyond_loopback: true}`: "",
	} {
		indent := "\n  "
		if text[0] == '{' {
			indent = " "
		}
		_, err := configs.Load(configs.Options{File: write(t, "broker:"+indent+text+"\n")})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestReceiversThatMayBeToldInClear(t *testing.T) {
	for _, url := range []string{"http://127.0.0.1:9093", "http://[::1]:9093/x", "http://localhost", "https://am.example?token=x"} {
		if _, err := configs.Load(configs.Options{File: write(t, "fleet:\n  notify:\n    alertmanagers: [{name: a, url: '"+url+"'}]\n")}); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
	c, err := configs.Load(configs.Options{File: write(t, "fleet:\n  notify:\n    max_age: 48h\n    alertmanagers: [{name: a, url: 'http://am.depot', allow_http: true}]\n")})
	if err != nil || !c.Fleet.Notify.Alertmanagers[0].AllowHTTP || c.Fleet.Notify.MaxAge != 48*time.Hour || c.Fleet.Notify.Resend != time.Minute {
		t.Errorf("%+v, %v", c.Fleet.Notify, err)
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	c, err := configs.Load(configs.Options{Env: []string{"FAREBEAT_CLIENT_PASSWORD=tiger"}})
	if err != nil {
		t.Fatal(err)
	}
	if text := mustPrint(t, c); strings.Contains(text, "tiger") || !strings.Contains(text, "********") {
		t.Errorf("printed:\n%s", text)
	}
	if c.Client.Password.Reveal() != "tiger" {
		t.Error("the secret itself is lost")
	}
}

// What is printed may be shown to anyone.
func TestPrintMasksAddresses(t *testing.T) {
	c := configs.Default()
	c.Fleet.Influx = []configs.Influx{{Name: "a", URL: "https://u:hunter1@influx.example:8086/x?token=hunter2"}}
	c.Fleet.Notify.Webhooks = []configs.Webhook{{Name: "b", URL: "https://hooks.example/services/hunter3?token=hunter4"}}
	c.Fleet.Notify.Alertmanagers = []configs.Alertmanager{{Name: "c", URL: "https://v:hunter5@am.example"}}
	b, err := c.Print()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(b), "hunter") || !strings.Contains(string(b), "influx.example:8086/x") || !strings.Contains(string(b), "hooks.example") {
		t.Errorf("%s", b)
	}
	if c.Fleet.Influx[0].URL != "https://u:hunter1@influx.example:8086/x?token=hunter2" {
		t.Error("printing changed the configuration")
	}
}

func TestParseHours(t *testing.T) {
	for in, want := range map[string][2]int{"7": {7, 8}, "07": {7, 8}, "07-09": {7, 9}, "0-24": {0, 24}, "23": {23, 24}} {
		from, to, err := configs.ParseHours(in)
		if err != nil || from != want[0] || to != want[1] {
			t.Errorf("%s: %d-%d, %v", in, from, to, err)
		}
	}
	for _, in := range []string{"", "24", "-1", "7-7", "9-7", "7-25", "7-", "x", "7x", "007"} {
		if from, to, err := configs.ParseHours(in); err == nil {
			t.Errorf("%q accepted as %d-%d", in, from, to)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add("operator: x\nbroker:\n  listeners: [{name: a, kind: tcp, address: '127.0.0.1:1'}]\n")
	f.Add("fleet: {expected: [{route: '36', hours: 07-09, expected: 12}]}\n")
	f.Add("a: &x [*x]\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := configs.Load(configs.Options{File: write(t, text)})
		if err == nil && (c.Operator == "" || c.Fleet.Tick <= 0) {
			t.Errorf("accepted %+v", c)
		}
	})
}

func TestHolidaysWithAndWithoutQuotes(t *testing.T) {
	c, err := configs.Load(configs.Options{File: write(t, "fleet: {holidays: [2026-12-25, '2026-12-26']}\n")})
	if want := []string{"2026-12-25", "2026-12-26"}; err != nil || !slices.Equal(c.Fleet.Holidays, want) {
		t.Errorf("%v %v", c.Fleet.Holidays, err)
	}
	text, err := c.Print()
	if err != nil {
		t.Fatal(err)
	}
	again, err := configs.Load(configs.Options{File: write(t, string(text))})
	if err != nil || !slices.Equal(again.Fleet.Holidays, c.Fleet.Holidays) {
		t.Errorf("printed and read again: %v %v", again.Fleet.Holidays, err)
	}
}
