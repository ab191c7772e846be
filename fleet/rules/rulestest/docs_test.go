package rulestest

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/farebeat/farebeat/fleet/rules"
	"github.com/farebeat/farebeat/fleet/rules/internal/yamlfile"
)

func docText(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../../../docs/rules.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestEveryKeyOfATestIsInTheDocument(t *testing.T) {
	text := docText(t)
	keys := yamlfile.Keys(&document{})
	if len(keys) < 45 {
		t.Errorf("only %d keys: %v", len(keys), keys)
	}
	for _, key := range keys {
		key = strings.TrimPrefix(key, ".")
		if own, ok := strings.CutPrefix(key, "opened."); ok && own != "at" {
			key = "faults." + own // an event has the keys of a fault
		}
		if !strings.Contains(text, "\n| `"+key+"` | ") {
			t.Errorf("docs/rules.md has no row of %q", key)
		}
	}
}

// Every example in the document is right, and those that are tests pass under the shipped rules.
func TestTheExamplesInTheDocument(t *testing.T) {
	_, set := read(t, "../../../configs/rules_test.yaml")
	tests, files := 0, 0
	for i, part := range strings.Split(docText(t), "```yaml\n")[1:] {
		example, _, ok := strings.Cut(part, "```")
		if !ok {
			t.Fatalf("example %d has no end", i+1)
		}
		if !strings.Contains(example, "\ntests:") {
			files++
			if _, err := rules.Parse("docs/rules.md", []byte(example), time.UTC); err != nil {
				t.Errorf("example %d: %v", i+1, err)
			}
			continue
		}
		tests++
		f, err := Parse("docs/rules.md", []byte(example))
		if err != nil {
			t.Errorf("example %d: %v", i+1, err)
			continue
		}
		results, err := f.Run(t.Context(), set, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range results {
			for _, failure := range r.Failures {
				t.Errorf("example %d: %s: %s", i+1, r.Name, failure)
			}
		}
	}
	if tests == 0 || files == 0 {
		t.Errorf("%d examples of tests and %d of rules", tests, files)
	}
}
