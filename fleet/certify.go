package fleet

import (
	"context"
	"time"

	"github.com/farebeat/farebeat/fleet/keys"
)

const (
	// certifyEvery is how often the days that are over are looked at.
	certifyEvery = time.Hour
	// certifyAfter is when a service day is over: 36 hours after its date began. Service runs past midnight.
	certifyAfter = 36 * time.Hour
	// certifyDays is how many days back are looked at. What comes later still is a difference that
	// `farebeat ledger certify` shows, and issues on request.
	certifyDays = 45
)

// certify issues the certificates of service days that are over, and new revisions of those that a late record changed.
// It does nothing where the keys cannot sign.
func (f *Fleet) certify(ctx context.Context) {
	signer, ok := f.o.Keys.(keys.Signer)
	if !ok {
		return
	}
	ticker := time.NewTicker(certifyEvery)
	defer ticker.Stop()
	for {
		if n, err := f.certifyOnce(ctx, signer); err != nil && ctx.Err() == nil {
			f.o.Logger.Error("certificates of service days were not issued; it is tried again", "in", certifyEvery, "error", err)
		} else if n > 0 {
			f.o.Logger.Info("certificates of service days were issued", "certificates", n)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (f *Fleet) certifyOnce(ctx context.Context, signer keys.Signer) (int, error) {
	roster, err := f.o.Store.Roster(ctx)
	if err != nil {
		return 0, err
	}
	open, err := f.o.Store.Faults().Open(ctx)
	if err != nil {
		return 0, err
	}
	over := f.o.Now().In(f.engine.cfg.Location).Add(-certifyAfter)
	return f.ledger.Certifier(signer, Declared(roster, open)).IssueDue(ctx, over.AddDate(0, 0, -certifyDays), over)
}
