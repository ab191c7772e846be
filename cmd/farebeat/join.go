package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/edge/enrol"
	"github.com/farebeat/farebeat/fleet/durable"
	"github.com/farebeat/farebeat/fleet/keys"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

// renewer is what renews a client's certificate; nil where it has none or no address to renew it at.
func renewer(c configs.Client, now func() time.Time, logger *slog.Logger) (*enrol.Renewer, error) {
	if c.CertFile == "" || c.EnrolURL == "" {
		return nil, nil
	}
	r := &enrol.Renewer{File: c.CertFile, CAFile: c.CAFile, URL: c.EnrolURL, Files: deviceFiles(), Now: now, Logger: logger}
	switch _, err := schemas.ParseEnrolAddress(c.EnrolURL); {
	case err != nil:
		return nil, usageError(fmt.Errorf("client.enrol_url: %w", err))
	case c.CertFile != c.KeyFile:
		return nil, usageError(errors.New("client.enrol_url: a certificate is renewed together with its key: name one file with both as client.cert_file and " +
			"client.key_file, as `farebeat join` makes it, or leave client.enrol_url empty"))
	case c.CAFile == "":
		return nil, usageError(errors.New("client.enrol_url: client.ca_file has to name the authority that the fleet's address for enrolment is of"))
	}
	return r, nil
}

// deviceFiles are the files of a device.
func deviceFiles() enrol.Files {
	const longest = 64 << 10
	return enrol.Files{
		Read:    func(path string) ([]byte, error) { return keys.ReadSecret(path, longest) },
		Replace: func(path string, body []byte, mode fs.FileMode) error { return durable.Replace(path, body, mode, nil) },
	}
}

// joinFlags are the flags of `farebeat join`.
type joinFlags struct {
	out, authority, role, name, radio, route string
	again                                    bool
	timeout                                  time.Duration
}

func newJoinCmd() *cobra.Command {
	var f joinFlags
	cmd := &cobra.Command{
		Use:   "join URL",
		Short: "Get this device its certificate from the fleet",
		Long: `Get this device its certificate from the fleet. The key is made on the device and never leaves it.

URL is what farebeat enrol printed (farebeat-enrol://...); - reads it from standard input, so that the code is in no list of
processes. It has a one-time code and the fingerprint of the fleet's authority: no other server is told anything. A code that
is not good any more puts the device on the list of those that wait, as does a URL without a code:
https://HOST:PORT with --ca-sha256, --role and --name. Then it waits until an administrator admits it (farebeat enrol admit).

Into the folder --out go device.pem (key and certificate, mode 0600), ca.pem, for a machine machine.key, and farebeat.yaml, with
which farebeat edge or farebeat machine run just runs and renews the certificate by itself. A farebeat.yaml that is there
stays, unless --again. After a crash, a lost answer or an interruption the same command goes on with the same key.

The exit code is 2 where the folder has a certificate; --again gets it another one with another key.`,
		Example: "  farebeat join 'farebeat-enrol://fleet.example:8444/gateway/1216/CODE#sha256=...' --out /etc/farebeat\n" +
			"  farebeat join https://fleet.example:8444 --ca-sha256 ... --role gateway --name 1216 --out /etc/farebeat",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args[0]) },
	}
	cmd.Flags().StringVar(&f.out, "out", "", "folder of the device")
	cmd.Flags().StringVar(&f.authority, "ca-sha256", "", "fingerprint of the fleet's authority, as farebeat ca show prints it; only without a code")
	cmd.Flags().StringVar(&f.role, "role", "", "who the device says that it is; only without a code")
	cmd.Flags().StringVar(&f.name, "name", "", "likewise: vehicle of a gateway, or machine id")
	cmd.Flags().StringVar(&f.radio, "radio", "", "written into farebeat.yaml: ble:hci0 or socket:DIR; ble:hci0 for a gateway without it")
	cmd.Flags().StringVar(&f.route, "route", "", "written into farebeat.yaml: route of a machine")
	cmd.Flags().BoolVar(&f.again, "again", false, "also where the folder has a certificate")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 0, "wait for an administrator for so long; without end if 0")
	must(cmd.MarkFlagRequired("out"))
	return cmd
}

// target reads where to join.
func (f *joinFlags) target(in io.Reader, text string) (enrol.JoinOptions, error) {
	if text == "-" {
		line, err := bufio.NewReader(io.LimitReader(in, 4096)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return enrol.JoinOptions{}, fmt.Errorf("read the URL: %w", err)
		}
		text = strings.TrimSpace(line)
	}
	o := enrol.JoinOptions{Dir: f.out, Files: deviceFiles(), Again: f.again, Role: f.role, Name: f.name}
	if !strings.HasPrefix(text, "https://") {
		u, err := schemas.ParseEnrolURL(text)
		if err == nil && (f.authority != "" || f.role != "" || f.name != "") {
			err = errors.New("--ca-sha256, --role and --name are for a URL without a code")
		}
		o.Address, o.Authority, o.Code, o.Role, o.Name = u.Address, u.Authority, u.Code, u.Role, u.Name
		return o, err
	}
	address, err := schemas.ParseEnrolAddress(text)
	if err != nil {
		return o, fmt.Errorf("URL %w", err)
	}
	o.Address = address
	if f.authority == "" || f.role == "" || f.name == "" {
		return o, errors.New("without a code --ca-sha256, --role and --name are required")
	}
	if o.Authority, err = schemas.ParseFingerprint(f.authority); err != nil {
		return o, fmt.Errorf("--ca-sha256: %w", err)
	}
	return o, nil
}

