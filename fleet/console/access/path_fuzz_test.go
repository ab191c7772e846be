package access_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/farebeat/farebeat/fleet/console/access"
)

// FuzzLocalPath: nobody is led to another host after a sign-in, whatever the address says, as a browser reads it.
func FuzzLocalPath(f *testing.F) {
	for _, s := range []string{"/faults?show=all", "//evil.example", "/\\evil.example", "/\t/evil.example", "https://evil.example", "/%2f/evil.example", "/..//evil.example", "javascript:alert(1)", ""} {
		f.Add(s)
	}
	base, err := url.Parse("https://farebeat.example/signin")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, path string) {
		got := access.LocalPath(path)
		// A browser drops tabs and line ends, and takes a backslash for a slash.
		seen := strings.NewReplacer("\t", "", "\r", "", "\n", "", "\\", "/").Replace(got)
		u, err := base.Parse(seen)
		if !strings.HasPrefix(seen, "/") || strings.HasPrefix(seen, "//") || err != nil || u.Host != base.Host || u.Scheme != base.Scheme {
			t.Errorf("%q leads to %q: %v", path, got, err)
		}
		if again := access.LocalPath(got); again != got {
			t.Errorf("%q leads to %q, and that to %q", path, got, again)
		}
	})
}
