package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// manager is the systemd that started this process, if any did. Its methods do nothing where none did. Turned is for one goroutine.
type manager struct {
	watchdog time.Duration // it kills what does not turn for so long; 0: it does not watch
	last     time.Time     // told that the service turns
	logger   *slog.Logger
}

// underSystemd finds the manager of this process. turn is how long one turn of the service's loop may take by the configuration;
// what names it. A watchdog that cannot wait for two of them would kill a service that is well, and is an error.
func underSystemd(turn time.Duration, what string, logger *slog.Logger) (*manager, error) {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return nil, fmt.Errorf("systemd's watchdog: %w", err)
	}
	if every > 0 && every < 2*turn {
		return nil, fmt.Errorf("systemd's watchdog waits for %v, which is less than two turns of %v (%s): set WatchdogSec of the unit to %v or more", every, turn, what, 2*turn)
	}
	return &manager{watchdog: every, logger: logger}, nil
}

// ready tells that the service serves.
func (m *manager) ready() { m.tell(daemon.SdNotifyReady) }

// turned tells that the service's loop went round once more. It is called by that loop and by nothing else, so that a loop that
// hangs is killed and started again. Four times in the watchdog's patience is enough.
func (m *manager) turned() {
	if m.watchdog == 0 {
		return
	}
	if now := time.Now(); m.last.IsZero() || now.Sub(m.last) >= m.watchdog/4 {
		m.last = now
		m.tell(daemon.SdNotifyWatchdog)
	}
}

// stopWith tells that the service stops as soon as ctx ends. The function that it returns takes that back.
func (m *manager) stopWith(ctx context.Context) (cancel func() bool) {
	return context.AfterFunc(ctx, func() { m.tell(daemon.SdNotifyStopping) })
}

func (m *manager) tell(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		m.logger.Warn("systemd could not be told", "state", state, "error", err)
	}
}
