package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/influxdata/influxql"
	protocol "github.com/influxdata/line-protocol"
	"go.yaml.in/yaml/v3"

	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/fleet/counts"
	"github.com/farebeat/farebeat/fleet/series"
	"github.com/farebeat/farebeat/topics"
)

const grafanaDir = "../../configs/grafana"

// board is a dashboard as its file has it.
type board struct {
	file string
	raw  []byte
	UID  string
	// Annotations are none: blindness is a band in the panels, so that no query hides there.
	Annotations struct{ List []any }
	Templating  struct{ List []boardVariable }
	Panels      []boardPanel
}

type boardVariable struct {
	Name       string
	Type       string
	Datasource grafanaSource
	Query      any
	Current    struct{ Value string }
}

type boardPanel struct {
	Title, Description, Type, Repeat string
	Datasource                       grafanaSource
	GridPos                          struct{ X, Y, W, H int }
	Options                          struct{ Content string }
	Targets                          []boardTarget
}

type grafanaSource struct{ Type, UID string }

type boardTarget struct {
	Datasource   grafanaSource
	Query        string
	ResultFormat string
	Expr         string
	LegendFormat string
}

// boards reads the dashboards as Grafana does: a key that its schema does not know is an error.
func boards(t *testing.T) []board {
	t.Helper()
	plugins.RegisterDefaultPlugins()
	files, err := filepath.Glob(filepath.Join(grafanaDir, "dashboards", "*.json"))
	if err != nil || len(files) < 3 {
		t.Fatalf("%d dashboards, %v", len(files), err)
	}
	var list []board
	for _, file := range files {
		b := board{file: filepath.Base(file)}
		if b.raw, err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
		var strict dashboard.Dashboard //nolint:staticcheck // of schema v1, which every Grafana provisions from files; v2 only the newest do
		if err := schemaProblems(strict.UnmarshalJSONStrict(b.raw)); err != nil {
			t.Fatalf("%s: %v", b.file, err)
		}
		if err := errors.Join(schemaProblems(strict.Validate()), json.Unmarshal(b.raw, &b)); err != nil {
			t.Fatalf("%s: %v", b.file, err)
		}
		list = append(list, b)
	}
	return list
}

// schemaProblems is nil where the SDK has found none: it returns a list then that is no nil error.
func schemaProblems(err error) error {
	var list cog.BuildErrors
	if errors.As(err, &list) && len(list) == 0 {
		return nil
	}
	return err
}

// provisioned are the data sources, type by uid.
func provisioned(t *testing.T) map[string]string {
	t.Helper()
	var file struct {
		Datasources []struct{ Type, UID string }
	}
	readYAML(t, filepath.Join(grafanaDir, "provisioning/datasources/farebeat.yaml"), &file)
	types := map[string]string{}
	for _, s := range file.Datasources {
		types[s.UID] = s.Type
	}
	return types
}

func readYAML(t *testing.T, file string, into any) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err == nil {
		err = yaml.Unmarshal(b, into)
	}
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

func TestDashboardsSayWhatTheyMeanAndAskKnownSources(t *testing.T) {
	known := provisioned(t)
	uids := map[string]bool{}
	for _, b := range boards(t) {
		if b.UID == "" || uids[b.UID] {
			t.Errorf("%s: uid %q is another's or none", b.file, b.UID)
		}
		uids[b.UID] = true
		if len(b.Annotations.List) > 0 {
			t.Errorf("%s: has annotations, whose queries no test looks at", b.file)
		}
		check := func(what string, s grafanaSource) {
			if known[s.UID] != s.Type || s.Type == "" {
				t.Errorf("%s: %s asks the source %q of type %q, provisioned are %v", b.file, what, s.UID, s.Type, known)
			}
		}
		for _, v := range b.Templating.List {
			if v.Type == "query" {
				check(v.Name, v.Datasource)
			}
		}
		for i, p := range b.Panels {
			if p.Title == "" || len(strings.Fields(p.Description)) < 12 {
				t.Errorf("%s: panel %q does not say what it means and what to do: %q", b.file, p.Title, p.Description)
			}
			if p.Type != "text" {
				check(p.Title, p.Datasource)
				if len(p.Targets) == 0 {
					t.Errorf("%s: panel %q asks nothing", b.file, p.Title)
				}
			}
			for _, q := range p.Targets {
				check(p.Title, q.Datasource)
			}
			for _, o := range b.Panels[:i] {
				if p.GridPos.X < o.GridPos.X+o.GridPos.W && o.GridPos.X < p.GridPos.X+p.GridPos.W && p.GridPos.Y < o.GridPos.Y+o.GridPos.H && o.GridPos.Y < p.GridPos.Y+p.GridPos.H {
					t.Errorf("%s: panels %q and %q lie on each other", b.file, o.Title, p.Title)
				}
			}
		}
	}
}

// influxQuery is one that a dashboard asks, with Grafana's variables in it.
type influxQuery struct{ where, text, kind, repeat string }

