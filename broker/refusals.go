package broker

import (
	"sync"
	"time"
)

// refuse logs once per writer and minute.
func (h *hook) refuse(who, what string, err error) {
	if h.refusals.due(who+"\x00"+what, h.b.o.Now()) {
		h.b.o.Logger.Warn(what, "who", who, "error", err)
	}
}

// refusalLog remembers when something was logged, for a bounded number of writers.
type refusalLog struct {
	mu   sync.Mutex
	last map[string]time.Time
}

const maxRefusals = 10_000

func (l *refusalLog) due(key string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t, ok := l.last[key]; ok && now.Sub(t) < time.Minute {
		return false
	}
	if len(l.last) >= maxRefusals {
		clear(l.last)
	}
	l.last[key] = now
	return true
}
