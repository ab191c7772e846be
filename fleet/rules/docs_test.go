package rules

import (
	"os"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/farebeat/farebeat/fleet/rules/internal/yamlfile"
)

// rowsOf gives the rows of the tables of docs/rules.md by key.
func rowsOf(t *testing.T) map[string][]string {
	t.Helper()
	b, err := os.ReadFile("../../docs/rules.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string][]string{}
	for line := range strings.Lines(string(b)) {
		cells := strings.Split(strings.TrimSpace(line), " | ")
		if key, ok := strings.CutPrefix(cells[0], "| `"); ok && len(cells) > 2 {
			rows[strings.TrimSuffix(key, "`")] = cells[1:]
		}
	}
	return rows
}

func TestEveryKeyIsInTheDocument(t *testing.T) {
	rows := rowsOf(t)
	keys := yamlfile.Keys(&file{})
	if len(keys) < 35 {
		t.Errorf("only %d keys: %v", len(keys), keys)
	}
	for _, key := range keys {
		key = strings.TrimPrefix(key, ".")
		if own, ok := strings.CutPrefix(key, "overrides."); ok && rows[key] == nil {
			key = "route." + own // an override has the keys of a route
		}
		if rows[key] == nil {
			t.Errorf("docs/rules.md has no row of %q", key)
		}
	}
}

func TestTheDefaultsInTheDocument(t *testing.T) {
	rows := rowsOf(t)
	b, err := Default(time.UTC).YAML()
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]yaml.Node
	if err := yaml.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	checked := 0
	var check func(name string, n *yaml.Node)
	check = func(name string, n *yaml.Node) {
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i].Value, n.Content[i+1]
			want := value.Value
			switch value.Kind {
			case yaml.MappingNode:
				check(key, value)
				continue
			case yaml.SequenceNode:
				var list []string
				for _, item := range value.Content {
					list = append(list, item.Value)
				}
				want = "[" + strings.Join(list, ", ") + "]"
			}
			checked++
			if row := rows[name+"."+key]; len(row) < 2 || row[1] != want {
				t.Errorf("docs/rules.md says of %s.%s %q, its default is %s", name, key, row, want)
			}
		}
	}
	for _, name := range []string{"route", "machine", "platform"} {
		n := doc[name]
		check(name, &n)
	}
	if checked < 18 {
		t.Errorf("only %d defaults were compared", checked)
	}
}