func (f *joinFlags) run(cmd *cobra.Command, text string) error {
	o, err := f.target(cmd.InOrStdin(), text)
	if err != nil {
		return usageError(err)
	}
	if f.radio != "" {
		if _, err := parseRadio("--radio", f.radio); err != nil {
			return err
		}
	}
	ctx := cmd.Context()
	if f.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, f.timeout)
		defer cancel()
	}
	o.Before = func(a schemas.EnrolAnswer) error { return f.writeConfig(cmd, o, a) }
	told := false
	o.Waits = func(a schemas.EnrolAnswer) {
		if told {
			return
		}
		told = true
		if a.Reason != "" {
			fmt.Fprintf(cmd.ErrOrStderr(), "farebeat: the code is not good (%s)\n", strings.ReplaceAll(a.Reason, "_", " "))
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "farebeat: this device waits to be admitted; its key is\n  %s\nAt the fleet: farebeat enrol admit %s\n", a.Fingerprint, a.Fingerprint)
	}
	d, err := enrol.Join(ctx, o)
	var refused *enrol.Refused
	if errors.Is(err, enrol.ErrJoined) {
		return usageError(fmt.Errorf("%w; --again gets it another one", err))
	}
	if errors.As(err, &refused) && !refused.Passing() {
		return usageError(err)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "this device is %s until %s: %s\n", d.Cert.Subject.CommonName, d.Cert.NotAfter.UTC().Format(time.RFC3339), filepath.Join(f.out, enrol.DeviceFile))
	return err
}

// joinedConfig is the configuration that a device is given.
type joinedConfig struct {
	Operator string         `yaml:"operator"`
	TimeZone string         `yaml:"timezone,omitempty"`
	Data     string         `yaml:"data"`
	Client   joinedClient   `yaml:"client"`
	Edge     *joinedEdge    `yaml:"edge,omitempty"`
	Machine  *joinedMachine `yaml:"machine,omitempty"`
}

type joinedClient struct {
	Server   string `yaml:"server,omitempty"`
	CAFile   string `yaml:"ca_file"`
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
	EnrolURL string `yaml:"enrol_url"`
}

type joinedEdge struct {
	Vehicle string `yaml:"vehicle"`
	Radio   string `yaml:"radio"`
}

type joinedMachine struct {
	ID         string `yaml:"id"`
	Vehicle    string `yaml:"vehicle,omitempty"`
	Route      string `yaml:"route,omitempty"`
	KeyFile    string `yaml:"key_file"`
	FirstEpoch uint32 `yaml:"first_epoch"`
	Radio      string `yaml:"radio,omitempty"`
}

// config is what a device runs with.
func (f *joinFlags) config(address string, a schemas.EnrolAnswer) ([]byte, error) {
	dir, err := filepath.Abs(f.out)
	if err != nil {
		return nil, err
	}
	device := filepath.Join(dir, enrol.DeviceFile)
	c := joinedConfig{
		Operator: a.Operator, TimeZone: a.TimeZone, Data: filepath.Join(dir, "data"),
		Client: joinedClient{Server: a.Broker, CAFile: filepath.Join(dir, enrol.CAFile), CertFile: device, KeyFile: device, EnrolURL: "https://" + address},
	}
	switch topics.Role(a.Role) {
	case topics.RoleGateway:
		c.Edge = &joinedEdge{Vehicle: a.Name, Radio: f.radio}
		if c.Edge.Radio == "" {
			c.Edge.Radio = "ble:hci0"
		}
	case topics.RoleMachine:
		c.Machine = &joinedMachine{ID: a.Name, Vehicle: a.Vehicle, Route: f.route, KeyFile: filepath.Join(dir, enrol.MachineFile), FirstEpoch: a.FirstEpoch, Radio: f.radio}
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Made by farebeat join for %s %s.\n", a.Role, a.Name)
	if a.Broker == "" {
		b.WriteString("# The fleet told no address of its broker: set client.server.\n")
	}
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := errors.Join(enc.Encode(c), enc.Close()); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// writeConfig writes the device's configuration. One that is there, and may have been changed by hand, stays.
func (f *joinFlags) writeConfig(cmd *cobra.Command, o enrol.JoinOptions, a schemas.EnrolAnswer) error {
	text, err := f.config(o.Address, a)
	if err != nil {
		return err
	}
	path := filepath.Join(f.out, "farebeat.yaml")
	if f.again {
		return durable.Replace(path, text, 0o600, nil)
	}
	err = durable.Create(path, text, 0o600)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	if old, readErr := os.ReadFile(path); readErr != nil || sha256.Sum256(old) != sha256.Sum256(text) {
		fmt.Fprintf(cmd.ErrOrStderr(), "farebeat: %s is there and stays as it is; --again writes it anew\n", path)
	}
	return nil
}
