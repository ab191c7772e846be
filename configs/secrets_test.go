package configs_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/farebeat/farebeat/configs"
)

func TestSecretsPrintAsAMask(t *testing.T) {
	c := configs.Default()
	c.Client.Password, c.Fleet.MasterKey = "tiger", "tiger"
	asJSON, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{string(asJSON), mustPrint(t, c), fmt.Sprintf("%v %+v %#v %s %q", c, c, c, c.Client.Password, c.Client.Password)} {
		if strings.Contains(text, "tiger") || !strings.Contains(text, "********") {
			t.Errorf("%s", text)
		}
	}
	if want := []string{"FAREBEAT_FLEET_MASTER_KEY", "FAREBEAT_CLIENT_PASSWORD"}; !slices.Equal(configs.SecretVariables(), want) {
		t.Errorf("%v, want %v", configs.SecretVariables(), want)
	}
}

func TestCredentials(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"hook", "password"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text := "client: {password_file: 'credential:password'}\nfleet:\n  notify:\n    webhooks: [{name: a, url: 'https://x', secret_file: 'credential:hook'}]\n"
	load := func(text string) configs.Config {
		c, err := configs.Load(configs.Options{File: write(t, text)})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := load(text)
	if err := c.UseCredentials(dir); err != nil {
		t.Fatal(err)
	}
	if c.Client.PasswordFile != filepath.Join(dir, "password") || c.Fleet.Notify.Webhooks[0].SecretFile != filepath.Join(dir, "hook") || c.Fleet.MasterKeyFile != "" {
		t.Errorf("%+v", c)
	}
	for name, want := range map[string]string{
		"other": `client.password_file: there is no credential "other"; put LoadCredential=other:/path into the unit`,
		"":      "client.password_file: \"\" is no name of a credential", "../x": `"../x" is no name of a credential`, "..": `is no name`,
	} {
		c := load("client: {password_file: 'credential:" + name + "'}\n")
		if err := c.UseCredentials(dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", name, err)
		}
	}
	c = load(text)
	if err := c.UseCredentials(""); err == nil || !strings.Contains(err.Error(), "client.password_file: credential") || !strings.Contains(err.Error(), "webhooks[0].secret_file: credential") {
		t.Errorf("outside of a unit: %v", err)
	}
}

// The credential master-key is what stands in for nothing, never for what is configured.
func TestMasterCredential(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "master-key")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{"": path, "fleet: {master_key_file: other}\n": "other", "fleet: {master_key: tiger}\n": ""} {
		c, err := configs.Load(configs.Options{File: write(t, text)})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.UseCredentials(dir); err != nil || c.Fleet.MasterKeyFile != want {
			t.Errorf("%q: %q, %v", text, c.Fleet.MasterKeyFile, err)
		}
	}
	both := configs.Options{File: write(t, "fleet: {master_key_file: a}\n"), Env: []string{"FAREBEAT_FLEET_MASTER_KEY=tiger"}}
	if _, err := configs.Load(both); err == nil || !strings.Contains(err.Error(), "fleet.master_key: cannot be set together with master_key_file") || strings.Contains(err.Error(), "tiger") {
		t.Errorf("%v", err)
	}
}

// A configuration file is a file with a secret as soon as one is in it.
func TestConfigurationWithASecretIsPrivate(t *testing.T) {
	refuse := func(path string, _ fs.FileInfo) error { return errors.New(path + " is open") }
	for text, secret := range map[string]bool{
		"client: {password: tiger}\n": true, "fleet: {master_key: tiger}\n": true, "client: {password: '', username: x}\n": false, "client: {password: }\n": false, "operator: x\n": false,
	} {
		file := write(t, text)
		_, err := configs.Load(configs.Options{File: file, Private: refuse})
		if secret != (err != nil) {
			t.Errorf("%q: %v", text, err)
		}
		if err != nil && (!strings.Contains(err.Error(), "is in it: "+file+" is open") || strings.Contains(err.Error(), "tiger")) {
			t.Errorf("%v", err)
		}
	}
}
