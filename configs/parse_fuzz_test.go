package configs_test

import (
	"path/filepath"
	"testing"

	"github.com/farebeat/farebeat/configs"
)

// FuzzParseHours: what is taken lies within a day.
func FuzzParseHours(f *testing.F) {
	for _, s := range []string{"7", "07-09", "0-24", "23-23", "-1", "7-", "٧", "1 2", "0x7"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		from, to, err := configs.ParseHours(s)
		if err == nil && (from < 0 || from > 23 || to <= from || to > 24 || len(s) > len("07-09")) {
			t.Errorf("%q is %d to %d", s, from, to)
		}
	})
}

// FuzzCredential: a credential is a file in the folder, never one elsewhere.
func FuzzCredential(f *testing.F) {
	for _, s := range []string{"credential:x", "credential:../x", "credential:", "credential:.", "credential:a/b", "/etc/x", "credential:credential:x", "credential:\x00"} {
		f.Add(s)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, value string) {
		c := configs.Default()
		c.Client.PasswordFile = value
		if err := c.UseCredentials(dir); err == nil && c.Client.PasswordFile != value && filepath.Dir(c.Client.PasswordFile) != dir {
			t.Errorf("%q is %s", value, c.Client.PasswordFile)
		}
	})
}
