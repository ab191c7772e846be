package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzManifest: a backup whose manifest is anything is no backup, and no file outside of it is looked at.
func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"version":1,"program":"x","made_at":"2026-11-22T00:00:00Z","files":[{"name":"farebeat.db","size":0,"sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}],"ledger":{}}`))
	f.Add([]byte(`{"version":1,"files":[{"name":"../../etc/passwd"}]}`))
	f.Add([]byte(`{"version":2}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, manifest []byte) {
		dir := t.TempDir()
		for name, b := range map[string][]byte{backupManifest: manifest, backupStore: {}, backupKey: {}} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if m, err := checkBackup(t.Context(), dir); err == nil {
			t.Errorf("%q is the manifest of a backup: %+v", manifest, m)
		}
	})
}

// FuzzParseRadio: a radio that is taken is a folder or an adapter of the form that was written.
func FuzzParseRadio(f *testing.F) {
	for _, s := range []string{"ble:hci0", "ble:hci0,mtu=23", "ble:hci99999", "ble:hci0,mtu=-1", "socket:", "socket:/run/x", "ble:", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := parseRadio("edge.radio", s)
		if err != nil {
			return
		}
		if r.dir != "" && s != "socket:"+r.dir || r.adapter != "" && !strings.HasPrefix(s, "ble:"+r.adapter) || (r.dir == "") == (r.adapter == "") {
			t.Errorf("%q is %+v", s, r)
		}
	})
}
