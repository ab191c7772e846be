package enrol

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/farebeat/farebeat/schemas"
)

// JoinOptions say how a device joins.
type JoinOptions struct {
	Address   string            // host:port of the fleet
	Authority [sha256.Size]byte // SHA-256 of its authority's certificate
	Code      string            // empty: it waits until somebody admits it
	Role      string            // who it says that it is
	Name      string            // likewise
	Dir       string            // its folder, made with mode 0700 where it is missing
	Files     Files             // required
	Again     bool              // also where it has a certificate
	// Before is called with the answer before the certificate is in place, for what has to be there with it; it may be called again after a
	// crash. Nil: nothing.
	Before func(schemas.EnrolAnswer) error
	// Waits is told that the device has to wait, each time it asked; nil: nobody.
	Waits func(schemas.EnrolAnswer)
	// Least and Most are between two requests of a device that waits; 0: 2 s and 1 min.
	Least, Most time.Duration
}

// ErrJoined says that a folder has a certificate already.
var ErrJoined = errors.New("this device has a certificate")

// Join gets a device its certificate into its folder, where it waits for as long as ctx allows, if it has to. The key is kept before it is shown
// to anybody, so that Join may be called again after any error or crash, and goes on with it. The error is a *Refused where the fleet
// says no, and ErrJoined where there is nothing to do.
func Join(ctx context.Context, o JoinOptions) (Device, error) {
	if o.Least <= 0 {
		o.Least = 2 * time.Second
	}
	if o.Most <= 0 {
		o.Most = time.Minute
	}
	if err := schemas.CheckHostPort(o.Address); err != nil {
		return Device{}, fmt.Errorf("join: %w", err)
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return Device{}, fmt.Errorf("join: %w", err)
	}
	d, err := o.join(ctx)
	if err != nil {
		return d, fmt.Errorf("join: %w", err)
	}
	return d, nil
}

func (o JoinOptions) path(name string) string { return filepath.Join(o.Dir, name) }

func (o JoinOptions) join(ctx context.Context) (Device, error) {
	if d, done, err := o.joined(); done || err != nil {
		return d, err
	}
	key, err := o.Files.pendingKey(o.path(PendingFile))
	if err != nil {
		return Device{}, err
	}
	csr, err := request(key)
	if err != nil {
		return Device{}, err
	}
	var authority *x509.Certificate
	answer, err := o.ask(ctx, schemas.EnrolRequest{CSR: csr, Code: o.Code, Role: o.Role, Name: o.Name}, &authority)
	if err != nil {
		return Device{}, err
	}
	return o.keep(answer, key, authority)
}

// joined looks for what an earlier call did. A pending key that has its certificate is what a crash left.
func (o JoinOptions) joined() (Device, bool, error) {
	d, err := o.Files.ReadDevice(o.path(DeviceFile))
	if errors.Is(err, fs.ErrNotExist) {
		return Device{}, false, nil
	}
	if err != nil && !o.Again {
		return Device{}, false, fmt.Errorf("%w; remove it, or join again with another code", err)
	}
	_, pendingErr := os.Stat(o.path(PendingFile))
	if pendingErr == nil {
		key, err := o.Files.pendingKey(o.path(PendingFile))
		if err != nil {
			return Device{}, false, err
		}
		if d.Key != nil && key.Equal(d.Key) {
			err := remove(o.path(PendingFile))
			if over := time.Now().After(d.Cert.NotAfter); err != nil || !over {
				return d, true, err
			}
		}
	}
	if o.Again {
		return Device{}, false, nil
	}
	return d, true, fmt.Errorf("%w: %s, %s until %s", ErrJoined, o.path(DeviceFile), d.Cert.Subject.CommonName, d.Cert.NotAfter.UTC().Format(time.RFC3339))
}

// ask asks until there is a certificate. Only a device that waits asks again by itself.
func (o JoinOptions) ask(ctx context.Context, m schemas.EnrolRequest, authority **x509.Certificate) (schemas.EnrolAnswer, error) {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval, pause.Multiplier = o.Least, o.Most, 1.5
	waits := m.Code == ""
	for {
		answer, err := ask(ctx, o.Address, schemas.EnrolJoinPath, pinned(o.Address, o.Authority, authority, time.Now), m)
		if err == nil && answer.Status == schemas.EnrolIssued {
			return answer, nil
		}
		var refused *Refused
		lasting := errors.As(err, &refused) && !refused.Passing() || errors.Is(err, ErrAuthority) || ctx.Err() != nil
		if err != nil && (!waits || lasting) {
			return answer, err
		}
		waits = true
		if err == nil && o.Waits != nil {
			o.Waits(answer)
		}
		if !sleep(ctx, pause.NextBackOff()) {
			return answer, fmt.Errorf("nobody admitted this device yet; its key stays, run the same command to go on waiting: %w", ctx.Err())
		}
	}
}

// keep puts everything in place, the certificate last.
func (o JoinOptions) keep(answer schemas.EnrolAnswer, key *ecdsa.PrivateKey, authority *x509.Certificate) (Device, error) {
	pool := x509.NewCertPool()
	pool.AddCert(authority)
	cert, err := certificateOf(answer, key, pool, time.Now())
	if err != nil {
		return Device{}, err
	}
	d := Device{key, cert}
	text, err := d.pem()
	if err != nil {
		return d, err
	}
	if err := o.Files.Replace(o.path(CAFile), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.Raw}), 0o644); err != nil {
		return d, err
	}
	if answer.MachineKey != "" {
		if err := o.Files.Replace(o.path(MachineFile), []byte(answer.MachineKey+"\n"), 0o600); err != nil {
			return d, err
		}
	}
	if o.Before != nil {
		if err := o.Before(answer); err != nil {
			return d, err
		}
	}
	if err := o.Files.Replace(o.path(DeviceFile), text, 0o600); err != nil {
		return d, err
	}
	return d, remove(o.path(PendingFile))
}

// sleep reports whether the whole pause passed before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
