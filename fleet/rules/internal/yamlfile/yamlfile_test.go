package yamlfile

import (
	"slices"
	"strings"
	"testing"
	"time"
)

type top struct {
	Name string  `yaml:"name,omitempty"`
	List []entry `yaml:"list"`
	No   string  `yaml:"-"`
}

type entry struct {
	Size   *int `yaml:"size"`
	common `yaml:",inline"`

	line int
}

type common struct {
	Deep *deep `yaml:"deep,omitempty,flow"`
}

type deep struct {
	Again []entry `yaml:"again"`
}

func TestKeys(t *testing.T) {
	want := []string{".name", ".list", "list.size", "list.deep", "deep.again"}
	if got := Keys(&top{}); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestDecode(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"", ""},
		{"name: a\nlist: [{size: 3, deep: {again: []}}]", ""},
		{"nam: a", `line 1: unknown key "nam"; known here are name, list`},
		{"\nlist:\n- {size: 1, dep: 2}", `line 3: unknown key "dep"; known here are size, deep`},
		{"list: [{deep: {more here: 1}}]", `line 1: unknown key "more here"; known here are again`},
		{"name: [a]", "line 1: cannot unmarshal !!seq into string"},
		{"name: a\nname: b", `line 2: mapping key "name" already defined at line 1`},
		{"name: a\n---\nname: b", "second YAML document"},
		{"name: [", "line 1: did not find expected node content"},
		{strings.Repeat("#", MaxSize+1), "4194305 bytes is more than 4194304"},
	} {
		var v top
		err := Decode([]byte(tt.in), &v)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%.60q: %v, want %q", tt.in, err, tt.want)
		}
	}
	v := top{List: []entry{{line: 1}}}
	if err := Decode(nil, &v); err != nil || len(v.List) != 1 {
		t.Errorf("an empty file changed %+v, %v", v, err)
	}
}

func TestShort(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 45 * time.Second: "45s", 10 * time.Minute: "10m", 70 * time.Second: "1m10s", time.Hour: "1h", 90 * time.Minute: "1h30m",
		time.Hour + time.Second: "1h0m1s", 10 * time.Hour: "10h", -time.Minute: "-1m", 1500 * time.Millisecond: "1.5s",
	} {
		if got := Short(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
		if back, err := time.ParseDuration(Short(d)); err != nil || back != d {
			t.Errorf("%v came back as %v, %v", d, back, err)
		}
	}
}