func influxQueries(t *testing.T) (out []influxQuery) {
	for _, b := range boards(t) {
		for _, v := range b.Templating.List {
			if v.Type == "query" && v.Datasource.Type == "influxdb" {
				out = append(out, influxQuery{where: b.file + ": variable " + v.Name, text: v.Query.(string)})
			}
		}
		for _, p := range b.Panels {
			for _, q := range p.Targets {
				if q.Datasource.Type == "influxdb" {
					out = append(out, influxQuery{where: b.file + ": " + p.Title, text: q.Query, kind: p.Type, repeat: p.Repeat})
				}
			}
		}
	}
	if len(out) < 20 {
		t.Fatalf("only %d queries", len(out))
	}
	return out
}

// interpolate does what Grafana does before it asks.
func (q influxQuery) interpolate(routes []string, from, to time.Time, step string) string {
	if q.repeat != "" {
		routes = routes[:1] // a panel for each
	}
	quoted := make([]string, len(routes))
	for i, r := range routes {
		quoted[i] = strings.ReplaceAll(regexp.QuoteMeta(r), "/", `\/`)
	}
	return strings.NewReplacer(
		"$timeFilter", fmt.Sprintf("time >= %dms and time <= %dms", from.UnixMilli(), to.UnixMilli()), "$__interval", step, "$route$", "("+strings.Join(quoted, "|")+")$",
	).Replace(q.text)
}

// lineSchema is what a measurement carries.
type lineSchema struct{ tags, fields []string }

// writtenSchema is what the code that ships counts really writes.
func writtenSchema(t *testing.T) map[string]lineSchema {
	t.Helper()
	at := time.Date(2026, 11, 23, 7, 0, 0, 0, time.UTC)
	lines := series.AppendFrame(nil, counts.Frame{At: at, Rows: []counts.RouteMinute{{Route: "36", Online: 3}}})
	lines = series.AppendHours(lines, []counts.HourRow{{Start: at, Length: time.Hour, Heard: time.Hour, Route: "36"}})
	points, err := protocol.NewParser(protocol.NewMetricHandler()).Parse([]byte(strings.Join(lines, "\n") + "\n"))
	if err != nil || len(points) != 2 {
		t.Fatalf("%d points, %v", len(points), err)
	}
	out := map[string]lineSchema{}
	for _, p := range points {
		var s lineSchema
		for _, tag := range p.TagList() {
			s.tags = append(s.tags, tag.Key)
		}
		for _, f := range p.FieldList() {
			s.fields = append(s.fields, f.Key)
		}
		out[p.Name()] = s
	}
	return out
}

func TestDashboardQueriesAskForWhatIsWritten(t *testing.T) {
	schema := writtenSchema(t)
	asked := map[string]bool{}
	for _, q := range influxQueries(t) {
		text := q.interpolate([]string{"36", "A/B (c)"}, time.Unix(0, 0), time.Unix(3600, 0), "1m")
		parsed, err := influxql.ParseQuery(text)
		if err != nil {
			t.Errorf("%s: %s: %v", q.where, text, err)
			continue
		}
		for _, s := range parsed.Statements {
			if err := checkStatement(schema, asked, s); err != nil {
				t.Errorf("%s: %s: %v", q.where, text, err)
			}
		}
	}
	for m, s := range schema {
		for _, f := range s.fields {
			if !asked[m+"."+f] {
				t.Errorf("no dashboard shows the field %s of %s", f, m)
			}
		}
	}
}

// checkStatement finds what a query asks for and nobody writes. It notes in asked the fields that are asked for.
func checkStatement(schema map[string]lineSchema, asked map[string]bool, s influxql.Statement) error {
	switch s := s.(type) {
	case *influxql.SelectStatement:
		_, err := checkSelect(schema, asked, s)
		return err
	case *influxql.ShowTagValuesStatement:
		if _, err := sourceSchema(schema, asked, s.Sources); err != nil {
			return err
		}
		key, ok := s.TagKeyExpr.(*influxql.StringLiteral)
		have, _ := sourceSchema(schema, asked, s.Sources)
		if !ok || !slices.Contains(have.tags, key.Val) {
			return fmt.Errorf("tag key %s, written are %v", s.TagKeyExpr, have.tags)
		}
		return nil
	}
	return fmt.Errorf("a statement of type %T", s)
}

// sourceSchema is what is to be had from where a query asks.
func sourceSchema(schema map[string]lineSchema, asked map[string]bool, list influxql.Sources) (lineSchema, error) {
	if len(list) != 1 {
		return lineSchema{}, fmt.Errorf("%d sources", len(list))
	}
	switch s := list[0].(type) {
	case *influxql.Measurement:
		have, ok := schema[s.Name]
		if !ok {
			return have, fmt.Errorf("measurement %q is not written", s.Name)
		}
		return have, nil
	case *influxql.SubQuery:
		return checkSelect(schema, asked, s.Statement)
	}
	return lineSchema{}, fmt.Errorf("a source of type %T", list[0])
}

