package configs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/go-playground/validator/v10"
	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"
)

// EnvPrefix begins the name of every environment variable: broker.users_file is
// FAREBEAT_BROKER_USERS_FILE.
const EnvPrefix = "FAREBEAT"

// Options say where configuration comes from.
type Options struct {
	File string   // YAML; empty for none
	Env  []string // as os.Environ gives it
	Set  []string // key=value, from flags; the strongest
	// Private is asked whether File may have secrets in it, if it has; nil: it may. Its error names the file and the way out.
	Private func(path string, info fs.FileInfo) error
}

// Error lists everything that is wrong with a configuration, a line each.
type Error struct{ Problems []string }

// Error implements error.
func (e *Error) Error() string {
	return "configuration: " + strings.Join(e.Problems, "\n  ")
}

// Load reads and validates a configuration. What is wrong in it comes back as an
// *Error that names the file and line, variable or flag of each problem.
func Load(o Options) (Config, error) {
	v := viper.NewWithOptions(viper.ExperimentalBindStruct())
	v.SetConfigType("yaml")
	if err := mergeDefaults(v); err != nil {
		return Config{}, err
	}
	var problems []string
	if o.File != "" {
		found, err := mergeFile(v, o)
		if err != nil {
			return Config{}, err
		}
		problems = append(problems, found...)
	}
	problems = append(problems, mergeEnv(v, o.Env)...)
	problems = append(problems, mergeSet(v, o.Set)...)
	if len(problems) > 0 {
		return Config{}, &Error{problems}
	}
	var c Config
	hook := viper.DecodeHook(mapstructure.DecodeHookFuncType(decodeValue))
	if err := v.UnmarshalExact(&c, hook); err != nil {
		return Config{}, &Error{decodeProblems(err)}
	}
	if problems := validate(&c); len(problems) > 0 {
		return Config{}, &Error{problems}
	}
	return c, nil
}

// decodeValue is mapstructure's hook for durations, with words a person understands, and for dates, which YAML takes for
// times unless they are quoted.
func decodeValue(from, to reflect.Type, data any) (any, error) {
	if at, ok := data.(time.Time); ok && to.Kind() == reflect.String {
		return at.Format(time.DateOnly), nil
	}
	if to != reflect.TypeFor[time.Duration]() || from.Kind() != reflect.String {
		return data, nil
	}
	d, err := time.ParseDuration(data.(string))
	if err != nil {
		return nil, fmt.Errorf("want a duration such as 15s, got %q", data)
	}
	return d, nil
}

// Print returns the configuration as YAML with secrets masked, also those in addresses: of a webhook's only the host is shown. Load accepts it.
func (c Config) Print() ([]byte, error) {
	c.Fleet.Influx = slices.Clone(c.Fleet.Influx)
	for i := range c.Fleet.Influx {
		c.Fleet.Influx[i].URL = maskURL(c.Fleet.Influx[i].URL, false)
	}
	c.Fleet.Notify.Alertmanagers = slices.Clone(c.Fleet.Notify.Alertmanagers)
	for i := range c.Fleet.Notify.Alertmanagers {
		c.Fleet.Notify.Alertmanagers[i].URL = maskURL(c.Fleet.Notify.Alertmanagers[i].URL, false)
	}
	c.Fleet.Notify.Webhooks = slices.Clone(c.Fleet.Notify.Webhooks)
	for i := range c.Fleet.Notify.Webhooks {
		c.Fleet.Notify.Webhooks[i].URL = maskURL(c.Fleet.Notify.Webhooks[i].URL, true)
	}
	var buf bytes.Buffer
	enc := yaml.NewEncoder(&buf)
	enc.SetIndent(2)
	if err := errors.Join(enc.Encode(c), enc.Close()); err != nil {
		return nil, fmt.Errorf("print configuration: %w", err)
	}
	return buf.Bytes(), nil
}

// maskURL masks what may be a secret in an address: password, query and, if asked, the path.
func maskURL(address string, path bool) string {
	u, err := url.Parse(address)
	if err != nil {
		return "********"
	}
	if _, has := u.User.Password(); has {
		u.User = url.UserPassword(u.User.Username(), "********")
	}
	if u.RawQuery != "" {
		u.RawQuery = "********"
	}
	if path && len(u.Path) > 1 {
		u.Path, u.RawPath = "/********", "/********"
	}
	return u.String()
}

