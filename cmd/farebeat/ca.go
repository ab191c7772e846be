package main

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/fleet/durable"
	"github.com/farebeat/farebeat/fleet/enrol"
	"github.com/farebeat/farebeat/fleet/keys"
)

// serverPath is where a data folder keeps the certificate of the broker and the console, with its key.
func serverPath(c configs.Config) string { return filepath.Join(c.Data, "server.pem") }

func newCACmd() *cobra.Command {
	cmd := &cobra.Command{Use: "ca", Short: "The fleet's certificate authority"}
	cmd.AddCommand(newCAInitCmd(), newCAShowCmd(), newCAServerCmd())
	return cmd
}

// serverFlags say what the certificate of a server is made of.
type serverFlags struct {
	store    storeFlags
	hosts    []string
	validity time.Duration
}

func (f *serverFlags) register(cmd *cobra.Command) {
	f.store.registerData(cmd)
	cmd.Flags().StringArrayVar(&f.hosts, "host", nil, "host name or IP address that devices and browsers reach the server by; may be repeated")
	cmd.Flags().DurationVar(&f.validity, "validity", enrol.DefaultValidity, "how long the server's certificate holds")
}

// check refuses what no certificate can have, before anything is written.
func (f *serverFlags) check() error {
	for _, h := range f.hosts {
		if err := enrol.CheckHost(h); err != nil {
			return usageError(fmt.Errorf("--host: %w", err))
		}
	}
	if f.validity < time.Hour {
		return usageError(fmt.Errorf("--validity %s: want at least 1h", f.validity))
	}
	return nil
}

func newCAInitCmd() *cobra.Command {
	var f serverFlags
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make the fleet's certificate authority, and a certificate for the broker and the console",
		Long: `Make the fleet's certificate authority and a certificate for the broker and the console, in the data folder:

  ca.pem      the authority: give it to whoever is to trust the broker and the console
  ca.key      its key, mode 0600: whoever has it is every device. Keep a copy elsewhere, as of master.key
  server.pem  certificate and key of the server, mode 0600

Printed are the authority's fingerprint, by which devices know it, and the lines of the configuration. Nothing that is
there is overwritten.`,
		Example: "  farebeat ca init --data farebeat-data --host fleet.example --host 10.1.0.5",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return f.init(cmd) },
	}
	f.register(cmd)
	must(cmd.MarkFlagRequired("host"))
	return cmd
}

func (f *serverFlags) init(cmd *cobra.Command) error {
	c, err := f.store.load()
	if err != nil {
		return err
	}
	if err := f.check(); err != nil {
		return err
	}
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return fmt.Errorf("make the data folder: %w", err)
	}
	now := time.Now()
	ca, err := enrol.CreateCA(caPath(c), caKeyPath(c), c.Operator, now)
	if errors.Is(err, fs.ErrExist) {
		return usageError(fmt.Errorf("%w; `farebeat ca show` shows it, `farebeat ca server` makes certificates for servers", err))
	}
	if err != nil {
		return usageError(err)
	}
	text, cert, err := ca.ServerFile(f.hosts, now, f.validity)
	if err != nil {
		return usageError(err)
	}
	if err := durable.Create(serverPath(c), text, 0o600); err != nil {
		return fmt.Errorf("the authority is made, but not the server's certificate: %w; `farebeat ca server` makes it", err)
	}
	return printCA(cmd.OutOrStdout(), c, ca, cert, f.hosts)
}

// printCA says where all is and what to write into the configuration.
func printCA(w io.Writer, c configs.Config, ca *enrol.CA, cert *x509.Certificate, hosts []string) error {
	server, err := filepath.Abs(serverPath(c))
	if err != nil {
		return err
	}
	authority, err := filepath.Abs(caPath(c))
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, `authority      %s until %s
its key        %s (keep a copy elsewhere)
server         %s until %s
fingerprint    %x

Into the configuration:

broker:
  listeners:
    - {name: devices, kind: tls, address: "0.0.0.0:8883", cert_file: %q, key_file: %q, client_ca_file: %q}
console:
  cert_file: %q
  key_file: %q
enrol:
  address: "0.0.0.0:8444"
  names: [%s]
`, caPath(c), ca.Certificate().NotAfter.UTC().Format(time.DateOnly), caKeyPath(c), serverPath(c), cert.NotAfter.UTC().Format(time.DateOnly), ca.Fingerprint(),
		server, server, authority, server, server, quotedList(hosts))
	return err
}

func quotedList(list []string) (s string) {
	for i, e := range list {
		if i > 0 {
			s += ", "
		}
		s += fmt.Sprintf("%q", e)
	}
	return s
}

// shownCA is the authority as JSON.
type shownCA struct {
	File        string       `json:"file"`
	Subject     string       `json:"subject"`
	Fingerprint string       `json:"sha256"`
	NotAfter    time.Time    `json:"not_after"`
	HasKey      bool         `json:"has_key"` // and may sign
	Server      *shownServer `json:"server,omitempty"`
}

