package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/farebeat/farebeat/broker"
	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/fleet/certs"
	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/enrol"
	"github.com/farebeat/farebeat/fleet/expect/gtfs"
	"github.com/farebeat/farebeat/fleet/keys"
	"github.com/farebeat/farebeat/fleet/notify"
	"github.com/farebeat/farebeat/fleet/store"
)

// rule says who may read or write a file with a secret.
type rule func(path string, info fs.FileInfo) error

// namedFile is a file that a key of the configuration names.
type namedFile struct {
	key, path string
	// private is the rule for who may read or write it; nil: it is no secret.
	private rule
	// read reads it as the command does that needs it. Its error names the path.
	read func() error
	// absent is asked where there is no such file; nil: that is an error.
	absent func() error
}

// checkFiles reads every file that the configuration names, and returns a *configs.Error with a line for each that is
// missing, unreadable, open to others although it is a secret, or not what it should be.
func checkFiles(ctx context.Context, c configs.Config) error {
	var problems []string
	for _, f := range namedFiles(ctx, c) {
		if err := f.check(); err != nil {
			problems = append(problems, fmt.Sprintf("%s: %s", f.key, err))
		}
	}
	if c.Fleet.MasterKey != "" {
		master, err := loadMaster(c)
		if err == nil {
			err = oneMaster(c, master)
		}
		if err != nil {
			problems = append(problems, err.Error())
		}
	}
	problems = append(problems, checkKinds(c)...)
	if len(problems) > 0 {
		return usageError(&configs.Error{Problems: problems})
	}
	return nil
}

func (f namedFile) check() error {
	info, err := os.Stat(f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && f.absent != nil:
		return f.absent()
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s: there is no such file; put it there, or name another one", f.path)
	case err != nil:
		return fmt.Errorf("%w; make it readable for the user who runs farebeat", err)
	}
	if f.private != nil {
		if err := f.private(f.path, info); err != nil {
			return err
		}
	}
	err = f.read()
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w; make it readable for the user who runs farebeat", err)
	case err != nil && !strings.Contains(err.Error(), f.path):
		return fmt.Errorf("%s: %w", f.path, err)
	}
	return err
}