func mergeDefaults(v *viper.Viper) error {
	b, err := Default().Print()
	if err != nil {
		return err
	}
	if err := v.ReadConfig(bytes.NewReader(b)); err != nil {
		return fmt.Errorf("read default configuration: %w", err)
	}
	return nil
}

func mergeFile(v *viper.Viper, o Options) ([]string, error) {
	path := o.File
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(b, &doc); err != nil {
		return []string{fmt.Sprintf("%s: %s", path, strings.TrimPrefix(err.Error(), "yaml: "))}, nil
	}
	if len(doc.Content) == 0 {
		return nil, nil // nothing set
	}
	if problems := unknownKeys(doc.Content[0], reflect.TypeFor[Config](), path, ""); len(problems) > 0 {
		return problems, nil
	}
	if problem := o.modeProblem(doc.Content[0]); problem != "" {
		return []string{problem}, nil
	}
	if err := v.MergeConfig(bytes.NewReader(b)); err != nil {
		return []string{fmt.Sprintf("%s: %s", path, err)}, nil
	}
	return nil, nil
}

// unknownKeys walks the file beside the type, since viper knows no line numbers.
func unknownKeys(n *yaml.Node, t reflect.Type, file, path string) []string {
	if t.Kind() == reflect.Slice && n.Kind == yaml.SequenceNode {
		var problems []string
		for i, item := range n.Content {
			problems = append(problems, unknownKeys(item, t.Elem(), file, fmt.Sprintf("%s[%d]", path, i))...)
		}
		return problems
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		if n.Tag == "!!null" {
			return nil
		}
		return []string{fmt.Sprintf("%s line %d: %s: want keys below it, got %q", file, n.Line, orRoot(path), n.Value)}
	}
	var problems []string
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		full := join(path, key.Value)
		field, ok := fieldByKey(t, key.Value)
		if !ok {
			problems = append(problems, fmt.Sprintf("%s line %d: %s: unknown key%s", file, key.Line, full, suggest(full, allKeys(t, path))))
			continue
		}
		problems = append(problems, unknownKeys(value, field.Type, file, full)...)
	}
	return problems
}

func orRoot(path string) string {
	if path == "" {
		return "the file"
	}
	return path
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func fieldByKey(t reflect.Type, key string) (reflect.StructField, bool) {
	for f := range fieldsOf(t) {
		if f.Tag.Get("mapstructure") == strings.ToLower(key) {
			return f, true
		}
	}
	return reflect.StructField{}, false
}

func fieldsOf(t reflect.Type) func(yield func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range t.NumField() {
			if !yield(t.Field(i)) {
				return
			}
		}
	}
}

// allKeys lists the keys below a struct, sections as well as leaves.
func allKeys(t reflect.Type, path string) []string {
	var keys []string
	for f := range fieldsOf(t) {
		full := join(path, f.Tag.Get("mapstructure"))
		keys = append(keys, full)
		if f.Type.Kind() == reflect.Struct {
			keys = append(keys, allKeys(f.Type, full)...)
		}
	}
	return keys
}

func leafKeys() []string {
	return slices.DeleteFunc(allKeys(reflect.TypeFor[Config](), ""), func(k string) bool {
		return slices.Contains([]string{
			"log", "broker", "fleet", "client", "edge", "machine", "enrol", "enrol.names", "broker.listeners", "fleet.expected", "fleet.holidays", "fleet.depots", "fleet.influx",
			"fleet.notify", "fleet.notify.webhooks", "fleet.notify.alertmanagers",
		}, k)
	})
}

func mergeEnv(v *viper.Viper, env []string) []string {
	names := map[string]string{}
	var known []string
	for _, k := range leafKeys() {
		name := variable(k)
		names[name] = k
		known = append(known, name)
	}
	var problems []string
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		if !strings.HasPrefix(name, EnvPrefix+"_") {
			continue
		}
		key, ok := names[name]
		if !ok {
			problems = append(problems, fmt.Sprintf("environment: %s: unknown variable%s", name, suggest(name, known)))
			continue
		}
		v.Set(key, value)
	}
	return problems
}

