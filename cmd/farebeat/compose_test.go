package main

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/farebeat/farebeat/configs"
)

const composeFile = "../../docker-compose.yml"

// composeProject is docker-compose.yml, as far as we use what it may say.
type composeProject struct {
	Farebeat composeService `yaml:"x-farebeat"`
	Services map[string]composeService
	Volumes  map[string]struct{}
}

type composeService struct {
	Build       string
	Image       string
	User        string
	Entrypoint  []string
	Command     []string
	NetworkMode string `yaml:"network_mode"`
	Restart     string
	Environment map[string]string
	DependsOn   map[string]struct{ Condition string } `yaml:"depends_on"`
	Ports       []string
	Volumes     []string
	Healthcheck *struct {
		Test              []string
		Interval, Timeout string
		Retries           int
	}
}

func readCompose(t *testing.T) (p composeProject) {
	t.Helper()
	b, err := os.ReadFile(composeFile)
	if err != nil {
		t.Fatal(err)
	}
	dec := yaml.NewDecoder(bytes.NewReader(b))
	dec.KnownFields(true)
	if err := dec.Decode(&p); err != nil {
		t.Fatalf("%s: %v", composeFile, err)
	}
	return p
}

// isFarebeat reports whether a service runs our program.
func (s composeService) isFarebeat() bool { return s.Image == "farebeat" && len(s.Entrypoint) == 0 }

// inside is the file of this repository that a service has under a path, "" for none.
func (s composeService) inside(path string) string {
	for _, v := range s.Volumes {
		if parts := strings.Split(v, ":"); strings.HasPrefix(parts[0], "./") && (path == parts[1] || strings.HasPrefix(path, parts[1]+"/")) {
			return filepath.Join("../..", parts[0], strings.TrimPrefix(path, parts[1]))
		}
	}
	return ""
}

// argument is the value of a flag in a command line.
func argument(args []string, flag string) string {
	for i, a := range args {
		if v, ok := strings.CutPrefix(a, flag+"="); ok {
			return v
		}
		if a == flag && i+1 < len(args) {
			return args[i+1]
		}
	}
	return ""
}

func TestComposeMountsAndDependsOnWhatIsThere(t *testing.T) {
	p := readCompose(t)
	for name, s := range p.Services {
		for _, v := range s.Volumes {
			parts := strings.Split(v, ":")
			if from, ok := strings.CutPrefix(parts[0], "./"); ok {
				if _, err := os.Stat(filepath.Join("../..", from)); err != nil || len(parts) != 3 || parts[2] != "ro" {
					t.Errorf("%s: %s: want a file that is there, read-only: %v", name, v, err)
				}
			} else if _, ok := p.Volumes[parts[0]]; !ok {
				t.Errorf("%s: there is no volume %s", name, parts[0])
			}
		}
		for other, on := range s.DependsOn {
			of, ok := p.Services[other]
			healthy := on.Condition == "service_healthy" && of.Healthcheck != nil
			ends := on.Condition == "service_completed_successfully" && of.Restart == ""
			if !ok || !healthy && !ends {
				t.Errorf("%s: depends on %s: %s", name, other, on.Condition)
			}
		}
		for _, port := range s.Ports {
			if !strings.HasPrefix(port, "127.0.0.1:") {
				t.Errorf("%s: %s is published beyond loopback, in clear", name, port)
			}
		}
		if _, tag, ok := strings.Cut(s.Image, ":"); s.Build == "" && (!ok || tag == "latest") {
			t.Errorf("%s: image %q is not pinned", name, s.Image)
		}
		for key, value := range s.Environment {
			if secret := regexp.MustCompile(`PASSWORD|SECRET|TOKEN`); secret.MatchString(key) && !strings.HasPrefix(value, "/secrets/") {
				t.Errorf("%s: the secret %s stands in the file", name, key)
			}
		}
	}
	if b, err := os.ReadFile("../../Dockerfile"); err != nil || !strings.Contains(string(b), "USER 10001:10001\n") || !strings.Contains(readText(t, "../../configs/compose/init.sh"), "chown -R 10001:10001 ") {
		t.Errorf("Dockerfile and init.sh do not agree who runs farebeat: %v", err)
	}
}

