package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// influxdFile is the InfluxDB 1.8 that scripts/test builds; TestMain takes it out of the environment.
var influxdFile string

// influxd is a real InfluxDB 1.8.
type influxd struct {
	t        *testing.T
	address  string
	user     string // who asks; empty: nobody in particular
	password string
}

// startInfluxd starts one that ends with the test. With auth it admits nobody but users, of which the first must be its administrator.
func startInfluxd(t *testing.T, auth bool) *influxd {
	t.Helper()
	if influxdFile == "" {
		t.Skip("FAREBEAT_INFLUXD names no influxd 1.8: scripts/test builds one and runs this")
	}
	dir := t.TempDir()
	d := &influxd{t: t, address: freePort(t)}
	config := fmt.Sprintf(`
reporting-disabled = true
bind-address = %q
[meta]
  dir = %q
[data]
  dir = %q
  wal-dir = %q
  query-log-enabled = false
[http]
  bind-address = %q
  auth-enabled = %v
  log-enabled = false
[monitor]
  store-enabled = false
[logging]
  level = "error"
`, freePort(t), filepath.Join(dir, "meta"), filepath.Join(dir, "data"), filepath.Join(dir, "wal"), d.address, auth)
	file := filepath.Join(dir, "influxdb.conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(influxdFile, "-config", file)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
	})
	for end := time.Now().Add(time.Minute); ; {
		if r, err := http.Get("http://" + d.address + "/ping"); err == nil {
			r.Body.Close()
			return d
		}
		if time.Now().After(end) {
			t.Fatal("influxd did not start within a minute")
		}
		<-time.After(20 * time.Millisecond)
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// influxSeries is one of the series of an answer.
type influxSeries struct {
	Name    string
	Tags    map[string]string
	Columns []string
	Values  [][]any // of Columns; the first is the time in seconds, as a rule
}

// query asks in InfluxQL.
func (d *influxd) query(q string) (out []influxSeries, err error) {
	form := url.Values{"q": {q}, "db": {"farebeat"}, "epoch": {"s"}}
	request, err := http.NewRequestWithContext(d.t.Context(), http.MethodPost, "http://"+d.address+"/query?"+form.Encode(), nil)
	if err != nil {
		return nil, err
	}
	if d.user != "" {
		request.SetBasicAuth(d.user, d.password)
	}
	r, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	var answer struct {
		Error   string
		Results []struct {
			Error  string
			Series []influxSeries
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&answer); err != nil {
		return nil, err
	}
	if answer.Error != "" {
		return nil, fmt.Errorf("%s: %s", q, answer.Error)
	}
	for _, x := range answer.Results {
		if x.Error != "" {
			return nil, fmt.Errorf("%s: %s", q, x.Error)
		}
		out = append(out, x.Series...)
	}
	return out, nil
}

func (d *influxd) must(q string) []influxSeries {
	d.t.Helper()
	out, err := d.query(q)
	if err != nil {
		d.t.Fatal(err)
	}
	return out
}
