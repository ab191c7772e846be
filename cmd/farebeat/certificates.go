package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/fleet"
	"github.com/farebeat/farebeat/fleet/certs"
	"github.com/farebeat/farebeat/fleet/faults"
)

// certificatesEvery is how often certificate files are looked at. Those that changed are read after two looks.
const certificatesEvery = 5 * time.Second

// certificates are those that the service shows, by the name of what shows them.
type certificates map[string]*certs.Live

// consoleCertificate is the console's name among them.
const consoleCertificate = "console"

// listenerCertificate is a listener's name among them.
func listenerCertificate(name string) string { return "listener " + name }

// openCertificates reads the certificates of a configuration.
func openCertificates(c configs.Config) (certificates, error) {
	list := certificates{}
	for _, l := range c.Broker.Listeners {
		if l.CertFile == "" {
			continue
		}
		live, err := certs.Open(certs.Files{Cert: l.CertFile, Key: l.KeyFile, CAs: l.ClientCAFile, Required: l.ClientCertRequired})
		if err != nil {
			return nil, usageError(fmt.Errorf("certificate of listener %q: %w", l.Name, err))
		}
		list[listenerCertificate(l.Name)] = live
	}
	if c.Console.CertFile != "" {
		live, err := certs.Open(certs.Files{Cert: c.Console.CertFile, Key: c.Console.KeyFile})
		if err != nil {
			return nil, usageError(fmt.Errorf("console.cert_file: %w", err))
		}
		list[consoleCertificate] = live
	}
	return list, nil
}

// leaves is what a listener shows now.
func leaves(live *certs.Live) func() []*x509.Certificate {
	return func() []*x509.Certificate { return []*x509.Certificate{live.Leaf()} }
}

// watch takes files that change until ctx ends.
func (c certificates) watch(ctx context.Context, logger *slog.Logger) {
	var group sync.WaitGroup
	for name, live := range c {
		group.Go(func() { live.Watch(ctx, certificatesEvery, name, logger) })
	}
	group.Wait()
}

// parts are what is wrong with them, or about to expire.
func (c certificates) parts(now func() time.Time) []fleet.Part {
	parts := make([]fleet.Part, 0, len(c))
	for name, live := range c {
		parts = append(parts, fleet.Part{Name: name, Kind: faults.Certificate, Failure: func() error { return live.Failure(now()) }})
	}
	return parts
}