// namedFiles lists the files of the keys that are set, in the order of configs/farebeat.yaml.
func namedFiles(ctx context.Context, c configs.Config) []namedFile {
	zone, err := time.LoadLocation(c.TimeZone)
	must(err) // validated by configs
	var files []namedFile
	add := func(key, path string, private rule, read func() error) {
		if path != "" {
			files = append(files, namedFile{key: key, path: path, private: private, read: read})
		}
	}
	for i, l := range c.Broker.Listeners {
		key := fmt.Sprintf("broker.listeners[%d]", i)
		add(key+".cert_file", l.CertFile, nil, func() error { return readOnly(os.ReadFile(l.CertFile)) })
		add(key+".key_file", l.KeyFile, keys.PrivateTLS, func() error { return readPair(l.CertFile, l.KeyFile) })
		add(key+".client_ca_file", l.ClientCAFile, nil, func() error { return readOnly(certs.ReadAuthorities(l.ClientCAFile)) })
	}
	add("broker.users_file", c.Broker.UsersFile, keys.Private, func() error { return readOnly(broker.LoadUsers(c.Broker.UsersFile)) })
	add("fleet.gtfs", c.Fleet.GTFS, nil, func() error { return readOnly(gtfs.Open(ctx, c.Fleet.GTFS)) })
	add("fleet.expected_file", c.Fleet.ExpectedFile, nil, func() error { return readOnly(readExpected(c.Fleet.ExpectedFile, zone)) })
	add("fleet.holidays_file", c.Fleet.HolidaysFile, nil, func() error { return readOnly(readHolidays(c)) })
	add("fleet.rules_file", c.Fleet.RulesFile, nil, func() error { return readOnly(loadRules(c.Fleet.RulesFile, zone)) })
	if c.Fleet.MasterKey == "" {
		add("fleet.master_key_file", masterKeyPath(c), keys.Private, func() error {
			master, err := loadMaster(c)
			if err != nil {
				return err
			}
			return oneMaster(c, master)
		})
		files[len(files)-1].absent = func() error { return absentMaster(ctx, c) }
	}
	for i, x := range c.Fleet.Influx {
		add(fmt.Sprintf("fleet.influx[%d].token_file", i), x.TokenFile, keys.Private, func() error { return readOnly(readToken(x.TokenFile)) })
	}
	for i, w := range c.Fleet.Notify.Webhooks {
		add(fmt.Sprintf("fleet.notify.webhooks[%d].secret_file", i), w.SecretFile, keys.Private, func() error { return readOnly(notify.ReadSecrets(w.SecretFile)) })
	}
	for i, a := range c.Fleet.Notify.Alertmanagers {
		add(fmt.Sprintf("fleet.notify.alertmanagers[%d].credentials_file", i), a.CredentialsFile, keys.Private, func() error { return readOnly(notify.ReadAuthorization(a.CredentialsFile)) })
	}
	web := c.Console
	add("console.cert_file", web.CertFile, nil, func() error { return readOnly(os.ReadFile(web.CertFile)) })
	add("console.key_file", web.KeyFile, keys.PrivateTLS, func() error { return readPair(web.CertFile, web.KeyFile) })
	add("console.users_file", web.UsersFile, keys.Private, func() error { return readOnly(broker.LoadUsers(web.UsersFile)) })
	add("console.oidc.client_secret_file", web.OIDC.ClientSecretFile, keys.Private, func() error { return readOnly(access.ReadClientSecret(web.OIDC.ClientSecretFile)) })
	if _, err := os.Stat(caPath(c)); c.Enrol.Address != "" || c.Enrol.CAFile != "" || err == nil {
		add("enrol.ca_file", caPath(c), nil, func() error { return readOnly(enrol.LoadCA(caPath(c), "")) })
	}
	if _, err := os.Stat(caKeyPath(c)); c.Enrol.Address != "" || c.Enrol.CAKeyFile != "" || err == nil {
		add("enrol.ca_key_file", caKeyPath(c), keys.Private, func() error { return readCAKey(c) })
	}
	add("client.password_file", c.Client.PasswordFile, keys.Private, func() error { return readOnly(readPassword(c.Client.PasswordFile)) })
	add("client.ca_file", c.Client.CAFile, nil, func() error { return readOnly(certs.ReadAuthorities(c.Client.CAFile)) })
	add("client.cert_file", c.Client.CertFile, nil, func() error { return readOnly(os.ReadFile(c.Client.CertFile)) })
	add("client.key_file", c.Client.KeyFile, keys.PrivateTLS, func() error { return readPair(c.Client.CertFile, c.Client.KeyFile) })
	add("machine.key_file", c.Machine.KeyFile, keys.Private, func() error { return readOnly(readKey(c.Machine.KeyFile)) })
	return files
}

// readOnly drops what was read.
func readOnly[T any](_ T, err error) error { return err }

// readPair reads a key with its certificate, and who may read it. What is wrong with the certificate file alone is told under its own key.
func readPair(cert, key string) error {
	if _, err := os.ReadFile(cert); err != nil {
		return readOnly(os.ReadFile(key))
	}
	return readOnly(certs.ReadPair(cert, key))
}

// readCAKey reads the authority's key with its certificate. What is wrong with the certificate alone is told under its own key.
func readCAKey(c configs.Config) error {
	if _, err := enrol.LoadCA(caPath(c), ""); err != nil {
		return readOnly(os.ReadFile(caKeyPath(c)))
	}
	return readOnly(enrol.LoadCA(caPath(c), caKeyPath(c)))
}

// absentMaster says whether `farebeat serve` would make the master key that is not there.
func absentMaster(ctx context.Context, c configs.Config) error {
	path := masterKeyPath(c)
	if c.Fleet.MasterKeyFile != "" {
		if _, err := os.Stat(filepath.Dir(path)); err != nil {
			return fmt.Errorf("%s: there is no such file, and `farebeat serve` makes one only in a folder that is there: %w", path, err)
		}
	}
	if _, err := os.Stat(storePath(c.Data)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	db, err := store.Open(ctx, storePath(c.Data), store.Options{ReadOnly: true})
	if err != nil {
		return err
	}
	return errors.Join(keyIsLost(ctx, path, db), db.Close())
}