func mergeSet(v *viper.Viper, set []string) []string {
	var problems []string
	known := leafKeys()
	for _, s := range set {
		key, value, ok := strings.Cut(s, "=")
		switch {
		case !ok:
			problems = append(problems, fmt.Sprintf("--set %s: want key=value", s))
		case !slices.Contains(known, key) && slices.Contains(allKeys(reflect.TypeFor[Config](), ""), key):
			problems = append(problems, fmt.Sprintf("--set %s: is a list or a section, which only the configuration file can have: name one with --config", key))
		case !slices.Contains(known, key):
			problems = append(problems, fmt.Sprintf("--set %s: unknown key%s", key, suggest(key, known)))
		default:
			v.Set(key, value)
		}
	}
	return problems
}

// suggest names the key that is nearest by edit distance, if one is near.
func suggest(key string, known []string) string {
	best, distance := "", 2+len(key)/3
	for _, k := range known {
		if d := editDistance(key, k); d < distance {
			best, distance = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %s?", best)
}

// editDistance is Levenshtein's.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

func decodeProblems(err error) []string {
	var several interface{ Unwrap() []error }
	if !errors.As(err, &several) {
		return []string{err.Error()}
	}
	var problems []string
	for _, e := range several.Unwrap() {
		problems = append(problems, strings.ReplaceAll(e.Error(), "'", `"`))
	}
	return problems
}

func validate(c *Config) []string {
	v := validator.New(validator.WithRequiredStructEnabled())
	v.RegisterTagNameFunc(func(f reflect.StructField) string { return f.Tag.Get("mapstructure") })
	var invalid validator.ValidationErrors
	if err := v.Struct(c); err != nil && !errors.As(err, &invalid) {
		return []string{err.Error()}
	}
	var problems []string
	for _, f := range invalid {
		_, key, _ := strings.Cut(f.Namespace(), ".")
		problems = append(problems, fmt.Sprintf("%s: %s", key, explain(f)))
	}
	for i, e := range c.Fleet.Expected {
		if _, _, err := ParseHours(e.Hours); err != nil {
			problems = append(problems, fmt.Sprintf("fleet.expected[%d].hours: %s", i, err))
		}
	}
	problems = append(problems, checkListeners(c)...)
	return append(problems, checkNotify(c)...)
}

// checkListeners wants no address beyond loopback that is in clear without saying so, or where nobody could come in.
func checkListeners(c *Config) []string {
	var problems []string
	for i, l := range c.Broker.Listeners {
		key := fmt.Sprintf("broker.listeners[%d]", i)
		secure := l.Kind == "tls" || l.Kind == "wss"
		host, _, err := net.SplitHostPort(l.Address)
		if err != nil {
			continue // told already
		}
		if l.ClientCAFile != "" && !secure {
			problems = append(problems, fmt.Sprintf("%s.client_ca_file: there are no certificates on a %s listener: want kind tls or wss", key, l.Kind))
		}
		if l.ClientCertRequired && l.ClientCAFile == "" {
			problems = append(problems, key+".client_cert_required: want client_ca_file, which says whose certificates")
		}
		switch {
		case loopback(host):
		case !secure && !l.PlaintextBeyondLoopback:
			problems = append(problems, fmt.Sprintf("%s.address: %s is in clear and others reach it: use kind tls or wss (`farebeat ca init` makes the certificate), a loopback address, or say plaintext_beyond_loopback: true", key, l.Address))
		case c.Broker.UsersFile == "" && l.ClientCAFile == "":
			problems = append(problems, fmt.Sprintf("%s.address: %s: nobody could come in: set client_ca_file, or broker.users_file", key, l.Address))
		}
	}
	if host, _, err := net.SplitHostPort(c.Broker.MetricsAddress); err == nil && !loopback(host) && !c.Broker.MetricsBeyondLoopback {
		problems = append(problems, fmt.Sprintf("broker.metrics_address: %s is in clear and others reach it: use a loopback address, or say metrics_beyond_loopback: true", c.Broker.MetricsAddress))
	}
	return problems
}

// checkNotify says what is wrong with whom to tell.
func checkNotify(c *Config) []string {
	var problems []string
	if c.Fleet.Notify.GTFSRT && c.Broker.MetricsAddress == "" {
		problems = append(problems, "fleet.notify.gtfs_rt: is served on broker.metrics_address, which is empty")
	}
	for i, w := range c.Fleet.Notify.Webhooks {
		if err := checkReceiver(w.URL, w.AllowHTTP); err != nil {
			problems = append(problems, fmt.Sprintf("fleet.notify.webhooks[%d].url: %s", i, err))
		}
	}
	for i, a := range c.Fleet.Notify.Alertmanagers {
		if err := checkReceiver(a.URL, a.AllowHTTP); err != nil {
			problems = append(problems, fmt.Sprintf("fleet.notify.alertmanagers[%d].url: %s", i, err))
		}
		for _, w := range c.Fleet.Notify.Webhooks {
			if w.Name == a.Name {
				problems = append(problems, fmt.Sprintf("fleet.notify.alertmanagers[%d].name: %q is the name of a webhook", i, a.Name))
			}
		}
	}
	return problems
}

// checkReceiver wants an address that notifications may be sent to. The error does not show it: it may hold a secret.
func checkReceiver(address string, allowHTTP bool) error {
	if address == "" {
		return nil // told already
	}
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return errors.New("want a URL such as https://host/path")
	case u.User != nil:
		return errors.New("has a user or password in it: put it in a file")
	case u.Fragment != "":
		return errors.New("has a fragment (#...), which is never sent")
	}
	if u.Scheme == "https" || allowHTTP || loopback(u.Hostname()) {
		return nil
	}
	return errors.New("http sends in clear over the network: use https, or set allow_http: true")
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// explain says in words what a validator tag wants.
func explain(f validator.FieldError) string {
	got := fmt.Sprintf(", got %q", fmt.Sprint(f.Value()))
	switch f.Tag() {
	case "required":
		return "is required"
	case "required_if":
		return "is required for a tls or wss listener"
	case "oneof":
		return "want one of " + strings.ReplaceAll(f.Param(), " ", ", ") + got
	case "hostname_port":
		return "want host:port" + got
	case "datetime":
		return "want a date such as 2026-12-25" + got
	case "timezone":
		return "want a time zone such as America/New_York" + got
	case "http_url":
		return "want a URL such as http://127.0.0.1:8086" + got
	case "uri":
		return "want a URL such as tcp://127.0.0.1:1883" + got
	case "excluded_with":
		return "cannot be set together with " + snake(f.Param())
	case "unique":
		return "two entries have the same " + strings.ToLower(f.Param())
	case "startswith=ble:|startswith=socket:":
		return "want ble:hci0 or socket:DIR" + got
	case "min", "max":
		limit := map[string]string{"min": "at least ", "max": "at most "}[f.Tag()] + f.Param()
		switch f.Kind() {
		case reflect.String:
			return fmt.Sprintf("want %s characters, got %d", limit, len(f.Value().(string)))
		case reflect.Slice:
			return fmt.Sprintf("want %s entries", limit)
		default:
			return "want " + limit + got
		}
	}
	return "fails the check " + f.Tag() + got
}

// snake is the key of a field by its Go name: MasterKeyFile is master_key_file, GTFS gtfs.
func snake(name string) string {
	var b strings.Builder
	for i, r := range name {
		if i > 0 && r >= 'A' && r <= 'Z' && name[i-1] >= 'a' && name[i-1] <= 'z' {
			b.WriteByte('_')
		}
		b.WriteRune(r)
	}
	return strings.ToLower(b.String())
}

// ParseHours reads an hour of the clock (7) or a range with the end left out (07-09): from
// 0 to 23, to 1 to 24.
func ParseHours(s string) (from, to int, err error) {
	a, b, isRange := strings.Cut(s, "-")
	if _, err := fmt.Sscanf(a+" ", "%d ", &from); err != nil || from < 0 || from > 23 || len(a) > 2 {
		return 0, 0, fmt.Errorf("%q: want an hour from 0 to 23 or a range such as 07-09", s)
	}
	if !isRange {
		return from, from + 1, nil
	}
	if _, err := fmt.Sscanf(b+" ", "%d ", &to); err != nil || to <= from || to > 24 || len(b) > 2 {
		return 0, 0, fmt.Errorf("%q: want a range such as 07-09, its end after its start", s)
	}
	return from, to, nil
}