// shownServer is the server's certificate.
type shownServer struct {
	File     string    `json:"file"`
	Hosts    []string  `json:"hosts"`
	NotAfter time.Time `json:"not_after"`
}

func newCAShowCmd() *cobra.Command {
	var flags storeFlags
	cmd := &cobra.Command{
		Use:     "show",
		Short:   "Show the fleet's certificate authority and the certificate that it made for the server",
		Long:    "Show the fleet's certificate authority, its fingerprint, by which devices know it, and the certificate of the server in the data folder.",
		Example: "  farebeat ca show --data farebeat-data",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.load()
			if err != nil {
				return err
			}
			shown, err := showCA(c)
			if err != nil {
				return err
			}
			if flags.json {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(shown)
			}
			out := cmd.OutOrStdout()
			key := "its key is here"
			if !shown.HasKey {
				key = "its key is not here: nothing can be signed"
			}
			fmt.Fprintf(out, "authority    %s, %s until %s; %s\nfingerprint  %s\n", shown.File, shown.Subject, shown.NotAfter.Format(time.RFC3339), key, shown.Fingerprint)
			if s := shown.Server; s != nil {
				fmt.Fprintf(out, "server       %s until %s, for %v\n", s.File, s.NotAfter.Format(time.RFC3339), s.Hosts)
			}
			return nil
		},
	}
	flags.register(cmd)
	return cmd
}

func showCA(c configs.Config) (shownCA, error) {
	ca, err := loadCA(c)
	if err != nil {
		return shownCA{}, err
	}
	shown := shownCA{
		File: caPath(c), Subject: ca.Certificate().Subject.CommonName, Fingerprint: fmt.Sprintf("%x", ca.Fingerprint()),
		NotAfter: ca.Certificate().NotAfter.UTC(), HasKey: ca.CanSign(),
	}
	if cert, err := readServerCert(serverPath(c)); err == nil {
		shown.Server = &shownServer{serverPath(c), hostsOf(cert), cert.NotAfter.UTC()}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return shown, usageError(err)
	}
	return shown, nil
}

// loadCA reads the authority, with its key if that is here.
func loadCA(c configs.Config) (*enrol.CA, error) {
	ca, err := enrol.LoadCA(caPath(c), caKeyPath(c))
	if errors.Is(err, fs.ErrNotExist) {
		if ca, err = enrol.LoadCA(caPath(c), ""); errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w: `farebeat ca init` makes one (--data names the data folder)", err)
		}
	}
	if err != nil {
		return nil, usageError(err)
	}
	return ca, nil
}

// readServerCert reads the first certificate of a file.
func readServerCert(path string) (*x509.Certificate, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("%s: it does not begin with a certificate in PEM form", path)
	}
	return x509.ParseCertificate(block.Bytes)
}

func hostsOf(cert *x509.Certificate) []string {
	hosts := slices.Clone(cert.DNSNames)
	for _, ip := range cert.IPAddresses {
		hosts = append(hosts, ip.String())
	}
	return hosts
}

func newCAServerCmd() *cobra.Command {
	var f serverFlags
	var out string
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Make or renew a certificate for a server",
		Long: `Make a certificate and a key for a server, signed by the fleet's authority, in one file that takes the place of the one
before at once. Without --host it has the names of the certificate that is there: that is how one is renewed.`,
		Example: "  farebeat ca server --data farebeat-data\n  farebeat ca server --data farebeat-data --host broker2.example --out broker2.pem",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := f.store.load()
			if err != nil {
				return err
			}
			if out == "" {
				out = serverPath(c)
			}
			if len(f.hosts) == 0 {
				cert, err := readServerCert(out)
				if err != nil {
					return usageError(fmt.Errorf("%w: give --host", err))
				}
				f.hosts = hostsOf(cert)
			}
			if err := f.check(); err != nil {
				return err
			}
			ca, err := loadCA(c)
			if err != nil {
				return err
			}
			text, cert, err := ca.ServerFile(f.hosts, time.Now(), f.validity)
			if err != nil {
				return usageError(err)
			}
			if err := durable.Replace(out, text, keyMode(out), func(n *os.File) error { return keepOwner(n, out) }); err != nil {
				return fmt.Errorf("--out: %w", err)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s until %s, for %v\n", out, cert.NotAfter.UTC().Format(time.RFC3339), f.hosts)
			return err
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&out, "out", "", "file; server.pem in the data folder without it")
	return cmd
}

// keyMode is the mode that a server's key is written with: that of the file in whose place it is put, where it may have that. A group that root let
// read it, such as a service's, reads the next one too.
func keyMode(path string) fs.FileMode {
	if info, err := os.Stat(path); err == nil && keys.PrivateTLS(path, info) == nil {
		return info.Mode().Perm()
	}
	return 0o600
}