func readText(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestComposeCommandLinesAreOurs(t *testing.T) {
	p := readCompose(t)
	seen := 0
	for name, s := range p.Services {
		if !s.isFarebeat() {
			continue
		}
		seen++
		if err := checkCommand(s.Command); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, a := range s.Command { // what it reads is mounted
			if _, path, ok := strings.Cut(a, "="); ok && strings.HasPrefix(path, "/etc/") && s.inside(path) == "" {
				t.Errorf("%s: %s is not mounted", name, path)
			}
		}
		if file := s.inside(argument(s.Command, "--config")); file == "" {
			t.Errorf("%s: %v: the configuration is not mounted", name, s.Command)
		} else if _, err := configs.Load(configs.Options{File: file}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if seen != 2 {
		t.Errorf("%d services run farebeat, want serve and simulate", seen)
	}
}

// Who asks whom: names and ports are the same on both sides.
func TestComposeServicesFindEachOther(t *testing.T) {
	p := readCompose(t)
	c := mustLoad(t, "../../configs/compose/farebeat.yaml")
	want := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s is %q, want %q", what, got, want)
		}
	}
	want("the city's broker", c.Client.Server, "tcp://farebeat:"+port(c.Broker.Listeners[0].Address))
	want("farebeat's InfluxDB", c.Fleet.Influx[0].URL, "http://influxdb:8086")
	influx := p.Services["influxdb"].Environment
	want("its database", c.Fleet.Influx[0].Bucket, influx["INFLUXDB_DB"]+"/autogen")
	want("its user", influx["INFLUXDB_USER"], "farebeat") // as init.sh writes the token
	want("farebeat's timetable", p.Services["farebeat"].inside(c.Fleet.GTFS), "../../configs/city")
	want("the city's", p.Services["city"].inside(argument(p.Services["city"].Command, "--gtfs")), "../../configs/city")
	want("the city's master key", argument(p.Services["city"].Command, "--master-key"), masterKeyPath(c))
	want("the operator in the dashboards", configs.Default().Operator, c.Operator)
	if !slices.Equal(p.Services["farebeat"].Ports, []string{"127.0.0.1:1883:" + port(c.Broker.Listeners[0].Address), "127.0.0.1:8080:" + port(c.Console.Address)}) {
		t.Errorf("published are %v", p.Services["farebeat"].Ports)
	}
	if test := strings.Join(p.Services["farebeat"].Healthcheck.Test, " "); !strings.Contains(test, "/dev/tcp/127.0.0.1/"+port(c.Broker.MetricsAddress)+" ") {
		t.Errorf("the health check %q does not ask where the metrics are", test)
	}
	var scrape struct {
		ScrapeConfigs []struct {
			JobName       string                       `yaml:"job_name"`
			StaticConfigs []struct{ Targets []string } `yaml:"static_configs"`
		} `yaml:"scrape_configs"`
	}
	readYAML(t, p.Services["prometheus"].inside("/etc/prometheus/prometheus.yml"), &scrape)
	want("what Prometheus scrapes", scrape.ScrapeConfigs[0].StaticConfigs[0].Targets[0], "farebeat:"+port(c.Broker.MetricsAddress))
	want("its job", scrape.ScrapeConfigs[0].JobName, "farebeat")
	var grafana struct {
		Datasources []struct {
			URL, User string
			JSONData  struct {
				DBName string `yaml:"dbName"`
			} `yaml:"jsonData"`
			SecureJSONData map[string]string `yaml:"secureJsonData"`
		}
	}
	readYAML(t, filepath.Join(grafanaDir, "provisioning/datasources/farebeat.yaml"), &grafana)
	want("Grafana's InfluxDB", grafana.Datasources[0].URL, c.Fleet.Influx[0].URL)
	want("its database", grafana.Datasources[0].JSONData.DBName, influx["INFLUXDB_DB"])
	want("its user", grafana.Datasources[0].User, influx["INFLUXDB_READ_USER"])
	if name := strings.TrimPrefix(grafana.Datasources[0].SecureJSONData["password"], "$"); !strings.Contains(p.Services["grafana"].Entrypoint[2], "export "+name+"=") {
		t.Errorf("nobody gives Grafana %s", name)
	}
	want("Grafana's Prometheus", grafana.Datasources[1].URL, "http://prometheus:9090")
}

// Every file that Grafana is given is one that it reads.
func TestGrafanaIsProvisionedFromFoldersThatAreThere(t *testing.T) {
	var providers struct {
		Providers []struct {
			Options struct{ Path string }
		}
	}
	readYAML(t, filepath.Join(grafanaDir, "provisioning/dashboards/farebeat.yaml"), &providers)
	if len(providers.Providers) != 1 {
		t.Fatalf("%+v", providers)
	}
	// docker-compose.yml mounts the dashboards there.
	mounted := false
	for _, v := range readCompose(t).Services["grafana"].Volumes {
		mounted = mounted || v == "./configs/grafana/dashboards:"+providers.Providers[0].Options.Path+":ro"
	}
	if !mounted {
		t.Errorf("the provider reads %s, which docker-compose.yml does not mount", providers.Providers[0].Options.Path)
	}
	err := filepath.WalkDir(grafanaDir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !slices.Contains([]string{".json", ".yaml"}, filepath.Ext(path)) {
			t.Errorf("%s is read by nobody", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func port(address string) string { return address[strings.LastIndexByte(address, ':')+1:] }

// TestComposeRunsOnLoopback runs what docker-compose.yml runs, as processes: init, the command lines of farebeat and the city, its health check, and a real InfluxDB
// with the users that the image would make. Only paths and addresses differ.
func TestComposeRunsOnLoopback(t *testing.T) {
	d := startInfluxd(t, true)
	p := readCompose(t)
	dir := t.TempDir()
	awaitServiceDay(t)
	init := exec.CommandContext(t.Context(), "/bin/sh", "../../configs/compose/init.sh", filepath.Join(dir, "secrets"), filepath.Join(dir, "data"), filepath.Join(dir, "city"))
	for _, volume := range []string{"secrets", "data", "city"} {
		if err := os.Mkdir(filepath.Join(dir, volume), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := init.CombinedOutput(); err != nil {
		t.Fatalf("init: %v\n%s", err, out)
	}
	first := secretsOf(t, filepath.Join(dir, "secrets"))
	again := exec.CommandContext(t.Context(), init.Args[0], init.Args[1:]...)
	if out, err := again.CombinedOutput(); err != nil {
		t.Fatalf("init again: %v\n%s", err, out)
	}
	if second := secretsOf(t, filepath.Join(dir, "secrets")); len(first) != 13 || strings.Join(first, "\n") != strings.Join(second, "\n") {
		t.Errorf("the secrets are not kept: %q, then %q", first, second)
	}
	d.admitComposeUsers(dir, p.Services["influxdb"].Environment)

	broker, metrics, console := freePort(t), freePort(t), freePort(t)
	here := strings.NewReplacer(
		"0.0.0.0:1883", broker, "farebeat:1883", broker, "0.0.0.0:9180", metrics, "0.0.0.0:8080", console, "influxdb:8086", d.address,
		"/secrets", filepath.Join(dir, "secrets"), "/data", filepath.Join(dir, "data"), "/etc/farebeat/farebeat.yaml", filepath.Join(dir, "farebeat.yaml"),
		"/etc/farebeat/city", "../../configs/city", "=/city", "="+filepath.Join(dir, "city"), "/dev/tcp/127.0.0.1/9180", "/dev/tcp/127.0.0.1/"+port(metrics),
	)
	config := here.Replace(readText(t, "../../configs/compose/farebeat.yaml"))
	if err := os.WriteFile(filepath.Join(dir, "farebeat.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	start := func(service string) {
		args := slices.Clone(p.Services[service].Command)
		for i := range args {
			args[i] = here.Replace(args[i])
		}
		cmd, log := exec.Command("farebeat", args...), &bytes.Buffer{}
		cmd.Stdout, cmd.Stderr = log, log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		t.Cleanup(func() {
			select {
			case err := <-ended:
				t.Errorf("%s ended by itself: %v", service, err)
			default:
				_ = cmd.Process.Kill() // it may be about to end
				<-ended
			}
			if t.Failed() {
				t.Logf("%s:\n%s", service, log)
			}
		})
	}
	start("farebeat")
	test := p.Services["farebeat"].Healthcheck.Test
	soon(t, "farebeat is healthy", func() bool {
		return exec.CommandContext(t.Context(), test[1], test[2], here.Replace(test[3])).Run() == nil
	})
	start("city")
	soon(t, "counts are in InfluxDB", func() bool {
		d.user, d.password = "grafana", strings.TrimSpace(readText(t, filepath.Join(dir, "secrets/grafana/influxdb.password")))
		answer := d.must(`SELECT max("n") FROM "online" GROUP BY "route"`)
		return slices.ContainsFunc(answer, func(s influxSeries) bool { return s.Tags["route"] == "10" && s.Values[0][1].(float64) > 0 })
	})
	if _, err := d.query(`DROP MEASUREMENT "online"`); err == nil {
		t.Error("Grafana's user may delete counts")
	}
}

// awaitServiceDay waits until midnight is over where it is near: the city's day ends with it.
func awaitServiceDay(t *testing.T) {
	t.Helper()
	zone, err := time.LoadLocation(mustLoad(t, "../../configs/compose/farebeat.yaml").TimeZone)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().In(zone)
	if midnight := time.Date(now.Year(), now.Month(), now.Day()+1, 0, 0, 0, 0, zone); midnight.Sub(now) < 4*time.Minute {
		<-time.After(midnight.Sub(now))
	}
}

// soon waits until something is so.
func soon(t *testing.T, what string, is func() bool) {
	t.Helper()
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	for end := time.After(3 * time.Minute); !is(); {
		select {
		case <-end:
			t.Fatalf("after three minutes it is not so that %s", what)
		case <-look.C:
		}
	}
}

// secretsOf are the files below a folder, with their content; none may be open to others.
func secretsOf(t *testing.T, dir string) (out []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is open to others: %s", path, info.Mode())
		}
		out = append(out, strings.TrimPrefix(path, dir)+" "+readText(t, path))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// admitComposeUsers makes the database and the users that the image's entrypoint makes of its environment.
func (d *influxd) admitComposeUsers(dir string, env map[string]string) {
	d.t.Helper()
	password := func(name string) string {
		return readText(d.t, filepath.Join(dir, "secrets/influxdb", name+".password"))
	}
	d.must("CREATE USER " + env["INFLUXDB_ADMIN_USER"] + " WITH PASSWORD '" + password("admin") + "' WITH ALL PRIVILEGES")
	d.user, d.password = env["INFLUXDB_ADMIN_USER"], password("admin")
	d.must("CREATE DATABASE " + env["INFLUXDB_DB"])
	for user, right := range map[string]string{env["INFLUXDB_USER"]: "ALL", env["INFLUXDB_READ_USER"]: "READ"} {
		d.must("CREATE USER " + user + " WITH PASSWORD '" + password(user) + "'")
		d.must("GRANT " + right + " ON " + env["INFLUXDB_DB"] + " TO " + user)
	}
}