// checkSelect returns what the query gives to one around it.
func checkSelect(schema map[string]lineSchema, asked map[string]bool, s *influxql.SelectStatement) (gives lineSchema, err error) {
	have, err := sourceSchema(schema, asked, s.Sources)
	if err != nil {
		return gives, err
	}
	measurement := ""
	if m, ok := s.Sources[0].(*influxql.Measurement); ok {
		measurement = m.Name
	}
	var errs []error
	refs := func(n influxql.Node, what string, in ...string) {
		influxql.WalkFunc(n, func(n influxql.Node) {
			ref, ok := n.(*influxql.VarRef)
			if !ok || ref.Val == "time" {
				return
			}
			if !slices.Contains(in, ref.Val) {
				errs = append(errs, fmt.Errorf("%q %s, where there are %v", ref.Val, what, in))
			}
			asked[measurement+"."+ref.Val] = true
		})
	}
	for _, f := range s.Fields {
		refs(f, "is selected", have.fields...)
		gives.fields = append(gives.fields, f.Name())
	}
	if s.Condition != nil {
		refs(s.Condition, "is asked of", slices.Concat(have.fields, have.tags)...)
		// A tag is compared with a regular expression here, a field with a number.
		influxql.WalkFunc(s.Condition, func(n influxql.Node) {
			if e, ok := n.(*influxql.BinaryExpr); ok && (e.Op == influxql.EQREGEX || e.Op == influxql.NEQREGEX) {
				refs(e.LHS, "is matched with a regular expression", have.tags...)
			}
		})
	}
	for _, d := range s.Dimensions {
		if ref, ok := d.Expr.(*influxql.VarRef); ok {
			refs(ref, "is grouped by", have.tags...)
			gives.tags = append(gives.tags, ref.Val)
		}
	}
	return gives, errors.Join(errs...)
}

func TestDashboardTopicsAreInTheTree(t *testing.T) {
	named := regexp.MustCompile("`(farebeat/v1/[^`]*)`")
	tree, err := topics.New(configs.Default().Operator)
	if err != nil {
		t.Fatal(err)
	}
	filters := map[string]topics.Kind{} // of all kinds, with a level for each id
	for _, s := range topics.Specs() {
		f, err := tree.Filter(topics.Address{Kind: s.Kind})
		if err != nil {
			t.Fatal(err)
		}
		filters[f] = s.Kind
	}
	viewer := topics.Identity{Role: topics.RoleViewer, Name: "wall"}
	for _, b := range boards(t) {
		i := slices.IndexFunc(b.Templating.List, func(v boardVariable) bool { return v.Name == "operator" })
		if i < 0 || b.Templating.List[i].Current.Value != tree.Operator() {
			t.Errorf("%s: the variable operator does not begin as %q", b.file, tree.Operator())
		}
		found := 0
		for _, p := range b.Panels {
			for _, m := range named.FindAllStringSubmatch(p.Options.Content+" "+p.Description, -1) {
				found++
				filter := strings.ReplaceAll(m[1], "${operator}", tree.Operator())
				if err := errors.Join(topics.CheckFilter(filter), tree.MayRead(viewer, filter)); err != nil {
					t.Errorf("%s: %s: %v", b.file, m[1], err)
				}
				if !namesAKind(filters, filter) {
					t.Errorf("%s: %s is the topic of no kind: %v", b.file, m[1], filters)
				}
			}
		}
		if found == 0 {
			t.Errorf("%s: names no topic", b.file)
		}
	}
}

// namesAKind reports whether a filter is that of a kind, or of all that is below some levels of one.
func namesAKind(filters map[string]topics.Kind, filter string) bool {
	above, all := strings.CutSuffix(filter, "#")
	for of := range filters {
		levels, want := strings.Split(of, "/"), strings.Split(strings.TrimSuffix(above, "/"), "/")
		if len(want) > len(levels) || !all && len(want) != len(levels) {
			continue
		}
		fits := true
		for i, l := range want {
			fits = fits && (l == levels[i] || levels[i] == "+")
		}
		if fits {
			return true
		}
	}
	return false
}

// The commands that a panel advises are there, with their flags.
func TestDashboardCommandsExist(t *testing.T) {
	named := regexp.MustCompile("`farebeat ([^`]*)`")
	found := 0
	for _, b := range boards(t) {
		for _, p := range b.Panels {
			for _, m := range named.FindAllStringSubmatch(p.Options.Content+" "+p.Description, -1) {
				found++
				if err := checkCommand(strings.Fields(m[1])); err != nil {
					t.Errorf("%s: %s: farebeat %s: %v", b.file, p.Title, m[1], err)
				}
			}
		}
	}
	if found < 5 {
		t.Errorf("only %d commands are advised", found)
	}
}

// checkCommand parses a command line by the real command tree, and runs nothing.
func checkCommand(args []string) error {
	cmd, rest, err := newRootCmd().Find(args)
	if err != nil {
		return err
	}
	if cmd.HasSubCommands() && len(rest) > 0 {
		return fmt.Errorf("%s has no subcommand %s", cmd.CommandPath(), rest[0])
	}
	return cmd.ParseFlags(rest)
}
