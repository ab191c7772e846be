package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/fleet/certs"
	"github.com/farebeat/farebeat/fleet/keys"
	"github.com/farebeat/farebeat/topics/session"
)

// clientOptions is how a command that is not the broker reaches one.
func clientOptions(c configs.Client, clientID string) (session.Options, error) {
	o := session.Options{ClientID: clientID, Username: c.Username, Password: c.Password.Reveal(), Servers: []string{c.Server}}
	if c.PasswordFile != "" {
		password, err := readPassword(c.PasswordFile)
		if err != nil {
			return o, usageError(fmt.Errorf("client.password_file: %w", err))
		}
		o.Password = password
	}
	if c.CAFile != "" || c.CertFile != "" {
		var err error
		if o.TLS, err = certs.Client(certs.Files{Cert: c.CertFile, Key: c.KeyFile, CAs: c.CAFile}); err != nil {
			return o, usageError(fmt.Errorf("client.ca_file, cert_file and key_file: %w", err))
		}
	}
	return o, nil
}

// readPassword reads a password without the line end after it, from a file that only its owner may read.
func readPassword(path string) (string, error) {
	const longest = 4096
	b, err := keys.ReadSecret(path, longest)
	return strings.TrimRight(string(b), "\r\n"), err
}

// randomID is a name that nobody else has.
func randomID() string { return strings.ToLower(rand.Text()[:16]) }

// publishOnce connects, publishes one message that must be acknowledged, and goes. handle, where
// it is not nil, gets what comes on filter until done is closed or ctx ends.
func publishOnce(ctx context.Context, c configs.Client, m session.Message, filter string, handle session.Handler, done <-chan struct{}) error {
	o, err := clientOptions(c, "cli-"+randomID())
	if err != nil {
		return err
	}
	up := make(chan struct{}, 1)
	o.CleanSession = true
	o.Up = func() {
		select {
		case up <- struct{}{}:
		default:
		}
	}
	s, err := session.New(o)
	if err != nil {
		return usageError(err)
	}
	if handle != nil {
		s.Handle(filter, 1, handle)
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(running) }()
	defer func() {
		stop()
		<-ended //nolint:errcheck // Run has no error but that of its context
	}()
	select {
	case <-up:
	case <-time.After(connectPatience):
		return fmt.Errorf("no session with the broker at %s within %s: check client.server, client.username and the password", c.Server, connectPatience)
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := s.Publish(ctx, m); err != nil {
		if errors.Is(err, session.ErrUnconfirmed) {
			return fmt.Errorf("%w: the broker may have refused it; check the role of user %q", err, c.Username)
		}
		return err
	}
	if handle == nil {
		return nil
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// connectPatience is how long a command line waits for a broker.
const connectPatience = 10 * time.Second
